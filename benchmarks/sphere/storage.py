"""Bytes with and without the canonical form, and equivalence."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.equalize import Equalize
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.grids import PerChannel, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.sphere.canonicalize import Canonicalize, canonical
from plisse.compress.sphere.domain import Box, Observed
from plisse.compress.sphere.shared import SharedGrid
from plisse.compress.step import Step, chain
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, origin_of
from plisse.core.reparam import plain
from plisse.networks.build import build
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Task, classification, outputs_on

Rows = list[dict[str, Any]]

REFERENCE = "folded, per channel"
SHARED = "canonical, one grid per fan-in"
BITS = (2, 3, 4, 5, 6)
CHOSEN = "folded, per channel, range chosen"
STRETCHES = (0.8, 1.0, 1.2, 1.45)
NORMS = (2.0, 2.4, 3.0, 4.0, 6.0)  # of the error that a range keeps least: higher clips less


def bases(model: nn.Module, task: Task) -> dict[str, nn.Module]:
    """The forms in which weights are rounded: all compute what `model` does, without batch norm."""
    return {
        "folded": FoldBatchNorm()(model, task),
        "equalized": chain(FoldBatchNorm(), Equalize())(model, task),
        "canonical": Canonicalize()(model, task),
        "canonical (observed)": Canonicalize(Observed())(model, task),
    }


@dataclass(frozen=True)
class Settings:
    """stretch: of the grids per fan-in. norm: of the range that is chosen."""

    stretch: float = 1.0
    norm: float = 2.0


def grids(bits: int, chosen: Settings = Settings()) -> dict[str, tuple[str, Step]]:
    """Ways to the same number of bits, by name: the form and how its weights are rounded."""
    tensor, channel = (Quantize(bits, granularity=kind) for kind in (PerTensor(), PerChannel()))
    shared = Quantize(grid=SharedGrid(bits, chosen.stretch, elsewhere=PerChannel()))
    return {
        REFERENCE: ("folded", channel),
        CHOSEN: ("folded", Quantize(bits, range=MSE(chosen.norm))),
        "folded, per tensor": ("folded", tensor),
        "equalized, per tensor": ("equalized", tensor),
        "canonical, per channel": ("canonical", channel),
        "canonical, per tensor": ("canonical", tensor),
        SHARED: ("canonical", shared),
        "canonical (observed), per channel": ("canonical (observed)", channel),
        "canonical (observed), one grid per fan-in": ("canonical (observed)", shared),
    }


def settings(made: dict[str, nn.Module], model: nn.Module, task: Task, bits: int, ways: set[str]) -> Settings:
    """Stretch and norm with which the outputs on calibration inputs diverge least from those of `model`, as
    far as `ways` need them."""
    wanted = outputs_on(model, task.calibration)

    def divergence(way: tuple[str, Step]) -> float:
        rounded = way[1](made[way[0]], task)
        return _divergence(task, wanted, outputs_on(rounded, task.calibration))

    found = Settings()
    if any("one grid" in way for way in ways):
        best = min(STRETCHES, key=lambda stretch: divergence(grids(bits, Settings(stretch))[SHARED]))
        found = replace(found, stretch=best)
    if CHOSEN in ways:
        best = min(NORMS, key=lambda norm: divergence(grids(bits, Settings(norm=norm))[CHOSEN]))
        found = replace(found, norm=best)
    return found


def trained_digits(task: Task, seed: int) -> nn.Module:
    """The built-in digits network from another start each, trained for 300 steps with weight decay."""
    model = build(Origin("builtin", "digits_cnn"), seed=seed)
    optimizer = AdamW(lr=3e-3, weight_decay=0.01)
    fit(model, task.objective, task.train, steps=300, optimizer=optimizer, seed=seed)
    return model


def compare_bytes(
    name: str, model: nn.Module, task: Task, known: Collection[tuple[str, int]] = ()
) -> Iterator[Rows]:
    """For every number of bits one row per form that is not `known` yet: bytes of the file, score and
    divergence of what it decodes to. Small tensors are compacted alike."""
    wanted, made = outputs_on(model, task.holdout), bases(model, task)
    for bits in BITS:
        ways = {way for way in grids(bits) if (way, bits) not in known}
        chosen = settings(made, model, task, bits, ways)
        rows = []
        for way, (form, quantize) in grids(bits, chosen).items():
            if way not in ways:
                continue
            small = chain(quantize, CompactSmall())(made[form], task)
            data = modelfile.dumps(small, build(origin_of(plain(small))))
            found = outputs_on(modelfile.loads(data, build), task.holdout)
            rows.append(
                {
                    "network": name,
                    "form": way,
                    "bits": bits,
                    "stretch": chosen.stretch if "one grid" in way else None,
                    "norm": chosen.norm if way == CHOSEN else None,
                    "bytes": len(data),
                    "score_before": _score(task, wanted),
                    "score": _score(task, found),
                    "divergence": _divergence(task, wanted, found),
                    "parameters": sum(p.numel() for p in plain(small).parameters()),
                }
            )
        if rows:
            yield rows


def place(row: dict[str, Any]) -> tuple[str, int, int]:
    """Where a row stands among the others."""
    return row["network"], row["bits"], list(grids(row["bits"])).index(row["form"])


def _score(task: Task, outputs: list[Tensor]) -> float:
    predicted = torch.cat([task.score.predict(part) for part in outputs])
    return task.score.summary(predicted, torch.cat([batch.target for batch in task.holdout]))  # type: ignore[misc]


def _divergence(task: Task, wanted: list[Tensor], found: list[Tensor]) -> float:
    return float(task.divergence(torch.cat(wanted), torch.cat(found)))


def at_equal_divergence(rows: Rows) -> Rows:
    """Bytes that each form needs for the divergence of the reference at 4, 3 and 2 bits; None outside of
    what was measured."""
    return _needed(rows, "divergence", lambda row: -float(np.log(row["divergence"])))


def at_equal_score(rows: Rows) -> Rows:
    """The same for the score of the reference."""
    return _needed(rows, "score", lambda row: float(row["score"]))


def _needed(rows: Rows, key: str, quality: Callable[[dict[str, Any]], float]) -> Rows:
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        for bits in (4, 3, 2):
            reference = next((row for row in own if (row["form"], row["bits"]) == (REFERENCE, bits)), None)
            if reference is None:
                continue
            needed = {
                form: least_bytes(
                    [(row["bytes"], quality(row)) for row in own if row["form"] == form], quality(reference)
                )
                for form in dict.fromkeys(row["form"] for row in own)
            }
            found.append({"network": network, "bits": bits, key: reference[key], "bytes": needed})
    return found


def least_bytes(files: list[tuple[int, float]], wanted: float) -> int | None:
    """Bytes at which quality first reaches `wanted`, between two files by the logarithm of bytes; None where
    no file reaches it, or the smallest does already.

    >>> least_bytes([(100, 0.0), (400, 1.0)], 0.5)
    200
    """
    before: tuple[int, float] | None = None
    for size, quality in sorted(files):
        if quality >= wanted:
            if quality == wanted:
                return size
            if before is None:
                return None
            share = (wanted - before[1]) / (quality - before[1])
            return round(before[0] * (size / before[0]) ** share)
        before = size, quality
    return None


def equivalence(networks: int) -> list[dict[str, Any]]:
    """Random networks of each kind: the largest error relative to the largest output, and neurons removed."""
    rows = []
    for kind, dtype in itertools.product(("MLP", "CNN", "binary MLP"), (torch.float64, torch.float32)):
        worst, totals = 0.0, dict.fromkeys(("neurons", "dead", "constant", "unheard", "clamped", "kept"), 0)
        for seed in range(networks):
            network, inputs, low = _random(kind, seed, dtype)
            batches = BatchList((Batch(inputs),))
            task = classification("made", inputs[:4], batches, batches, batches)
            result, changes, _, _ = canonical(network, task, Box(low, 1.0))
            with torch.no_grad():
                wanted, found = network(inputs), result(inputs)
            worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)))
            for change in changes:
                for key in totals:
                    totals[key] += getattr(change, key)
        name = str(dtype).removeprefix("torch.")
        rows.append({"kind": kind, "type": name, "networks": networks, "worst": worst, **totals})
    return rows


class _Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


def _random(kind: str, seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, float]:
    """A network with rows of many scales and wide thresholds, and inputs that fill its box."""
    torch.manual_seed(seed)
    chosen = random.Random(seed)
    layers: list[nn.Module] = []
    if kind == "CNN":
        for inputs, outputs in itertools.pairwise((2, 8, 6, 5)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=chosen.choice((0, 1))), nn.BatchNorm2d(outputs)]
            layers += [chosen.choice((nn.ReLU(), nn.LeakyReLU(0.1)))]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3)]
        values, low = torch.rand(32, 2, 12, 12), 0.0
    else:
        widths = [chosen.randint(2, 40) for _ in range(chosen.randint(3, 5))]
        for inputs, outputs in itertools.pairwise(widths):
            between = _Step() if kind != "MLP" else chosen.choice((nn.ReLU(), nn.LeakyReLU(0.1)))
            layers += [nn.Linear(inputs, outputs), between]
        layers, low = layers[:-1], -1.0
        values = torch.rand(512, widths[0]) * 2 - 1
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                axes = [1] * (layer.weight.dim() - 1)
                layer.weight.mul_(torch.randn(len(layer.weight), *axes).exp())
                layer.weight[torch.rand(len(layer.weight)) < 0.1] = 0
                assert layer.bias is not None
                layer.bias.copy_(
                    torch.randn(len(layer.bias)) * layer.weight.flatten(1).norm(dim=1).clamp_min(0.1)
                )
    return network.to(dtype), values.to(dtype), low
