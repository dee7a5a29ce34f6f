"""plisse compress: a network and a budget in, one small file out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.nodata import (
    KIND,
    NONE,
    Keep,
    Samples,
    Scheme,
    Shape,
    check_no_data,
    made_samples,
    score_note,
)
from plisse.cli.opening import kind, open_named_task, open_network
from plisse.cli.output import (
    check_new_folder,
    check_outputs,
    counted,
    print_json,
    stdout,
    stepping,
    working,
)
from plisse.cli.output import note as remark
from plisse.cli.quantizing import (
    Activations,
    Bits,
    Group,
    PresetFlag,
    Rounding_,
    check_flags,
    preset_steps,
    quantizing,
)
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.compress.result import Result
    from plisse.compress.step import Step

Out = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="FILE", help="The file to write.", show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]  # fmt: skip
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="B", show_default=False, rich_help_panel=options.FAR,
        help="Upper bounds on bytes, params, macs, latency: 'bytes=0.1x, latency=5ms'. x is a share of the "
        "original; macs and latency are of one pass of the task's example batch. Without --budget, --recipe, "
        "--bits and --preset: bytes=0.1x.",
    ),
]  # fmt: skip
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe", metavar="R.yaml", help="Steps to run before those that the budget asks for.",
        show_default=False, rich_help_panel=options.FAR,
    ),
]  # fmt: skip
FineTune = Annotated[
    int | None,
    typer.Option(
        "--finetune", metavar="N", min=0, rich_help_panel=options.FAR, show_default=False,
        help="Batches of training with distillation from the original, without labels; 0: none. "
        "By default up to 600 where a budget costs too much without.",
    ),
]  # fmt: skip
Rate = Annotated[
    float | None,
    typer.Option(
        "--finetune-lr", metavar="LR", help="Peak learning rate of fine-tuning.",
        show_default=False, rich_help_panel=options.FAR,
    ),
]  # fmt: skip
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Fail at a step that saves nothing.", rich_help_panel=options.FAR),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="R.html", help="Write a self-contained HTML report.", show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]  # fmt: skip

CompressData = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="D", show_default=False, rich_help_panel=options.TASK,
        help="Folder of the data; --task T --data D is T:D. Or none: nothing but the network is used.",
    ),
]  # fmt: skip

DEFAULT_BUDGET = "bytes=0.1x"


@reported
def compress(
    model: options.Model,
    out: Out,
    weights: options.Weights = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: CompressData = None,
    seed: options.Seed = 0,
    budget: Budget = None,
    recipe: Recipe = None,
    bits: Bits = None,
    activations: Activations = None,
    group: Group = None,
    rounding: Rounding_ = None,
    preset: PresetFlag = None,
    finetune: FineTune = None,
    finetune_lr: Rate = None,
    strict: Strict = False,
    input_shape: Shape = None,
    scheme: Scheme = None,
    samples: Samples = None,
    keep_images: Keep = None,
    report: Report = None,
    as_json: options.Json = False,
) -> None:
    """Compress a trained network to a budget, and measure what came out.

    The file holds all of it: structure, weights, and a tokenizer where there is one.

    With --data none no data are needed: images or sentences are made from the network itself.
    """
    check_outputs([model, weights, recipe], out=out, report=report)
    made_flags = {
        "input_shape": input_shape,
        "scheme": scheme,
        "samples": samples,
        "keep_images": keep_images,
    }
    check_no_data(data, task, **made_flags)
    if keep_images is not None:
        check_new_folder(keep_images, "--keep-images", out, report)
    _check_rate(finetune_lr, finetune)
    check_flags(bits, preset, activations=activations, group=group, rounding=rounding)
    with working("loading"):
        from plisse.bitstream.atomic import write_atomic
        from plisse.compress.compress import compress as run
        from plisse.compress.recipe import read_recipe
        from plisse.compress.step import chain
        from plisse.cost.budget import Budget as Bounds
        from plisse.report.html import write_report

        given: list[Step] = [read_recipe(recipe)] if recipe else []
        wanted = budget or (DEFAULT_BUDGET if recipe is None and bits is None and preset is None else None)
        bounds = Bounds.parse(wanted) if wanted else None
        network = open_network(model, weights, allow, seed)
        if preset is not None:
            given.append(preset_steps(network, preset, bits, data == NONE))
        elif bits is not None:
            given.append(quantizing(network, bits, activations, group, rounding, data == NONE))
    made = None
    if data == NONE:
        made = made_samples(network, model, input_shape, scheme, samples, keep_images, seed)
    with working(f"measuring {model}") as say:
        opened = made.task if made is not None else open_named_task(task, data, network, seed)
        name = KIND if made is not None else kind(task)
        rate = {} if finetune_lr is None else {"finetune_lr": finetune_lr}
        result = run(
            network,
            opened,
            budget=bounds,
            recipe=chain(*given) if given else None,
            finetune_steps=finetune,
            **rate,
            strict=strict,
            keep_statistics=made is not None,
            seed=seed,
            notes={"task": name},
            allow=_allowed(model, allow),
            say=say,
            progress=counted("measuring", say),
            hooks=(stepping("training", say),),
        )
        write_atomic(out, result.data)
        if report is not None:
            title = f"{Path(model).name} {'without data' if made is not None else f'on {name}'}"
            write_report(result, report, title=title, exhibits=(made.exhibit,) if made is not None else ())
    _show(result, out, report, as_json)
    if made is not None and not as_json:
        remark(score_note(made))


def _check_rate(rate: float | None, batches: int | None) -> None:
    if rate is not None and not batches:
        raise InputError("--finetune-lr without --finetune", expected="both", hint="--finetune 500")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise InputError(f"--finetune-lr {rate}", expected="a number above 0", hint="--finetune-lr 0.02")


def _allowed(model: str, allow: list[str] | None) -> tuple[str, ...]:
    """The factories that may run again to rebuild the skeleton: those allowed, and the one typed as MODEL."""
    return (*(allow or ()), model.partition("(")[0].partition("?")[0])


def _show(result: Result, out: Path, report: Path | None, as_json: bool) -> None:
    from plisse.report.record import record

    if as_json:
        print_json({"file": out, "report": report, **record(result)})
        return
    print_result(result)
    console = stdout()
    console.print(f"wrote {out} ({len(result.data):,} bytes)", markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"wrote {report}", markup=False, soft_wrap=True)


def print_result(result: Result) -> None:
    """The headline, before and after, and the steps."""
    from plisse.report.tables import headline, steps_table, summary_table
    from plisse.report.wording import verdict

    console = stdout()
    console.print()
    console.print(headline(result), soft_wrap=True)
    console.print()
    console.print(summary_table(result))
    console.print(verdict(result.difference, result.score_before.name), style="dim", soft_wrap=True)
    console.print()
    console.print(steps_table(result.steps, result.score_before.unit))
    console.print()
    said: tuple[str, ...] = ()
    for row in result.steps:
        for note in row.notes if row.notes != said else ():
            console.print(f"{row.name}: {note}", markup=False, soft_wrap=True)
        said = row.notes
