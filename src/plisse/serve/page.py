"""The page: three files of this package put together, allowed to run its own script and nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from html import escape
from importlib import resources

from plisse.report.style import CSS


@functools.cache
def _part(name: str) -> str:
    return (resources.files("plisse.serve") / "dashboard" / name).read_text(encoding="utf-8")


def style() -> str:
    return CSS + _part("style.css")


def script() -> str:
    return _part("script.js")


def page(title: str, n_points: int) -> str:
    """The whole page as text; it asks this service for everything else, and no other.

    >>> "<h1>a &lt;b&gt;</h1>" in page("a <b>", 3)
    True
    """
    parts = {"style": style(), "script": script(), "count": str(n_points), "title": escape(title)}
    found = _part("page.html")
    for name, text in parts.items():
        found = found.replace(f"{{{{{name}}}}}", text)
    return found


def content_policy() -> str:
    """What browsers may load and run for the page: its own style and script, by their hashes."""
    own = f"style-src '{_hash(style())}'; script-src '{_hash(script())}'; connect-src 'self'; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
