"""A network to one file and back: dumps, loads, summary, assets (docs/format.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream.atomic import write_atomic
from plisse.bitstream.container import ASSET, ELASTIC, MODEL, TENSORS, Section, located, pack, unpack
from plisse.bitstream.entries import Entry, read_entries, record_shape, tensor_sections
from plisse.bitstream.head import Head, decode_head, encode_head, names_check
from plisse.bitstream.rebuild import Build, head_of, rebuild
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.bitstream.tensors import coding_name, decode_tensor, encode_tensor
from plisse.core import modules
from plisse.core.edits import Edit
from plisse.core.origin import Origin
from plisse.core.reparam import Reparametrized, plain, stored_state
from plisse.core.stored import RAW_DTYPES, Raw, Stored, Uniform
from plisse.errors import FormatError, InputError, WeightsError

MAX_ASSETS = 1 << 26
MAX_SUMMARY_VALUES = 1 << 27


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file. bytes: of its record and entry. zeros: share of zero values, 0 to 1."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    coding: str
    zeros: float


@dataclass(frozen=True)
class ModelSummary:
    """What is in a file.

    edits: without the arguments that the skeleton's layers have too. assets: name to bytes as written, with
    their sections. overhead: the bytes that belong to no tensor and no asset. total: the length of the file.
    """

    origin: Origin
    edits: tuple[Edit, ...]
    notes: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]
    assets: Mapping[str, int]
    overhead: int
    total: int


def dumps(
    model: nn.Module,
    skeleton: nn.Module,
    *,
    assets: Mapping[str, bytes] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> bytes:
    """The file that holds `model`, which may be reparametrized; its length is the size of the network.

    skeleton: a fresh network of the model's origin, `build(origin_of(model))`; stays as it is.
    assets: files that belong to the network, at most 64 MiB. notes: JSON data.
    Raises WeightsError for NaN, infinity or a type of tensor that has no place in a file, GraphError for a
    structure that edits cannot express, InputError for notes or assets that do not fit.
    """
    modules.check_finite(model)
    head, rebuilt = head_of(plain(model), skeleton, notes or {})
    _check_kinds(rebuilt)
    stored = _tied_alike(model, stored_state(model))
    _check_computed(stored)
    records = (
        (str(value.dtype), encode_tensor(stored[name])) for name, value in rebuilt.state_dict().items()
    )
    sections = [Section(MODEL, "", encode_head(head)), *tensor_sections(records)]
    return pack([*sections, *_asset_sections(assets or {})])


def loads(data: bytes, build: Build) -> nn.Module:
    """The network in a file: plain, in eval mode, with its origin.

    build: makes the skeleton of an origin, with fresh weights; decides which origins it allows. Nothing that
    the file names is run otherwise. Takes no more memory than docs/format.md states.
    Raises FormatError, with the offset, for anything that is no valid file, and whatever `build` raises.
    """
    sections = unpack(data)
    head, model = _skeleton(sections, build)
    state = list(model.state_dict().items())
    values: list[Tensor] = []
    for (name, target), entry in zip(state, _entries(sections, head), strict=True):
        with located(entry.offset, f"tensor {name!r}"):
            value = _decoded(entry, values, target)
        with torch.no_grad():
            target.copy_(value)
        values.append(target)
    return model


def summary(data: bytes, build: Build | None = None) -> ModelSummary:
    """What a file holds and what each part costs.

    build: as for `loads`; without it nothing is built, tensors are called by their position, and files of
    more than 2^27 values are refused.
    Raises FormatError as `loads` does.
    """
    sections = unpack(data)
    head, names, limits = _read_head(sections), None, None
    if build is not None:
        head, model = _skeleton(sections, build)
        names, limits = list(model.state_dict()), [tuple(v.shape) for v in model.state_dict().values()]
    tensors: list[TensorEntry] = []
    room = MAX_SUMMARY_VALUES
    for position, entry in enumerate(_entries(sections, head)):
        name = names[position] if names else str(position)
        with located(entry.offset, f"tensor {name!r}"):
            row = _row(name, entry, tensors, limits[position] if limits else None, room)
        room -= 0 if limits else math.prod(row.shape)
        tensors.append(row)
    kept = {section.name: section.length for section in sections if section.kind == ASSET}
    overhead = len(data) - sum(row.bytes for row in tensors) - sum(kept.values())
    return ModelSummary(head.origin, head.edits, head.notes, tuple(tensors), kept, overhead, len(data))


def assets(data: bytes) -> dict[str, bytes]:
    """The assets of a file by name. Raises FormatError, also where they hold more than 64 MiB."""
    result, room = {}, MAX_ASSETS
    for section in unpack(data):
        if section.kind == ASSET:
            with located(section.offset, f"asset {section.name!r}"):
                result[section.name] = expanded(section.payload, room)
            room -= len(result[section.name])
    return result


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all; see `write_atomic`."""
    write_atomic(path, data)


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises InputError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{str(path)!r}: {error.strerror}", expected="a .plisse file that can be read"
        ) from error


