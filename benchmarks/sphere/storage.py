"""Bytes with and without the canonical form, pruning order, and equivalence."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.equalize import Equalize, scale_pair
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.grids import PerChannel, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.sphere.canonicalize import Canonicalize, canonical
from plisse.compress.sphere.domain import Box, Observed
from plisse.compress.sphere.shared import SharedGrid
from plisse.compress.sphere.units import find_units
from plisse.compress.step import Step, chain
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, origin_of
from plisse.core.reparam import plain
from plisse.networks.build import build
from plisse.train.evaluate import evaluate
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Task, classification, outputs_on

REFERENCE = "folded, per channel"
SHARED = "canonical, one grid per fan-in"
BITS = (2, 3, 4, 5, 6)
STRETCHES = (0.8, 1.0, 1.2, 1.45)


def forms(bits: int, stretch: float) -> dict[str, Step]:
    """Ways to the same number of bits; small tensors are compacted alike."""
    shared, small = Quantize(grid=SharedGrid(bits, stretch, elsewhere=PerChannel())), CompactSmall()
    tensor, channel = (Quantize(bits, granularity=kind) for kind in (PerTensor(), PerChannel()))
    exact, observed = Canonicalize(), Canonicalize(Observed())
    return {
        REFERENCE: chain(FoldBatchNorm(), channel, small),
        "folded, per tensor": chain(FoldBatchNorm(), tensor, small),
        "equalized, per tensor": chain(FoldBatchNorm(), Equalize(), tensor, small),
        "canonical, per channel": chain(exact, channel, small),
        "canonical, per tensor": chain(exact, tensor, small),
        SHARED: chain(exact, shared, small),
        "canonical (observed), per channel": chain(observed, channel, small),
        "canonical (observed), one grid per fan-in": chain(observed, shared, small),
    }


def chosen_stretch(model: nn.Module, task: Task, bits: int) -> float:
    """The factor of all steps with the least divergence on calibration inputs."""
    wanted = outputs_on(model, task.calibration)
    tried = {
        stretch: _divergence(
            task, wanted, outputs_on(forms(bits, stretch)[SHARED](model, task), task.calibration)
        )
        for stretch in STRETCHES
    }
    return min(tried, key=lambda stretch: tried[stretch])


def trained_digits(task: Task, seed: int) -> nn.Module:
    """The built-in digits network from another start each, trained for 300 steps with weight decay."""
    model = build(Origin("builtin", "digits_cnn"), seed=seed)
    optimizer = AdamW(lr=3e-3, weight_decay=0.01)
    fit(model, task.objective, task.train, steps=300, optimizer=optimizer, seed=seed)
    return model


def compare_bytes(name: str, model: nn.Module, task: Task) -> list[dict[str, Any]]:
    """One row per form and bits: bytes of the file, score and divergence of what it decodes to."""
    before, wanted = evaluate(model, task).score, outputs_on(model, task.holdout)
    rows = []
    for bits in BITS:
        stretch = chosen_stretch(model, task, bits)
        for form, steps in forms(bits, stretch).items():
            small = steps(model, task)
            skeleton = build(origin_of(plain(small)))
            data = modelfile.dumps(small, skeleton)
            decoded = modelfile.loads(data, build)
            rows.append(
                {
                    "network": name,
                    "form": form,
                    "bits": bits,
                    "stretch": stretch if "one grid" in form else None,
                    "bytes": len(data),
                    "score_before": before,
                    "score": evaluate(decoded, task).score,
                    "divergence": _divergence(task, wanted, outputs_on(decoded, task.holdout)),
                    "parameters": sum(p.numel() for p in plain(small).parameters()),
                }
            )
    return rows


def _divergence(task: Task, wanted: list[Tensor], found: list[Tensor]) -> float:
    return float(task.divergence(torch.cat(wanted), torch.cat(found)))


def at_equal_divergence(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bytes that each form needs for the divergence of the reference at 4, 3 and 2 bits: interpolated between
    its own files, in logarithms; None outside of what was measured."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        for bits in (4, 3, 2):
            reference = next(row for row in own if (row["form"], row["bits"]) == (REFERENCE, bits))
            needed = {}
            for form in dict.fromkeys(row["form"] for row in own):
                curve = sorted((row["divergence"], row["bytes"]) for row in own if row["form"] == form)
                x, y = np.log(np.array(curve).T)
                target = np.log(reference["divergence"])
                inside = x[0] <= target <= x[-1]
                needed[form] = round(float(np.exp(np.interp(target, x, y)))) if inside else None
            found.append(
                {"network": network, "bits": bits, "divergence": reference["divergence"], "bytes": needed}
            )
    return found


def pruning_order(model: nn.Module, task: Task, kind: torch.dtype, powers: bool = False) -> dict[str, Any]:
    """Share of weights with the same place in the order of magnitudes, and share of equal decisions at half
    of them, after every hidden channel was rescaled at random by exp(N(0, 1)); with and without the form.
    powers: of two, which rescale without rounding."""
    assert isinstance(task.example, Tensor)
    torch.manual_seed(0)
    folded = modules.clone(FoldBatchNorm()(model, task)).to(kind)
    scaled = copy.deepcopy(folded)
    task = classification("rescaled", task.example.to(kind), *[BatchList(())] * 3)
    for unit in find_units(folded, task.example)[0]:
        first: Any = scaled.get_submodule(unit.first)
        log = torch.randn(len(first.weight))
        factor = 2 ** log.round() if powers else log.exp()
        scale_pair(first, scaled.get_submodule(unit.second), factor.to(kind))
    step = Canonicalize(Box(0.0, 1.0))
    pairs = {"plain": (folded, scaled), "canonical": (step(folded, task), step(scaled, task))}
    found: dict[str, Any] = {"type": str(kind).removeprefix("torch."), "powers_of_two": powers}
    for name, pair in pairs.items():
        orders = [_magnitudes(network).argsort(stable=True) for network in pair]
        halves = [torch.zeros(len(order)).index_fill(0, order[: len(order) // 2], 1.0) for order in orders]
        found[name] = {
            "same_place": float((orders[0] == orders[1]).double().mean()),
            "same_half": float((halves[0] == halves[1]).double().mean()),
        }
    return found


def _magnitudes(model: nn.Module) -> Tensor:
    names = modules.weight_names(model)
    return torch.cat([modules.tensor(model, name).detach().abs().flatten() for name in names])


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
