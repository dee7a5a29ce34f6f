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
ALONE = {"width": (0.25, 0.5, 1.0), "sparsity": (0.9, 0.975, 0.5), "bits": (3, 4, 8)}
WAYS = ("stored", "recalibrated", "between", "shared")
ONE = Schedule(Listed(1), NoWarmup())

Make = Callable[[nn.Module, Task], Subspace]


@dataclass(frozen=True, eq=False)
class Method:
    """One training of all points, or of none (steps of 0 leave the standard network). scored: how batch-norm
    statistics of a point come about, each a row: "stored" in the table, "recalibrated" on training images at
    the moment of switching, "shared" with the largest point, "between" a table of SOME_WIDTHS only.
    passes: the learning rate grows by it, where the points of a step differ so much that each has to weigh as
    much as where it is trained alone: the loss is the mean over them. teacher: every point, the largest too,
    learns the class probabilities of the network that training starts from (temperature 4, no labels)."""

    name: str
    axis: str
    make: Make
    schedule: Schedule
    distill: float = 0.0
    trains: bool = True
    scored: tuple[str, ...] = ("stored",)
    passes: int = 1
    teacher: bool = False


def methods() -> tuple[Method, ...]:
    """In the order in which they are run."""
    sandwich, sparse = Schedule(Sandwich(4)), Schedule(Sandwich(3, listed=True), Decay(0.4))
    biased, late = Schedule(BiasedEndpoints(), Decay()), Schedule(Sandwich(3), Decay())
    return (
        Method(
            "standard network", "sparsity", sparsity, ONE, trains=False, scored=("recalibrated", "shared")
        ),
        Method("standard network", "width", width, ONE, trains=False, scored=("recalibrated", "shared")),
        Method("standard network", "bits", bits, ONE, trains=False, scored=("recalibrated",)),
        Method("standard network, trained as long", "width", alone("width", 1.0), ONE),
        Method("point, listed and teacher", "sparsity", sparsity, sparse, teacher=True),
        Method("point, listed, teacher, 3 x the rate", "sparsity", sparsity, sparse, passes=3, teacher=True),
        Method("point, sandwich and teacher", "width", width, sandwich, scored=WAYS, teacher=True),
        Method("point, sandwich, teacher, 4 x the rate", "width", width, sandwich, passes=4, teacher=True),
        Method("point, listed and distillation", "sparsity", sparsity, sparse, distill=1.0, passes=3),
        *(each_alone("sparsity")),
        Method("point, sandwich and distillation", "width", width, sandwich, 1.0, scored=WAYS, passes=4),
        *(each_alone("width")),
        Method("point, sandwich and distillation", "bits", bits, Schedule(Sandwich(3)), distill=1.0),
        *(each_alone("bits")),
        Method("line, listed and distillation", "sparsity", on_line(sparsity), sparse, distill=1.0, passes=3),
        Method(
            "line in norms, sandwich and distillation",
            "width",
            on_line(width),
            sandwich,
            distill=1.0,
            passes=4,
        ),
        Method(
            "line, sandwich and distillation",
            "bits",
            on_line(bits),
            Schedule(Sandwich(3)),
            distill=1.0,
        ),
        Method("line, listed and teacher", "sparsity", on_line(sparsity), sparse, teacher=True),
        Method("line in norms, sandwich and teacher", "width", on_line(width), sandwich, teacher=True),
        Method("point, biased endpoints", "sparsity", sparsity, biased),
        Method("point, sandwich and distillation", "sparsity", sparsity, late, distill=1.0),
        Method("point, one of the listed", "bits", bits, Schedule(Listed(1))),
        Method("point, sandwich", "width", width, sandwich, passes=4),
        Method("line, biased endpoints", "sparsity", on_line(sparsity), biased),
        Method("line, one of the listed", "bits", on_line(bits), Schedule(Listed(1))),
        Method("point, instance norms", "width", instance_norms, sandwich, distill=1.0, passes=4),
    )


def each_alone(axis: str) -> tuple[Method, ...]:
    """A network for each of the points that are trained alone."""
    values = [value for value in ALONE[axis] if (axis, value) != ("width", 1.0)]
    return tuple(Method(f"alone at {value:g}", axis, alone(axis, value), ONE) for value in values)


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


SMALL = tuple(
    {each.axis: each for each in reversed(methods()) if "point" in each.name and each.distill}.values()
)
"""One spectrum per axis."""
