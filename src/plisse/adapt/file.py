"""A subspace to one file and back; every prefix that ends with a stage is a valid file of its cheaper points
(docs/format.md, "Elastic file")."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plisse.adapt.elastic import Point
from plisse.adapt.layout import Layout, decode_layout, encode_layout, layout_of
from plisse.adapt.pieces import Leaf
from plisse.adapt.recipes import Frame, blank, fill, make
from plisse.adapt.reparams import Dial
from plisse.adapt.subspace import Subspace
from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.container import ASSET, ELASTIC, MODEL, STAGE, Section, located, pack, read_prefix
from plisse.bitstream.entries import LONGEST, record_shape
from plisse.bitstream.head import decode_head, encode_head, names_check
from plisse.bitstream.modelfile import MAX_ASSETS
from plisse.bitstream.rebuild import Build, head_of, rebuild
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.bitstream.tensors import decode_tensor, encode_tensor
from plisse.core import modules
from plisse.core.reparam import Reparametrized
from plisse.core.stored import raw
from plisse.errors import FormatError
from plisse.networks.assets import with_assets

EXPECTED = "one model section, one elastic section, assets, then stages from 0"


class TruncatedFileWarning(UserWarning):
    """A file that ends early; its cheaper points were read."""


@dataclass(frozen=True)
class PointRow:
    """A point of a file. usable_from: bytes of the file that it needs; None where the file ends before."""

    point: Point
    usable_from: int | None


def dumps(
    subspace: Subspace,
    skeleton: nn.Module,
    *,
    assets: Mapping[str, bytes] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> bytes:
    """The file of all points of a subspace, cheapest first.

    skeleton: a fresh network of the subspace's origin, `build(origin_of(subspace.wrapped.model))`.
    Raises what `modelfile.dumps` raises, and InputError for a sparse subspace whose thresholds were not
    measured.
    """
    modules.check_finite(subspace)
    network = subspace.wrapped.model
    head, rebuilt = head_of(network, skeleton, notes or {})
    mine = subspace.settled()
    reparams = mine.wrapped.reparams
    layout = layout_of(mine)
    leaves = _leaves(layout, rebuilt, Frame(subspace.dial, layout.space.points, layout.plan, layout.top))
    state = network.state_dict()
    for name, found in leaves.items():
        if name in reparams:
            fill(layout.tensors[name], reparams[name], iter(found))
        else:
            value = state[name].detach().cpu()
            found[0].stored = raw(value.numpy(), str(value.dtype).removeprefix("torch."))  # type: ignore[attr-defined]
    flat = [leaf for found in leaves.values() for leaf in found]
    stages = [
        Section(STAGE, str(stage), b"".join(_records(flat, stage)))
        for stage in range(len(layout.space.points))
    ]
    carried = [Section(ASSET, name, squeezed(content)) for name, content in (assets or {}).items()]
    first = [Section(MODEL, "", encode_head(head)), Section(ELASTIC, "", encode_layout(layout))]
    return pack([*first, *carried, *stages])


def loads(data: bytes, build: Build) -> Subspace:
    """The subspace in a file, for serving: `loads(data, build).elastic()`.

    A file that ends early gives its complete points, with a TruncatedFileWarning. build: as for
    `modelfile.loads`. Raises FormatError, with the offset, for damage, and where not one point is complete.
    """
    sections = _sections(data)
    network, layout = _opened(sections, build)
    stages = sections[_first_stage(sections) :]
    n = len(stages)
    if n < len(layout.space.points):
        warnings.warn(
            f"the file ends after {n} of {len(layout.space.points)} points; "
            f"the largest is {layout.space.points[n - 1]}",
            TruncatedFileWarning,
            stacklevel=2,
        )
    dial = Dial(layout.first(n), layout.ends)
    frame = Frame(dial, dial.space.points, layout.plan, layout.top)
    leaves = _leaves(layout, network, frame)
    with_assets(network, _assets(sections))
    for stage, section in enumerate(stages):
        with located(section.offset, f"stage {stage}"):
            _read_stage(section.payload, leaves, stage)
    return _assembled(network, layout, leaves, frame)


def points_of(data: bytes, build: Build) -> tuple[PointRow, ...]:
    """The points of a file, cheapest first, and the bytes that each needs; also of a file that ends early."""
    sections = _sections(data)
    _, layout = _opened(sections, build)
    ends = [section.offset + len(section.payload) + 4 for section in sections if section.kind == STAGE]
    missing = [None] * (len(layout.space.points) - len(ends))
    return tuple(
        PointRow(point, end) for point, end in zip(layout.space.points, [*ends, *missing], strict=True)
    )


def is_elastic(data: bytes) -> bool:
    """Whether this is a file of many points: its second section says so. Raises FormatError for no file."""
    kinds = [section.kind for section, _ in zip(read_prefix(io.BytesIO(data)), range(2), strict=False)]
    return kinds[1:] == [ELASTIC]


def _sections(data: bytes) -> list[Section]:
    sections = list(read_prefix(io.BytesIO(data)))
    kinds = [section.kind for section in sections]
    assets = kinds.count(ASSET)
    stages = len(kinds) - assets - 2
    names = [section.name for section in sections[2 + assets :]]
    if kinds != [MODEL, ELASTIC, *[ASSET] * assets, *[STAGE] * stages] or names != [*map(str, range(stages))]:
        raise FormatError(f"sections of kinds {kinds[:20]}", offset=9, expected=EXPECTED)
    if stages < 1:
        raise FormatError("a file without one complete point", offset=len(data), expected=EXPECTED)
    return sections


def _assets(sections: Sequence[Section]) -> dict[str, bytes]:
    found, room = {}, MAX_ASSETS
    for section in sections:
        if section.kind == ASSET:
            with located(section.offset, f"asset {section.name!r}"):
                found[section.name] = expanded(section.payload, room)
            room -= len(found[section.name])
    return found


def _first_stage(sections: Sequence[Section]) -> int:
    return next(i for i, section in enumerate(sections) if section.kind == STAGE)


def _opened(sections: Sequence[Section], build: Build) -> tuple[nn.Module, Layout]:
    with located(sections[0].offset, "model section"):
        head = decode_head(sections[0].payload)
        network = rebuild(head, build)
        names = list(network.state_dict())
        if (len(names), names_check(names)) != (head.tensors, head.names):
            raise FormatError(
                "a skeleton with other tensors", offset=0, expected="those the file was written for"
            )
    with located(sections[1].offset, "elastic section"):
        layout = decode_layout(sections[1].payload, network)
        if len(sections) - _first_stage(sections) > len(layout.space.points):
            raise FormatError("more stages than points", offset=0, expected=f"{len(layout.space.points)}")
    return network, layout


def _leaves(layout: Layout, network: nn.Module, frame: Frame) -> dict[str, list[Leaf]]:
    """The leaves of every tensor, by name, in the order of the network's state."""
    dimensions = {} if layout.plan is None else layout.plan.dimensions()
    found: dict[str, list[Leaf]] = {}
    for name, value in network.state_dict().items():
        recipe = layout.tensors.get(name, ["value"])
        if (recipe[0] == "sliced") != (name in dimensions):
            raise FormatError(f"{name!r} as {recipe[0]}", offset=0, expected="what the plan of channels says")
        found[name] = blank(recipe, tuple(value.shape), frame, dimensions.get(name))
    return found


