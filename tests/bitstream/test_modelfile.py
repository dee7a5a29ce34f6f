from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tinynet
import torch
from tinynet import ASSETS, NOTES, ORIGIN, build
from torch import nn

from plisse.bitstream import head as head_file
from plisse.bitstream import modelfile
from plisse.bitstream.container import ASSET, MODEL, TENSORS, Section, pack, unpack
from plisse.bitstream.head import decode_head, encode_head
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.bitstream.tensors import encode_tensor
from plisse.core import modules
from plisse.core.edits import Edit
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.core.reparam import Reparametrized, baked, stored_state
from plisse.core.stored import raw
from plisse.errors import FormatError, GraphError, InputError, OutputError, WeightsError
from plisse.networks import build as networks


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    before, after = wanted.state_dict(), found.state_dict()
    assert set(before) == set(after)
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        assert torch.equal(before[name], after[name]), name


def with_head(data: bytes, **changes: Any) -> bytes:
    """The file with other fields in its head and right checksums."""
    sections = unpack(data)
    head = decode_head(sections[0].payload)
    changed = head_file.Head(**{**head.__dict__, **changes})
    return pack([Section(MODEL, "", encode_head(changed)), *sections[1:]])


@pytest.mark.parametrize("make", [tinynet.trained, tinynet.edited, tinynet.compressed])
def test_a_network_comes_back_exactly(make: Callable[[], nn.Module]) -> None:
    model = make()
    found = modelfile.loads(modelfile.dumps(model, build(ORIGIN)), build)
    assert_same(found, baked(model))
    assert not any(module.training for module in found.modules())
    assert origin_of(found) == ORIGIN
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(found(images), baked(model)(images))
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_a_loaded_network_gives_the_same_bytes_again() -> None:
    data = modelfile.dumps(tinynet.edited(), build(ORIGIN), notes=NOTES)
    assert modelfile.dumps(modelfile.loads(data, build), build(ORIGIN), notes=NOTES) == data


def test_neither_the_network_nor_the_skeleton_changes() -> None:
    model, skeleton = tinynet.compressed(), build(ORIGIN)
    before = [modules.clone(model), modules.clone(skeleton)]
    modelfile.dumps(model, skeleton)
    assert_same(model, before[0])
    assert_same(skeleton, before[1])


def test_tied_weights_are_stored_once_and_stay_tied() -> None:
    data = tinynet.tiny_file()
    found = modelfile.loads(data, build)
    assert found.again.weight is found.inner.weight
    rows = {row.name: row for row in modelfile.summary(data, build).tensors}
    assert rows["again.weight"].coding == "same as inner.weight"
    assert rows["again.weight"].bytes <= 2


def test_counters_of_batches_cost_a_byte_or_few() -> None:
    rows = {row.name: row for row in modelfile.summary(tinynet.tiny_file(), build).tensors}
    assert rows["bn1.num_batches_tracked"].bytes <= 12
    assert rows["bn2.num_batches_tracked"].bytes <= 12
    data = modelfile.dumps(tinynet.trained(), build(ORIGIN))
    rows = {row.name: row for row in modelfile.summary(data, build).tensors}
    assert rows["bn2.num_batches_tracked"].bytes <= 2
    assert modelfile.loads(data, build).bn2.num_batches_tracked.item() == 3


def test_summary_adds_up() -> None:
    data = tinynet.tiny_file()
    found = modelfile.summary(data)
    parts = sum(row.bytes for row in found.tensors) + sum(found.assets.values()) + found.overhead
    assert found.total == len(data) == parts
    assert set(found.assets) == set(ASSETS)
    assert found.origin == ORIGIN
    assert dict(found.notes) == NOTES
    assert {edit.name for edit in found.edits} == {"conv1", "bn1", "conv2", "conv2.input_quantizer"}
    assert Edit("conv1", "Conv2d", {"out_channels": 5}) in found.edits


def test_summary_knows_names_and_zeros() -> None:
    model = tinynet.compressed()
    state = baked(model).state_dict()
    rows = modelfile.summary(tinynet.tiny_file(), build).tensors
    assert {row.name for row in rows} == set(state)
    for row in rows:
        assert row.shape == tuple(state[row.name].shape)
        assert row.zeros == pytest.approx(float((state[row.name] == 0).double().mean()))
        assert row.coding
    unnamed = modelfile.summary(tinynet.tiny_file()).tensors
    assert [row.name for row in unnamed] == [str(position) for position in range(len(rows))]
    assert [row.bytes for row in unnamed] == [row.bytes for row in rows]


