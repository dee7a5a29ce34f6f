"""Integer inference, does it agree, is it fast, is it small: `python -m benchmarks.integer [--small]`.

(a) ResNet-20 on the 1,017 lossless CIFAR-10 test images, 8-bit weights and activations: float, simulated
    (fake quantization), the integer reference and the kernels; how far the two are apart per layer.
(b) ResNet-18 at 224 x 224, batch 1, with one thread and with two: eager float32, our eager integers, the
    exported integer ONNX file. Bars: 4 times eager float32, exported 5.5 times.
(c) BERT-base with 128 tokens, batch 1: the same. Bars: 2.5 and 3.5 times. Linear layers and embeddings
    compute in 8-bit integers; attention, softmax, GELU and layer norm in float32.
(d) Bytes of the files of (b) and (c) by the bytes that their tensors need: 1 per quantized weight, 2 per
    scale in .plisse (4 in ONNX), 4 per float. The ONNX file of BERT has no pooler, as it gives hidden states,
    and one scale per embedding. Bar: 1.02.

Weights of (b) and (c) are random, which time does not depend on; batch norms have statistics of their own.
Times of one thread count are medians of one interleaved run. "threads 1, processor time" is another one that
leaves out what other processes took. Settings of the process that hold for all networks of a run and stand
in the record: torch's threads spin after each operator, which takes a core from what is timed next;
GOMP_SPINCOUNT=20000 makes that short, OMP_WAIT_POLICY=PASSIVE (on a machine with other work) forbids it.
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 gives all tensors large pages of memory.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.latency import rows, warmed
from benchmarks.record import write
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import Batch, BatchList, Inputs, call
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import baked, stored_state
from plisse.core.stored import Raw, Uniform
from plisse.cost.measure import interleaved
from plisse.data.folder import data_set
from plisse.export import to_integer_onnx
from plisse.export.session import open_session, runner
from plisse.integer import IntegerNetwork, layer_differences, to_integer
from plisse.networks.open import open_model, save
from plisse.networks.resnet import resnet18
from plisse.networks.transformer import from_config
from plisse.train.task import Task, classification
from plisse.train.tasks import open_task

BARS = {
    "resnet18": {"integer, eager": 4.0, "integer, ONNX": 5.5},
    "bert": {"integer, eager": 2.5, "integer, ONNX": 3.5},
}
W8A8 = Quantize(bits=8, range=MinMax(), activations=Activations(8, MinMax()))
AGREEMENT, BYTES = 0.995, 1.02
BASE = "float32, eager"
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")
RUNS = (
    ("threads 1", 1, time.perf_counter),
    ("threads 1, processor time", 1, time.process_time),
    ("threads 2", 2, time.perf_counter),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="128 images, few repeats, a BERT of two layers")
    parser.add_argument("--repeats", type=int, default=30, help="rounds of the timed runs")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    repeats = 5 if chosen.small else chosen.repeats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stays in floating point is in the record
        data = {
            "load of the machine before": round(os.getloadavg()[0], 1),
            "settings": {name: os.environ.get(name, "none") for name in SETTINGS},
            "agreement": agreement(128 if chosen.small else None),
            "resnet18": vision(repeats),
            "bert": language(max(5, repeats // 2), layers=2 if chosen.small else 12),
        }
    print(write("integer_small" if chosen.small else "integer", data).name)


def agreement(limit: int | None) -> dict[str, Any]:
    """ResNet-20: predictions and layers of the four forms."""
    task = open_task("cifar10")
    model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
    small = Quantize(bits=8, activations=Activations(8))(FoldBatchNorm()(model, task), task).eval()
    calibration = [batch.inputs for batch in task.calibration]
    exact, fast = (
        to_integer(small, task.example, calibration=calibration, kernels=kind, strict=True)
        for kind in (False, True)
    )
    forms = {"float32": model.eval(), "simulated": baked(small).eval(), "reference": exact, "kernels": fast}
    images, labels = _joined(task, limit)
    with torch.inference_mode():
        logits = {n: torch.cat([call(net, part) for part in images.split(64)]) for n, net in forms.items()}
    votes = {name: values.argmax(1) for name, values in logits.items()}
    assert isinstance(exact, IntegerNetwork)
    assert isinstance(fast, IntegerNetwork)
    apart = layer_differences(exact, fast, images[:64])
    same = float((votes["reference"] == votes["kernels"]).float().mean())
    worst = max(steps for steps, _ in apart.values())
    print(f"resnet20: reference and kernels agree on {same:.4f}, layers within {worst} step")
    return {
        "network": f"resnet20, W8A8, {len(labels)} lossless CIFAR-10 test images",
        "accuracy": {name: round(float((vote == labels).float().mean()), 5) for name, vote in votes.items()},
        "same prediction": {
            "reference and kernels": same,
            "simulated and kernels": float((votes["simulated"] == votes["kernels"]).float().mean()),
            "simulated and reference": float((votes["simulated"] == votes["reference"]).float().mean()),
            "float32 and kernels": float((votes["float32"] == votes["kernels"]).float().mean()),
        },
        "largest difference per layer, steps": worst,
        "largest share of symbols that differ in a layer": max(share for _, share in apart.values()),
        "layers compared": len(apart),
        "bars": {"agreement": AGREEMENT, "steps": 1, "met": same >= AGREEMENT and worst <= 1},
    }


def _joined(task: Task, limit: int | None) -> tuple[Tensor, Tensor]:
    batches = list(task.holdout)
    images = torch.cat([batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)])[:limit]
    return images, torch.cat([batch.target for batch in batches if batch.target is not None])[:limit]


def vision(repeats: int) -> dict[str, Any]:
    """ResNet-18."""
    model = with_origin(warmed(resnet18(), (3, 224, 224)), Origin("builtin", "resnet18", {}))
    example = torch.randn(1, 3, 224, 224)
    inputs = [torch.randn(1, 3, 224, 224) for _ in range(8)]
    task = _task(example, inputs)
    small = W8A8(FoldBatchNorm()(model, task), task)
    result = compared("resnet18", model, small, example, inputs, repeats, channels_last=True)
    return {"network": "resnet18 at 224 x 224, batch 1, random weights", **result}


def language(repeats: int, layers: int) -> dict[str, Any]:
    """BERT-base."""
    config = {"model_type": "bert", "num_hidden_layers": layers}
    model = from_config("AutoModel", config).eval()
    model = with_origin(model, Origin("transformers", "AutoModel", config))
    ids = torch.randint(0, 30522, (1, 128))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    small = Quantize(bits=8, range=MinMax())(model, _task(example, [example]))
    result = compared("bert", model, small, example, [example], repeats, channels_last=False)
    return {"network": f"BERT-base, {layers} layers, 128 tokens, batch 1, random weights", **result}


def compared(
    name: str,
    model: nn.Module,
    small: nn.Module,
    example: Inputs,
    inputs: Iterable[Inputs],
    repeats: int,
    *,
    channels_last: bool,
) -> dict[str, Any]:
    """Times for one and two threads, fidelity, and files."""
    network = to_integer(small, example, calibration=inputs)
    with tempfile.TemporaryDirectory() as folder:
        exported = to_integer_onnx(small, example, inputs, Path(folder) / "integer.onnx")
        own = Path(folder) / "small.plisse"
        save(small, own)
        written = {"integer ONNX": exported.bytes, ".plisse": own.stat().st_size}
        times = {}
        for title, threads, clock in RUNS:
            runnables: dict[str, nn.Module | Callable[[Inputs], object]] = {
                BASE: _called(model),
                "integer, eager": _called(network),
                "integer, ONNX": runner(open_session(exported.path, threads=threads)),
            }
            if channels_last:
                runnables["float32, eager, channels last"] = model
            timings = interleaved(runnables, example, repeats=repeats, warmup=3, threads=threads, clock=clock)
            times[title] = rows(timings, timings[BASE])
            gc.collect()
    theory = theoretical(small)
    shares = {key: round(value / theory[key], 4) for key, value in written.items()}
    with torch.inference_mode():
        fidelity = _snr(call(model, example), call(network, example))
    met = {
        f"{key}, {title}": row[key]["faster"] >= bar
        for title, row in times.items()
        for key, bar in BARS[name].items()
    }
    print(name, {k: {n: r["faster"] for n, r in row.items()} for k, row in times.items()}, shares)
    return {
        "times": times,
        "snr of integer, eager, against float32, dB": round(fidelity, 1),
        "snr of integer, ONNX, against simulated, dB": round(exported.snr or 0.0, 1),
        "integer operators of the file": exported.integer_operators,
        "bytes": written,
        "theoretical bytes": theory,
        "share of theoretical bytes": shares,
        "bars": {**BARS[name], "bytes": BYTES, "met": {**met, **{k: s <= BYTES for k, s in shares.items()}}},
    }


def theoretical(small: nn.Module) -> dict[str, int]:
    """What the tensors of a quantized network need: symbols at one byte, scales, and the rest as float32."""
    ours = onnx = 0
    for name, stored in stored_state(small).items():
        count, grid, kept = stored.symbols.size, stored.grid, "pooler." not in name
        if isinstance(grid, Uniform):
            ours += count + 2 * grid.scale.size
            onnx += kept * (count + 4 * (1 if "embedding" in name else grid.scale.size))
        elif isinstance(grid, Raw):
            ours += count * stored.symbols.dtype.itemsize
            onnx += kept * count * 4
    return {"integer ONNX": onnx, ".plisse": ours}


def _called(model: nn.Module) -> Callable[[Inputs], object]:
    """As a user calls it, in the default memory order."""
    return lambda inputs: call(model, inputs)


def _task(example: Inputs, inputs: Iterable[Inputs]) -> Task:
    batches = BatchList(tuple(Batch(item) for item in inputs))
    return classification("none", example, batches, batches, batches)


def _snr(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


if __name__ == "__main__":
    main()
