"""Where commands on videos may write: never over what they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plisse.cli.output import check_not_read, check_output
from plisse.errors import OutputError


def check_place(path: Path, option: str, reads: Sequence[Path], example: str) -> None:
    """Refuse, before any work, a file that is also read, or that could not be written in the end.

    option: what the user gave it with. example: a name that would fit into a folder. Raises InputError for a
    file of `reads`, also under another name; for the rest see `check_output`.
    """
    check_not_read(path, option, reads)
    if path.is_dir():
        raise OutputError(
            f"{option} {str(path)!r}, a folder", expected="the name of a file", hint=str(path / example)
        )
    check_output(path, option)