def test_a_tensor_costs_three_bytes_at_most_beside_its_record() -> None:
    model = tinynet.edited()
    rows = {row.name: row for row in modelfile.summary(modelfile.dumps(model, build(ORIGIN)), build).tensors}
    for name, stored in stored_state(model).items():
        assert rows[name].bytes <= len(encode_tensor(stored)) + 3


def test_overhead_of_a_resnet20_is_small() -> None:
    origin = Origin("builtin", "resnet20", {})
    model = networks.build(origin)
    data = modelfile.dumps(model, networks.build(origin, seed=1))
    found = modelfile.summary(data)
    assert len(found.tensors) == 116
    n_sections = len(unpack(data))
    assert found.overhead - 13 * n_sections <= 200
    assert sum(row.bytes for row in found.tensors if row.coding.startswith("same")) <= 116


def test_assets_come_back() -> None:
    data = tinynet.tiny_file()
    assert modelfile.assets(data) == ASSETS
    assert modelfile.summary(data).assets["vocab.txt"] < len(ASSETS["vocab.txt"])
    assert modelfile.assets(modelfile.dumps(tinynet.trained(), build(ORIGIN))) == {}


def test_assets_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tinynet.tiny_file()
    monkeypatch.setattr(modelfile, "MAX_ASSETS", 1000)
    with pytest.raises(InputError, match="of assets; expected at most 1000"):
        modelfile.dumps(tinynet.trained(), build(ORIGIN), assets=ASSETS)
    with pytest.raises(FormatError, match=r"asset 'vocab\.txt': 1160 bytes when expanded"):
        modelfile.assets(data)


def test_an_asset_that_expands_without_end_is_refused() -> None:
    bomb = bytearray(squeezed(b"\x00" * 100_000))
    bomb[1:4] = b"\x05"
    with pytest.raises(FormatError, match="exactly 5"):
        expanded(bytes(bomb), 1000)
    for wrong in (b"", b"\x00", b"\x02\x01a", b"\x00\x02a", b"\x01\x05abc", b"\x00\x80\x00"):
        with pytest.raises(FormatError):
            expanded(wrong, 1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = tinynet.trained()
    with torch.no_grad():
        model.head.bias[1] = value
    with pytest.raises(WeightsError, match=r"head\.bias"):
        modelfile.dumps(model, build(ORIGIN))


def test_steps_that_overflow_are_refused() -> None:
    model = tinynet.compressed()
    model.reparams["conv2.weight"].step[0] = 2.0**127
    model.reparams["conv2.weight"].symbols[0] = 7.0
    with pytest.raises(WeightsError, match=r"conv2\.weight"):
        modelfile.dumps(model, build(ORIGIN))


def test_equal_values_of_two_types_keep_their_precision() -> None:
    def mixed(origin: Origin) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2, bias=False).half(), nn.Linear(3, 2, bias=False))

    model = with_origin(mixed(ORIGIN), ORIGIN)
    fine = tinynet.OnGrid(torch.zeros(2, 3))
    fine.symbols[0] = 2049.0  # takes one bit more than float16 has
    wrapped = Reparametrized(model, {"0.weight": fine, "1.weight": modules.clone(fine)})
    found = modelfile.loads(modelfile.dumps(wrapped, mixed(ORIGIN)), mixed)
    assert_same(found, baked(wrapped))
    assert found[0].weight[0, 0] != found[1].weight[0, 0]


def test_types_without_a_place_in_the_file_are_refused() -> None:
    def double(origin: Origin) -> nn.Module:
        return nn.Linear(2, 2).double()

    model = with_origin(double(ORIGIN), ORIGIN)
    with pytest.raises(WeightsError, match=r"float64.*model\.float"):
        modelfile.dumps(model, double(ORIGIN))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_exactly(kind: torch.dtype) -> None:
    def half(origin: Origin) -> nn.Module:
        return nn.Linear(4, 3).to(kind)

    model = with_origin(half(ORIGIN), ORIGIN)
    assert_same(modelfile.loads(modelfile.dumps(model, half(ORIGIN)), half), model)


