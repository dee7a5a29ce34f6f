"""plisse similarity: how far data sets lie from what a network was trained on."""

from __future__ import annotations

import dataclasses
import warnings
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.opening import CALLABLE, open_named_task, open_network
from plisse.cli.output import print_json, stdout, working

if TYPE_CHECKING:
    from torch import nn

    from plisse.compress.datafree.similarity import Similarity
    from plisse.core.batch import Batches

NOISE = "noise, for scale"


class Part(StrEnum):
    """The samples of a data set that are measured."""

    holdout = "holdout"
    calibration = "calibration"
    train = "train"


DataSets = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="D", show_default=False, rich_help_panel=options.TASK,
        help="A data set: DIR with a folder of images per class, or T:DIR as for --task. May be repeated; "
        "the nearest comes first.",
    ),
]  # fmt: skip
PartFlag = Annotated[
    Part, typer.Option("--part", help="Which part of each data set.", rich_help_panel=options.TASK)
]
Samples = Annotated[
    int,
    typer.Option("--samples", metavar="N", min=2, help="At most N of each.", rich_help_panel=options.TASK),
]


@reported
def similarity(
    model: options.Model,
    data: DataSets,
    weights: options.Weights = None,
    allow: options.Allow = None,
    part: PartFlag = Part.holdout,
    samples: Samples = 1024,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Measure how far data lie from what a network was trained on. Needs no training data and no labels.

    A network remembers its training data in its batch-norm statistics.

    The distance is that of the data's own statistics from these: 0 is equal, real data stay a little above.

    Pick the best substitute for calibration data that you may not have, or see whether data have drifted.

    It sees brightness, colour, blur, noise and missing classes, but not which way up an image is.

    So read the network's confidence beside it.
    """
    with working(f"loading {model}") as say:
        from plisse.train.evaluate import outputs_of

        network = open_network(model, weights, allow, seed)
        found: dict[str, Similarity] = {}
        shaped: Batches | None = None
        for spec in dict.fromkeys(data):
            say(f"measuring {spec}")
            task = open_named_task(_task_of(spec), None, network, seed)
            shaped = getattr(task, part.value)
            if len(shaped):
                outputs_of(network, shaped[0].inputs, model)  # of the right shape, or a clear error
            found[spec] = _measured(network, shaped, samples, seed)
        assert shaped is not None
        say(f"measuring {NOISE}")
        found[NOISE] = _measured(network, _noise(shaped, seed), samples, seed)
    rows = dict(sorted(found.items(), key=lambda item: item[1].value))
    if as_json:
        listed = [{"data": name, **dataclasses.asdict(row)} for name, row in rows.items()]
        print_json({"model": model, "part": part.value, "seed": seed, "rows": listed})
        return
    _print(rows)


def _task_of(spec: str) -> str:
    """A folder is one of images.

    >>> _task_of("photos/2024"), _task_of("cifar10:DIR"), _task_of("digits")
    ('images:photos/2024', 'cifar10:DIR', 'digits')
    """
    from plisse.train.tasks import TASKS

    name = spec.partition(":")[0]
    return spec if name in TASKS or CALLABLE.fullmatch(spec) else f"images:{spec}"


def _measured(network: nn.Module, batches: Batches, samples: int, seed: int) -> Similarity:
    from plisse.compress.datafree.similarity import similarity as measure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the notes of the result
        return measure(network, batches, samples=samples, seed=seed)


def _noise(like: Batches, seed: int) -> Batches:
    """Inputs of independent N(0, 1) values in the shape of those of `like`."""
    import torch

    from plisse.core.batch import Batch, BatchList, first_tensor

    draw = torch.Generator().manual_seed(seed)
    shape = first_tensor(like[0].inputs).shape[1:]
    return BatchList(tuple(Batch(torch.randn(64, *shape, generator=draw)) for _ in range(4)))


def _print(rows: dict[str, Similarity]) -> None:
    from rich.table import Table
    from rich.text import Text

    from plisse.report import wording

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("data", overflow="fold")
    for name in ("distance", "95 %", "confidence", "samples"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("furthest layer", no_wrap=True)
    nearest = next(iter(rows))
    for name, row in rows.items():
        style = "bold" if name == nearest else "dim" if name == NOISE else ""
        layer, value = row.furthest(1)[0]
        table.add_row(
            Text(name, style=style),
            Text(wording.figures(row.value), style=style),
            f"{wording.figures(row.low)} to {wording.figures(row.high)}",
            "" if row.confidence is None else wording.score(row.confidence, "points"),
            f"{row.n:,}",
            Text(f"{layer} ({wording.figures(value)})", style="dim"),
        )
    console = stdout()
    console.print(table)
    for name, row in rows.items():
        for note in row.notes if name != NOISE else ():
            console.print(f"{name}: {note}", style="yellow", markup=False, soft_wrap=True)
