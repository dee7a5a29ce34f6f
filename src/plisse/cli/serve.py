"""plisse serve: operating points as an HTTP service with a dashboard."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.output import check_outputs, note, stderr, working
from plisse.cli.points import Files, Measured, largest, open_points, profile_of
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.adapt.elastic import Elastic
    from plisse.adapt.governor import Governor
    from plisse.adapt.policies import Policy
    from plisse.cost.profile import Profile
    from plisse.serve.limits import Limits
    from plisse.serve.service import Service

GOVERNOR, LISTENING, LIMITS = "The governor", "Where it listens", "What one client may ask"


class PolicyName(StrEnum):
    """What the governor heeds."""

    deadline = "deadline"
    load = "load"
    energy = "energy"


Policies = Annotated[
    list[PolicyName],
    typer.Option(
        "--policy", rich_help_panel=GOVERNOR,
        help="May be repeated; the cheapest of their wishes holds. deadline: passes end in time, as earlier "
        "ones tell. load: less as other programs keep the cores busy. energy: less on an emptying battery "
        "and in heat.",
    ),
]  # fmt: skip
DeadlineMs = Annotated[
    float | None,
    typer.Option(
        "--deadline", metavar="MS", min=0.001, show_default=False, rich_help_panel=GOVERNOR,
        help="Milliseconds, for requests that bring no deadline of their own.",
    ),
]  # fmt: skip
Bounds = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="B", show_default=False, rich_help_panel=GOVERNOR,
        help="Points outside it are never run, nor forced by hand.",
    ),
]  # fmt: skip
Dwell = Annotated[
    float,
    typer.Option(
        "--dwell", metavar="S", min=0.0, max=3600.0, rich_help_panel=GOVERNOR,
        help="Seconds between switches; a deadline in danger does not wait.",
    ),
]  # fmt: skip
Log = Annotated[
    Path | None,
    typer.Option(
        "--log", metavar="LOG.jsonl", show_default=False, rich_help_panel=GOVERNOR,
        help="Append every decision, with the signals that led to it, as a line of JSON.",
    ),
]  # fmt: skip
Host = Annotated[
    str,
    typer.Option("--host", metavar="H", help="Only this machine by default.", rich_help_panel=LISTENING),
]
Port = Annotated[
    int,
    typer.Option("--port", min=0, max=65535, help="0 takes a free one.", rich_help_panel=LISTENING),
]
MaxBody = Annotated[
    int, typer.Option("--max-body", metavar="BYTES", min=1, help="Of a request.", rich_help_panel=LIMITS)
]
MaxBatch = Annotated[
    int, typer.Option("--max-batch", metavar="N", min=1, help="Samples at once.", rich_help_panel=LIMITS)
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        "--max-waiting", metavar="N", min=1, help="Predictions that run or wait.", rich_help_panel=LIMITS
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=1024, show_default=False, rich_help_panel=options.TASK,
        help="Cores for one prediction; torch's own choice without.",
    ),
]  # fmt: skip


@reported
def serve(
    files: Files,
    profile: Measured = None,
    policy: Policies = [PolicyName.deadline, PolicyName.energy],  # noqa: B006
    deadline: DeadlineMs = None,
    budget: Bounds = None,
    dwell: Dwell = 1.0,
    log: Log = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_body: MaxBody = 4 << 20,
    max_batch: MaxBatch = 64,
    max_waiting: MaxWaiting = 32,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    threads: Threads = None,
) -> None:
    """Answer requests over HTTP, at the size that load, battery and deadlines allow, with a dashboard.

    POST /predict {"inputs": [...], "deadline_ms": 20}; GET /points, /metrics (Prometheus), /healthz; PUT and
    DELETE /point to force a point and to release it. Ctrl-C ends it after the running prediction.
    """
    check_outputs([*files, profile], log=log)
    _check_installed()
    from plisse.serve.limits import Limits
    from plisse.serve.run import address, is_loopback, listen
    from plisse.serve.run import serve as answer

    limits = Limits(body=max_body, batch=max_batch, waiting=max_waiting)
    with working("loading") as say, listen(host, port) as listening:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        net = open_points(files, allow, seed)
        found = profile_of(net, profile, task, data, seed, say, batch=1)
        governor = _governor(found, policy, budget, dwell, log)
        service = _service(net, governor, limits, deadline, host, ", ".join(Path(f).name for f in files))
        if not is_loopback(host):
            note(f"{host} can be reached from other machines, and nobody is asked who they are")
        say(f"{len(found.rows)} points on {address(listening)} (Ctrl-C ends it)")
        answer(service, listening)
    stderr().print("stopped", markup=False)


def _check_installed() -> None:
    for name in ("fastapi", "uvicorn", "psutil"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"no {name}", expected="the packages of plisse serve", hint="pip install 'plisse[serve]'"
            ) from error


def _governor(
    found: Profile, names: list[PolicyName], budget: str | None, dwell: float, log: Path | None
) -> Governor:
    from plisse.adapt.governor import Governor, json_lines
    from plisse.adapt.policies import Deadline, EnergySaver, Thresholds
    from plisse.cost.budget import Budget

    policies: dict[PolicyName, Policy] = {
        PolicyName.deadline: Deadline(),
        PolicyName.load: Thresholds("others"),
        PolicyName.energy: EnergySaver(),
    }
    bounds = Budget.parse(budget) if budget else None
    if bounds is not None:
        found.best(bounds, largest(found))  # an error where no point is within
    return Governor(
        found,
        tuple(policies[name] for name in dict.fromkeys(names)),
        bounds,
        largest(found),
        dwell,
        log=json_lines(log) if log else None,
    )


def _service(
    net: Elastic, governor: Governor, limits: Limits, deadline: float | None, host: str, title: str
) -> Service:
    from plisse.adapt.device import device_sensors
    from plisse.adapt.governed import Governed
    from plisse.adapt.watch import Watch
    from plisse.serve.metrics import Metrics
    from plisse.serve.parsing import Form
    from plisse.serve.run import allowed_hosts
    from plisse.serve.service import Service
    from plisse.serve.worker import Worker

    watch = Watch(device_sensors())
    seconds = None if deadline is None else deadline / 1000
    form = Form.of(governor.profile.conditions)
    run = Governed(net, governor, watch.latest, example=form.example(int(governor.pace.batch)))
    worker = Worker(run, limits, Metrics(), deadline=seconds)
    return Service(worker, watch, form, title, allowed_hosts(host))
