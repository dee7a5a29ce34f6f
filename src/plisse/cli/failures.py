"""Every failure of a command becomes one line and an exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec

import typer

from plisse.errors import PlisseError
from plisse.report.plain import plain

DEBUG = "PLISSE_DEBUG"
INTERRUPTED = 130
CALLER = ParamSpec("CALLER")


def reported(command: Callable[CALLER, None]) -> Callable[CALLER, None]:
    """The command with its failures told in one line on standard error, and as JSON where --json asks."""

    @functools.wraps(command)
    def run(*args: CALLER.args, **kwargs: CALLER.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except PlisseError as error:
            _fail(str(error), error.exit_code, as_json, details(error))
        except KeyboardInterrupt:
            _fail(
                "interrupted; no output was left half-written", INTERRUPTED, as_json, {"type": "Interrupted"}
            )
        except BrokenPipeError:
            _close_pipe()
        except Exception as error:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            hint = "" if os.environ.get(DEBUG) else f" ({DEBUG}=1 shows the traceback)"
            _fail(words + hint, 1, as_json, {"type": type(error).__name__})

    return run


def details(error: PlisseError) -> dict[str, Any]:
    """An error as data: its class, what came, what was expected, what to try, and what it carries."""
    found: dict[str, Any] = {"type": type(error).__name__}
    for name in ("came", "expected", "hint", "offset", "closest"):
        value = getattr(error, name, None)
        if value is not None and value != "":
            found[name] = value
    return found


def misused(error: Exception) -> int:
    """Tell an option that could not be read like any other failure, with --json; gives the exit code.

    Raises `error` again where it is something else.
    """
    if not hasattr(error, "format_message"):  # typer's own class of them has moved between its versions
        raise error
    code = int(getattr(error, "exit_code", 2))
    _tell(error.format_message(), code, True, {"type": type(error).__name__})
    return code


def _fail(words: str, code: int, as_json: bool, found: dict[str, Any]) -> NoReturn:
    _tell(words, code, as_json, found)
    raise typer.Exit(code)


def _tell(words: str, code: int, as_json: bool, found: dict[str, Any]) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exc(file=sys.stderr)
    line = " ".join(words.split())
    typer.echo(f"error: {line}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": plain({**found, "message": line, "exit_code": code})}))


def _close_pipe() -> NoReturn:
    """The reader of our output has gone; say nothing more, as other tools do."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(1)
