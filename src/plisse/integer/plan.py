"""From pieces to steps: what is fused, which grid every activation has, where one becomes another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plisse.integer.forms import Layer, Moved, Plain, Plus, Pool
from plisse.integer.graph import Call, Piece, Pieces
from plisse.integer.operators import (
    TOP,
    Addition,
    Average,
    Clip,
    Entry,
    Exit,
    Floating,
    Maximum,
    Movement,
    Operator,
    Requantization,
    Symbols,
    Weighted,
)

EVERYTHING = Clip()


@dataclass(frozen=True)
class Step:
    """result = operator(*sources). name: of the network's operator that it stands for."""

    result: str
    operator: Operator
    sources: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Unit:
    """A piece with the addition and the clipping that follow it. name: of the last of them."""

    name: str
    piece: Piece
    sources: tuple[str, ...]
    clip: Clip = EVERYTHING
    added: str | None = None


@dataclass(frozen=True)
class Plan:
    """steps in order; results: names of the values that `output` is built from; floating: what stayed."""

    steps: tuple[Step, ...]
    results: tuple[str, ...]
    floating: tuple[str, ...]


def plan(pieces: Pieces, layers: Mapping[str, Weighted]) -> Plan:
    """Choose grids and lay out the steps. layers: by name, with the grid of their input."""
    units = fused(pieces, layers)
    return _Layout(pieces, units, layers).plan()


def fused(pieces: Pieces, layers: Mapping[str, Weighted]) -> list[Unit]:
    """Convolution + addition + clipping as one unit wherever nothing else reads what lies between."""
    readers: dict[str, list[Piece | None]] = {name: [None] for name in pieces.results}
    for piece in pieces.pieces:
        for source in piece.sources:
            readers.setdefault(source, []).append(piece)
    owners = _owners(pieces, layers, readers)
    taken = {piece.name for piece in owners.values()}
    units = []
    for piece in pieces.pieces:
        if piece.name in taken:
            continue
        unit = Unit(piece.name, piece, piece.sources)
        if piece.name in owners:
            head = owners[piece.name]
            other = next(source for source in piece.sources if source != head.name)
            unit = Unit(piece.name, head, head.sources, added=other)
        if isinstance(piece.form, Clip):
            unit = replace(unit, clip=piece.form)
        while isinstance(unit.piece.form, (Layer, Plus, Clip)) and len(readers.get(unit.name, [])) == 1:
            after = readers[unit.name][0]
            if after is None or not isinstance(after.form, Clip):
                break
            taken.add(after.name)
            unit = replace(unit, name=after.name, clip=unit.clip.then(after.form))
        units.append(unit)
    return units


def _owners(
    pieces: Pieces, layers: Mapping[str, Weighted], readers: Mapping[str, list[Piece | None]]
) -> dict[str, Piece]:
    """For every addition that a convolution can do as well: that convolution, the later one of two."""
    owners: dict[str, Piece] = {}
    for piece in pieces.pieces:
        alone = readers.get(piece.name, [])
        plus = alone[0] if len(alone) == 1 else None
        if not isinstance(piece.form, Layer) or plus is None or not isinstance(plus.form, Plus):
            continue
        if layers[piece.form.name].window and len(plus.sources) == 2:
            owners[plus.name] = piece
    return owners


