"""One network at every width; a governor picks one while other programs take the cores and give them back."""

import multiprocessing
import os
import time
from collections import Counter

import torch
from torch import nn

import plisse
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Governor
from plisse.adapt.policies import Deadline, EnergySaver
from plisse.adapt.profiling import profile
from plisse.adapt.signals import Signals
from plisse.adapt.train import train_subspace
from plisse.adapt.width import width_subspace
from plisse.train.optimizers import AdamW

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SAMPLES = 32
PHASES = (("idle", 0), ("busy", 2 * (os.cpu_count() or 1)), ("idle again", 0))
PHASE_SECONDS = 3.0


def make_net() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((1, 32, 1), (32, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(number * number for number in range(10_000))


def stream(run: Governed, inputs: torch.Tensor, deadline: float) -> tuple[Counter[str], int]:
    """Requests of SAMPLES digits, back to back with a pause: which points ran, and how many were late."""
    points: Counter[str] = Counter()
    late = 0
    end = time.monotonic() + PHASE_SECONDS
    while time.monotonic() < end:
        arrived = time.monotonic()
        answer = run(inputs, deadline=deadline)
        late += time.monotonic() - arrived > deadline
        points[answer.point] += 1
        time.sleep(deadline)
    return points, late


def main() -> None:
    torch.set_num_threads(1)
    task = plisse.open_task("digits")
    subspace = width_subspace(make_net(), task.example, widths=WIDTHS)
    train_subspace(subspace, task, steps=120, optimizer=AdamW(lr=3e-3))

    net = subspace.elastic()
    found = profile(net, None, task, batch=SAMPLES)
    for row in found.rows:
        times = f"{1e3 * (row.cost.latency or 0):.2f} ms, switch {1e6 * (row.switch or 0):.1f} us"
        print(f"{row.point:<11} accuracy {row.score:.3f}, {times}, {row.cost.bytes} bytes alone")

    governor = Governor(found, (Deadline(), EnergySaver()), dwell=0.3)
    request = task.example[:SAMPLES]
    run = Governed(net, governor, lambda: Signals(time.monotonic()), example=request)
    deadline = 4 * governor.expected("width=1")
    print(f"deadline {1e3 * deadline:.1f} ms")
    for name, n_processes in PHASES:
        load = [multiprocessing.Process(target=spin, args=(PHASE_SECONDS,)) for _ in range(n_processes)]
        for process in load:
            process.start()
        points, late = stream(run, request, deadline)
        for process in load:
            process.join()
        shares = ", ".join(f"{point} {count}" for point, count in sorted(points.items()))
        print(f"{name:<11} {sum(points.values())} requests, {late} late: {shares}")
    for decision in list(governor.decisions)[:5]:
        print(f"{decision.before or 'start':>11} -> {decision.point:<11} {decision.reason}")

    governor.force("width=0.25")
    assert run(request).point == "width=0.25"


if __name__ == "__main__":
    main()
