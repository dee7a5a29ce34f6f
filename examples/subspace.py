"""One file, every size: seven widths of a network are trained at once, written, cut short, and switched.

    python examples/subspace.py        (about half a minute on one core)

Statistics of batch norms are measured for every width after training and stored, so that a switch needs no
data.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from plisse.adapt.elastic import Point
from plisse.adapt.file import TruncatedFileWarning, points_of
from plisse.adapt.opened import open_elastic, save_subspace
from plisse.adapt.train import train_subspace
from plisse.adapt.width import width_subspace
from plisse.cost.macs import count_macs
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate
from plisse.train.optimizers import SGD
from plisse.train.tasks import open_task

WIDTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def main(steps: int = 150) -> None:
    task = open_task("digits")
    subspace = width_subspace(open_model("digits_cnn"), task.example, widths=WIDTHS)
    train_subspace(subspace, task, steps=steps, optimizer=SGD(lr=0.05))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.plisse"
        print(f"all widths in one file: {save_subspace(subspace, path):,} bytes")
        net = open_elastic(path)

        print("\nwidth   accuracy   MACs per image   bytes of the file")
        rows = points_of(path.read_bytes(), build)
        for row in rows:
            network = net.extract(row.point)
            macs = count_macs(network, task.example) // len(task.example)
            score = evaluate(network, task).score
            print(f"{row.point.value:5.3f}   {100 * score:6.1f} %   {macs:12,}   {row.usable_from or 0:12,}")

        between = Point("width", 0.7)
        score = evaluate(net.extract(between), task).score
        print(f"\na width that was not measured, {between}: {100 * score:.1f} %")

        cut = Path(folder) / "cut.plisse"
        cut.write_bytes(path.read_bytes()[: rows[3].usable_from])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncatedFileWarning)
            part = open_elastic(cut)
        print(f"the first {cut.stat().st_size:,} bytes alone: a network of {part.space.largest}")

    net.prepare(net.space.points)
    switches = 1000
    began = time.perf_counter()
    for number in range(switches):
        net.activate(net.space.points[number % len(net.space.points)])
    seconds = (time.perf_counter() - began) / switches
    with torch.inference_mode():
        net(task.example)
    print(f"a switch between prepared widths takes {1e6 * seconds:.0f} us")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
