"""See `benchmarks.peers`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import benchmarks.peers as package
from benchmarks.peers import networks
from benchmarks.peers.prepare import Reference, prepare
from benchmarks.peers.score import ContractError, Report, ranked, read, score_of
from benchmarks.record import RESULTS, write

TOOLS = ("torchao", "onnxruntime", "quanto", "nncf", "mct")
NETWORKS = ("resnet20", "minilm")
SECONDS = 5400
SMALL_SECONDS = 900


def python_of(tool: str, place: str | None) -> Path | str:
    """The Python of a peer's environment, or why there is none."""
    if not place:
        return "PLISSE_PEERS is not set"
    path = Path(place).absolute() / tool / "bin" / "python"
    return path if path.exists() else f"no environment {tool} in the folder of PLISSE_PEERS"


def run(tool: str, python: Path, job: Path, out: Path, seconds: float) -> tuple[str, str | None]:
    """Standard output of a worker, and why it ended early, if it did."""
    worker = Path(__file__).with_name(f"{tool}_worker.py")
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **single, "HF_HUB_OFFLINE": "1"}
    out.mkdir()
    text, errors = out / "lines", out / "errors"
    with text.open("w") as lines, errors.open("w") as spoken:
        command = [str(python), str(worker), str(job), str(out)]
        try:
            ended = subprocess.run(
                command, stdout=lines, stderr=spoken, env=environment, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            return text.read_text(), f"stopped after {seconds:.0f} seconds"
    last = (errors.read_text(errors="replace").strip().splitlines() or [""])[-1][:300]
    return text.read_text(), f"exit {ended}: {last}" if ended else None


def measured(
    tool: str, job: Path, references: Mapping[str, Reference], seconds: float
) -> tuple[Report, str | None]:
    """The scored rows of one tool, and why there are not more of them."""
    python = python_of(tool, os.environ.get("PLISSE_PEERS"))
    if isinstance(python, str):
        return Report({}, ()), python
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / tool
        text, ended = run(tool, python, job, out, seconds)
        try:
            return read(tool, text, out, references), ended
        except ContractError as error:
            return Report({}, ()), f"broken contract: {error}"


def floating_scores(job: Path, references: Mapping[str, Reference]) -> dict[str, float]:
    """Scores of the networks in floating point, by the code that the workers use."""
    scores = {}
    for name, reference in references.items():
        model = networks.NETWORKS[name](job / name)
        outputs: np.ndarray = networks.run(networks.torch_function(model), job / name)
        scores[name] = round(score_of(name, outputs, reference.targets), 3)
    return scores


def earlier(name: str) -> dict[str, Any]:
    """The record of an earlier run, to replace one tool's rows in; empty without one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def merged(
    old: Mapping[str, Any],
    tool: str,
    report: Report,
    ended: str | None,
    floating: Mapping[str, float],
    some: bool = False,
) -> dict[str, Any]:
    """The record with the rows and the state of `tool` replaced; with `some`, only rows that came again."""
    anew = {_key(row) for row in report.rows}
    before = old.get("tools", {}).get(tool, {})
    kept = [
        row
        for row in old.get("rows", [])
        if row["tool"] != tool or (_key(row) not in anew if some else row["network"] not in floating)
    ]
    scores = {**old.get("floating", {}), **floating}
    state = {"versions": {**before.get("versions", {}), **report.versions}, "ended": ended}
    if some:
        state["ended"] = before.get("ended")
    return {
        "floating": scores,
        "float_bytes": old.get("float_bytes", {}),
        "tools": {**old.get("tools", {}), tool: state},
        "rows": ranked([*kept, *report.rows], scores),
    }


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["network"], row["setting"], row.get("method")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=package.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="200 images and pairs, for a first look")
    parser.add_argument("--only", choices=TOOLS, help="run one tool again, keep the rows of the others")
    parser.add_argument("--network", choices=NETWORKS, help="run one network again")
    parser.add_argument("--match", default="", help="only methods whose description contains this")
    parser.add_argument("--setting", default="", help="only this setting, such as W4A32")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a tool is stopped")
    chosen = parser.parse_args()
    name = "peers_small" if chosen.small else "peers"
    chosen_networks = (chosen.network,) if chosen.network else NETWORKS
    some = bool(chosen.match or chosen.setting)
    record = earlier(name) if chosen.only or chosen.network or some else {}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder)
        references = prepare(job, chosen_networks, chosen.small, chosen.match, chosen.setting)
        floating = floating_scores(job, references)
        sizes = {network: reference.bytes for network, reference in references.items()}
        record["float_bytes"] = {**record.get("float_bytes", {}), **sizes}
        for tool in (chosen.only,) if chosen.only else TOOLS:
            seconds = min(SMALL_SECONDS, chosen.seconds) if chosen.small else chosen.seconds
            report, ended = measured(tool, job, references, seconds)
            record = merged(record, tool, report, ended, floating, some)
            print(f"{tool}: {len(report.rows)} rows" + (f" ({ended})" if ended else ""), flush=True)
            write(name, record)
    for row in record["rows"]:
        result = f"{row['score']:7.2f} {row['packed_ratio']:6.2f}x" if "score" in row else row["error"][:60]
        print(row["network"], row["setting"], row["tool"], row["method"], result, sep="  ")


if __name__ == "__main__":
    main()
