"""A tensor of a subspace in pieces, one for each listed point, each of which adds to those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plisse.core.stored import Grid, Raw, Stored, Uniform
from plisse.errors import FormatError, InputError


class Leaf(Protocol):
    """A tensor as a sequence of pieces. `expects(k)` is the shape of the piece of stage k, None for none; it
    may depend on earlier pieces, which are given to `put` in order. `result()` is the tensor after them,
    entries that did not come being 0."""

    def take(self, stage: int) -> Stored | None: ...

    def expects(self, stage: int) -> tuple[int, ...] | None: ...

    def put(self, stage: int, piece: Stored) -> None: ...

    def result(self) -> Stored: ...


@dataclass(eq=False)
class Indexed:
    """Pieces are entries at positions that are known beforehand.

    fresh: flat positions that come with a stage, in the shape of the piece.
    """

    shape: tuple[int, ...]
    fresh: Callable[[int], np.ndarray | None]
    stored: Stored | None = None

    def take(self, stage: int) -> Stored | None:
        at = self.fresh(stage)
        if at is None or self.stored is None:
            return None
        grid = single_step(self.stored)
        return Stored(self.stored.symbols.reshape(-1)[at], at.shape, grid)

    def expects(self, stage: int) -> tuple[int, ...] | None:
        at = self.fresh(stage)
        return None if at is None else at.shape

    def put(self, stage: int, piece: Stored) -> None:
        if self.stored is None:
            symbols = np.zeros(int(np.prod(self.shape)), piece.symbols.dtype)
            self.stored = Stored(symbols, self.shape, piece.grid)
        check_same_grid(self.stored.grid, piece.grid)
        self.stored.symbols[self.fresh(stage)] = piece.symbols

    def result(self) -> Stored:
        return filled(self.stored)


@dataclass(eq=False)
class Nested:
    """What two leaves share: `NestedPlaces` and `NestedValues` of a tensor whose stage k brings the entries
    with a magnitude above thresholds[k]. thresholds: falling; needed for `take` only. known: flat places that
    came. fresh: those that came with the last stage."""

    shape: tuple[int, ...]
    thresholds: Sequence[float] = ()
    stored: Stored | None = None
    known: np.ndarray | None = None
    fresh: np.ndarray | None = None

    def new(self, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """Which flat places were known before a stage, and which it brings, from the whole tensor."""
        assert self.stored is not None
        magnitudes = np.abs(self.stored.values().reshape(-1))
        now = magnitudes > self.thresholds[stage]
        before = magnitudes > self.thresholds[stage - 1] if stage else np.zeros(now.shape, bool)
        return before, now & ~before


@dataclass(eq=False)
class NestedPlaces:
    """For every place that is not known yet, whether this stage brings it."""

    of: Nested

    def take(self, stage: int) -> Stored | None:
        before, new = self.of.new(stage)
        if before.all():
            return None
        marks = new[~before].astype(np.uint8)
        return Stored(marks, self.of.shape if stage == 0 else marks.shape, Raw("bool"))

    def expects(self, stage: int) -> tuple[int, ...] | None:
        self.of.fresh = np.zeros(0, np.int64)
        if stage == 0 or self.of.known is None:
            return self.of.shape
        count = int((~self.of.known).sum())
        return (count,) if count else None

    def put(self, stage: int, piece: Stored) -> None:
        if not isinstance(piece.grid, Raw) or (piece.symbols.size and int(piece.symbols.max()) > 1):
            raise FormatError("places that are neither known nor open", offset=0, expected="0 or 1 for each")
        if self.of.known is None:
            self.of.known = np.zeros(piece.symbols.size, bool)
        self.of.fresh = np.flatnonzero(~self.of.known)[piece.symbols.reshape(-1) == 1]
        self.of.known[self.of.fresh] = True

    def result(self) -> Stored:
        return filled(self.of.stored)


@dataclass(eq=False)
class NestedValues:
    """The values at the places that a stage brings."""

    of: Nested

    def take(self, stage: int) -> Stored | None:
        _, new = self.of.new(stage)
        assert self.of.stored is not None
        symbols = self.of.stored.symbols.reshape(-1)[new]
        return (
            None
            if stage and not symbols.size
            else Stored(symbols, symbols.shape, single_step(self.of.stored))
        )

    def expects(self, stage: int) -> tuple[int, ...] | None:
        count = 0 if self.of.fresh is None else len(self.of.fresh)
        return None if stage and not count else (count,)

    def put(self, stage: int, piece: Stored) -> None:
        if self.of.stored is None:
            symbols = np.zeros(int(np.prod(self.of.shape)), piece.symbols.dtype)
            self.of.stored = Stored(symbols, self.of.shape, piece.grid)
        check_same_grid(self.of.stored.grid, piece.grid)
        self.of.stored.symbols[self.of.fresh] = piece.symbols

    def result(self) -> Stored:
        return filled(self.of.stored)


@dataclass(eq=False)
class Planed:
    """Stage 0 brings the highest bits[0] bits of signed codes of bits[-1] bits, each later stage the bits
    down to bits[k]."""

    shape: tuple[int, ...]
    bits: Sequence[int]
    top: int
    stored: Stored | None = None
    stages: int = 0

    def take(self, stage: int) -> Stored | None:
        assert self.stored is not None
        codes = self.stored.symbols.reshape(-1).astype(np.int32) >> (self.top - self.bits[stage])
        if stage > 0:
            codes = codes & (2 ** self._new(stage) - 1)
        return Stored(codes, self.shape, single_step(self.stored))

    def expects(self, stage: int) -> tuple[int, ...] | None:
        return self.shape

    def put(self, stage: int, piece: Stored) -> None:
        codes = piece.symbols.reshape(-1).astype(np.int32)
        low = 0 if stage else -(2 ** (self.bits[0] - 1))
        if codes.size and (codes.min() < low or codes.max() >= low + 2 ** self._new(stage)):
            raise FormatError("a code beyond its bits", offset=0, expected=f"{self._new(stage)} bits")
        if self.stored is None:
            self.stored = Stored(codes, self.shape, piece.grid)
        else:
            check_same_grid(self.stored.grid, piece.grid)
            self.stored = Stored((self.stored.symbols << self._new(stage)) | codes, self.shape, piece.grid)
        self.stages = stage + 1

    def result(self) -> Stored:
        stored = filled(self.stored)
        missing = self.top - self.bits[self.stages - 1]
        return Stored(stored.symbols << missing, self.shape, stored.grid)

    def _new(self, stage: int) -> int:
        return self.bits[stage] - (self.bits[stage - 1] if stage else 0)


def whole(shape: tuple[int, ...]) -> Callable[[int], np.ndarray | None]:
    """Everything comes with the first stage."""
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    return lambda stage: positions if stage == 0 and positions.size else None


def growing(
    shape: tuple[int, ...], kept: Callable[[int], dict[int, tuple[int, ...]]]
) -> Callable[[int], np.ndarray | None]:
    """The entries that a stage keeps and the one before did not. kept: positions along some dimensions."""

    def inside(stage: int) -> np.ndarray:
        here = kept(stage)
        axes = [np.array(here.get(dim, range(side)), np.int64) for dim, side in enumerate(shape)]
        found: np.ndarray = np.ravel_multi_index(np.ix_(*axes), shape)
        return found

    def fresh(stage: int) -> np.ndarray | None:
        now = inside(stage)
        if stage == 0:
            return now
        new = np.setdiff1d(now.reshape(-1), inside(stage - 1).reshape(-1), assume_unique=True)
        return new if new.size else None

    return fresh


def rows(
    shape: tuple[int, ...], kept: Callable[[int], tuple[int, ...]] | None = None
) -> Callable[[int], np.ndarray | None]:
    """Row k of a table [P, ...] comes with stage k; kept: only these entries of it."""
    size = int(np.prod(shape[1:]))

    def fresh(stage: int) -> np.ndarray | None:
        inside = np.arange(size) if kept is None else np.array(kept(stage), np.int64)
        return stage * size + inside

    return fresh


def single_step(stored: Stored) -> Grid:
    """The grid, where it is one that pieces can share: plain numbers, or one step without a zero point."""
    grid = stored.grid
    if isinstance(grid, Raw):
        return grid
    if isinstance(grid, Uniform) and grid.scale.size == 1 and grid.zero_point is None:
        return grid
    steps = getattr(getattr(grid, "scale", None), "size", 0)
    raise InputError(
        f"a tensor on a {type(grid).__name__} grid of {steps} steps",
        expected="plain numbers, or one symmetric step per tensor",
    )


def check_same_grid(one: Grid, other: Grid) -> None:
    """Raise FormatError where two pieces of a tensor do not belong together."""
    alike = type(one) is type(other)
    if alike and isinstance(one, Uniform) and isinstance(other, Uniform):
        alike = bool(np.array_equal(one.scale, other.scale))
    elif alike:
        alike = one == other
    if not alike:
        raise FormatError("a piece on another grid", offset=0, expected="the grid of the first piece")


def filled(stored: Stored | None) -> Stored:
    """The tensor, of which at least the first piece came."""
    if stored is None:
        raise FormatError("a tensor without a first piece", offset=0, expected="one in the first stage")
    return stored