def _records(leaves: Sequence[Leaf], stage: int) -> Iterator[bytes]:
    for leaf in leaves:
        piece = leaf.take(stage)
        if piece is not None:
            record = encode_tensor(piece)
            yield varint(len(record)) + record


def _read_stage(payload: bytes, leaves: Mapping[str, Sequence[Leaf]], stage: int) -> None:
    reader = BytesReader(payload)
    for name, found in leaves.items():
        for leaf in found:
            shape = leaf.expects(stage)
            if shape is None:
                continue
            length = reader.varint(LONGEST)
            with located(reader.offset, f"tensor {name!r}"):
                record = reader.take(length)
                if not record or record_shape(record) != shape:
                    raise FormatError("a record of another shape", offset=0, expected=f"{shape}")
                leaf.put(stage, decode_tensor(record))
    if reader.left:
        raise FormatError(f"{reader.left} bytes too many", offset=reader.offset, expected="the end")


def _assembled(
    network: nn.Module, layout: Layout, leaves: Mapping[str, Sequence[Leaf]], frame: Frame
) -> Subspace:
    reparams = {}
    dimensions = {} if layout.plan is None else layout.plan.dimensions()
    for name, found in leaves.items():
        if name in layout.tensors:
            reparams[name] = make(layout.tensors[name], iter(found), frame, dimensions.get(name))
            continue
        value = torch.from_numpy(found[0].result().values().copy())
        target = modules.tensor(network, name)
        if value.dtype != target.dtype or not bool(torch.isfinite(value).all()):
            raise FormatError(f"{name!r} of type {value.dtype}", offset=0, expected=f"finite {target.dtype}")
        modules.set_tensor(network, name, value)
    subspace = Subspace(Reparametrized(network, reparams), frame.dial, layout.sizes()).eval()
    for name, value in subspace.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise FormatError(f"NaN or infinity in {name!r}", offset=0, expected="finite values")
    return subspace.requires_grad_(False)
