"""Where data lies on this machine, and clear words when it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from plisse.errors import InputError

VARIABLE = "PLISSE_DATA"


def data_folder() -> Path | None:
    """The folder of data sets: $PLISSE_DATA, else `shared/data` in a folder above the current folder or above
    this package; None where there is none.

    Raises InputError when $PLISSE_DATA names no folder.
    """
    if named := os.environ.get(VARIABLE):
        return require(named, "the folder that PLISSE_DATA names")
    for start in _starts():
        for parent in (start, *start.parents):
            if (parent / "shared" / "data").is_dir():
                return parent / "shared" / "data"
    return None


def data_set(*parts: str) -> Path:
    """A folder inside the data folder, such as data_set("text", "glue", "STS-B").

    Raises InputError where there is no data folder or nothing of that name in it.
    """
    folder = data_folder()
    if folder is None:
        raise InputError(
            "no data folder", expected=f"{'/'.join(parts)} in it", hint=f"export {VARIABLE}=/path/to/data"
        )
    return require(folder.joinpath(*parts), "a data set in the data folder")


def require(path: str | Path, what: str = "data") -> Path:
    """`path`, if it exists. A relative one starts in the working folder, not in the data folder.

    Raises InputError that says what should be there.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{str(path)!r}, which does not exist", expected=what, hint=_nearby(path))
    return path


def _nearby(path: Path) -> str:
    """The same path in the data folder, where it is there."""
    named = os.environ.get(VARIABLE)
    if named and not path.is_absolute() and (Path(named) / path).exists():
        return str(Path(named) / path)
    return f"check the path: it starts in {Path.cwd()}" if not path.is_absolute() else "check the path"


def _starts() -> Iterator[Path]:
    yield Path.cwd()
    yield Path(__file__).resolve().parent
