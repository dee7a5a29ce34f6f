"""Speed that was promised, measured: python -m benchmarks.latency

(a) ResNet-18 at 224 x 224, batch 1, one thread: channels pruned to half, exported as integer ONNX, against
    the original in eager float32. Bars: 14 times smaller, 12 times faster.
(b) `latency <= 0.6x`: ResNet-18 pruned, and ResNet-20 pruned with its batch norms folded, until the measured
    median keeps the bound; then measured again beside the original in a run of its own.
(c) the same bound met by ranks: ResNet-18 at 64 x 64, batch 1, no channel cut. Bar: 1.3 times faster.

Weights are random (time does not depend on them); batch norms have statistics of their own.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import RESULTS, write
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.notes import notes_of
from plisse.compress.prune.channels import channels_for, prune_channels
from plisse.compress.step import Chain
from plisse.compress.structure import ranks_within
from plisse.core.batch import Batch, BatchList
from plisse.cost.macs import count_macs
from plisse.cost.measure import Timing, interleaved
from plisse.export import to_integer_onnx, to_onnx
from plisse.export.session import open_session, runner
from plisse.networks.resnet import resnet18, resnet20
from plisse.train.task import classification

SMALLER, FASTER, SHARE = 14.0, 12.0, 0.6
RANKS_SHARE, RANKS_FASTER = 0.7, 1.3
AIM = 0.94  # of the bound, while searching: room for the noise of the second run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="rounds of the final runs")
    parser.add_argument("--small", action="store_true", help="(c) alone, on its own file")
    parser.add_argument("--fresh", action="store_true", help="forget earlier parts")
    chosen = parser.parse_args()
    repeats, name = chosen.repeats, "latency_small" if chosen.small else "latency"
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "integer": lambda: integer(repeats),
        "budget": lambda: [
            within("resnet20", resnet20, torch.randn(16, 3, 32, 32), repeats, fold=True),
            within("resnet18", resnet18, torch.randn(1, 3, 224, 224), repeats, fold=False),
        ],
        "ranks": lambda: [by_ranks(1, repeats)],
    }
    path = RESULTS / f"{name}.json"
    earlier = {} if chosen.fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))
    data = {part: earlier[part] for part in parts if part in earlier}
    for part in ["ranks"] if chosen.small else parts:
        if part not in data:
            torch.manual_seed(0)
            data[part] = parts[part]()
            write(name, data)


def integer(repeats: int, round_to: int = 32) -> dict[str, Any]:
    """Original, pruned, and both exported, in one interleaved run."""
    model, example = warmed(resnet18(), (3, 224, 224)), torch.randn(1, 3, 224, 224)
    pruned = warmed(prune_channels(model, example, keep=0.5, round_to=round_to), (3, 224, 224))
    calibration = [torch.randn(1, 3, 224, 224) for _ in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        float_file = to_onnx(model, example, Path(folder) / "float.onnx")
        whole = to_integer_onnx(model, example, calibration, Path(folder) / "whole.onnx")
        half = to_integer_onnx(pruned, example, calibration, Path(folder) / "half.onnx")
        timings = interleaved(
            {
                "original, eager float32": eager(model),
                "original, eager float32, channels last": model,
                "pruned, eager float32": eager(pruned),
                "original, ONNX float32": runner(open_session(float_file.path, threads=1)),
                "original, ONNX integer": runner(open_session(whole.path, threads=1)),
                "pruned, ONNX integer": runner(open_session(half.path, threads=1)),
            },
            example,
            repeats=repeats,
            threads=1,
        )
    original_bytes = checkpoint_bytes(model)
    base, last = timings["original, eager float32"], timings["pruned, ONNX integer"]
    smaller, faster = original_bytes / half.bytes, base.median / last.median
    result = {
        "network": "resnet18 at 224 x 224, batch 1, one thread, random weights",
        "round_to": round_to,
        "bytes": {
            "original checkpoint": original_bytes,
            "original, ONNX integer": whole.bytes,
            "pruned, ONNX integer": half.bytes,
        },
        "macs": {"original": count_macs(model, example), "pruned": count_macs(pruned, example)},
        "times": rows(timings, base),
        "snr of the integer file against the pruned network, dB": round(half.snr or 0.0, 1),
        "integer operators": half.integer_operators,
        "smaller": round(smaller, 2),
        "faster": round(faster, 2),
        "faster than channels last": round(1 / (last / timings["original, eager float32, channels last"]), 2),
        "bars": {"smaller": SMALLER, "faster": FASTER, "met": smaller >= SMALLER and faster >= FASTER},
    }
    print(f"resnet18: {smaller:.1f}x smaller, {faster:.1f}x faster")
    return result


def within(
    name: str, build: Callable[[], nn.Module], example: Tensor, repeats: int, *, fold: bool
) -> dict[str, Any]:
    """Prune to a share of the measured time, then measure once more."""
    model = warmed(build(), tuple(example.shape[1:]))
    finish = FoldBatchNorm() if fold else Chain(())
    task = classification(name, example, *[BatchList(())] * 3)

    def admits(network: nn.Module) -> bool:
        after = finish(network, task)
        probe = interleaved({"before": model, "after": after}, example, repeats=15, warmup=2, threads=1)
        return probe["after"] / probe["before"] <= SHARE * AIM

    pruned = channels_for(model, example, admits, round_to=4)
    after = finish(pruned, task)
    timings = interleaved({"before": model, "after": after}, example, repeats=2 * repeats, threads=1)
    share = timings["after"] / timings["before"]
    print(f"{name}: {share:.3f} of the time, bound {SHARE}")
    return {
        "network": f"{name}, images {list(example.shape)}, one thread",
        "batch norms folded": fold,
        "bound": SHARE,
        "share": round(share, 4),
        "met": share <= SHARE,
        "macs": {"before": count_macs(model, example), "after": count_macs(pruned, example)},
        "times": rows(timings, timings["before"]),
        "left alone": list(notes_of(pruned)),
    }


def by_ranks(batch: int, repeats: int) -> dict[str, Any]:
    """Lower ranks until a share of the measured time is kept, then measure once more; of the processor's
    time, which other work on the machine disturbs less."""
    shape = (3, 64, 64)
    model, example = warmed(resnet18(), shape), torch.randn(batch, *shape)
    seen = BatchList(tuple(Batch(torch.randn(32, *shape)) for _ in range(2)))
    task = classification("noise", example, seen, seen, seen)

    def admits(network: nn.Module) -> bool:
        pair = {"before": model, "after": network}
        probe = interleaved(pair, example, repeats=15, warmup=2, threads=1, clock=time.process_time)
        return probe["after"] / probe["before"] <= RANKS_SHARE * AIM

    found = ranks_within(model, task, admits, timed=True)
    if found is None:
        return {"network": f"resnet18, images {list(example.shape)}, one thread", "met": False}
    label, low = found
    pair = {"before": model, "after": low}
    timings = interleaved(pair, example, repeats=2 * repeats, threads=1, clock=time.process_time)
    share = timings["after"] / timings["before"]
    print(f"resnet18 by ranks, batch {batch}: {1 / share:.2f}x faster")
    return {
        "network": f"resnet18, images {list(example.shape)}, one thread",
        "steps": label,
        "bound": RANKS_SHARE,
        "share": round(share, 4),
        "met": share <= RANKS_SHARE,
        "bar": {"faster": RANKS_FASTER, "met": 1 / share >= RANKS_FASTER},
        "macs": {"before": count_macs(model, example), "after": count_macs(low, example)},
        "params": {"before": size(model), "after": size(low)},
        "times": rows(timings, timings["before"]),
    }


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def warmed(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """`model` with batch norm statistics of noise images, as training would leave some."""
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(4, *shape))
    return model.eval()


def eager(model: nn.Module) -> Callable[[Any], Tensor]:
    """As a user calls it, in the default memory order."""
    return lambda inputs: model(inputs)


def checkpoint_bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def rows(timings: dict[str, Timing], base: Timing) -> dict[str, dict[str, float]]:
    """Milliseconds and the factor by which each is faster than `base`."""
    return {
        name: {
            "median ms": round(1e3 * timing.median, 3),
            "spread ms": round(1e3 * timing.spread, 3),
            "faster": round(base.median / timing.median, 3),
        }
        for name, timing in timings.items()
    }


if __name__ == "__main__":
    main()
