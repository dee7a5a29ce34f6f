"""Profiles as JSON files: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plisse.bitstream.atomic import write_atomic
from plisse.cost.budget import Cost
from plisse.cost.profile import Profile, ProfileRow
from plisse.errors import InputError

VERSION = 1
MAX_BYTES = 1 << 24
FORM = '{"plisse_profile": 1, "conditions": {...}, "rows": [{"point", "cost", "score", ...}]}'


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write `profile` as JSON. Raises OutputError where the file cannot be written."""
    write_atomic(Path(path), (profile_json(profile) + "\n").encode())


def profile_json(profile: Profile) -> str:
    """The profile as a JSON document.

    >>> parse_profile(profile_json(Profile((ProfileRow("width=1", Cost(1, 2, 3, 0.5), 0.9),)))).rows[0].score
    0.9
    """
    rows = [dataclasses.asdict(row) for row in profile.rows]
    found = {"plisse_profile": VERSION, "conditions": dict(profile.conditions), "rows": rows}
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)


def read_profile(path: str | Path) -> Profile:
    """The profile in a file that `write_profile` wrote.

    Raises InputError for a file that cannot be read, and for what is no profile, with the place.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        hint = "plisse profile FILE --task T -o PROFILE.json"
        raise InputError(f"{str(path)!r}: {error.strerror}", expected="a profile", hint=hint) from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{str(path)!r} of {len(data)} bytes", expected=f"a profile of at most {MAX_BYTES}")
    try:
        return parse_profile(data.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r}, which is no text", expected=FORM) from error
    except InputError as error:
        raise InputError(
            f"{error.came} in {str(path)!r}", expected=error.expected, hint=error.hint
        ) from error


def parse_profile(text: str) -> Profile:
    """The profile in a JSON document. Raises InputError for what is no profile."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"no JSON ({error})", expected=FORM) from error
    if not isinstance(found, dict) or found.get("plisse_profile") != VERSION:
        raise InputError("JSON that is no profile of this version", expected=FORM)
    rows, conditions = found.get("rows"), found.get("conditions", {})
    if not isinstance(rows, list) or not rows or not isinstance(conditions, dict):
        raise InputError("a profile without rows", expected=FORM)
    read = tuple(_row(row, number) for number, row in enumerate(rows))
    if len({row.point for row in read}) < len(read):
        raise InputError("a point that comes twice", expected="each point in one row")
    return Profile(read, conditions)


def _row(row: Any, number: int) -> ProfileRow:
    where = f"row {number}"
    if not isinstance(row, dict) or not isinstance(row.get("point"), str) or not row["point"]:
        raise InputError(f"{where} without a point", expected=FORM)
    return ProfileRow(
        row["point"],
        _cost(row.get("cost"), where),
        _number(row, "score", where, low=-math.inf),
        _optional(row, "p95", where),
        _whole(row, "memory", where),
        _optional(row, "switch", where),
        _text(row, "fingerprint", where),
    )


def _cost(cost: Any, where: str) -> Cost:
    if not isinstance(cost, Mapping):
        raise InputError(f"{where} without a cost", expected=FORM)
    params, written, macs = (int(_number(cost, name, where)) for name in ("params", "bytes", "macs"))
    latency, spread = (_optional(cost, name, where) for name in ("latency", "latency_spread"))
    return Cost(params, written, macs, latency, spread)


def _number(row: Mapping[str, Any], name: str, where: str, low: float = 0.0) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} {value!r} in {where}", expected="a number")
    if not math.isfinite(value) or value < low:
        raise InputError(f"{name} {value!r} in {where}", expected=f"a finite number of at least {low:g}")
    return float(value)


def _optional(row: Mapping[str, Any], name: str, where: str) -> float | None:
    return None if row.get(name) is None else _number(row, name, where)


def _text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} {value!r} in {where}", expected="a text")
    return value


def _whole(row: Mapping[str, Any], name: str, where: str) -> int | None:
    return None if row.get(name) is None else int(_number(row, name, where))