class _Layout:
    """The state of laying out: which values exist in which form."""

    def __init__(self, pieces: Pieces, units: list[Unit], layers: Mapping[str, Weighted]) -> None:
        self.pieces, self.units, self.layers = pieces, units, layers
        self.users: dict[str, list[Unit]] = {}
        for unit in units:
            for source in (*unit.sources, *([unit.added] if unit.added else [])):
                self.users.setdefault(source, []).append(unit)
        self.steps: list[Step] = []
        self.forms: dict[tuple[str, Symbols | None], str] = {(name, None): name for name in pieces.inputs}
        self.own: dict[str, Symbols | None] = dict.fromkeys(pieces.inputs)
        self.floating: list[str] = []

    def plan(self) -> Plan:
        for unit in self.units:
            self._lay(unit)
        results = tuple(self._as(name, None) for name in self.pieces.results)
        return Plan(tuple(self.steps), results, tuple(self.floating))

    def _lay(self, unit: Unit) -> None:
        form = unit.piece.form
        if isinstance(form, (Plus, Clip, Pool)) and self._all_float(unit):
            self._float(unit)
        elif isinstance(form, Layer):
            self._layer(unit, self.layers[form.name])
        elif isinstance(form, Plus):
            first, second = (self._integer(name) for name in _both(unit))
            target = self._target(unit.name)
            sources = tuple(self._as(n, g) for n, g in zip(_both(unit), (first, second), strict=True))
            self._add(unit, Addition(first, second, target, unit.clip), sources, target)
        elif isinstance(form, (Clip, Pool)):
            self._pointwise(unit)
        else:
            self._moved(unit)

    def _layer(self, unit: Unit, layer: Weighted) -> None:
        sources = [self._as(unit.sources[0], layer.source)]
        added = None
        if unit.added is not None:
            added = self._integer(unit.added)
            sources.append(self._as(unit.added, added))
        target = self._target(unit.name) if added or self._wanted(unit.name) else None
        weighted = replace(layer, target=target, clip=unit.clip, added=added)
        self._add(unit, weighted, tuple(sources), target)

    def _pointwise(self, unit: Unit) -> None:
        form, name = unit.piece.form, unit.sources[0]
        source = self._integer(name)
        operator: Operator
        if isinstance(form, Pool) and form.largest and form.window:
            target, operator = source, Maximum(form.window)
        elif isinstance(form, Pool):
            target = self._target(unit.name)
            operator = Average(source, target, form.window, form.keep)
        else:
            target = self._target(unit.name)
            operator = Requantization(source, target, unit.clip)
        self._add(unit, operator, (self._as(name, source),), target)

    def _moved(self, unit: Unit) -> None:
        """Moves of symbols keep the grid; everything else runs in floating point."""
        form, call = unit.piece.form, unit.piece.call
        grid = self.own.get(unit.sources[0]) if unit.sources and isinstance(form, Moved) else None
        if grid is not None:
            assert isinstance(form, Moved)
            move = call.padding_with(grid.zero) if form.padded else call
            sources = (self._as(unit.sources[0], grid), *unit.sources[1:])
            self._add(unit, Movement(move), sources, grid)
            return
        if isinstance(form, Plain) and form.floating:
            self._float(unit)
        else:  # sizes are the same in any form
            any_form = isinstance(form, Plain) and form.sizes
            sources = tuple(self._as(n, self.own[n] if any_form else None) for n in unit.sources)
            self._add(unit, Floating(call), sources, None)

    def _all_float(self, unit: Unit) -> bool:
        """Whether rounding for this operator alone would gain nothing."""
        return all(self.own[name] is None for name in unit.sources) and self._wish(unit.name) is None

    def _float(self, unit: Unit) -> None:
        """As the network runs it, and said so."""
        self.floating.append(str(unit.piece.call))
        sources = tuple(self._as(name, None) for name in unit.sources)
        self._add(unit, Floating(_Clipped.around(unit)), sources, None)

    def _add(self, unit: Unit, operator: Operator, sources: tuple[str, ...], grid: Symbols | None) -> None:
        self.steps.append(Step(unit.name, operator, sources, unit.piece.name))
        self.own[unit.name] = grid
        self.forms[unit.name, grid] = unit.name

    def _as(self, name: str, grid: Symbols | None) -> str:
        """The value `name` on `grid`, made from the form it has unless it is there already."""
        if (name, grid) not in self.forms:
            own = self.own[name]
            result = f"{name}:{len(self.forms)}"
            made: Operator
            if grid is None:
                assert own is not None
                made = Exit(own)
            else:
                made = Entry(grid) if own is None else Requantization(own, grid)
            self.steps.append(Step(result, made, (self.forms[name, own],), name))
            self.forms[name, grid] = result
        return self.forms[name, grid]

    def _integer(self, name: str) -> Symbols:
        """The grid of a value that an integer operator reads which has no grid of its own."""
        return self.own[name] or self._target(name)

    def _target(self, name: str) -> Symbols:
        """What the layers that read a value want; else a grid over the extremes that were seen."""
        return self._wish(name) or observed(self.pieces.seen[name].low, self.pieces.seen[name].high)

    def _wish(self, name: str) -> Symbols | None:
        for user in self.users.get(name, []):
            form = user.piece.form
            if isinstance(form, Layer) and user.sources[0] == name:
                return self.layers[form.name].source
            if isinstance(form, Moved) or (isinstance(form, Pool) and form.largest):
                found = self._wish(user.name)
                if found is not None:
                    return found
        return None

    def _wanted(self, name: str) -> bool:
        """Whether any reader of a value, or of the moved value, computes in integers."""
        for user in self.users.get(name, []):
            if isinstance(user.piece.form, Moved):
                if self._wanted(user.name):
                    return True
            elif not isinstance(user.piece.form, Plain):
                return True
        return False


@dataclass(frozen=True)
class _Clipped:
    """An operator in floating point and the clipping that was fused with it."""

    call: Call
    clip: Clip

    @staticmethod
    def around(unit: Unit) -> Call | _Clipped:
        own = isinstance(unit.piece.form, Clip) and unit.name == unit.piece.name
        return unit.piece.call if own or unit.clip == EVERYTHING else _Clipped(unit.piece.call, unit.clip)

    def __call__(self, *operands: Any) -> Any:
        return self.call(*operands).clamp(self.clip.low, self.clip.high)


def observed(low: float, high: float) -> Symbols:
    """A grid from `low` to `high` that holds zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / TOP, 1e-12)
    return Symbols(scale, min(max(round(-low / scale), 0), TOP))


def _both(unit: Unit) -> tuple[str, str]:
    return unit.sources[0], unit.sources[-1]
