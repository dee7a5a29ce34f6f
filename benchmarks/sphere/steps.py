"""Weight steps from one frame's ReLU network to the next one's, as trained and in the canonical form."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.sphere.storage import least_bytes
from plisse.compress.options import root_mean_square, written
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Unbounded
from plisse.compress.sphere.units import find_units
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.data.folder import data_set
from plisse.data.video import open_video
from plisse.networks.coordinate import coordinates, fourier_mlp
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Loss, Task, classification

PAIRS = ((0, 1), (8, 9), (16, 20), (40, 41))
"""Frames of carphone: the first network is fitted to one and the second goes on from it to the other."""
GRIDS = tuple(2.0 ** (k / 2) for k in range(6, -11, -1))
"""Steps of the grid, in root mean squares of each tensor's change."""
BELOW = 0.5  # dB under the second network as it was trained


def pictures() -> dict[int, Tensor]:
    """Frames at half size as [P, 3], 0 to 1."""
    found = open_video(data_set("video", "carphone_qcif_96f.mkv")).frames()
    wanted = set(itertools.chain(*PAIRS))
    frames = {i: frame for i, frame in zip(range(max(wanted) + 1), found, strict=False) if i in wanted}
    return {
        i: F.avg_pool2d(frame.rgb_unit().clamp(0, 1)[None], 2)[0].flatten(1).T.contiguous()
        for i, frame in frames.items()
    }


def squared_error(model: nn.Module, batch: Batch) -> Loss:
    assert batch.target is not None
    return Loss(F.mse_loss(model(batch.inputs), batch.target))


def networks(pair: tuple[int, int], frames: dict[int, Tensor], small: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(pair[0])
    made = []
    model = fourier_mlp(seed=0)
    for frame, steps, rate in zip(pair, (100, 50) if small else (1000, 300), (6e-3, 2e-3), strict=True):
        batches = BatchList((Batch(coordinates(72, 88), frames[frame]),))
        fit(model, squared_error, batches, steps=steps, optimizer=AdamW(lr=rate))
        made.append(copy.deepcopy(model))
    return made[0], made[1]


def compare(pair: tuple[int, int], frames: dict[int, Tensor], small: bool) -> dict[str, Any]:
    """Bytes of the step at equal quality in both forms, and the share of its energy that only rescales."""
    batches = BatchList((Batch(coordinates(72, 88), frames[pair[1]]),))
    task = classification("frame", coordinates(72, 88)[:64], batches, batches, batches)
    plain = networks(pair, frames, small)
    canonical = tuple(Canonicalize(Unbounded())(model, task) for model in plain)
    wanted = quality(plain[1], frames[pair[1]]) - BELOW
    curves = {
        name: curve(one, other, frames[pair[1]])
        for name, (one, other) in (("as trained", plain), ("canonical", canonical))
    }
    return {
        "frames": list(pair),
        "psnr": wanted,
        "rescaling": rescaling_share(*plain, task),
        "rescaling_directions": directions(plain[0], task).shape[1] / flat(plain[0]).numel(),
        "bytes": {name: least_bytes(points, wanted) for name, points in curves.items()},
        "curves": curves,
    }


def curve(one: nn.Module, other: nn.Module, target: Tensor) -> list[tuple[int, float]]:
    """(bytes of all symbols, dB of the network that they give) of ever finer grids."""
    start = {name: value.detach() for name, value in one.named_parameters()}
    changes = {name: value.detach() - start[name] for name, value in other.named_parameters()}
    points = []
    for grid in GRIDS:
        total, made = 0, copy.deepcopy(one)
        for name, change in changes.items():
            values, size = written(change, grid * root_mean_square(change))
            modules.set_tensor(made, name, start[name] + torch.from_numpy(values))
            total += size
        points.append((total, quality(made, target)))
    return points


def quality(model: nn.Module, target: Tensor) -> float:
    """PSNR in dB."""
    with torch.no_grad():
        error = float(F.mse_loss(model(coordinates(72, 88)).clamp(0, 1), target))
    return -10 * math.log10(error)


def rescaling_share(one: nn.Module, other: nn.Module, task: Task) -> float:
    """Of the energy of the step: the part within the space of rescalings that change no output."""
    step = flat(other) - flat(one)
    basis, _ = torch.linalg.qr(directions(one, task))
    return float((basis.T @ step).square().sum() / step.square().sum())


def directions(model: nn.Module, task: Task) -> Tensor:
    """d/ds at s = 1 of (W_j / s, b_j / s, s W'_j) for every hidden neuron j: [parameters, neurons]."""
    found = []
    for unit in find_units(model, task.example)[0]:
        first: Any = model.get_submodule(unit.first)
        second: Any = model.get_submodule(unit.second)
        for j in range(len(first.weight)):
            moved = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
            moved[f"{unit.first}.weight"][j] = -first.weight.detach()[j]
            moved[f"{unit.first}.bias"][j] = -first.bias.detach()[j]
            moved[f"{unit.second}.weight"][:, j] = second.weight.detach()[:, j]
            found.append(torch.cat([value.flatten() for value in moved.values()]).double())
    return torch.stack(found, 1)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()]).double()
