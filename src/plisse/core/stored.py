"""A tensor as it goes to disk: integer symbols, a shape, and a grid that turns symbols into values.

Values are computed in float32, one rounding per operation and in a fixed order, so that every machine gets
the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from plisse.core.trellis import trellis_values

RAW_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<i4"),
    "float16": np.dtype("<i2"),
    "bfloat16": np.dtype("<i2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}


@dataclass(frozen=True)
class Raw:
    """Symbols are the bits of the values themselves, viewed as integers of the same width."""

    dtype: str


@dataclass(frozen=True, eq=False)
class Uniform:
    """value = (symbol - zero_point) * scale.

    scale: float32, every entry exactly representable in bfloat16, shape (1,) for one step per tensor, (C,)
    for one per channel (first axis of the tensor), or (C, G) for G groups along each flattened channel.
    zero_point: int32 of the same shape, or None for a symmetric grid (all zero).
    group: values per group where scale is (C, G); the last group of a channel may be shorter.
    """

    scale: np.ndarray
    zero_point: np.ndarray | None = None
    group: int = 0


@dataclass(frozen=True)
class Trellis:
    """Trellis coded: the value of a symbol depends on the path of the symbols before it (core/trellis).

    scale: the step between neighbouring values of the union codebook, representable in bfloat16.
    """

    scale: float


@dataclass(frozen=True, eq=False)
class Levels:
    """value = levels[symbol] * scale, or levels[symbol] where there is no scale.

    levels: float32 [K], K from 1 to 4096, in any order, all of them numbers that float16 holds exactly, or
    all of them numbers that bfloat16 holds. scale and group: as of `Uniform`, or None.
    """

    levels: np.ndarray
    scale: np.ndarray | None = None
    group: int = 0


@dataclass(frozen=True, eq=False)
class Codes:
    """value = sum over i of alphas[unit, i] if bit i of the symbol is set, else -alphas[unit, i]; added in
    the order of i.

    alphas: float32 numbers of bfloat16, [1, B] for one set per tensor, [C, B] for one per channel, or
    [C, G, B] for G groups of `group` values along each flattened channel. B is 1 to 8.
    """

    alphas: np.ndarray
    group: int = 0


@dataclass(frozen=True, eq=False)
class Vectors:
    """The tensor, flattened and cut into blocks of d values (the last one may be cut short), block b being
    the sum over m of codebooks[m, symbols[m, b]], added in the order of m. The symbols are [M, blocks].

    codebooks: float32 [M, K, d], M from 1 to 16, K to 65,536, d to 4,096; numbers as of `Levels.levels`.
    """

    codebooks: np.ndarray


Grid = Raw | Uniform | Trellis | Levels | Codes | Vectors


@dataclass(frozen=True, eq=False)
class Stored:
    """symbols: integers, any shape with the right count; shape: of the tensor; grid: how to undo."""

    symbols: np.ndarray
    shape: tuple[int, ...]
    grid: Grid

    def values(self) -> np.ndarray:
        """The decoded tensor: float32, or the integer type of a raw integer tensor.

        >>> grid = Uniform(np.array([0.5], np.float32))
        >>> Stored(np.array([-1, 0, 3]), (3,), grid).values()
        array([-0.5,  0. ,  1.5], dtype=float32)
        """
        if isinstance(self.grid, Raw):
            return _raw_values(self.symbols, self.grid.dtype).reshape(self.shape)
        if isinstance(self.grid, Trellis):
            return trellis_values(self.symbols.reshape(-1), self.grid.scale).reshape(self.shape)
        if isinstance(self.grid, Vectors):
            return _vector_values(self.symbols, self.shape, self.grid.codebooks)
        symbols = self.symbols.reshape(self.shape)
        if isinstance(self.grid, Levels):
            return _level_values(symbols, self.grid)
        if isinstance(self.grid, Codes):
            return _code_values(symbols, self.grid)
        scale = spread(self.grid.scale, self.shape, self.grid.group)
        if self.grid.zero_point is not None:
            symbols = symbols - spread(self.grid.zero_point, self.shape, self.grid.group)
        return symbols.astype(np.float32) * scale


def zero_symbol(stored: Stored) -> np.ndarray | int | None:
    """The symbol whose value is zero, or one per unit that broadcasts against the tensor; None where the grid
    has no symbol for zero."""
    grid = stored.grid
    if isinstance(grid, Levels):
        zeros = np.flatnonzero(grid.levels == 0)
        return int(zeros[0]) if zeros.size else None
    if isinstance(grid, (Trellis, Codes, Vectors)):
        return None
    if isinstance(grid, Raw) or grid.zero_point is None:
        return 0
    return spread(grid.zero_point, stored.shape, grid.group)


def spread(per_unit: np.ndarray, shape: tuple[int, ...], group: int) -> np.ndarray:
    """Repeat one number per tensor, channel or group so that it broadcasts against a tensor of `shape`."""
    if per_unit.ndim == 1:
        return per_unit.reshape(-1, *([1] * (len(shape) - 1))) if per_unit.size != 1 else per_unit.reshape(())
    width = int(np.prod(shape[1:], dtype=np.int64))
    return np.repeat(per_unit, group, axis=1)[:, :width].reshape(shape)


def to_bfloat16(values: np.ndarray | float) -> np.ndarray:
    """Round float32 to the nearest bfloat16, kept as float32 (ties to even). Zero and subnormals become the
    smallest normal number, so that a step is never zero."""
    bits = np.maximum(np.abs(np.asarray(values, np.float32)), np.float32(1.2e-38)).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def raw(values: np.ndarray, dtype: str = "float32") -> Stored:
    """Keep a tensor in a plain numeric type; float types round to nearest."""
    shape = values.shape
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        kept: Any = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    else:
        kept = np.ascontiguousarray(values, np.dtype(dtype))
    return Stored(kept.view(RAW_DTYPES[dtype]).reshape(-1), shape, Raw(dtype))


def _raw_values(symbols: np.ndarray, dtype: str) -> np.ndarray:
    kept: Any = np.ascontiguousarray(symbols.reshape(-1), RAW_DTYPES[dtype])
    if dtype == "bfloat16":
        return (kept.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    values: np.ndarray = kept.view(np.dtype(dtype))
    return values.astype(np.float32) if dtype == "float16" else values


def _level_values(symbols: np.ndarray, grid: Levels) -> np.ndarray:
    values: np.ndarray = grid.levels[symbols]
    return values if grid.scale is None else values * spread(grid.scale, symbols.shape, grid.group)


def _code_values(symbols: np.ndarray, grid: Codes) -> np.ndarray:
    total: np.ndarray | None = None
    for place in range(grid.alphas.shape[-1]):
        alpha = spread(grid.alphas[..., place], symbols.shape, grid.group)
        term = np.where(symbols >> place & 1, alpha, -alpha)
        total = term if total is None else total + term
    assert total is not None
    return total


def _vector_values(symbols: np.ndarray, shape: tuple[int, ...], codebooks: np.ndarray) -> np.ndarray:
    total: np.ndarray = codebooks[0][symbols[0]]  # [blocks, d]
    for codebook, row in zip(codebooks[1:], symbols[1:], strict=True):
        total = total + codebook[row]
    return total.reshape(-1)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)


def n_blocks(shape: tuple[int, ...], d: int) -> int:
    """How many blocks of d values a tensor has, the last one filled up."""
    return -(-int(np.prod(shape, dtype=np.int64)) // d)


def half_precision(numbers: np.ndarray) -> str | None:
    """The 16-bit type that holds every one of these float32 numbers exactly: "bfloat16", "float16" or None.

    >>> half_precision(np.array([0.1], np.float32)), half_precision(np.array([1 / 1024 + 1], np.float32))
    (None, 'float16')
    """
    flat = np.ascontiguousarray(numbers, np.float32)
    if not (flat.view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if np.array_equal(flat.astype(np.float16).astype(np.float32), flat) else None
