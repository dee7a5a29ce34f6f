"""plisse train subspace: one file, every size."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plisse.cli import examples, options
from plisse.cli.failures import reported
from plisse.cli.opening import kind, open_named_task, open_network
from plisse.cli.output import check_outputs, print_json, stdout, stepping, working
from plisse.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from plisse.adapt.subspace import Subspace
    from plisse.train.task import Task

TRAINING = "Training"
TEMPERATURE = 4.0  # of the teacher's class probabilities
FAST, GENTLE = 0.05, 0.02  # peak rates, of networks that learn from labels or are trained already
EXAMPLES: examples.Examples = (
    ("seven widths of a network on the digits", "plisse train subspace digits_cnn -o nets.plisse"),
    (
        "3 to 8 bits of a trained network",
        "plisse train subspace resnet20 --weights W.safetensors --task cifar10:DIR \\\n"
        "  --axis bits --teacher --steps 600 -o r20.plisse",
    ),
    ("the points of the file, and the bytes that each needs", "plisse inspect nets.plisse"),
)
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Train networks of many sizes at once.")


class Axis(StrEnum):
    """What makes a point cheaper."""

    width = "width"
    sparsity = "sparsity"
    bits = "bits"


OnAxis = Annotated[
    Axis,
    typer.Option(
        "--axis", rich_help_panel=options.FAR, case_sensitive=False,
        help="Channels that compute (faster, smaller), zeros (smaller), or bits of weights and activations.",
    ),
]  # fmt: skip
Points = Annotated[
    str | None,
    typer.Option(
        "--points", metavar="LIST", show_default=False, rich_help_panel=options.FAR,
        help="Points that are measured: 0.25,0.5,1 for width, 0.9,0.5,0 for sparsity, 3,4,5 for bits.",
    ),
]  # fmt: skip
OnLine = Annotated[
    bool,
    typer.Option(
        "--line", rich_help_panel=options.FAR,
        help="A line between two sets of weights; for sparsity and bits that takes twice the bytes.",
    ),
]  # fmt: skip
Store = Annotated[
    int | None,
    typer.Option(
        "--store", metavar="B", min=4, max=16, show_default=False, rich_help_panel=options.FAR,
        help="Bits of a weight in the file, for width and sparsity: 8 takes a quarter of the bytes.",
    ),
]  # fmt: skip
Steps = Annotated[
    int, typer.Option("--steps", metavar="N", min=1, help="Batches to train on.", rich_help_panel=TRAINING)
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--lr", metavar="R", min=0, help="Peak learning rate.", show_default="0.05, with --teacher 0.02",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
Distill = Annotated[
    float,
    typer.Option(
        "--distill", metavar="S", min=0, max=1, rich_help_panel=TRAINING,
        help="Share of the loss that smaller points learn from the largest one rather than from labels.",
    ),
]  # fmt: skip
Teacher = Annotated[
    bool,
    typer.Option(
        "--teacher", rich_help_panel=TRAINING,
        help="All points learn from MODEL as it is given, without labels: for a network that is trained.",
    ),
]  # fmt: skip
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="C", show_default=False, rich_help_panel=TRAINING,
        help="Written every 200 batches; the same command goes on from it where it was stopped.",
    ),
]  # fmt: skip
Out = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="OUT", help="The .plisse file to write.", show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]  # fmt: skip


@reported
def subspace(
    model: options.Model,
    out: Out,
    axis: OnAxis = Axis.width,
    points: Points = None,
    line: OnLine = False,
    store: Store = None,
    steps: Steps = 1000,
    lr: Rate = None,
    distill: Distill = 0.0,
    teacher: Teacher = False,
    checkpoint: Checkpoint = None,
    weights: options.Weights = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train all sizes of a network at once and write them to one file, any start of which is a valid smaller
    one.

    Batch-norm statistics of every point are measured after training and stored, so that switching needs no
    data.
    """
    listed = None if points is None else numbers(points)
    if store is not None and axis == Axis.bits:
        raise InputError(f"--store {store} with --axis bits", expected="one of them: planes have their bits")
    check_outputs([model, weights], out=out, checkpoint=checkpoint)
    with working("loading") as say:
        from plisse.adapt.rounded import round_weights
        from plisse.adapt.train import finish, train_subspace
        from plisse.compress.finetune import distilled
        from plisse.train.optimizers import SGD

        network = open_network(model, weights, allow, seed)
        opened = open_named_task(task, data, network, seed)
        taught = distilled(opened, network, TEMPERATURE) if teacher else opened
        made = _subspace(axis, network, opened, listed, line)
        say(f"training {len(made.space.points)} points on {task}")
        rate = lr if lr is not None else GENTLE if teacher else FAST
        optimizer = SGD(lr=rate, weight_decay=5e-4)
        train_subspace(
            made,
            taught,
            steps=steps,
            distill=distill,
            optimizer=optimizer,
            seed=seed,
            checkpoint=checkpoint,
            hooks=(stepping("training", say),),
        )
        if store is not None:
            round_weights(made, store)
            finish(made, opened)
        say("scoring")
        rows = _written(
            made, opened, out, {"task": kind(task), "axis": str(axis), "steps": steps, "seed": seed}
        )
    if as_json:
        print_json({"file": out, "points": rows})
        return
    _print(out, rows, opened)


