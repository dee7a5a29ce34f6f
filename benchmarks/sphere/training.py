"""Training in the reduced space beside standard training: many networks side by side under one `fit`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

from plisse.compress.sphere.training import (
    Method,
    Normalized,
    Projected,
    Riemannian,
    constrained,
    uniform_start,
)
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import baked
from plisse.errors import WeightsError
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Loss

RATES = (1e-2, 3e-2, 1e-1)
"""Tried first; neighbours by factors of 3 follow while the best is at an end."""
LEAST_RATE, LARGEST_RATE = 1e-3, 1.0
METHODS: dict[str, Method | None] = {
    "standard": None,
    "standard, start on the sphere": None,
    "normalized": Normalized(),
    "normalized, tanh thresholds": Normalized("squashed"),
    "projected": Projected(),
    "Riemannian": Riemannian(),
}


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs [N, d] and targets of three splits. hidden: neurons per layer. batch: samples, 0 for all. steps:
    of training, each a setting of its own."""

    name: str
    hidden: tuple[int, ...]
    splits: tuple[tuple[Tensor, Tensor], ...]
    batch: int = 0
    steps: tuple[int, ...] = (500,)

    @property
    def classes(self) -> int:
        return 0 if self.splits[0][1].is_floating_point() else int(self.splits[0][1].max()) + 1


