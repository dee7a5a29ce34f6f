from __future__ import annotations

import contextlib
import random
import warnings
from functools import cache

import pytest
import torch
from torch import nn

from plisse.adapt import file
from plisse.adapt.bits import bits_subspace
from plisse.adapt.elastic import Point
from plisse.adapt.layout import decode_layout, encode_layout, layout_of
from plisse.adapt.rounded import round_weights
from plisse.adapt.sparsity import measure_thresholds, sparsity_subspace
from plisse.adapt.statistics import measure_statistics
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import width_subspace
from plisse.bitstream import modelfile
from plisse.bitstream.container import ELASTIC, STAGE, Section, pack, unpack
from plisse.bitstream.head import canonical_json, read_json
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.core.batch import Batch, BatchList
from plisse.core.grids import with_grids
from plisse.core.origin import Origin, with_origin
from plisse.errors import FormatError, InputError
from plisse.networks.build import build
from plisse.networks.open import load, save

ORIGIN = Origin("builtin", "digits_cnn")
INPUTS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = BatchList((Batch(INPUTS),))
MAKERS = {
    "width": lambda net: width_subspace(net, INPUTS, widths=(0.25, 0.5, 1.0)),
    "width on a line": lambda net: width_subspace(net, INPUTS, widths=(0.25, 0.5, 1.0), line=True),
    "sparsity": lambda net: sparsity_subspace(net, sparsities=(0.95, 0.5, 0.0)),
    "sparsity on a line": lambda net: sparsity_subspace(net, sparsities=(0.9, 0.0), line=True),
    "bits": lambda net: bits_subspace(net, BATCHES, bits=(3, 4, 5)),
    "bits on a line": lambda net: bits_subspace(net, BATCHES, bits=(3, 4), line=True),
}
NESTED = ("width", "sparsity", "bits")


@cache
def subspace(name: str) -> Subspace:
    made = MAKERS[name](build(ORIGIN)).eval()
    measure_thresholds(made)
    measure_statistics(made, BATCHES)
    return made


@cache
def written(name: str) -> bytes:
    return file.dumps(subspace(name), build(ORIGIN), notes={"task": "digits"}, assets={"a.txt": b"b"})


