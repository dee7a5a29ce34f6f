"""plisse select, and what the commands over operating points share: opening them, their profile."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.opening import is_file, open_named_task, open_networks
from plisse.cli.output import Say, check_outputs, note, print_json, stdout, working
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.adapt.elastic import Elastic
    from plisse.cost.budget import Cost
    from plisse.cost.profile import Profile, ProfileRow

FILES = (
    "A .plisse file with several operating points, or several networks of one task, which are then points "
    "by their widths. Each is what MODEL is elsewhere."
)

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help=FILES, show_default=False)
]  # fmt: skip
Bounds = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="B", show_default=False, rich_help_panel=options.FAR,
        help="Upper bounds on bytes, params, macs, latency: 'bytes=0.5x, latency=5ms'. x is a share of the "
        "largest point.",
    ),
]  # fmt: skip
ByHand = Annotated[
    str | None,
    typer.Option(
        "--point", metavar="P", show_default=False, rich_help_panel=options.FAR,
        help="This point and no other, such as width=0.5; nothing is measured.",
    ),
]  # fmt: skip
Measured = Annotated[
    Path | None,
    typer.Option(
        "--profile", metavar="P.json", show_default=False, rich_help_panel=options.TASK,
        help="A profile of these points on this machine (plisse profile ... -o P.json). Without it they are "
        "measured now, on --task.",
    ),
]  # fmt: skip
Chosen = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="OUT", help="The plain .plisse file to write.", show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]  # fmt: skip


@reported
def select(
    files: Files,
    out: Chosen,
    budget: Bounds = None,
    point: ByHand = None,
    profile: Measured = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Write one point as a plain file: the best within a budget, or the one that --point names.

    Within a budget the score decides, on this machine's times.
    """
    from plisse.adapt.elastic import Point
    from plisse.adapt.governed import point_named
    from plisse.cost.budget import Budget
    from plisse.networks.open import save

    if (budget is None) == (point is None):
        came = "neither --budget nor --point" if budget is None else "--budget and --point"
        raise InputError(came, expected="one of them", hint="--budget latency=5ms")
    bounds = Budget.parse(budget) if budget else None
    check_outputs([*files, profile], out=out)
    told: dict[str, Any] = {}
    with working("loading") as say:
        net = open_points(files, allow, seed)
        if bounds is None:
            chosen, measured = net.space.check(Point.parse(str(point))), ""
        else:
            found = profile_of(net, profile, task, data, seed, say)
            row = found.best(bounds, largest(found))
            chosen, measured = point_named(net, row.point), f", {_told(row, found)}"
            told = {"cost": row.cost, "score": row.score}
        say(f"writing {chosen}")
        save(net.extract(chosen), out)
    if as_json:
        print_json({"file": out, "point": str(chosen), **told})
        return
    words = f"wrote {out} ({out.stat().st_size:,} bytes): {chosen}{measured}"
    stdout().print(words, markup=False, soft_wrap=True)


def open_points(
    specs: Sequence[str], allow: list[str] | None, seed: int = 0, weights: Path | None = None
) -> Elastic:
    """The operating points of one file, or of several networks by their widths; see `open_networks`."""
    from plisse.adapt.family import by_width

    if len(set(specs)) < len(specs):
        raise InputError("a network named twice", expected="each FILE once")
    if len(specs) == 1 and has_points(specs[0]) and weights is None:
        return _elastic(specs[0], tuple(allow or ()))
    if many := [spec for spec in specs if has_points(spec)]:
        raise InputError(
            f"{many[0]!r}, which has points of its own, among others", expected="that file alone"
        )
    return by_width(list(open_networks(specs, weights, allow, seed).values()))


def has_points(spec: str) -> bool:
    """Whether this is a file of many points."""
    if not is_file(spec):
        return False
    from plisse.adapt.opened import is_elastic_file

    return is_elastic_file(spec)


def _elastic(path: str, allow: tuple[str, ...]) -> Elastic:
    """The points of a file, all of which stay in memory; says so where the file ends early."""
    from plisse.adapt.file import TruncatedFileWarning
    from plisse.adapt.opened import open_subspace

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", TruncatedFileWarning)
        subspace = open_subspace(path, allow)
    for one in said:
        if issubclass(one.category, TruncatedFileWarning):
            note(f"{path}: {one.message}")
    return subspace.elastic(keep=len(subspace.space.points))


def profile_of(
    net: Elastic,
    kept: Path | None,
    task: str,
    data: str | None,
    seed: int,
    say: Say,
    batch: int | None = None,
) -> Profile:
    """The profile in a file, checked against the points; or measured now."""
    from plisse.adapt.profiling import profile
    from plisse.cost.kept import read_profile

    if kept is None:
        opened = open_named_task(task, data, net.extract(net.space.largest), seed)
        return profile(net, None, opened, batch=batch, say=say)
    return checked(read_profile(kept), net, kept)


def checked(found: Profile, net: Elastic, path: Path) -> Profile:
    """The rows of a profile that `net` has: fewer than all where its file ends early.

    Raises InputError for the profile of another network, or of this one before it was trained again.
    """
    from plisse.adapt.governed import point_named
    from plisse.core.modules import fingerprint

    rows, beyond = [], []
    for row in found.rows:
        try:
            point = point_named(net, row.point)
        except InputError as error:
            beyond.append((row.point, error))
            continue
        if beyond:  # a file that ends early holds the first rows, no later ones
            raise beyond[0][1]
        if row.fingerprint is not None and row.fingerprint != fingerprint(net.extract(point)):
            raise InputError(
                f"{str(path)!r}, measured with other weights at {row.point}",
                expected="a profile of this very file",
                hint=f"plisse profile FILE --task T -o {path}",
            )
        rows.append(row)
    if beyond and not any(row.fingerprint for row in rows):
        raise beyond[0][1]
    if beyond:
        note(f"{path}: left out {', '.join(label for label, _ in beyond)}, which the file does not hold")
    return dataclasses.replace(found, rows=tuple(rows))


def largest(found: Profile) -> Cost:
    """What shares in a budget refer to: the point of the most bytes."""
    return max(found.rows, key=lambda row: row.cost.bytes).cost


def _told(row: ProfileRow, found: Profile) -> str:
    from plisse.report import wording

    name, unit = str(found.conditions.get("score", "score")), str(found.conditions.get("unit", ""))
    score = wording.score(row.score, unit)
    return f"{name} {score}, {wording.seconds(row.cost.latency, row.cost.latency_spread)}"
