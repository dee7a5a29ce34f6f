"""Recurrent networks with rounded weights and rounded states: `python -m benchmarks.recurrent [--small]`.

An LSTM and a GRU of 96 units read MNIST images row by row (28 steps of 28 pixels); each is trained here, for
two epochs of the 60,000 training images, and then rounded by `presets.recurrent`, without training again.
Ranges of cells are those of 256 training images without labels. Scores, paired with the original, are on the
10,000 test images; nothing was chosen on them. Bytes are lengths of the written files, scores those of the
decoded files.
"""

from __future__ import annotations

import argparse
import gzip
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import interval
from benchmarks.record import write
from plisse.bitstream import modelfile
from plisse.compress.quantize import presets
from plisse.compress.quantize.codebooks.codes import BinaryCodes
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.states import RoundStates
from plisse.compress.step import Chain, chain
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.core.reparam import plain
from plisse.data.folder import data_set
from plisse.train.evaluate import evaluate, paired
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Task, classification

UNITS, EPOCHS, CALIBRATION = 96, 2, 256
STATES = ((8, 16), (8, 12), (8, 10), (8, 8), (8, 6), (4, 16), (4, 8), (4, 4), (3, 16), (2, 16))
Row = dict[str, Any]


class Reader(nn.Module):
    """Images [N, 28, 28], a row per step, to logits [N, 10]."""

    def __init__(self, layer: type[nn.RNNBase], units: int = UNITS) -> None:
        super().__init__()
        self.rows: Any = layer(28, units, batch_first=True)  # type: ignore[call-arg, arg-type]
        self.out = nn.Linear(units, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.rows(images)[0][:, -1])


def reader(layer: str) -> nn.Module:
    """A fresh network. layer: LSTM or GRU."""
    origin = Origin("factory", "benchmarks.recurrent:reader", {"layer": layer})
    return with_origin(Reader({"LSTM": nn.LSTM, "GRU": nn.GRU}[layer]), origin)


def rebuilt(origin: Origin) -> nn.Module:
    return reader(**origin.arguments)


def mnist(small: bool) -> Task:
    """Images in [0, 1]; a thirtieth of them where `small`."""
    few = 2000 if small else None
    images, labels = (_read(f"train-{kind}")[:few] for kind in ("images-idx3", "labels-idx1"))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    train = _batches(images[order], labels[order], 128)
    test = _batches(_read("t10k-images-idx3")[:few], _read("t10k-labels-idx1")[:few], 500)
    calibration = BatchList(tuple(Batch(b.inputs) for b in train.items[: CALIBRATION // 128]))
    return classification("mnist by rows", train[0].inputs[:1], train, calibration, test)


def _read(name: str) -> Tensor:
    data = gzip.decompress((data_set("mnist") / f"{name}-ubyte.gz").read_bytes())
    if "labels" in name:
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=8).astype(np.int64))
    pixels = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _batches(images: Tensor, labels: Tensor, size: int) -> BatchList:
    pairs = zip(images.split(size), labels.split(size), strict=True)
    return BatchList(tuple(Batch(some, target) for some, target in pairs))


def methods() -> dict[str, Chain]:
    """Bits of weights, of hidden states and of cells, which a GRU has none of, in the order of the table."""
    codes = Quantize(bits=2, grid=BinaryCodes(2))
    named = {f"weights {bits}": presets.recurrent(bits) for bits in (8, 4, 3, 2)}
    for states, cells in STATES:
        rounded = chain(RoundStates(states, cells), presets.recurrent(8))
        named[f"weights 8, hidden states {states}, cells {cells}"] = rounded
    named["weights 4, states as the preset has them"] = presets.recurrent(4, states=4)
    named["weights 2, alternating binary code"] = chain(codes)
    return named


def rows(layer: str, task: Task) -> list[Row]:
    """Train one network, then every method on it."""
    torch.manual_seed(0)
    model = reader(layer)
    fit(
        model,
        task.objective,
        task.train,
        steps=EPOCHS * len(task.train),
        optimizer=AdamW(lr=3e-3),
        clip=1.0,
        precision="32-true",
    )
    model.eval()
    before = evaluate(model, task)
    found: list[Row] = []
    for name, steps in {"float32": chain(), **methods()}.items():
        made = steps(model, task)
        data = modelfile.dumps(made, rebuilt(origin_of(plain(made))))
        after = evaluate(modelfile.loads(data, rebuilt), task)
        difference = interval(paired(after, before, task.score))
        found.append(
            {
                "layer": layer,
                "method": name,
                "bytes": len(data),
                "score": after.score,
                "difference": difference,
            }
        )
        print(layer, name, len(data), after.score, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="2,000 images")
    small = parser.parse_args().small
    task = mnist(small)
    found = [row for layer in ("LSTM", "GRU") for row in rows(layer, task)]
    write("recurrent_small" if small else "recurrent", {"rows": found})


if __name__ == "__main__":
    main()