class PerRun(nn.Module):
    """One linear layer for each of R runs: [N, R n] to [N, R o], weight [R o, n], bias [R o]."""

    def __init__(self, runs: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.runs = runs
        bound = 1 / math.sqrt(inputs)  # as torch starts nn.Linear
        self.weight = nn.Parameter(torch.empty(runs * outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(runs * outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), self.runs, -1).transpose(0, 1)  # [R, N, n]
        weight = self.weight.reshape(self.runs, -1, self.weight.shape[1])  # [R, o, n]
        return torch.bmm(rows, weight.transpose(1, 2)).transpose(0, 1).flatten(1) + self.bias


class SideBySide(nn.Module):
    """R networks with ReLU on the same inputs: [N, d] to [N, R, outputs]."""

    def __init__(self, runs: int, inputs: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.runs = runs
        widths = (*hidden, outputs)
        later = [PerRun(runs, n, o) for n, o in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([nn.Linear(inputs, runs * widths[0]), *later])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x).reshape(len(x), self.runs, -1)


def errors(outputs: Tensor, target: Tensor, score: bool = False) -> Tensor:
    """Of each run [R]: mean squared error, or cross-entropy; as score, the share of wrong classes."""
    if target.is_floating_point():
        return (outputs - target[:, None, None]).square().mean((0, 2))
    if score:
        return (outputs.argmax(2) != target[:, None]).float().mean(0)
    columns = outputs.transpose(0, 1).flatten(0, 1)
    return (
        F.cross_entropy(columns, target.repeat(outputs.shape[1]), reduction="none")
        .reshape(outputs.shape[1], -1)
        .mean(1)
    )


def total_error(model: nn.Module, batch: Batch) -> Loss:
    """The sum over runs, so that each gets the gradient that it would get alone."""
    assert isinstance(batch.inputs, Tensor)
    assert batch.target is not None
    return Loss(errors(model(batch.inputs), batch.target).sum())


def cases(small: bool) -> list[Case]:
    """The paper's kind of examples, and two real sets."""
    made = [
        synthetic("1-D sin(4 pi x) exp(-x^2)", 1, (20,), oscillating),
        synthetic("2-D Franke", 2, (30,), lambda x: franke((x + 1) / 2), (500, 1000)),
        synthetic("2-D Franke, two hidden layers", 2, (20, 20), lambda x: franke((x + 1) / 2), (500, 1000)),
        synthetic("5-D Gaussian", 5, (40,), gaussian),
        synthetic("5-D polynomial", 5, (40,), polynomial),
    ]
    real = [diabetes(), digits()]
    return made[:2] if small else made + real


def synthetic(
    name: str,
    d: int,
    hidden: tuple[int, ...],
    f: Callable[[Tensor], Tensor],
    steps: tuple[int, ...] = (500,),
) -> Case:
    generator = torch.Generator().manual_seed(0)
    counts = (512 if d > 1 else 256, 500, 2000)
    points = [torch.rand(n, d, generator=generator) * 2 - 1 for n in counts]
    return Case(name, hidden, tuple((x, f(x)) for x in points), steps=steps)


def oscillating(x: Tensor) -> Tensor:
    return torch.sin(4 * math.pi * x[:, 0]) * gaussian(x)


def gaussian(x: Tensor) -> Tensor:
    return torch.exp(-x.square().sum(1))


def polynomial(x: Tensor) -> Tensor:
    """Of degree 3 in x1 to x5: x1 x2 - x3^2 + x4^3 + x1 x4 x5."""
    a, b, c, d, e = x.unbind(1)
    return a * b - c.square() + d**3 + a * d * e


def franke(x: Tensor) -> Tensor:
    """Franke's function on the unit square (1979)."""
    a, b = 9 * x[:, 0], 9 * x[:, 1]
    return (
        0.75 * torch.exp(-((a - 2) ** 2 + (b - 2) ** 2) / 4)
        + 0.75 * torch.exp(-((a + 1) ** 2) / 49 - (b + 1) / 10)
        + 0.5 * torch.exp(-((a - 7) ** 2 + (b - 3) ** 2) / 4)
        - 0.2 * torch.exp(-((a - 4) ** 2) - (b - 7) ** 2)
    )


def diabetes() -> Case:
    data = load_diabetes()
    target = (data.target - data.target.mean()) / data.target.std()
    return _real("diabetes (442 patients, regression)", (32,), data.data, target.astype(np.float32), 0)


def digits() -> Case:
    data = load_digits()
    return _real("digits (1,797 images, classes)", (32,), data.data, data.target.astype(np.int64), 128)


def _real(name: str, hidden: tuple[int, ...], inputs: Any, target: Any, batch: int) -> Case:
    """60 % to train, 20 % to validate, 20 % to test; inputs into [-1, 1] by what training samples span."""
    order = np.random.default_rng(0).permutation(len(inputs))
    ends = int(0.6 * len(order)), int(0.8 * len(order))
    train = inputs[order[: ends[0]]]
    low, high = train.min(0), train.max(0)
    scaled = np.clip(2 * (inputs - low) / np.maximum(high - low, 1e-9) - 1, -1, 1).astype(np.float32)
    parts = np.split(order, ends)
    pairs = tuple((torch.from_numpy(scaled[i]), torch.from_numpy(target[i])) for i in parts)
    return Case(name, hidden, pairs, batch)


def bounds_of(case: Case, model: SideBySide, seed: int) -> dict[str, float]:
    """X of every hidden layer: the largest norm of training inputs, behind a hidden layer at its start."""
    found: dict[str, float] = {}
    value = case.splits[0][0]
    for i in range(len(case.hidden)):
        rows = value if i == 0 else value.reshape(len(value), model.runs, -1)
        found[f"layers.{i}"] = float(rows.norm(dim=-1).max())
        start = uniform_start(model, found, seed)
        with torch.no_grad():
            value = F.relu(start.layers[i](value))  # type: ignore[operator,index,union-attr]
    return found


def train(case: Case, name: str, rate: float, runs: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Errors of each run on validation and test data [R]; infinite where training failed."""
    torch.manual_seed(seed)
    fresh = SideBySide(runs, case.splits[0][0].shape[1], case.hidden, case.classes or 1)
    bounds, method = bounds_of(case, fresh, seed), METHODS[name]
    model: nn.Module = fresh
    if name != "standard":
        model = uniform_start(model, bounds, seed)
    hooks: tuple[Any, ...] = ()
    if method is not None:
        reduced = constrained(model, bounds, method)
        model, hooks = reduced.model, reduced.hooks
    try:
        fit(
            *(model, total_error, batches(case)),
            **{"steps": steps, "optimizer": AdamW(lr=rate), "hooks": hooks, "log_every": steps},  # type: ignore[arg-type]
        )
    except WeightsError:
        return torch.full((runs,), math.inf), torch.full((runs,), math.inf)
    network = baked(model)
    with torch.no_grad():
        validation, test = (errors(network(x), y, score=True) for x, y in case.splits[1:])
    return validation.nan_to_num(math.inf), test.nan_to_num(math.inf)


def batches(case: Case) -> BatchList:
    """The same for all methods: everything at once, or ten epochs in random order."""
    inputs, target = case.splits[0]
    if not case.batch:
        return BatchList((Batch(inputs, target),))
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(inputs), generator=generator) for _ in range(10)]
    chosen = [part for order in orders for part in order.split(case.batch) if len(part) == case.batch]
    return BatchList(tuple(Batch(inputs[i], target[i]) for i in chosen))


def tuned(run: Callable[[float], tuple[Tensor, Tensor]]) -> dict[float, tuple[Tensor, Tensor]]:
    """Results by learning rate, as far as the median error on validation data falls."""
    tried = {rate: run(rate) for rate in RATES}
    while True:
        best = _best(tried)
        further = best * 3 if best == max(tried) else best / 3 if best == min(tried) else 0.0
        if not LEAST_RATE <= further <= LARGEST_RATE:
            return tried
        tried[further] = run(further)


def _best(tried: dict[float, tuple[Tensor, Tensor]]) -> float:
    return min(tried, key=lambda rate: float(tried[rate][0].median()))


def measure(case: Case, name: str, runs: int, steps: int, standard: list[float] | None) -> dict[str, Any]:
    """One row: method `name` at the rate with the least median error on validation data. standard: the errors
    of standard training, to compare with; None for standard training itself."""
    start = time.process_time()
    tried = tuned(lambda rate: train(case, name, rate, runs, steps))
    rate = _best(tried)
    test = tried[rate][1].double().numpy()
    reference = test if standard is None else np.array(standard)
    return {
        "case": case.name,
        "method": name,
        "rate": float(f"{rate:.1g}"),
        "runs": runs,
        "steps": steps,
        "hidden": list(case.hidden),
        "measure": "share of wrong classes" if case.classes else "mean squared error",
        **{key: interval(test, f) for key, f in SUMMARIES.items()},
        "mean_to_standard": interval(test, np.mean, reference),
        "median_to_standard": interval(test, np.median, reference),
        "errors": [float(f"{value:.6g}") for value in test],
        "seconds": round(time.process_time() - start, 1),
    }


SUMMARIES: dict[str, Callable[..., Any]] = {"median": np.median, "mean": np.mean, "worst": np.max}


def interval(values: Any, f: Callable[..., Any], reference: Any = None) -> list[float]:
    """A summary over runs and its 95 % bootstrap interval; with a reference, the ratio to its summary."""
    generator = np.random.default_rng(0)

    def drawn(sample: Any) -> Any:
        return f(sample[generator.integers(len(sample), size=(2000, len(sample)))], axis=1)

    point, spread = f(values), drawn(values)
    if reference is not None:
        point, spread = point / f(reference), spread / drawn(reference)
    return [float(v) for v in (point, *np.quantile(spread, (0.025, 0.975)))]
