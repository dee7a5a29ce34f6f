"""plisse evaluate and plisse profile: scores and costs of networks and files on this machine."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.opening import joined, open_named_task, open_network, open_networks, written_bytes
from plisse.cli.output import Say, check_outputs, print_json, stdout, working
from plisse.cli.points import has_points, open_points
from plisse.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from plisse.cost.profile import Profile
    from plisse.train.task import Task


class By(StrEnum):
    """What a frontier is taken over."""

    bytes = "bytes"
    params = "params"
    macs = "macs"
    latency = "latency"


Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help=f"One or more. {options.MODELS}", show_default=False)
]
Frontier = Annotated[
    By, typer.Option("--by", help="The cost that the frontier is taken over.", rich_help_panel=options.OUTPUT)
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats",
        metavar="N",
        min=3,
        max=10_000,
        help="Timed passes of each.",
        rich_help_panel=options.TASK,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", metavar="N", min=1, show_default=False, rich_help_panel=options.TASK,
        help="Samples of a timed pass; all of the task's example without.",
    ),
]  # fmt: skip
Kept = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="P.json", show_default=False, rich_help_panel=options.OUTPUT,
        help="Write the profile as JSON, for plisse select and plisse serve; several networks become points "
        "by their widths.",
    ),
]  # fmt: skip


@reported
def evaluate(
    model: options.Model,
    weights: options.Weights = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Score a network or a .plisse file on the holdout of a task, with its 95 % interval.

    A file gives exactly the score that compress reported, in any process.
    """
    with working(f"scoring {model}"):
        from plisse.report import wording
        from plisse.report.record import evaluation
        from plisse.train.evaluate import evaluate as score

        network = open_network(model, weights, allow, seed)
        found = score(network, open_named_task(task, data, network, seed))
    if as_json:
        print_json({"model": model, "task": joined(task, data), "seed": seed, **evaluation(found)})
        return
    value = wording.score(found.score, found.unit)
    words = f"{found.name} {value} (95 %: {wording.interval(found)}), {found.n:,} samples"
    stdout().print(words, soft_wrap=True)


@reported
def profile(
    models: Models,
    weights: options.Weights = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    repeats: Repeats = 30,
    batch: Batch = None,
    by: Frontier = By.bytes,
    out: Kept = None,
    as_json: options.Json = False,
) -> None:
    """Bytes, MACs, latency and score of networks, or of the operating points of one, measured in one go.

    Timed passes take turns, so that the noise of the machine meets all alike.

    On the frontier is what no other beats in both cost and score.
    """
    if len(set(models)) < len(models):
        raise InputError("a network named twice", expected="each MODEL once")
    check_outputs([*models, weights], out=out)
    with working("loading") as say:
        if out is not None or (len(models) == 1 and has_points(models[0])):
            found, opened = _points(models, weights, allow, task, data, seed, repeats, batch, say)
            if out is not None:
                _keep(found, out)
        else:
            networks = open_networks(models, weights, allow, seed)
            opened = open_named_task(task, data, next(iter(networks.values())), seed)
            found = _profile(networks, opened, repeats, batch, say)
        best = {row.point for row in found.frontier(by.value)}
    if as_json:
        rows = [{**dataclasses.asdict(row), "frontier": row.point in best} for row in found.rows]
        print_json({"task": joined(task, data), "seed": seed, "by": by.value, "rows": rows})
        return
    _print_profile(found, best, opened, by.value)


def _points(
    models: list[str],
    weights: Path | None,
    allow: list[str] | None,
    task: str,
    data: str | None,
    seed: int,
    repeats: int,
    batch: int | None,
    say: Say,
) -> tuple[Profile, Task]:
    """The profile of operating points, for other commands to read."""
    from plisse.adapt.profiling import profile as measured

    net = open_points(models, allow, seed, weights)
    opened = open_named_task(task, data, net.extract(net.space.largest), seed)
    return measured(net, None, opened, batch=batch, repeats=repeats, say=say), opened


def _keep(found: Profile, path: Path) -> None:
    from plisse.cost.kept import write_profile

    write_profile(found, path)


def _profile(
    networks: dict[str, nn.Module], task: Task, repeats: int, batch: int | None, say: Say
) -> Profile:
    from plisse.adapt.profiling import first_samples
    from plisse.cost.measure import interleaved, measure
    from plisse.cost.profile import Profile, ProfileRow
    from plisse.train.evaluate import evaluate as score
    from plisse.train.evaluate import outputs_of

    say("timing")
    example = first_samples(task.example, batch)
    for spec, network in networks.items():
        outputs_of(network, example, spec)  # all must take the inputs of one task
    times = interleaved(networks, example, repeats=repeats)
    rows = []
    for spec, network in networks.items():
        say(f"scoring {spec}")
        cost = measure(network, example, written=written_bytes(spec, network), timed=False)
        cost = dataclasses.replace(cost, latency=times[spec].median, latency_spread=times[spec].spread)
        rows.append(ProfileRow(spec, cost, score(network, task).score))
    return Profile(tuple(rows))


def _print_profile(found: Profile, best: set[str], task: Task, by: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from plisse.report import wording

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("network", overflow="fold")
    for name in ("bytes", "params", "MACs", "latency", task.score.name):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"frontier by {by}", no_wrap=True)
    for row in found.rows:
        cost = row.cost
        table.add_row(
            Text(row.point),
            wording.size(cost.bytes),
            wording.count(cost.params),
            wording.count(cost.macs),
            wording.seconds(cost.latency, cost.latency_spread),
            wording.score(row.score, task.score.unit),
            Text("●", style="bold green") if row.point in best else Text("beaten", style="dim"),
        )
    stdout().print(table)
