"""What `fit` was asked to do, as one value that can be sent to another process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from plisse.core.batch import Batches
from plisse.errors import InputError
from plisse.train.checkpoint import batch_digest, describe, digest, named_tensors
from plisse.train.optimizers import Optimizer
from plisse.train.schedules import Schedule
from plisse.train.task import Objective


@dataclass(frozen=True, eq=False)
class State:
    """What a hook sees after a step.

    step: the one just done, from 0. loss: of this process's samples. lr: the rate it was done
    with. model: the network itself, whose tensors a hook may change in place.
    """

    step: int
    steps: int
    model: nn.Module
    loss: Tensor
    lr: float


Hook = Callable[[State], None]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that `fit` was asked to do, with "auto" resolved. identity: tells one run from another."""

    model: nn.Module
    objective: Objective
    batches: Batches
    steps: int
    optimizer: Optimizer
    schedule: Schedule
    clip: float | None
    precision: str
    channels_last: bool
    devices: int
    device: str
    seed: int
    checkpoint: Path | None
    checkpoint_every: int
    hooks: tuple[Hook, ...]
    until: Callable[[State], bool] | None
    progress: str | None
    log_every: int
    identity: Mapping[str, Any] = field(default_factory=dict)


def identity_of(run: Run) -> dict[str, Any]:
    """What must agree between two calls for the second to continue the first, by names for messages."""
    tensors = named_tensors(run.model)
    shapes = repr([(name, tuple(value.shape)) for name, value in tensors.items()])
    settings = {
        name: describe(getattr(run, name))
        for name in ("steps", "seed", "precision", "clip", "optimizer", "schedule", "objective", "hooks")
    }
    return {
        "shapes of the network": hashlib.blake2b(shapes.encode(), digest_size=8).hexdigest(),
        **settings,
        "first batch": batch_digest(run.batches[0]),
        "weights at the start": digest(tensors),
    }


def check_counts(run: Run) -> None:
    """Raise InputError for counts below 1 and for empty batches."""
    for name in ("steps", "checkpoint_every", "log_every"):
        if getattr(run, name) < 1:
            raise InputError(f"{name}={getattr(run, name)}", expected="at least 1")
    if run.until is not None and run.devices > 1:
        raise InputError(f"until on {run.devices} devices", expected="one device, where all see one loss")
    if not len(run.batches):
        raise InputError("no batches", expected="at least one")
