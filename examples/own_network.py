"""Compress a network of your own: name the factory that builds it, then save and load without pickle."""

from pathlib import Path

import torch
from torch import nn

import plisse
from plisse.core.batch import Batch, BatchList


def make_net() -> nn.Module:
    """What `--allow own_network:make_net` would run when the file is loaded."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def make_task() -> plisse.Task:
    """Sixteen numbers; the class is the quarter that holds the largest sum."""
    torch.manual_seed(0)
    inputs = torch.rand(4096, 16)
    target = inputs.reshape(-1, 4, 4).sum(2).argmax(1)
    batches = [Batch(inputs[i : i + 128], target[i : i + 128]) for i in range(0, 4096, 128)]
    train, rest = BatchList(tuple(batches[:24])), BatchList(tuple(batches[24:]))
    return plisse.classification("quarters", inputs[:128], train, train, rest)


def main() -> None:
    task = make_task()
    origin = plisse.Origin("factory", "own_network:make_net")
    model = plisse.with_origin(make_net(), origin)
    plisse.fit(model, task.objective, task.train, steps=300)

    result = plisse.compress(model, task, budget="bytes=0.15x", allow=(origin.name,))
    path = Path("quarters.plisse")
    plisse.write(path, result.data)
    loaded = plisse.load(path, allow=(origin.name,))
    print(f"{result.ratio:.1f}x smaller, accuracy {result.score_before.score:.3f} -> ", end="")
    print(f"{plisse.evaluate(loaded, task).score:.3f}")


if __name__ == "__main__":
    main()
