"""What a network costs, and how much it may cost."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from plisse.errors import InputError

UNITS = {
    "bytes": {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
}
FIELDS = tuple(UNITS)


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    params: number of values in parameters. bytes: length of the file as written. macs: multiply-adds of one
    forward pass of the example batch. latency: seconds, median of measured forward passes of the example
    batch, None where it was not measured; latency_spread: half the interquartile range, in seconds.
    """

    params: int
    bytes: int
    macs: int
    latency: float | None = None
    latency_spread: float | None = None


@dataclass(frozen=True)
class Limit:
    """An upper bound: an absolute number, or a share of a reference cost."""

    value: float
    relative: bool = False

    def absolute(self, reference: float) -> float:
        return self.value * reference if self.relative else self.value


@dataclass(frozen=True)
class Budget:
    """Upper bounds on a `Cost`; None is free.

    >>> budget = Budget.parse("bytes=0.1x, latency=5ms")
    >>> budget.bytes, budget.latency
    (Limit(value=0.1, relative=True), Limit(value=0.005, relative=False))
    >>> Budget.parse("bytes=12MB").bytes
    Limit(value=12000000.0, relative=False)
    """

    params: Limit | None = None
    bytes: Limit | None = None
    macs: Limit | None = None
    latency: Limit | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "name=number[unit]" parts separated by commas. Units: bytes b, kB, MB, KiB, MiB; params and
        macs k, M, G; latency s, ms, us; everywhere x (share of the original, 0.1x) and % (10%).

        Raises InputError with the part that is not understood.
        """
        limits: dict[str, Limit] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            match = re.fullmatch(r"(\w+)\s*(?:=|<=)\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-zA-Z%]*)", part)
            name = match.group(1).lower() if match else ""
            if match is None or name not in UNITS or name in limits:
                raise InputError(
                    f"budget part {part!r}",
                    expected=f"one of {', '.join(FIELDS)} once, as name=number and a unit",
                    hint="bytes=0.1x or latency=5ms",
                )
            limits[name] = _limit(name, part, match.group(2), match.group(3).lower())
        if not limits:
            raise InputError(f"an empty budget {text!r}", expected="at least one bound", hint="bytes=0.1x")
        return cls(**limits)

    def __str__(self) -> str:
        """As `parse` reads it.

        >>> str(Budget.parse("latency=5ms, bytes=10%"))
        'bytes=0.1x, latency=0.005s'
        """
        limits = {name: getattr(self, name) for name in ("bytes", "params", "macs", "latency")}
        units = {"bytes": "B", "latency": "s"}
        return ", ".join(
            f"{name}={limit.value:.12g}{'x' if limit.relative else units.get(name, '')}"
            for name, limit in limits.items()
            if limit is not None
        )

    def admits(self, cost: Cost, reference: Cost) -> bool:
        """Whether `cost` stays within every bound; `reference` is what relative bounds refer to.

        A bound on latency does not admit a cost whose latency was not measured.
        """
        return not self.exceeded(cost, reference)

    def exceeded(self, cost: Cost, reference: Cost) -> list[str]:
        """The names of the bounds that `cost` breaks."""
        return [
            name
            for name, bound in self.absolute(reference).items()
            if getattr(cost, name) is None or getattr(cost, name) > bound
        ]

    def absolute(self, reference: Cost) -> dict[str, float]:
        """Every bound as a number, relative ones times `reference`."""
        bounds = {}
        for field in dataclasses.fields(self):
            limit = getattr(self, field.name)
            if limit is None:
                continue
            against = getattr(reference, field.name)
            if limit.relative and against is None:
                raise InputError(
                    f"{field.name}={limit.value}x", expected=f"a reference with {field.name} measured"
                )
            bounds[field.name] = limit.absolute(against or 0.0)
        return bounds


def _limit(name: str, part: str, number: str, unit: str) -> Limit:
    try:
        value = float(number)
    except ValueError as error:
        raise InputError(f"budget part {part!r}", expected="a number", hint=f"{name}=0.5x") from error
    if value <= 0:
        raise InputError(f"budget part {part!r}", expected="a number above zero")
    if unit in ("x", "%"):
        return Limit(value / 100 if unit == "%" else value, relative=True)
    if unit not in UNITS[name]:
        known = ", ".join(u for u in UNITS[name] if u)
        came = f"unit {unit!r} in {part!r}" if unit else f"{part!r} without a unit"
        raise InputError(came, expected=f"x, %, {known}", hint=f"{name}=0.5x")
    if value * UNITS[name][unit] < 1 and name != "latency":
        raise InputError(f"{part!r}, less than one", expected="a size, or a share", hint=f"{name}={number}x")
    return Limit(value * UNITS[name][unit])
