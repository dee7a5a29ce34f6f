"""What a switch costs, how fast each width is, and how long the file of a spectrum is."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plisse.adapt.bits import BITS, bits_subspace
from plisse.adapt.elastic import Point, Switching
from plisse.adapt.opened import save_subspace
from plisse.adapt.sparsity import inner_weights, measure_thresholds, sparsity_subspace
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import width_subspace
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, origin_of
from plisse.cost.macs import count_macs
from plisse.cost.measure import Runnable, interleaved
from plisse.networks.build import build
from plisse.networks.open import file_bytes as file_bytes_of
from plisse.networks.open import load, save

SESSION = 200
TARGETS = {"width": 0.5, "sparsity": 0.9, "bits": 4}
LATENCY_WIDTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def networks() -> dict[str, tuple[Origin, Tensor]]:
    """Networks that are switched, with fresh weights, since times do not depend on them."""
    images = torch.zeros(32, 3, 32, 32)
    return {
        "resnet20": (Origin("builtin", "resnet20"), images),
        "cPreResNet20": (Origin("factory", "benchmarks.subspace.networks:preresnet20"), images),
        "resnet18": (Origin("builtin", "resnet18", {"classes": 10, "stem": "small"}), images),
    }


def spectra(net: nn.Module, images: Tensor) -> dict[str, Subspace]:
    """One subspace per axis, thresholds measured."""
    batches = BatchList((Batch(images[:4] + torch.randn(4, 3, 32, 32)),))
    found = {
        "width": width_subspace(net, images[:2], widths=LATENCY_WIDTHS),
        "sparsity": sparsity_subspace(net),
        "bits": bits_subspace(net, batches, bits=BITS),
    }
    for subspace in found.values():
        measure_thresholds(subspace.eval())
    return found


def switch_times(name: str, repeats: int) -> list[dict[str, Any]]:
    """Seconds that a switch computes, measured in turns: to a network that is held; to one that is made; by
    loading a separate safetensors file into a network of the right shapes, or a separate .plisse file; by a
    sort of every layer."""
    origin, images = networks()[name]
    with tempfile.TemporaryDirectory() as folder:
        return [
            _switch_row(name, subspace, images, repeats, Path(folder))
            for subspace in spectra(build(origin, [origin.name]), images).values()
        ]


def _switch_row(name: str, subspace: Subspace, images: Tensor, repeats: int, folder: Path) -> dict[str, Any]:
    axis = subspace.space.largest.axis
    target = Point(axis, float(TARGETS[axis]))
    separate = subspace.elastic().extract(target)
    factory = origin_of(separate).name
    save(separate, folder / f"{axis}.plisse")
    save_file(separate.state_dict(), folder / f"{axis}.safetensors")
    runs: dict[str, Runnable] = {
        "held": _toggling(subspace.elastic(), target, held=True),
        "made": _toggling(subspace.elastic(), target, held=False),
        "separate safetensors file": lambda _: separate.load_state_dict(
            load_file(folder / f"{axis}.safetensors")
        ),
        "separate .plisse file": lambda _: load(folder / f"{axis}.plisse", [factory]),
    }
    if axis == "sparsity":
        runs["sort of every layer"] = _sorted(subspace.wrapped.model)
    times = interleaved(runs, images, repeats=repeats, warmup=2, clock=time.process_time)
    return {
        "network": name,
        "axis": axis,
        "to": str(target),
        "seconds": {way: timing.median for way, timing in times.items()},
        "spread": {way: timing.spread for way, timing in times.items()},
        "session": session(subspace.elastic()),
    }


def session(net: Switching, switches: int = SESSION) -> dict[str, float]:
    """Seconds per switch, median and mean, of `switches` from listed point to listed point as a generator
    draws them, from a start where one network is made: first switches to a point are among them, and how
    many."""
    draw, seen, times = random.Random(0), {net.point}, []
    for _ in range(switches):
        point = draw.choice([point for point in net.space.points if point != net.point])
        start = time.process_time()
        net.activate(point)
        times.append(time.process_time() - start)
        seen.add(point)
    return {"median": statistics.median(times), "mean": statistics.fmean(times), "first": len(seen) - 1}


def _toggling(net: Switching, target: Point, held: bool) -> Callable[[Any], None]:
    """One switch per call, to the target and back to a point close by. held: networks stay in memory."""
    near = min((p for p in net.space.points if p != target), key=lambda p: abs(p.value - target.value))
    net.activate(near)
    net.prepare([target])

    def switch(_: Any) -> None:
        net.activate(target if net.point == near else near)
        if not held:
            net.forget()

    return switch


def _sorted(net: nn.Module) -> Callable[[Any], None]:
    """As the reference does before every forward pass: sort each layer, and zero what is below."""
    weights = [modules.tensor(net, name).detach() for name in inner_weights(net)]

    def switch(_: Any) -> None:
        for weight in weights:
            flat = weight.abs().flatten()
            order = flat.sort().indices
            mask = torch.ones_like(flat)
            mask[order[: round(TARGETS["sparsity"] * len(flat))]] = 0.0
            weight * mask.view_as(weight)

    return switch


def width_latency(name: str, repeats: int) -> list[dict[str, Any]]:
    """Seconds of a batch of 32 at each width, baked, channels last, measured in turns; seconds that this
    process computed on one thread, so that other work on the machine counts little."""
    origin, images = networks()[name]
    net = spectra(build(origin, [origin.name]), images)["width"].elastic()
    found = {point: net.extract(point) for point in net.space.points}
    times = interleaved(
        {str(point): network for point, network in found.items()},
        images,
        repeats=repeats,
        threads=1,
        clock=time.process_time,
    )
    full = times[str(net.space.largest)]
    return [
        {
            "network": name, "width": point.value, "macs": count_macs(network, images),
            "seconds": times[str(point)].median, "spread": times[str(point)].spread,
            "speedup": full.median / times[str(point)].median,
        }
        for point, network in found.items()
    ]  # fmt: skip


def file_bytes(subspace: Subspace, alone: Sequence[float]) -> dict[str, Any]:
    """Bytes of the file of a spectrum, and of plain files of its largest member and of three others, their
    weights on the same grids."""
    axis = subspace.space.largest.axis
    with tempfile.TemporaryDirectory() as folder:
        spectrum = save_subspace(subspace, Path(folder) / "a.plisse")
    values = sorted({*map(float, alone), subspace.space.largest.value})
    members = {f"{value:g}": len(file_bytes_of(subspace.extracted(Point(axis, value)))) for value in values}
    largest = members[f"{subspace.space.largest.value:g}"]
    return {"axis": axis, "spectrum": spectrum, "members": members, "share_of_largest": spectrum / largest}
