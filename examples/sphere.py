"""One canonical form of a network: unit weights, thresholds in an interval; then train in there."""

import math

import torch
from torch import nn
from torch.nn import functional as F

import plisse
from plisse.compress.notes import notes_of
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Box
from plisse.compress.sphere.shared import SharedGrid
from plisse.compress.sphere.training import Riemannian, constrained, threshold_bounds, uniform_start
from plisse.core.batch import BatchList, call
from plisse.core.reparam import baked
from plisse.train.optimizers import AdamW
from plisse.train.task import Loss

DOMAIN = Box(-1.0, 1.0)


def surface(points: torch.Tensor) -> torch.Tensor:
    """Two waves under a bell, on the square from -1 to 1."""
    return (
        torch.sin(math.pi * points[:, :1])
        * torch.cos(2 * points[:, 1:])
        * torch.exp(-(points**2).sum(1, True))
    )


def squared_error(model: nn.Module, batch: plisse.Batch) -> Loss:
    return Loss(F.mse_loss(call(model, batch.inputs), batch.target))


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))


def make_task() -> plisse.Task:
    torch.manual_seed(1)
    points = torch.rand(1024, 2) * 2 - 1
    train = BatchList((plisse.Batch(points, surface(points)),))
    return plisse.classification("surface", points, train, train, train)


def rescaled(model: nn.Module) -> nn.Module:
    """The same function from other weights: each hidden neuron times 1/s, what reads it times s."""
    other = make_net()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for first, second in ((other[0], other[2]), (other[2], other[4])):
            s = torch.exp(2 * torch.randn(len(first.weight)))
            first.weight.div_(s[:, None])
            first.bias.div_(s)
            second.weight.mul_(s)
    return other


def main() -> None:
    task = make_task()
    model = make_net()
    plisse.fit(model, squared_error, task.train, steps=400, optimizer=AdamW(lr=0.01))

    form = Canonicalize(DOMAIN)(model, task)
    print(*notes_of(form), sep="\n")
    with torch.no_grad():
        apart = (form(task.example) - model(task.example)).abs().max() / model(task.example).abs().max()
    print(f"outputs differ by {float(apart):.0e} of their size")
    assert apart < 1e-5

    again = Canonicalize(DOMAIN)(rescaled(model), task)
    prune = Prune(0.5)
    masks = [[w != 0 for w in baked(prune(net, task)).parameters()] for net in (form, again)]
    print("pruned alike after random rescaling:", all(torch.equal(a, b) for a, b in zip(*masks, strict=True)))

    shared = Quantize(grid=SharedGrid(4))(form, task)
    print("scales stored:", {name: reparam.scale.numel() for name, reparam in shared.reparams.items()})

    start = make_net()
    bounds = {"0": threshold_bounds(start, task, DOMAIN)["0"]}
    reduced = constrained(uniform_start(start, bounds, seed=0), bounds, Riemannian())
    plisse.fit(
        reduced.model, squared_error, task.train, steps=400, optimizer=AdamW(lr=0.01), hooks=reduced.hooks
    )
    errors = [
        float(squared_error(net, task.train[0]).total.detach()) for net in (model, baked(reduced.model))
    ]
    print(f"squared error, standard {errors[0]:.1e}, first layer on the sphere {errors[1]:.1e}")


if __name__ == "__main__":
    main()
