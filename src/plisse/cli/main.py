"""The command `plisse`. Only parsing is imported here; each command imports what it needs when it runs."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from plisse import __version__
from plisse.cli import examples, train, video
from plisse.cli.compress import compress
from plisse.cli.demo import demo
from plisse.cli.failures import DEBUG, misused
from plisse.cli.files import export, inspect
from plisse.cli.measure import evaluate, profile
from plisse.cli.points import select
from plisse.cli.serve import serve
from plisse.cli.similarity import similarity

ABOUT = "Give it a trained network and a budget, get one small file that runs."

COMMANDS: tuple[tuple[Callable[..., None], str, examples.Examples], ...] = (
    (compress, "Compress", examples.COMPRESS),
    (demo, "Compress", examples.DEMO),
    (inspect, "Look", examples.INSPECT),
    (evaluate, "Look", examples.EVALUATE),
    (profile, "Look", examples.PROFILE),
    (similarity, "Look", examples.SIMILARITY),
    (select, "Deploy", examples.SELECT),
    (serve, "Deploy", examples.SERVE),
    (export, "Deploy", examples.EXPORT),
)

app = typer.Typer(
    name="plisse",
    help=ABOUT,
    epilog=examples.shown(examples.START),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plisse {__version__}")
        raise typer.Exit


@app.callback()
def plisse(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for command, panel, shown in COMMANDS:
    app.command(rich_help_panel=panel, epilog=examples.shown(shown))(command)
app.add_typer(train.app, name="train", rich_help_panel="Compress")
app.add_typer(video.app, name="video", rich_help_panel="Signals")


def run() -> None:
    """Entry point of the console script."""
    if not os.environ.get(DEBUG):
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if "--json" in sys.argv:
        sys.exit(_for_machines())
    app()


def _for_machines() -> int:
    """The command with mistyped options told as JSON too; without --json typer draws a box around them."""
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        return misused(error)
