"""Finished batches of images, and the file from which an interrupted synthesis goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from plisse.compress.datafree.statistics import Moments
from plisse.train import checkpoint as files


@dataclass
class Done:
    """Finished batches. moments: of all of them, for schemes that join them."""

    images: list[Tensor] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    moments: dict[str, Moments] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Kept:
    """Where finished batches are written; nowhere without `path`. identity: tells one run from another."""

    path: Path | None
    identity: Mapping[str, Any]

    def read(self, device: str) -> Done:
        """What an earlier call finished. Raises InputError for a file of another run."""
        saved = files.read(self.path, self.identity) if self.path is not None else None
        if saved is None:
            return Done()
        images = [saved.tensors[f"images/{number}"] for number in range(saved.step)]
        moments = {
            name: Moments(n, *(saved.tensors[f"{part}/{name}"].to(device) for part in ("mean", "var")))
            for name, n in saved.history["counts"].items()
        }
        return Done(images, list(saved.history["iterations"]), moments, saved.history["seconds"])

    def write(self, done: Done, finished: bool) -> None:
        """Put all batches into the file, atomically. Raises OutputError."""
        if self.path is None:
            return
        tensors = {f"images/{number}": images for number, images in enumerate(done.images)}
        for name, found in done.moments.items():
            tensors[f"mean/{name}"], tensors[f"var/{name}"] = found.mean.cpu(), found.variance.cpu()
        counts = {name: found.n for name, found in done.moments.items()}
        history = {"iterations": done.iterations, "seconds": done.seconds, "counts": counts}
        files.write(self.path, files.Checkpoint(len(done.images), finished, history, tensors), self.identity)


def join(into: dict[str, Moments], more: Mapping[str, Moments]) -> None:
    """Add the moments of more values to those in a table, in place."""
    for name, found in more.items():
        into[name] = into[name].joined(found) if name in into else found
