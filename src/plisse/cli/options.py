"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK, FAR, TASK, OUTPUT = "The network", "How far", "The task", "What comes out"
NO_DATA = "Without data"

MODELS = (
    "A built-in name (digits_cnn, resnet18, resnet20, resnet56, minilm), hf:DIR (a transformers folder), "
    "package.module:factory, or a .plisse file."
)
TASKS = "digits, cifar10:DIR, images:DIR (class folders), stsb:DIR, sst2:DIR, or package.module:task."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODELS, show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A .plisse file.", show_default=False)]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="W.safetensors",
        help="Trained weights of MODEL.",
        show_default=False,
        rich_help_panel=NETWORK,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="FACTORY",
        help="A package.module:factory that a .plisse file may name and run. May be repeated.",
        show_default=False,
        rich_help_panel=NETWORK,
    ),
]
Task = Annotated[str, typer.Option("--task", metavar="T", help=TASKS, rich_help_panel=TASK)]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="Folder of the data; --task T --data D is T:D.",
        show_default=False,
        rich_help_panel=TASK,
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, help="Seed of everything drawn.", rich_help_panel=TASK),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on standard output.", rich_help_panel=OUTPUT),
]
