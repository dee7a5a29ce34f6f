"""Where a search stands, as a small JSON file, so that one that was stopped goes on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from plisse.bitstream.atomic import write_atomic
from plisse.compress.lowrank.judge import Judge, Visited
from plisse.core.batch import Inputs
from plisse.errors import InputError


@dataclass(frozen=True)
class Node:
    """A state in the beam, and the score of each step from it that an earlier depth judged."""

    state: Visited
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The states to go on from, and the best state at each depth so far."""

    beam: tuple[Node, ...] = ()
    path: tuple[Visited, ...] = ()


def identity(settings: str, ratio: float, judge: Judge) -> dict[str, Any]:
    """What makes a search this one: settings, ratio, weights and calibration images."""
    weights = 0
    for value in judge.problem.model.state_dict().values():
        weights = zlib.crc32(_bytes(value), weights)
    images = 0
    for batch in judge.batches:
        for value in _tensors(batch.inputs):
            images = zlib.crc32(_bytes(value), images)
    scheme = str(judge.problem.scheme)
    layers = {
        name: [*each.sides, round(float(each.values.sum()), 3)]  # the sum tells whitened ones
        for name, each in judge.problem.spectra.items()
    }
    return {
        "search": settings, "ratio": ratio, "scheme": scheme, "layers": layers, "weights": weights,
        "images": images,
    }  # fmt: skip


def load(path: Path | None, wanted: Mapping[str, Any]) -> Progress:
    """What an earlier search saved, nothing without a file.

    Raises InputError where the file is of another search, or of none.
    """
    if path is None or not path.exists():
        return Progress()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        beam = tuple(Node(Visited(**node["state"]), node["scores"]) for node in data["beam"])
        visited = tuple(Visited(**state) for state in data["path"])
        same = data["identity"] == wanted
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r}, which holds no search", expected="a checkpoint") from error
    if not same or not beam or not visited:
        raise InputError(
            f"{str(path)!r} of another search (its settings, ratio, weights or images differ)",
            expected="the checkpoint of this one",
            hint="delete it, or name another file",
        )
    return Progress(beam, visited)


def save(path: Path | None, wanted: Mapping[str, Any], found: Progress) -> None:
    """Write where the search stands, whole or not at all; nothing without a path."""
    if path is not None:
        write_atomic(path, json.dumps({"identity": dict(wanted), **asdict(found)}).encode())


def _tensors(inputs: Inputs) -> list[torch.Tensor]:
    if isinstance(inputs, dict):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def _bytes(value: torch.Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
