"""The bytes of three small files of many points, written once and kept; see test_file_bytes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from plisse.adapt import file
from plisse.adapt.bits import CodedPlanes, bits_space
from plisse.adapt.channels import ChannelPlan, Rule, Run
from plisse.adapt.reparams import Dial, Tabled
from plisse.adapt.sparsity import TopK, sparsity_space
from plisse.adapt.statistics import put_statistics
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import sliced, width_space
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Plain, Reparametrized

ORIGIN = Origin("factory", "golden:network")
INPUTS = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def build(origin: Origin) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)
            parameter.copy_((steps * 5 + number) % 7 / 4 - 0.75)
    return with_origin(model, ORIGIN).eval()


def width() -> Subspace:
    both = (("weight", 0), ("bias", 0))
    norm = (*both, ("running_mean", 0), ("running_var", 0))
    run = (Run(0, 0, 4),)
    rules = (
        Rule("0", both, (("out_features", 1),), run),
        Rule("1", norm, (("num_features", 1),), run),
        Rule("3", (("weight", 1),), (("in_features", 1),), run),
    )
    subspace = sliced(build(ORIGIN), ChannelPlan((4,), rules), width_space((0.5, 1.0)))
    rows = {"1.running_mean": [torch.tensor([0.5, 1.0]), torch.arange(4.0)]}
    rows["1.running_var"] = [torch.tensor([2.0, 0.25]), 1 + torch.arange(4.0)]
    put_statistics(subspace, rows)
    return subspace


def sparsity() -> Subspace:
    model, dial = build(ORIGIN), Dial(sparsity_space((0.75, 0.25, 0.0)))
    sparse = TopK(Plain(model[0].weight), dial)
    sparse.thresholds = torch.tensor([0.6, 0.3, 0.0])
    means = Tabled(torch.arange(12.0).reshape(3, 4) / 8, dial)
    return Subspace(Reparametrized(model, {"0.weight": sparse, "1.running_mean": means}), dial)


def bits() -> Subspace:
    model, dial = build(ORIGIN), Dial(bits_space((2, 3, 4)))
    codes = torch.tensor([[-8, 7], [3, -1], [0, 5], [-4, 2]])
    return Subspace(Reparametrized(model, {"0.weight": CodedPlanes(codes, 0.125, dial, 4)}), dial)


MAKERS = {"width": width, "sparsity": sparsity, "bits": bits}


def golden(name: str) -> Path:
    return Path(__file__).parent / f"elastic-v2-{name}.bin"


def written(name: str) -> bytes:
    return file.dumps(MAKERS[name]().eval(), build(ORIGIN), notes={"made": "by hand"})


@pytest.mark.parametrize("name", MAKERS)
def test_golden_files_are_written_byte_for_byte(name: str) -> None:
    assert golden(name).read_bytes() == written(name)


@pytest.mark.parametrize("name", MAKERS)
def test_golden_files_are_read_exactly(name: str) -> None:
    before, after = MAKERS[name]().elastic(), file.loads(golden(name).read_bytes(), build).elastic()
    assert before.space == after.space
    for point in before.space.points:
        for (key, value), other in zip(
            before.extract(point).state_dict().items(),
            after.extract(point).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(value, other), key
        assert torch.equal(before.extract(point)(INPUTS), after.extract(point)(INPUTS))


if __name__ == "__main__":
    for name in MAKERS:
        golden(name).write_bytes(written(name))