def test_structures_that_edits_cannot_express_are_refused() -> None:
    for name, layer in {
        "relu": nn.GELU(),
        "extra": nn.PReLU(),
        "head": nn.Sequential(nn.Linear(6, 3), nn.PReLU()),
    }.items():
        model = tinynet.trained()
        modules.replace(model, name, layer) if name != "extra" else model.add_module(name, layer)
        with pytest.raises(GraphError, match=name):
            modelfile.dumps(model, build(ORIGIN))
    with pytest.raises(GraphError, match="origin"):
        modelfile.dumps(nn.Linear(1, 1), nn.Linear(1, 1))


@pytest.mark.parametrize(
    "notes", [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": "x" * (1 << 20)}]
)
def test_notes_that_are_no_small_json_are_refused(notes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        modelfile.dumps(tinynet.trained(), build(ORIGIN), notes=notes)


def test_another_skeleton_is_refused() -> None:
    data = modelfile.dumps(tinynet.trained(), build(ORIGIN))

    def wider(origin: Origin) -> nn.Module:
        return tinynet.TinyNet(4)

    def renamed(origin: Origin) -> nn.Module:
        model = tinynet.TinyNet(3)
        model.other, model.head = model.head, nn.Identity()
        return model

    with pytest.raises(FormatError, match=r"tensor 'head\.weight': shape \(3, 6\)"):
        modelfile.loads(data, wider)
    with pytest.raises(FormatError, match="version of the network"):
        modelfile.loads(data, renamed)
    with pytest.raises(InputError, match="other"):
        modelfile.loads(with_head(data, origin=Origin("builtin", "other")), build)


def entries(*items: bytes) -> bytes:
    return b"".join(bytes([2 * len(item)]) + item for item in items)


def linear(origin: Origin) -> nn.Module:
    model = nn.Linear(2, 1)
    model.register_buffer("count", torch.tensor(3))
    return model


def linear_file(*payloads: tuple[str, bytes]) -> bytes:
    data = modelfile.dumps(with_origin(linear(ORIGIN), ORIGIN), linear(ORIGIN))
    return pack([unpack(data)[0], *(Section(TENSORS, name, payload) for name, payload in payloads)])


def record(*values: Any) -> bytes:
    return encode_tensor(raw(torch.tensor(*values).numpy(), str(torch.tensor(*values).dtype)[6:]))


@pytest.mark.parametrize("split", [0, 1, 2, 3])
def test_entries_may_be_split_over_sections(split: int) -> None:
    items = [record([[1.0, 2.0]]), record([3.0]), record(4)]
    model = (
        modelfile.loads(
            linear_file(("0", entries(*items[:split])), (str(split), entries(*items[split:]))), linear
        )
        if 0 < split < 3
        else modelfile.loads(linear_file(("0", entries(*items))), linear)
    )
    assert model.weight.tolist() == [[1.0, 2.0]]
    assert model.bias.tolist() == [3.0]
    assert model.count.item() == 4


def test_wrong_entries_are_refused() -> None:
    weight, bias, count = record([[1.0, 2.0]]), record([3.0]), record(4)
    for match, payloads in {
        r"'weight': shape \(1,\)": [("0", entries(bias, weight, count))],
        r"'count': values of type torch\.float32": [("0", entries(weight, bias, record(4.0)))],
        r"'bias': values of type torch\.int64": [("0", entries(weight, record([3]), count))],
        r"'weight': NaN": [("0", entries(record([[1.0, float("nan")]]), bias, count))],
        "2 tensors": [("0", entries(weight, bias))],
        "entry 3": [("0", entries(weight, bias, count, count))],
        "tensors from '1'": [("1", entries(weight, bias, count))],
        "the same as 0": [("0", b"\x01" + entries(bias, count))],
        "the same as 1": [("0", entries(weight) + b"\x03" + entries(count))],
        r"'bias': shape \(1, 2\)": [("0", entries(weight) + b"\x01" + entries(count))],
        "bytes left": [("0", entries(weight, bias) + b"\xfe\x01")],
        "of bytes: 0": [("0", entries(weight, bias) + b"\x00")],
    }.items():
        with pytest.raises(FormatError, match=match) as caught:
            modelfile.loads(linear_file(*payloads), linear)
        assert caught.value.offset > 0


def test_sections_out_of_order_are_refused() -> None:
    first, second, *rest = unpack(tinynet.tiny_file())
    for wrong in (
        [second, first, *rest],
        [second, *rest],
        [],
        [first, Section(ASSET, "a", b"\x00\x00"), second],
    ):
        with pytest.raises(FormatError, match="sections of kinds"):
            modelfile.loads(pack(wrong), build)


@pytest.mark.parametrize(
    "edit",
    [
        ("conv1", "Conv2d", {"out_channels": 1 << 21}),
        ("conv1", "Conv2d", {"out_channels": 1 << 20, "in_channels": 1 << 20}),
        ("head", "Linear", {"out_features": 1 << 20, "in_features": 64}),
        ("conv1", "Conv2d", {"kernel_size": []}),
        ("conv1", "Conv2d", {"groups": 0}),
        ("conv1", "Conv2d", {"bias": 1}),
        ("conv1", "Conv2d", {"padding_mode": "odd"}),
        ("conv1", "Conv2d", {"device": "meta"}),
        ("head", "Linear", {"out_features": 2.0}),
        ("head", "Linear", {"out_features": True}),
        ("head", "Linear", {"nonsense": 1}),
        ("bn1", "BatchNorm2d", {"eps": "x"}),
        ("bn1", "BatchNorm2d", {"eps": 1e300}),
        ("head.input_quantizer", "InputQuantizer", {"bits": 1 << 19}),
        ("head.input_quantizer", "InputQuantizer", {"bits": 4, "scale": 1.0}),
        ("head.input_quantizer", "Identity", {}),
        ("head.quantizer", "InputQuantizer", {"bits": 4}),
        ("none.at.all", "Linear", {"in_features": 1, "out_features": 1}),
        ("head.weight", "Identity", {}),
        ("training", "Identity", {}),
        ("forward", "Identity", {}),
    ],
)
def test_hostile_edits_are_refused(edit: tuple[str, str, dict[str, Any]]) -> None:
    with pytest.raises(FormatError, match="expected an edit that fits the skeleton"):
        modelfile.loads(with_head(tinynet.tiny_file(), edits=(Edit(*edit),)), build)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"edits":[],"names":0,"notes":{},"origin":{},"tensors":0}',
        b'{"edits":[],"names":0,"notes":' + b'{"a":' * 31 + b"1" + b"}" * 31 + b"}",
        b"9" * 5000,
        b'{"edits":[["__class__","Identity",{}]],"names":0,"notes":{},'
        b'"origin":{"arguments":{},"kind":"","name":""},"tensors":0}',
        b'{"edits":[["a","ModuleList",{}]],"names":0,"notes":{},'
        b'"origin":{"arguments":{},"kind":"","name":""},"tensors":0}',
        b'{"edits":[["a","Identity",{}],["a","Identity",{}]],"names":0,"notes":{},'
        b'"origin":{"arguments":{},"kind":"","name":""},"tensors":0}',
        b'{"edits":[],"names":0,"notes":{},"origin":{"arguments":{},"kind":"","name":""},"tensors":1e3}',
        b'{"edits":[],"names":0,"notes":{"a":1e999},"origin":{"arguments":{},"kind":"","name":""},"tensors":1}',
        b'{"edits":[],"names":0,"notes":{"a":1,"a":1},"origin":{"arguments":{},"kind":"","name":""},"tensors":1}',
        b'{"edits":[], "names":0,"notes":{},"origin":{"arguments":{},"kind":"","name":""},"tensors":1}',
    ],
)
def test_hostile_heads_are_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        decode_head(squeezed(text))


def test_write_and_read(tmp_path: Path) -> None:
    data = tinynet.tiny_file()
    modelfile.write(tmp_path / "model.plisse", data)
    assert modelfile.read(tmp_path / "model.plisse") == data
    with pytest.raises(InputError, match="No such file"):
        modelfile.read(tmp_path / "none.plisse")
    with pytest.raises(OutputError):
        modelfile.write(tmp_path / "none" / "model.plisse", data)
