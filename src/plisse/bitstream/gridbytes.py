"""The grid of a tensor record: its kind and its bytes (docs/format-tensors.md, section 2)."""

from __future__ import annotations

import numpy as np

from plisse.bitstream import codebookbytes
from plisse.bitstream.bytesreader import BytesReader, signed_varint, varint
from plisse.bitstream.units import (
    MAX_VALUES,
    check_scale,
    decode_units,
    encode_units,
    from_scale_bits,
    one_scale,
    read_one_scale,
    scale_bits,
    unit_shape,
)
from plisse.core.stored import RAW_DTYPES, Codes, Grid, Levels, Raw, Stored, Trellis, Uniform, Vectors
from plisse.errors import InputError

RAW_NAMES = tuple(RAW_DTYPES)
STEP, STEP_ZERO, STEPS, STEPS_ZERO, TRELLIS, LEVELS, CODES, VECTORS = range(
    len(RAW_NAMES), len(RAW_NAMES) + 8
)
HIGHEST_KIND = VECTORS


def check_grid(stored: Stored) -> None:
    """Raise InputError where the grid does not fit the shape or the symbols. Not for raw tensors."""
    shape, grid = stored.shape, stored.grid
    if isinstance(grid, (Levels, Codes, Vectors)):
        codebookbytes.check_fits(stored)
    if isinstance(grid, Uniform):
        check_scale(grid.scale, shape, grid.group)
        if grid.zero_point is not None and grid.zero_point.shape != grid.scale.shape:
            raise InputError(f"zero points {grid.zero_point.shape}", expected=f"{grid.scale.shape}")


def grid_bytes(stored: Stored) -> tuple[int, bytes]:
    """The kind of a tensor and the bytes of its grid."""
    grid = stored.grid
    if isinstance(grid, Raw):
        return RAW_NAMES.index(grid.dtype), b""
    if isinstance(grid, Trellis):
        return TRELLIS, one_scale(np.array([grid.scale]))
    if isinstance(grid, Levels):
        return LEVELS, codebookbytes.levels_bytes(grid)
    if isinstance(grid, Codes):
        return CODES, codebookbytes.codes_bytes(grid)
    if isinstance(grid, Vectors):
        return VECTORS, codebookbytes.vectors_bytes(grid)
    zero = grid.zero_point
    if grid.scale.shape == (1,):
        tail = b"" if zero is None else signed_varint(int(zero[0]))
        return (STEP if zero is None else STEP_ZERO), one_scale(grid.scale) + tail
    data = varint(grid.group if grid.scale.ndim == 2 else 0) + encode_units(scale_bits(grid.scale))
    return (STEPS, data) if zero is None else (STEPS_ZERO, data + encode_units(zero))


def read_grid(reader: BytesReader, kind: int, shape: tuple[int, ...]) -> Grid:
    """The grid of a tensor of `kind`."""
    if kind < len(RAW_NAMES):
        return Raw(RAW_NAMES[kind])
    if kind == TRELLIS:
        return Trellis(float(read_one_scale(reader)[0]))
    if kind == LEVELS:
        return codebookbytes.read_levels(reader, shape)
    if kind == CODES:
        return codebookbytes.read_codes(reader, shape)
    if kind == VECTORS:
        return codebookbytes.read_vectors(reader, shape)
    if kind in (STEP, STEP_ZERO):
        scale = read_one_scale(reader)
        return Uniform(scale, np.array([reader.signed(32)], np.int32) if kind == STEP_ZERO else None)
    group = reader.varint(MAX_VALUES)
    units = unit_shape(shape, group)
    scale = from_scale_bits(decode_units(reader, units, np.dtype(np.uint16)))
    zero = decode_units(reader, units, np.dtype(np.int32)) if kind == STEPS_ZERO else None
    return Uniform(scale, zero, group)