def numbers(text: str) -> list[float]:
    """The numbers of a list with commas. Raises InputError with the part that is none."""
    found = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError as error:
            raise InputError(f"point {part!r}", expected="numbers with commas", hint="0.25,0.5,1") from error
    return found


def _subspace(
    axis: Axis, network: nn.Module, task: Task, points: Sequence[float] | None, line: bool
) -> Subspace:
    from plisse.adapt.bits import BITS, bits_subspace
    from plisse.adapt.sparsity import SPARSITIES, sparsity_subspace
    from plisse.adapt.width import WIDTHS, width_subspace

    if axis == Axis.width:
        return width_subspace(network, task.example, widths=points or WIDTHS, line=line)
    if axis == Axis.sparsity:
        return sparsity_subspace(network, sparsities=points or SPARSITIES, line=line)
    if any(point != int(point) for point in points or ()):
        raise InputError(f"bits {points}", expected="whole numbers", hint="--points 3,4,5,6,7,8")
    whole = [int(point) for point in points or BITS]
    return bits_subspace(network, task.calibration, bits=whole, line=line)


def _written(made: Subspace, task: Task, out: Path, notes: dict[str, Any]) -> list[dict[str, Any]]:
    """Write, read back, and score every point of what was read."""
    from plisse.adapt.file import points_of
    from plisse.adapt.opened import open_elastic, save_subspace
    from plisse.bitstream import modelfile
    from plisse.core.origin import origin_of
    from plisse.networks.build import build
    from plisse.train.evaluate import evaluate

    save_subspace(made, out, notes)
    name = origin_of(made.wrapped.model).name
    read = open_elastic(out, (name,))
    rows = points_of(modelfile.read(out), lambda origin: build(origin, (name,)))
    return [
        {"point": str(row.point), "usable_from": row.usable_from,
         "score": evaluate(read.extract(row.point), task).score}
        for row in rows
    ]  # fmt: skip


def _print(out: Path, rows: Sequence[dict[str, Any]], task: Task) -> None:
    from plisse.report import wording

    console = stdout()
    for row in rows:
        score = wording.score(row["score"], task.score.unit)
        words = f"{row['point']:>16}  {task.score.name} {score}, usable from byte {row['usable_from']:,}"
        console.print(words, markup=False, soft_wrap=True)
    console.print(f"wrote {out} ({out.stat().st_size:,} bytes)", markup=False, soft_wrap=True)


app.callback(epilog=examples.shown(EXAMPLES))(lambda: None)
app.command(epilog=examples.shown(EXAMPLES))(subspace)