def loaded_quietly(data: bytes) -> Subspace:
    """Warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return file.loads(data, build)


@pytest.mark.parametrize("name", MAKERS)
class TestEveryKind:
    def test_every_point_comes_back_as_it_was(self, name):
        before, after = subspace(name).elastic(), file.loads(written(name), build).elastic()
        assert before.space == after.space
        for point in before.space.points:
            assert torch.equal(before.extract(point)(INPUTS), after.extract(point)(INPUTS))
        if not before.space.ranges[0].whole:
            value = (before.space.points[0].value + before.space.points[1].value) / 2
            between = Point(before.space.ranges[0].axis, value)
            assert torch.equal(before.extract(between)(INPUTS), after.extract(between)(INPUTS))

    def test_writing_again_gives_the_same_bytes(self, name):
        again = file.dumps(
            file.loads(written(name), build), build(ORIGIN), notes={"task": "digits"}, assets={"a.txt": b"b"}
        )
        assert again == written(name)

    def test_every_cut_gives_the_complete_points_and_says_so(self, name):
        rows = file.points_of(written(name), build)
        assert [row.point for row in rows] == list(subspace(name).space.points)
        whole = subspace(name).elastic()
        for number, row in enumerate(rows[:-1]):
            for end in (row.usable_from, rows[number + 1].usable_from - 1):
                with pytest.warns(file.TruncatedFileWarning, match=str(row.point)):
                    part = file.loads(written(name)[:end], build).elastic()
                assert part.space.largest == row.point
                assert torch.equal(part(INPUTS), whole.extract(row.point)(INPUTS))
                with pytest.raises(InputError):
                    part.activate(rows[-1].point)

    def test_a_file_that_lacks_its_first_point_is_refused(self, name):
        first = file.points_of(written(name), build)[0].usable_from
        for end in (0, 5, 40, first // 2, first - 1):
            with pytest.raises(FormatError):
                file.loads(written(name)[:end], build)

    def test_any_flipped_bit_is_noticed_or_cuts_the_file(self, name):
        data, draw = written(name)[: file.points_of(written(name), build)[-1].usable_from], random.Random(1)
        for _ in range(12):
            place = draw.randrange(len(data))
            damaged = bytearray(data)
            damaged[place] ^= 1 << draw.randrange(8)
            with pytest.raises((FormatError, file.TruncatedFileWarning)):
                loaded_quietly(bytes(damaged))

    @pytest.mark.slow
    def test_damage_behind_a_valid_checksum_is_refused_or_harmless(self, name):
        """Random bytes in payloads: FormatError, or a network with finite values; never another exception."""
        sections, draw = unpack(written(name)), random.Random(2)
        chosen = [i for i, section in enumerate(sections) if section.kind in (ELASTIC, STAGE)]
        for _ in range(40):
            number = draw.choice(chosen)
            payload = bytearray(sections[number].payload)
            for _ in range(draw.choice((1, 3))):
                payload[draw.randrange(min(len(payload), 400))] = draw.randrange(256)
            other = Section(sections[number].kind, sections[number].name, bytes(payload))
            data = pack([*sections[:number], other, *sections[number + 1 :]])
            with contextlib.suppress(FormatError):
                file.loads(data, build).elastic()(INPUTS)


@pytest.mark.parametrize("name", NESTED)
def test_the_spectrum_takes_little_more_than_its_largest_member(name):
    rows = file.points_of(written(name), build)
    sizes = [row.usable_from for row in rows]
    assert sizes == sorted(sizes)
    if name != "bits":
        largest = subspace(name).elastic().extract(subspace(name).space.largest)
        assert len(written(name)) <= 1.1 * len(modelfile.dumps(largest, build(ORIGIN)))
    assert sizes[0] < 0.7 * sizes[-1]


def test_a_line_of_bits_takes_little_more_than_twice_its_largest_member():
    net = nn.Sequential(nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 2))
    inputs = BatchList((Batch(torch.rand(16, 8, generator=torch.Generator().manual_seed(1))),))
    net = with_origin(net, Origin("factory", "tests:three"))
    line = bits_subspace(net, inputs, bits=tuple(range(3, 9)), line=True)
    largest = modelfile.dumps(line.extracted(line.space.largest), net)
    assert 1.8 < len(file.dumps(line, net)) / len(largest) < 2.1


def test_a_file_of_one_network_stays_version_1_and_elastic_ones_are_2():
    plain = modelfile.dumps(build(ORIGIN), build(ORIGIN))
    assert (plain[8], written("width")[8]) == (1, 2)
    assert not file.is_elastic(plain)
    assert file.is_elastic(written("width"))


def test_readers_of_the_other_kind_say_what_it_is():
    plain = modelfile.dumps(build(ORIGIN), build(ORIGIN))
    with pytest.raises(FormatError, match="kinds"):
        file.loads(plain, build)
    with pytest.raises(FormatError, match="many operating points"):
        modelfile.loads(written("bits"), build)


def test_sections_of_version_2_are_refused_in_version_1():
    data = bytearray(written("width"))
    data[8] = 1
    with pytest.raises(FormatError, match="kind 4"):
        file.loads(bytes(data), build)


def test_a_sparse_subspace_without_thresholds_is_not_written():
    with pytest.raises(InputError, match="thresholds"):
        file.dumps(sparsity_subspace(build(ORIGIN)), build(ORIGIN))


def changed(name, change):
    """The layout of a file with a change to its JSON, decoded."""
    data = read_json(expanded(encode_layout(layout_of(subspace(name))), 1 << 20))
    change(data)
    return decode_layout(squeezed(canonical_json(data)), subspace(name).wrapped.model)


CHANGES = {
    "an unknown key": lambda d: d.update(more=1),
    "no points": lambda d: d.update(points=[]),
    "points out of order": lambda d: d.update(points=d["points"][::-1]),
    "a point out of range": lambda d: d.update(points=[*d["points"][:-1], 7.5]),
    "another axis": lambda d: d.update(axis="sparsity", points=d["points"][::-1]),
    "a tensor that is not there": lambda d: d["tensors"].append(["nothing.weight", ["value"]]),
    "a recipe of unknown kind": lambda d: d["tensors"][0].__setitem__(1, ["run"]),
    "a recipe without its inner one": lambda d: d["tensors"][0].__setitem__(1, ["sliced"]),
    "a rule of too many entries": lambda d: d["plan"]["rules"][0][3].append([-1, 0, 1000000, 1]),
    "a rule of a layer that is not there": lambda d: d["plan"]["rules"][0].__setitem__(0, "nothing"),
    "a block that is not there": lambda d: d["plan"]["rules"][0][3][0].__setitem__(0, 99),
    "an attribute that is no size": lambda d: d["plan"]["rules"][0][2].append(["training", 1]),
    "a quantizer that is none": lambda d: d.update(quantizers=["conv1"]),
    "no plan": lambda d: d.update(plan=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_layouts_that_do_not_fit_the_network_are_refused(change):
    with pytest.raises(FormatError):
        changed("width", change)


def test_the_layout_itself_comes_back():
    layout = changed("width", lambda data: None)
    assert layout.plan == layout_of(subspace("width")).plan
    assert dict(layout.tensors) == dict(layout_of(subspace("width")).tensors)


@pytest.mark.parametrize("name", ["width", "width on a line", "sparsity", "sparsity on a line"])
def test_weights_on_a_grid_take_a_third_of_the_bytes_and_come_back(name):
    rounded = MAKERS[name](build(ORIGIN)).eval()
    assert round_weights(rounded, 8) == {"width": 4, "width on a line": 4, "sparsity": 4}.get(name, 6)
    measure_thresholds(rounded)
    measure_statistics(rounded, BATCHES)
    data = file.dumps(rounded, build(ORIGIN))
    assert len(data) < 0.34 * len(written(name))
    before, after = rounded.elastic(), file.loads(data, build).elastic()
    for point in before.space.points:
        assert torch.equal(before.extract(point)(INPUTS), after.extract(point)(INPUTS))
        exact = subspace(name).elastic().extract(point)
        for (key, value), other in zip(
            before.extract(point).named_parameters(), exact.parameters(), strict=True
        ):
            if value.dim() > 1 and name.startswith("width"):
                assert float((value - other).abs().max()) <= float(other.abs().max()) / 126, key
        assert bool(before.extract(point)(INPUTS).isfinite().all())


def test_only_whole_weights_are_rounded():
    with pytest.raises(InputError, match="on a grid"):
        round_weights(MAKERS["bits"](build(ORIGIN)))
    with pytest.raises(InputError, match="2 bits"):
        round_weights(MAKERS["width"](build(ORIGIN)), 2)


@pytest.mark.parametrize("name", ["width", "sparsity", "bits"])
def test_one_point_is_a_plain_file_with_its_weights_on_their_grid(name, tmp_path):
    made = MAKERS[name](build(ORIGIN)).eval()
    if name != "bits":
        round_weights(made, 8)
    measure_thresholds(made)
    measure_statistics(made, BATCHES)
    point = made.space.points[1]
    network = made.elastic().extract(point)
    save(network, tmp_path / "point.plisse")
    assert torch.equal(load(tmp_path / "point.plisse")(INPUTS), network(INPUTS))
    with_grids(network, {})
    save(network, tmp_path / "plain.plisse")
    sizes = [(tmp_path / f"{kind}.plisse").stat().st_size for kind in ("point", "plain")]
    assert sizes[0] < 0.5 * sizes[1]


def test_a_weight_that_was_changed_is_not_written_as_it_was(tmp_path):
    network = subspace("bits").elastic().extract(subspace("bits").space.largest)
    with torch.no_grad():
        network.fc1.weight[0, 0] += 1e-3
    save(network, tmp_path / "changed.plisse")
    assert torch.equal(load(tmp_path / "changed.plisse").fc1.weight, network.fc1.weight)
