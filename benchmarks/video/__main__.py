"""python -m benchmarks.video [--large] [--only PART] [--match WORDS]: rate and distortion of clips.

Every size is the length of a stream, every quality that of decoded frames. Rows that are there stay. cpu_s of
a row is processor time.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from benchmarks.record import RESULTS, write
from benchmarks.video.clips import Row
from benchmarks.video.jobs import ASKED, LARGE, PARTS, SMALL, Job, done
from benchmarks.video.tables import derived


def main() -> None:
    options = _parsed()
    extent, name = (LARGE, "video_large") if options.large else (SMALL, "video_small")
    if options.fresh:
        (RESULTS / f"{name}.json").unlink(missing_ok=True)
    for part in (options.only,) if options.only else (part for part in PARTS if part not in ASKED):
        _measure(name, part, list(PARTS[part](extent)), options)


def _measure(name: str, part: str, jobs: list[Job], options: argparse.Namespace) -> None:
    """Rows of a part that are not there yet, some at a time; the speed of decoding has the machine alone."""
    jobs = [(key, job) for key, job in jobs if options.match in key]
    if options.processes == 1 or part == "speed":
        for key, job in jobs:
            if key not in _kept(name):
                _keep(name, done(part, key, job))
        return
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        rows = [pool.submit(done, part, key, job) for key, job in jobs if key not in _kept(name)]
        for row in as_completed(rows):
            _keep(name, row.result())


def _kept(name: str) -> dict[str, Row]:
    """Rows by their names; read anew each time, as two runs of other parts may write to one file."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {row["key"]: row for row in rows}


def _keep(name: str, row: Row) -> None:
    rows = list({**_kept(name), row["key"]: row}.values())
    write(name, {"rows": rows, **derived(rows)})
    print(json.dumps(row), flush=True)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the default: under 25 minutes of two cores")
    parser.add_argument("--large", action="store_true", help="all frames, slow presets; days on a processor")
    parser.add_argument("--only", choices=list(PARTS), help=f"one part; {', '.join(ASKED)}: only so")
    parser.add_argument("--match", default="", help="only rows whose name has this in it")
    parser.add_argument("--processes", type=int, default=2, help="rows at a time")
    parser.add_argument("--fresh", action="store_true", help="measure every row anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
