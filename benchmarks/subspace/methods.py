"""What is trained for the spectrum of ResNet-20, and beside what it is set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from plisse.adapt.bits import BITS, bits_subspace
from plisse.adapt.samplers import BiasedEndpoints, Decay, Listed, NoWarmup, Sandwich, Schedule
from plisse.adapt.sparsity import SPARSITIES, sparsity_subspace
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import width_subspace
from plisse.train.task import Task

WIDTHS = (0.25, 0.3125, 0.375, 0.4375, 0.5, 0.5625, 0.625, 0.75, 0.875, 1.0)
SOME_WIDTHS = (0.25, 0.5, 0.75, 1.0)
ALONE = {"width": (0.25, 0.5, 1.0), "sparsity": (0.975, 0.9, 0.5), "bits": (3, 4, 8)}
ONE = Schedule(Listed(1), NoWarmup())

Make = Callable[[nn.Module, Task], Subspace]


@dataclass(frozen=True, eq=False)
class Method:
    """One training of all points, or of none (steps of 0 leave the standard network). scored: how batch-norm
    statistics of a point come about, each a row: "stored" in the table, "recalibrated" on training images at
    the moment of switching, "shared" with the largest point, "between" a table of SOME_WIDTHS only."""

    name: str
    axis: str
    make: Make
    schedule: Schedule
    distill: float = 0.0
    trains: bool = True
    scored: tuple[str, ...] = ("stored",)


def methods() -> tuple[Method, ...]:
    """In the order in which they are run."""
    return (
        Method("standard network", "width", width, ONE, trains=False, scored=("recalibrated", "shared")),
        Method(
            "standard network", "sparsity", sparsity, ONE, trains=False, scored=("recalibrated", "shared")
        ),
        Method("standard network", "bits", bits, ONE, trains=False, scored=("recalibrated",)),
        Method("standard network, trained as long", "width", alone("width", 1.0), ONE),
        Method(
            "point, sandwich and in-place distillation",
            "width",
            width,
            Schedule(Sandwich(4)),
            distill=1.0,
            scored=("stored", "recalibrated", "between", "shared"),
        ),
        Method(
            "point, biased endpoints and decay", "sparsity", sparsity, Schedule(BiasedEndpoints(), Decay())
        ),
        Method("point, sandwich of 3", "bits", bits, Schedule(Sandwich(3))),
        *(
            Method(f"alone at {value:g}", axis, alone(axis, value), ONE)
            for axis, values in ALONE.items()
            for value in values
            if (axis, value) != ("width", 1.0)
        ),
        Method("point, sandwich without distillation", "width", width, Schedule(Sandwich(4))),
        Method("point, sandwich of 3", "sparsity", sparsity, Schedule(Sandwich(3), Decay())),
        Method("point, one of the listed", "bits", bits, Schedule(Listed(1))),
        Method(
            "line in norms, sandwich and in-place distillation",
            "width",
            on_line(width),
            Schedule(Sandwich(4)),
            distill=1.0,
        ),
        Method(
            "line, biased endpoints and decay",
            "sparsity",
            on_line(sparsity),
            Schedule(BiasedEndpoints(), Decay()),
        ),
        Method("line, one of the listed", "bits", on_line(bits), Schedule(Listed(1))),
        Method("point, instance norms", "width", instance_norms, Schedule(Sandwich(4)), distill=1.0),
    )


def width(net: nn.Module, task: Task, line: bool = False) -> Subspace:
    return width_subspace(net, task.example, widths=WIDTHS, line=line)


def sparsity(net: nn.Module, task: Task, line: bool = False) -> Subspace:
    return sparsity_subspace(net, sparsities=SPARSITIES, line=line)


def bits(net: nn.Module, task: Task, line: bool = False) -> Subspace:
    return bits_subspace(net, task.calibration, bits=BITS, line=line)


def instance_norms(net: nn.Module, task: Task) -> Subspace:
    """The paper's norms, which start from a network that was trained with others."""
    return width_subspace(net, task.example, widths=WIDTHS, statistics=False)


def on_line(make: Callable[..., Subspace]) -> Make:
    return lambda net, task: make(net, task, line=True)


def alone(axis: str, value: float) -> Make:
    """A subspace of a single point."""

    def make(net: nn.Module, task: Task) -> Subspace:
        if axis == "width":
            return width_subspace(net, task.example, widths=(value,))
        if axis == "sparsity":
            return sparsity_subspace(net, sparsities=(value,))
        return bits_subspace(net, task.calibration, bits=(int(value),))

    return make


SMALL = tuple(method for method in methods() if method.trains and "point" in method.name)[:3]
"""One spectrum per axis."""
