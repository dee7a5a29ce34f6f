"""How people name a network or a task on the command line: `name`, `kind:place`, and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from plisse.errors import InputError

Option = bool | int | float | str


@dataclass(frozen=True)
class Spec:
    """A name, where it is (a folder, a callable) and options.

    >>> Spec.parse("resnet18(classes=10, stem=small)")
    Spec(name='resnet18', place='', options={'classes': 10, 'stem': 'small'})
    >>> Spec.parse("images:photos/birds?size=64")
    Spec(name='images', place='photos/birds', options={'size': 64})
    """

    name: str
    place: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read `name`, `name:place`, each followed by `(key=value, ...)` or `?key=value&...` if wanted.

        Raises InputError for an option without a value, and for an empty text.
        """
        body, options = text.strip(), ""
        if match := re.fullmatch(r"([^()?]*)\((.*)\)", body):
            body, options = match.groups()
        elif "?" in body:
            body, _, options = body.partition("?")
        name, _, place = body.partition(":")
        if not name.strip():
            raise InputError(f"an empty name in {text!r}", expected="name, kind:place or name(key=value)")
        return cls(name.strip(), place.strip(), _options(options, text))

    @property
    def is_callable(self) -> bool:
        """Whether this can be `package.module:callable`."""
        return bool(re.fullmatch(r"[A-Za-z_][\w.]*", self.name) and re.fullmatch(r"[A-Za-z_]\w*", self.place))


def _options(text: str, whole: str) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for part in filter(None, (piece.strip() for piece in re.split(r"[,&]", text))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or not value or key in options:
            raise InputError(
                f"option {part!r} in {whole!r}", expected="key=value, each key once", hint="name(key=value)"
            )
        options[key] = _value(value)
    return options


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")
