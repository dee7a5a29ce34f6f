"""From the lines of a worker to scored, ranked rows; a line that breaks the contract is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.prepare import Reference
from plisse.train.task import ACCURACY
from plisse.train.text_tasks import SPEARMAN

SETTING: dict[str, type | tuple[type, ...]] = {
    "network": str,
    "setting": str,
    "weight_bits": (int, float),
    "activation_bits": (int, float),
    "method": str,
    "calibration": str,
}
RESULT: dict[str, type | tuple[type, ...]] = {
    "outputs": str,
    "bytes": int,
    "bytes_of": str,
    "seconds": (int, float),
    "note": str,
}
SCORES = {"resnet20": ACCURACY, "minilm": SPEARMAN}
HIGHEST_BITS = 32


class ContractError(Exception):
    """A line of a worker that is not what `worker` promises."""


@dataclass(frozen=True)
class Report:
    """versions: of the packages of the environment. rows: one per configuration, scored or with an error."""

    versions: Mapping[str, str]
    rows: tuple[dict[str, Any], ...]


def read(tool: str, text: str, out: Path, references: Mapping[str, Reference]) -> Report:
    """Score the lines that the worker of `tool` wrote; raises ContractError for a broken one."""
    versions: Mapping[str, str] = {}
    rows = []
    for line in filter(str.strip, text.splitlines()):
        try:
            data = json.loads(line)
        except ValueError as error:
            raise ContractError(f"{tool}: no JSON: {line[:80]!r}") from error
        if set(data) == {"versions"}:
            versions = data["versions"]
        else:
            check(tool, data, references)
            rows.append({"tool": tool, **_scored(tool, data, out, references)})
    return Report(versions, tuple(rows))


def check(tool: str, data: Mapping[str, Any], networks: Iterable[str]) -> None:
    """The fields of one line, their types and ranges."""
    fields = SETTING if "error" in data else {**SETTING, **RESULT}
    for name, kind in fields.items():
        if not isinstance(data.get(name), kind):
            raise ContractError(f"{tool}: {name}={data.get(name)!r} in {data.get('setting')!r}")
    if data["network"] not in networks:
        raise ContractError(f"{tool}: network {data['network']!r}")
    for name in ("weight_bits", "activation_bits"):
        if not 1 <= data[name] <= HIGHEST_BITS:
            raise ContractError(f"{tool}: {name}={data[name]}")
    if "error" not in data and data["bytes"] <= 0:
        raise ContractError(f"{tool}: bytes={data['bytes']}")


def outputs_of(tool: str, path: Path, network: str, samples: int) -> np.ndarray:
    """The outputs in `path`, one row per sample (two per pair of sentences), finite."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            outputs = stored["outputs"]
    except (OSError, ValueError, KeyError) as error:
        raise ContractError(f"{tool}: {path.name} cannot be read ({error})") from error
    expected = samples * (2 if network == "minilm" else 1)
    if outputs.ndim != 2 or len(outputs) != expected:
        raise ContractError(f"{tool}: outputs {outputs.shape} for {expected} samples")
    return outputs


def score_of(network: str, outputs: np.ndarray, targets: np.ndarray) -> float:
    """Accuracy or Spearman's correlation, in points of 100; outputs that are not finite count as zero."""
    score = SCORES[network]
    predicted = score.predict(torch.from_numpy(np.nan_to_num(outputs.astype(np.float32))))
    return 100 * score.summary(predicted, torch.from_numpy(np.asarray(targets)))


def _scored(
    tool: str, data: dict[str, Any], out: Path, references: Mapping[str, Reference]
) -> dict[str, Any]:
    if "error" in data:
        return data
    reference = references[data["network"]]
    path = out / Path(data["outputs"]).name
    outputs = outputs_of(tool, path, data["network"], len(reference.targets))
    smallest = data.get("packed_bytes") or data["bytes"]
    return {
        **{name: data[name] for name in SETTING},
        "score": round(score_of(data["network"], outputs, reference.targets), 3),
        "bytes": data["bytes"],
        "bytes_of": data["bytes_of"],
        "ratio": round(reference.bytes / data["bytes"], 3),
        "packed_bytes": data.get("packed_bytes"),
        "packed_ratio": round(reference.bytes / min(smallest, data["bytes"]), 3),
        "seconds": data["seconds"],
        "note": data["note"],
    }


def ranked(rows: Iterable[dict[str, Any]], floating: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows with `score_drop` from floating point, ordered by network, setting and falling score; errors last.

    The scored rows of one network and setting are numbered by `rank` from 1.
    """
    order = sorted(rows, key=lambda row: (row["network"], *_width(row), -row.get("score", -1e9)))
    place: dict[tuple[str, str], int] = {}
    found = []
    for row in order:
        if "score" in row:
            key = (row["network"], row["setting"])
            place[key] = place.get(key, 0) + 1
            drop = round(floating[row["network"]] - row["score"], 3)
            row = {**row, "score_drop": drop, "rank": place[key]}
        found.append(row)
    return found


def _width(row: Mapping[str, Any]) -> tuple[float, float]:
    return -row["weight_bits"], -row["activation_bits"]