def _check_kinds(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in RAW_DTYPES:
            raise WeightsError(
                f"{name!r} of type {kind}", expected=f"one of {', '.join(RAW_DTYPES)}", hint="model.float()"
            )


def _check_computed(stored: Mapping[str, Stored]) -> None:
    """Values of grids are finite; those of raw tensors were checked with the network."""
    for name, item in stored.items():
        with np.errstate(all="ignore"):
            if not isinstance(item.grid, Raw) and not np.isfinite(item.values()).all():
                raise WeightsError(f"NaN or infinity in {name!r} on its grid", expected="finite steps")


def _tied_alike(model: nn.Module, stored: dict[str, Stored]) -> dict[str, Stored]:
    """Names of one tensor get one value: that of the reparametrized name, where there is one."""
    computed = model.reparams if isinstance(model, Reparametrized) else {}
    first: dict[int, str] = {}
    owners = plain(model).state_dict(keep_vars=True)
    for name in sorted(owners, key=lambda name: name not in computed):
        first.setdefault(id(owners[name]), name)
    return {name: stored[first[id(owners[name])]] for name in owners}


def _asset_sections(given: Mapping[str, bytes]) -> list[Section]:
    if (length := sum(map(len, given.values()))) > MAX_ASSETS:
        raise InputError(f"{length} bytes of assets", expected=f"at most {MAX_ASSETS}")
    return [Section(ASSET, name, squeezed(content)) for name, content in given.items()]


def _read_head(sections: list[Section]) -> Head:
    kinds = [section.kind for section in sections]
    if ELASTIC in kinds:
        raise FormatError(
            "a file of many operating points",
            offset=sections[kinds.index(ELASTIC)].offset,
            expected="a file of one network",
            hint="plisse inspect shows its points, plisse select writes one of them",
        )
    if kinds != sorted(kinds) or kinds[:1] != [MODEL] or kinds.count(MODEL) > 1 or sections[0].name:
        raise FormatError(
            f"sections of kinds {kinds[:20]}",
            offset=sections[0].offset if sections else 0,
            expected="one model section without a name, then tensors, then assets",
        )
    with located(sections[0].offset, "model section"):
        return decode_head(sections[0].payload)


def _skeleton(sections: list[Section], build: Build) -> tuple[Head, nn.Module]:
    head = _read_head(sections)
    with located(sections[0].offset, "model section"):
        model = rebuild(head, build)
        names = list(model.state_dict())
        if (len(names), names_check(names)) != (head.tensors, head.names):
            raise FormatError(
                f"{head.tensors} tensors for {head.origin.name!r} and its edits",
                offset=0,
                expected=f"{len(names)}, with the names that the skeleton has here",
                hint="load it with the version of the network that it was written with",
            )
    return head, model


def _entries(sections: list[Section], head: Head) -> list[Entry]:
    return read_entries((section for section in sections if section.kind == TENSORS), head.tensors)


def _decoded(entry: Entry, earlier: list[Tensor], target: Tensor) -> Tensor:
    """The values of an entry, checked against the tensor they are for before and after decoding."""
    if entry.same_as >= 0:
        value = earlier[entry.same_as]
        _check_fits(tuple(value.shape), target)
        if value.dtype != target.dtype:
            raise FormatError(f"values of type {value.dtype}", offset=0, expected=f"{target.dtype}")
    else:
        _check_fits(record_shape(entry.record), target)
        value = torch.from_numpy(np.require(_values(entry.record), requirements=["C", "W"]))
        _check_fits(tuple(value.shape), target)
    if value.dtype != target.dtype and not (value.dtype == torch.float32 and target.is_floating_point()):
        raise FormatError(f"values of type {value.dtype}", offset=0, expected=f"{target.dtype}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise FormatError("NaN or infinity", offset=0, expected="finite values")
    return value


def _values(record: bytes) -> np.ndarray:
    """Decoded values; those of a hostile record may overflow to infinity, which is refused afterwards."""
    with np.errstate(all="ignore"):
        return decode_tensor(record).values()


def _check_fits(shape: tuple[int, ...], target: Tensor) -> None:
    if shape != tuple(target.shape):
        raise FormatError(f"shape {shape}", offset=0, expected=f"{tuple(target.shape)}")


def _row(
    name: str, entry: Entry, earlier: list[TensorEntry], shape: tuple[int, ...] | None, room: int
) -> TensorEntry:
    if entry.same_as >= 0:
        first = earlier[entry.same_as]
        return TensorEntry(name, first.shape, entry.length, f"same as {first.name}", first.zeros)
    found = record_shape(entry.record)
    if shape is not None and found != shape:
        raise FormatError(f"shape {found}", offset=0, expected=f"{shape}")
    if shape is None and math.prod(found) > room:
        raise FormatError(f"shape {found}", offset=0, expected=f"at most {room} values", hint="give `build`")
    zeros = _zeros(decode_tensor(entry.record))
    return TensorEntry(name, found, entry.length, coding_name(entry.record), zeros)


def _zeros(stored: Stored) -> float:
    """Share of zero values; where a zero is the symbol 0, without computing the values."""
    plain_symbols = isinstance(stored.grid, Raw) or (
        isinstance(stored.grid, Uniform) and stored.grid.zero_point is None
    )
    if plain_symbols:
        found = stored.symbols
    else:
        with np.errstate(all="ignore"):
            found = stored.values()
    return 1.0 - int(np.count_nonzero(found)) / found.size if found.size else 0.0
