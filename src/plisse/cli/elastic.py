"""What plisse inspect shows of a file of many operating points."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from plisse.cli.output import note, print_json, stdout


def is_elastic(path: Path) -> bool:
    """Whether `path` is a file of many operating points; others refuse broken and missing files."""
    from plisse.adapt.opened import is_elastic_file
    from plisse.errors import PlisseError

    try:
        return is_elastic_file(path)
    except PlisseError:
        return False


def inspect_points(path: Path, allow: Collection[str] | None, as_json: bool) -> None:
    """Print the points of a file and the byte from which on each is usable."""
    from plisse.adapt.file import points_of
    from plisse.bitstream import modelfile
    from plisse.networks.build import build

    data = modelfile.read(path)
    rows = points_of(data, lambda origin: build(origin, tuple(allow or ())))
    found: list[dict[str, Any]] = [{"point": str(row.point), "usable_from": row.usable_from} for row in rows]
    if as_json:
        print_json({"file": path, "total": len(data), "points": found})
        return
    lines = [f"{path}: {len(data):,} bytes, {len(rows)} operating points"]
    for row in rows:
        usable = "not in this file" if row.usable_from is None else f"usable from byte {row.usable_from:,}"
        lines.append(f"{row.point!s:>16}  {usable}")
    stdout().print("\n".join(lines), markup=False, soft_wrap=True)
    if any(row.usable_from is None for row in rows):
        note(f"{path} ends early; its complete points can be used")
