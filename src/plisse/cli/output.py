"""What commands print: results on standard output, what is going on on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from plisse.errors import InputError, OutputError
from plisse.report.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

    from plisse.train.run import State

Say = Callable[[str], None]
LEAST_WIDTH = 100


def stdout() -> Console:
    """The console for results; wide enough for a table where the output is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, LEAST_WIDTH))


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(plain(data), indent=2, ensure_ascii=False))


@contextlib.contextmanager
def working(doing: str) -> Iterator[Say]:
    """A status line on standard error while the block runs; gives a function that changes its words.

    Where standard error is no terminal, each new text is a line of its own. Whatever libraries print goes to
    standard error too, so that standard output holds the result alone.
    """
    console = stderr()
    with contextlib.redirect_stdout(sys.stderr):
        if not console.is_terminal:
            console.print(f"· {doing}", markup=False, soft_wrap=True)
            yield lambda words: console.print(f"· {words}", markup=False, soft_wrap=True)
            return
        from rich.text import Text

        with console.status(Text(doing)) as status:
            yield lambda words: status.update(Text(words))


def counted(doing: str, say: Say) -> Callable[[Iterable[str]], Iterator[str]]:
    """A progress wrapper: passes names through and says how far it is. Lines in a log stay few."""

    def through(names: Iterable[str]) -> Iterator[str]:
        listed = list(names)
        every = 1 if stderr().is_terminal else max(1, len(listed) // 4)
        for number, name in enumerate(listed):
            if number % every == 0:
                say(f"{doing} {name} ({number + 1} of {len(listed)})")
            yield name

    return through


def stepping(doing: str, say: Say) -> Callable[[State], None]:
    """A hook of `fit` that says how far training is, with the loss and the time left. Lines in a log stay
    few."""
    seen: list[tuple[int, float]] = []  # the first step of this call, which may go on from a checkpoint

    def hook(state: State) -> None:
        done, every = state.step + 1, 5 if stderr().is_terminal else max(1, state.steps // 8)
        seen[1:] = [(done, time.monotonic())]
        (first, began), (_, now) = seen[0], seen[-1]
        if done > first and (done % every == 0 or done == state.steps):
            left = (now - began) / (done - first) * (state.steps - done)
            words = f"{doing}: batch {done:,} of {state.steps:,}, loss {float(state.loss):.3f}"
            say(f"{words}, {left / 60:.0f} min left" if left > 90 else f"{words}, {left:.0f} s left")

    return hook


def note(words: str) -> None:
    """A remark on standard error."""
    stderr().print(f"note: {words}", style="yellow", markup=False, soft_wrap=True)


def check_outputs(reads: Iterable[str | Path | None] = (), /, **paths: Path | None) -> None:
    """Refuse, before any work, outputs that could not be written in the end, that are one and the same, or
    that would replace what the command `reads`.

    Raises OutputError for a folder, a missing or unwritable place, and anything that is no regular file.
    """
    sources = [Path(one) for one in reads if one is not None and Path(one).is_file()]
    seen: dict[str, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        option = "--" + name.replace("_", "-")
        place = os.path.realpath(path)
        if place in seen:
            raise InputError(f"{str(path)!r} for {seen[place]} and {option}", expected="two different files")
        check_not_read(path, option, sources)
        seen[place] = option
        check_output(path, option)


def check_not_read(path: Path, option: str, reads: Iterable[Path]) -> None:
    """Raises InputError where `path` leads to one of `reads`."""
    if os.path.realpath(path) in {os.path.realpath(read) for read in reads}:
        raise InputError(
            f"{option} {str(path)!r}, which this command reads", expected="another file, so that none is lost"
        )


def check_output(path: Path, option: str) -> None:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(
            f"{option} {str(path)!r}, a folder", expected="the name of a file", hint=str(path / "out.plisse")
        )
    if target.exists() and not target.is_file():
        raise OutputError(f"{option} {str(path)!r}, no regular file", expected="the name of a file")
    if not target.parent.is_dir():
        raise OutputError(
            f"{option} {str(path)!r} in a missing folder",
            expected="an existing folder",
            hint=f"mkdir -p {path.parent}",
        )
    check_folder(target.parent, f"{option} {str(path)!r}")


def check_new_folder(path: Path, option: str, *files: Path | None) -> None:
    """Refuse, before any work, a folder to be filled that holds something, that cannot be made, or that is
    to be one of the `files` as well. Hidden files do not count.

    Raises OutputError.
    """
    came = f"{option} {str(path)!r}"
    if any(file is not None and os.path.realpath(file) == os.path.realpath(path) for file in files):
        raise OutputError(f"{came}, which another option names", expected="the name of a folder of its own")
    above = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not above.is_dir():
        raise OutputError(f"{came}, where {str(above)!r} is a file", expected="the name of a folder")
    if above == path and any(not inside.name.startswith(".") for inside in path.iterdir()):
        raise OutputError(f"{came}, a folder that is not empty", expected="a new or an empty folder")
    check_folder(above, came)


def check_folder(folder: Path, came: str) -> None:
    """Try it: permission bits say little to the superuser and nothing about a read-only disk."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{came}: {reason}", expected="a folder that can be written to") from error
