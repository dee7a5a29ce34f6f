"""Make images from what a network knows of its training data: gradient descent on the images themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.datafree.canvas import Canvas, Painting
from plisse.compress.datafree.kept import Done, Kept, join
from plisse.compress.datafree.priors import Domain, Priors, White, default_domain
from plisse.compress.datafree.schemes import SCHEMES, Scheme
from plisse.compress.datafree.statistics import (
    Moments,
    Targets,
    layer_divergences,
    observing,
    required_targets,
    targets,
)
from plisse.compress.datafree.stopping import Floor, Stop
from plisse.compress.datafree.synthetic import SynthesisReport, Synthetic
from plisse.core.batch import Batch, BatchList, call
from plisse.errors import InputError
from plisse.train import checkpoint as files
from plisse.train.hardware import choose_device, choose_precision
from plisse.train.loop import fit
from plisse.train.objectives import frozen
from plisse.train.optimizers import AdamW, Optimizer
from plisse.train.progress import progress_bar
from plisse.train.run import State
from plisse.train.schedules import Cosine, Schedule

SHAPE_HINT = "shape=(3, 32, 32), an example batch, or --input-shape 3x32x32"
Advance = Callable[[float | None], None]


@dataclass(frozen=True)
class Effort:
    """steps: at most so many iterations per batch. stop: when fewer do. batch: images that are made together
    and share their statistics. optimizer, schedule: of pixels, in the space of the network's inputs.
    precision: as for `fit`."""

    steps: int = 60
    stop: Stop = field(default_factory=Floor)
    batch: int = 128
    optimizer: Optimizer = field(default_factory=lambda: AdamW(lr=0.1))
    schedule: Schedule = field(default_factory=Cosine)
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise InputError(f"steps={self.steps}, batch={self.batch}", expected="at least 1 each")


@dataclass(frozen=True, eq=False)
class Job:
    """What `synthesize` was asked for, with everything resolved."""

    network: nn.Module
    shape: tuple[int, ...]
    n: int
    scheme: Scheme
    priors: Priors
    domain: Domain | None
    effort: Effort
    seed: int
    wanted: Targets
    device: str
    checkpoint: Path | None


def synthesize(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    n: int = 256,
    scheme: Scheme = SCHEMES["bns"],
    priors: Priors = Priors(),
    domain: Domain | None = None,
    effort: Effort = Effort(),
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: str | None = None,
) -> Synthetic:
    """n images that the network cannot tell from its training data by the statistics of its batch norms.

    example, shape: inputs [N, C, H, W] to take the shape from, or the shape [C, H, W] itself; one is needed.
    scheme: what images are fitted to (schemes.py). priors: what else is known of them. domain: how pixels
    become inputs; with three channels ImageNet's normalization on 8 bits unless said otherwise. seed: of all
    that is random; batch b depends on (seed, b) alone. checkpoint: a file that is written after every batch;
    the same call goes on from it. progress: label of a bar on standard error.

    The network stays as it is. Raises GraphError for a scheme that needs statistics which the network does
    not have, InputError for a shape that is unknown or does not fit and for arguments out of range.
    Source: Haroush, Hubara, Hoffer and Soudry 2020.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    >>> _ = network(torch.rand(64, 1, 6, 6))
    >>> made = synthesize(network, shape=(1, 6, 6), n=32, effort=Effort(steps=10))
    >>> made.images.shape, len(made.report.histogram)
    (torch.Size([32, 1, 6, 6]), 2)
    """
    job = _job(model, example, shape, n, scheme, priors, domain, effort, seed, checkpoint)
    kept = Kept(job.checkpoint, _identity(job) if job.checkpoint is not None else {})
    done = kept.read(job.device)
    batches = -(-n // effort.batch)
    steps = effort.steps if scheme.optimizes else 1
    with progress_bar(progress, batches * steps, len(done.images) * steps) as advance:
        for number in range(len(done.images), batches):
            began = time.perf_counter()
            images, iterations = _batch(job, number, done.moments, advance)
            done.images.append(images)
            done.iterations.append(iterations)
            join(done.moments, _measured(job, [images])[0])
            done.seconds += time.perf_counter() - began
            kept.write(done, number + 1 == batches)
    return _finished(job, done)


def _job(
    model: nn.Module,
    example: Tensor | None,
    shape: tuple[int, ...] | None,
    n: int,
    scheme: Scheme,
    priors: Priors,
    domain: Domain | None,
    effort: Effort,
    seed: int,
    checkpoint: str | Path | None,
) -> Job:
    if shape is None and example is None:
        raise InputError("a network whose input shape is unknown", expected="its shape", hint=SHAPE_HINT)
    shape = tuple(example.shape[1:]) if shape is None and example is not None else tuple(shape or ())
    if not shape or min(shape) < 1 or n < 1:
        raise InputError(f"n={n} inputs of shape {shape}", expected="positive numbers", hint=SHAPE_HINT)
    network = frozen(model)
    wanted = required_targets(network) if scheme.needs_statistics else targets(network)
    device = choose_device("auto", 1)
    network.to(device)
    wanted = {name: (mean.to(device), std.to(device)) for name, (mean, std) in wanted.items()}
    domain = default_domain(shape) if domain is None else domain
    path = Path(checkpoint) if checkpoint is not None else None
    job = Job(network, shape, n, scheme, priors, domain, effort, seed, wanted, device, path)
    _check_shape(job)
    return job


def _check_shape(job: Job) -> None:
    try:
        with torch.no_grad():
            logits = call(job.network, torch.zeros(2, *job.shape, device=job.device))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            f"inputs of shape {job.shape} that {type(job.network).__name__} cannot take ({reason})",
            expected="the shape that it was trained on",
            hint=SHAPE_HINT,
        ) from error
    if logits.dim() != 2:
        raise InputError(f"outputs of shape {tuple(logits.shape)}", expected="logits [N, K]")


def _batch(job: Job, number: int, earlier: dict[str, Moments], advance: Advance) -> tuple[Tensor, int]:
    """Images of one batch, and the iterations that they took."""
    size = min(job.effort.batch, job.n - number * job.effort.batch)
    draw = torch.Generator().manual_seed(hash_seed(job.seed, number))
    begin = job.priors.start if job.scheme.optimizes else White()
    start = begin(size, job.shape, draw)
    canvas = Canvas(start, job.domain, job.priors.grid)
    if not job.scheme.optimizes:
        advance(None)
        return canvas.finished(), 0
    labels = _labels(job, number, size, draw)
    centred = job.scheme.needs_statistics and job.domain is not None and job.domain.centred
    painting = Painting(
        job.network,
        job.scheme,
        job.priors,
        job.wanted,
        labels=labels.to(job.device),
        earlier=dict(earlier),
        centred=centred,
    )
    fit(
        canvas,
        painting,
        BatchList((Batch(torch.zeros(1)),)),
        steps=job.effort.steps,
        optimizer=job.effort.optimizer,
        schedule=job.effort.schedule,
        precision=choose_precision(job.effort.precision, job.network, job.device),
        seed=hash_seed(job.seed, number),
        hooks=(_within(canvas, painting, advance),),
        until=lambda state: job.effort.stop(painting.values),
    )
    iterations = painting.iterations
    for _ in range(job.effort.steps - iterations):
        advance(None)
    return canvas.finished(), iterations


def _within(canvas: Canvas, painting: Painting, advance: Advance) -> Callable[[State], None]:
    def hook(state: State) -> None:
        canvas.clamp()
        advance(painting.values[-1] if painting.values else None)

    return hook


def _labels(job: Job, number: int, size: int, draw: torch.Generator) -> Tensor:
    """Wanted classes: in turn, so that all are wanted equally often; drawn where a batch has fewer images."""
    with torch.no_grad():
        classes = call(job.network, torch.zeros(1, *job.shape, device=job.device)).shape[1]
    if size < classes:
        return torch.randint(classes, (size,), generator=draw)
    return (torch.arange(size) + number * job.effort.batch) % classes


def _measured(job: Job, batches: list[Tensor]) -> tuple[dict[str, Moments], Tensor]:
    """Moments at every layer over all batches, and the logits, in float32."""
    found: dict[str, Moments] = {}
    logits = []
    with torch.no_grad(), observing(job.network, job.wanted) as table:
        for images in batches:
            for piece in images.split(256):
                table.clear()
                logits.append(call(job.network, piece.to(job.device)).float().cpu())
                join(found, table)
    return found, torch.cat(logits)


def _finished(job: Job, done: Done) -> Synthetic:
    layers, logits = _measured(job, done.images)
    labels = logits.argmax(1)
    found = layer_divergences(layers, job.wanted)
    report = SynthesisReport(
        bns={name: float(value) for name, value in found.items()},
        confidence=float(logits.softmax(1).amax(1).mean()),
        histogram=tuple(torch.bincount(labels, minlength=logits.shape[1]).tolist()),
        iterations=tuple(done.iterations),
        seconds=done.seconds,
        scheme=repr(job.scheme),
    )
    return Synthetic(torch.cat(done.images), labels, report, job.domain)


def _identity(job: Job) -> dict[str, Any]:
    """What must agree between two calls for the second to go on from the first."""
    settings = {name: repr(getattr(job, name)) for name in ("shape", "scheme", "priors", "domain", "effort")}
    return {"n": job.n, "seed": job.seed, **settings, "network": files.describe(job.network)}


def hash_seed(seed: int, number: int) -> int:
    """A seed for batch `number` alone."""
    return (seed * 1_000_003 + number) % 2**31
