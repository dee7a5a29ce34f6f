"""The bytes of one small file, written once and kept.

A change of emitted bytes is a new format version: raise container.VERSION, keep reading the old one, keep
this file and add the next beside it. Before the first release only, `python tests/golden/test_file_bytes.py`
writes the file anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.bitstream.container import OLDEST
from plisse.core import modules
from plisse.core.fakequant import InputQuantizer
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Reparam, Reparametrized, baked
from plisse.core.stored import Raw, Stored, Trellis, Uniform, raw

GOLDEN = Path(__file__).with_name("model-v1.bin")
ORIGIN = Origin("builtin", "golden", {"classes": 4, "width": [6, 8]})
NOTES = {"seed": 3, "task": "digits", "recipe": "Prune(0.5)\nQuantize(bits=4)", "lr": 0.001}
ASSETS = {"labels.txt": b"a\nb\nc\nd\n", "vocab.txt": b"the quick brown fox, the lazy dog\n" * 20}


class Golden(nn.Module):
    """Layers of all kinds; it is never called."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Linear(16, 8)
        self.affine = nn.Linear(8, 8)
        self.trellis = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.trellis.weight
        self.rough = nn.Linear(8, 4)
        self.register_buffer("table", torch.arange(7, dtype=torch.uint8))


class Given(Reparam):
    """A tensor that is stored as it was given."""

    def __init__(self, item: Stored) -> None:
        super().__init__()
        self.item = item

    def forward(self) -> Tensor:
        return torch.from_numpy(self.item.values().copy())

    def stored(self) -> Stored:
        return self.item


def build(origin: Origin) -> nn.Module:
    assert origin == ORIGIN
    return Golden()


def numbers(count: int, top: int) -> np.ndarray:
    """Integers from -top to top, many near zero, by arithmetic that is the same everywhere."""
    mixed = (np.arange(1, count + 1, dtype=np.int64) * 2654435761 >> 7) % 1009
    return (mixed - 504) ** 3 * top // 504**3


def grids(model: nn.Module) -> dict[str, Stored]:
    """A stored tensor of every kind, for the weights of `model`."""
    sixteenths = np.array([2.0**-4], np.float32)
    steps = (2.0 ** -(2 + np.arange(8) % 3)).astype(np.float32)
    zeros = (np.arange(8) % 5).astype(np.int32)
    return {
        "conv.weight": Stored(numbers(135, 7), (5, 3, 3, 3), Uniform(sixteenths)),
        "grouped.weight": Stored(numbers(128, 3), (8, 16), Uniform(np.repeat(steps[:, None], 3, 1), group=6)),
        "affine.weight": Stored(numbers(64, 7) + 8, (8, 8), Uniform(steps, zeros)),
        "trellis.weight": Stored(numbers(64, 5), (8, 8), Trellis(0.125)),
        "rough.weight": Stored(
            raw((numbers(32, 900) / 7).reshape(4, 8), "float16").symbols, (4, 8), Raw("float16")
        ),
    }


def model() -> nn.Module:
    """The network in the file: narrower than its skeleton, with every tensor set by arithmetic."""
    network = with_origin(Golden(), ORIGIN)
    modules.replace(network, "conv", nn.Conv2d(3, 5, 3, bias=False))
    modules.replace(network, "norm", nn.BatchNorm2d(5))
    InputQuantizer(8).attach(network.affine)
    for position, value in enumerate(network.state_dict().values()):
        if value.is_floating_point():
            value.copy_(torch.from_numpy(numbers(value.numel(), 100 + position) / 64).reshape(value.shape))
    network.norm.num_batches_tracked.fill_(391)
    return Reparametrized(network.eval(), {name: Given(item) for name, item in grids(network).items()})


def written() -> bytes:
    return modelfile.dumps(model(), build(ORIGIN), assets=ASSETS, notes=NOTES)


def test_the_golden_file_is_read_exactly() -> None:
    found, wanted = modelfile.loads(GOLDEN.read_bytes(), build), baked(model())
    assert list(found.state_dict()) == list(wanted.state_dict())
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert found.tied.weight is found.trellis.weight
    assert modelfile.assets(GOLDEN.read_bytes()) == ASSETS
    summary = modelfile.summary(GOLDEN.read_bytes())
    assert (summary.origin, dict(summary.notes)) == (ORIGIN, NOTES)


def test_the_golden_file_is_written_byte_for_byte() -> None:
    golden = GOLDEN.read_bytes()
    assert golden[8] == OLDEST
    assert written() == golden


if __name__ == "__main__":
    GOLDEN.write_bytes(written())
