"""A governor under real load: `python -m benchmarks.governor [--small] [--file F.plisse]`.

Four images per request, each with a deadline, while other processes load all cores every few seconds. The
same script is played with the governor, with the largest and with the smallest point, in short turns, so that
what else happens on the machine meets all three alike; how much that was stands in every round. Which images
are used for what:
- scores of the profile, which the governor goes by: 1,000 images of `val`
- training of the smallest network: `train`, with the original network as teacher
- requests: the 1,017 lossless test images
Deadline and rate follow from the time of the largest point on this machine, measured at the start. On a
machine with other work, give the benchmark a priority of its own: it is to compete with its own load alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.governor.load import Used
from benchmarks.governor.networks import family
from benchmarks.governor.stream import Row, Script, play, summary, swings
from benchmarks.record import write
from plisse.adapt.device import device_sensors
from plisse.adapt.elastic import Elastic
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Decision, Governor
from plisse.adapt.opened import open_elastic
from plisse.adapt.policies import Deadline
from plisse.adapt.profiling import profile
from plisse.adapt.signals import Signals
from plisse.adapt.watch import Watch
from plisse.core.batch import Batch, first_tensor
from plisse.cost.profile import Profile
from plisse.data.cifar10 import read_test, read_validation
from plisse.data.folder import data_set
from plisse.data.images import IMAGENET, ImageBatches
from plisse.train.tasks import open_task

KEPT = Path("out/governor")
PHASE_SECONDS = 4.0
ROUNDS = {"small": 1, "full": 6}
DEADLINE, INTERVAL = 2.5, 2.5
POLICIES = ("governor", "largest", "smallest")
DWELL = 0.5
IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one round, the small network hardly trained")
    parser.add_argument("--file", type=Path, help="the points of an elastic file in place of three networks")
    chosen = parser.parse_args()
    size = "small" if chosen.small else "full"
    torch.set_num_threads(1)
    task = open_task("cifar10")
    net = open_elastic(chosen.file) if chosen.file else family(task, KEPT, size)
    scored = ImageBatches(read_validation(data_set("cifar10"), 1), 128, IMAGENET)
    found = profile(net, None, task, batches=scored, batch=IMAGES, repeats=60)
    name = f"governor{'_file' if chosen.file else ''}{'_small' if chosen.small else ''}"
    write(name, {"file": chosen.file.name if chosen.file else None, **played(net, found, size)})


def played(net: Elastic, found: Profile, size: str) -> dict[str, Any]:
    """All rounds, and what they come to."""
    rows = found.frontier(by="latency")
    images = _test_images()
    times = calibrated(net, found, images)
    slowest = times[rows[-1].point]
    script = Script(INTERVAL * slowest, DEADLINE * slowest, PHASE_SECONDS, PHASE_SECONDS, 2 * PHASE_SECONDS)
    points = {"largest": rows[-1].point, "smallest": rows[0].point}
    requests: dict[str, list[Row]] = {name: [] for name in POLICIES}
    rounds: list[dict[str, Any]] = []
    counts = {"switches": 0, "taken_back": 0}
    for number in range(ROUNDS[size]):
        for name in (*POLICIES[number % 3 :], *POLICIES[: number % 3]):
            here = dataclasses.replace(script, seed=number)
            before = Used.now()
            answers, decisions, start = one(net, found, here, points.get(name), images)
            others = before.others()
            requests[name] += answers
            rounds.append({"round": number, "policy": name, "others": others, **summary(answers, here)})
            print(rounds[-1], flush=True)
            if name == "governor":
                swung = swings(decisions, [row.point for row in rows], here, start)
                counts = {key: counts[key] + swung[key] for key in counts}
    return {
        "script": dataclasses.asdict(script),
        "images": IMAGES,
        "load_processes": _processes(),
        "seconds_between_pauses": times,
        "profile": [dataclasses.asdict(row) for row in found.rows],
        "governor": {"policy": str(Deadline()), "dwell": DWELL, **counts},
        "results": {name: summary(answers, script) for name, answers in requests.items()},
        "rounds": rounds,
    }


def one(
    net: Elastic, found: Profile, script: Script, forced: str | None, batch: Batch
) -> tuple[list[Row], Sequence[Decision], float]:
    """The script once, with the governor or at one point: answers, decisions, and when it began."""
    governor = Governor(found, (Deadline(),), dwell=DWELL)
    if forced is not None:
        governor.force(forced)
    with Watch(device_sensors()) as watch:
        run = Governed(net, governor, watch.latest, example=_example(batch))
        start = time.monotonic() + 1.0
        load = _load(script, start)
        try:
            answers = play(run, batch, script, start, IMAGES)
        finally:
            _ended(load)
    return answers, list(governor.decisions), start


def calibrated(net: Elastic, found: Profile, batch: Batch) -> dict[str, float]:
    """Seconds of a pass at every point, with pauses between the passes, as a governor sees them."""
    governor = Governor(found, (Deadline(),))
    Governed(net, governor, lambda: Signals(time.monotonic()), example=_example(batch))
    return {row.point: governor.expected(row.point, IMAGES) for row in found.rows}


def _load(script: Script, start: float) -> subprocess.Popen[bytes]:
    given = {"processes": _processes(), "idle": script.idle, "busy": script.loaded, "start": start}
    given["seconds"] = script.seconds
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.governor.load", *options]
    return subprocess.Popen(command, process_group=0)


def _ended(load: subprocess.Popen[bytes]) -> None:
    """Wait until its script is over, so that its seconds are known; not for long."""
    try:
        load.wait(timeout=3.0)
    except subprocess.TimeoutExpired:
        os.killpg(load.pid, signal.SIGTERM)
        load.wait()


def _processes() -> int:
    """Two for every core: a program that wants the machine twice over."""
    return 2 * (os.cpu_count() or 1)


def _example(batch: Batch) -> Tensor:
    return first_tensor(batch.inputs)[:IMAGES]


def _test_images() -> Batch:
    images = read_test(data_set("cifar10"))
    return ImageBatches(images, len(images), IMAGENET)[0]


if __name__ == "__main__":
    main()
