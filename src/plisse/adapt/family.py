"""Several networks of one task, one per size, behind the interface of one elastic network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from plisse.adapt.elastic import NEAR, Point, Range, Space, Switching
from plisse.core import modules
from plisse.errors import InputError

DIGITS = 4


def family(networks: Mapping[Point, nn.Module]) -> Switching:
    """The networks at their points, cheapest first, as one `Elastic`; all stay in memory.

    Points are on one axis, in order of their values, rising or falling. At a point between two members the
    cheaper of them runs.

    Raises InputError for no network, for points on several axes or out of order.

    >>> nets = family({Point("width", 0.5): nn.Linear(4, 2), Point("width", 1.0): nn.Linear(4, 2)})
    >>> str(nets.point), [str(point) for point in nets.space.points]
    ('width=1', ['width=0.5', 'width=1'])
    """
    points = tuple(networks)
    axes = {axis for point in points for axis in point.settings}
    values = [point.value for point in points]
    rising = values == sorted(values)
    if len(axes) != 1 or not (rising or values == sorted(values, reverse=True)):
        came = f"{len(networks)} networks on {len(axes)} axes, at {', '.join(map(str, points))}"
        raise InputError(came, expected="at least one network, all on one axis, in order")
    space = Space((Range(axes.pop(), min(values), max(values)),), points)
    held = [modules.clone(network).eval() for network in networks.values()]

    def member(point: Point) -> nn.Module:
        cheaper = [value <= point.value + NEAR if rising else value >= point.value - NEAR for value in values]
        return held[max(0, sum(cheaper) - 1)]

    return Switching(space, member, keep=len(held))


def by_width(networks: Sequence[nn.Module]) -> Switching:
    """`family` with each network at its width: its output channels, over all layers with a weight of two or
    more dimensions, as a share of the widest network's.

    Raises InputError where two are equally wide, which leaves nothing to call them by.

    >>> small, large = (nn.Sequential(nn.Linear(4, n), nn.Linear(n, 2)) for n in (4, 10))
    >>> [str(point) for point in by_width([large, small]).space.points]
    ['width=0.5', 'width=1']
    """
    channels = [_channels(network) for network in networks]
    widest = max(channels, default=0)
    shares = [round(number / max(widest, 1), DIGITS) for number in channels]
    if len(set(shares)) < len(shares) or not all(shares):
        raise InputError(
            f"networks of widths {', '.join(f'{share:g}' for share in sorted(shares))}",
            expected="networks of different widths, with weights",
            hint="other files; in Python, family({point: network}) takes points of your own",
        )
    ordered = sorted(zip(shares, networks, strict=True), key=lambda pair: pair[0])
    return family({Point("width", share): network for share, network in ordered})


def _channels(network: nn.Module) -> int:
    return sum(len(weight) for weight in network.parameters() if weight.dim() > 1)
