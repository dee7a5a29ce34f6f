"""Scores with confidence intervals, and paired differences between two networks on the same samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plisse.core.batch import Batches, Inputs, call, first_tensor
from plisse.errors import InputError, WeightsError
from plisse.train.task import Score, Task

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A score on n samples with its bootstrap interval (95 %), and the predictions that gave it.

    unit: that of the `Score`: "points" where people quote the value in percent, else "".
    """

    name: str
    score: float
    low: float
    high: float
    n: int
    predictions: Tensor
    targets: Tensor
    unit: str = ""


@dataclass(frozen=True)
class Difference:
    """Score of one network minus that of another on the same samples: value and 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def predictions(model: nn.Module, batches: Batches, score: Score) -> tuple[Tensor, Tensor]:
    """Predictions and targets of one epoch, in evaluation mode. The training flag is put back.

    Raises InputError for no batch, batches without targets, and inputs that are not finite or do not fit the
    network; WeightsError for outputs that are not finite.
    """
    was_training = model.training
    model.eval()
    found, wanted = [], []
    try:
        with torch.inference_mode():
            for number, batch in enumerate(batches):
                if batch.target is None:
                    raise InputError("batches without targets", expected="labelled samples to score on")
                _check_inputs(batch.inputs, number)
                outputs = outputs_of(model, batch.inputs)
                _check_outputs(outputs, number, type(model).__name__)
                found.append(score.predict(outputs).cpu())
                wanted.append(batch.target.cpu())
    finally:
        model.train(was_training)
    if not found:
        raise InputError("no batch to score on", expected="at least one, with labels")
    return torch.cat(found), torch.cat(wanted)


def evaluate(model: nn.Module, task: Task, batches: Batches | None = None, seed: int = 0) -> Evaluation:
    """Score `model` on the task's holdout, or on other labelled `batches`.

    Raises what `predictions` raises, and InputError for a task without holdout.
    """
    if batches is None and not len(task.holdout):
        raise InputError(
            f"task {task.name!r} with an empty holdout", expected="at least one labelled batch to score on"
        )
    found, wanted = predictions(model, batches if batches is not None else task.holdout, task.score)
    value = task.score.summary(found, wanted)
    draws = [task.score.summary(found[pick], wanted[pick]) for pick in _resamples(len(wanted), seed)]
    low, high = _interval(draws)
    return Evaluation(task.score.name, value, low, high, len(wanted), found, wanted, task.score.unit)


def paired(after: Evaluation, before: Evaluation, score: Score, seed: int = 0) -> Difference:
    """after minus before, by a bootstrap over the samples that both saw (Efron 1979).

    Raises InputError where the two were measured on different samples.
    """
    if not torch.equal(after.targets, before.targets):
        raise InputError("evaluations on different samples", expected="the same holdout for both")
    draws = [
        score.summary(after.predictions[pick], after.targets[pick])
        - score.summary(before.predictions[pick], before.targets[pick])
        for pick in _resamples(after.n, seed)
    ]
    low, high = _interval(draws)
    return Difference(after.score - before.score, low, high, after.n)


def outputs_of(model: nn.Module, inputs: Inputs, name: str = "") -> Tensor:
    """What `call` gives, without gradients; inputs that the network cannot take are the user's affair, not a
    crash. name: of the network, for the error; without, that of its class.

    Raises InputError for inputs that do not fit.
    """
    try:
        with torch.inference_mode():
            return call(model, inputs)
    except (RuntimeError, TypeError, IndexError) as error:
        shape = tuple(first_tensor(inputs).shape)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"inputs of shape {shape} that {name or type(model).__name__} cannot take ({reason})",
            expected="a network and a task that fit each other",
            hint="another task, such as --task cifar10:DIR for a CIFAR network",
        ) from error


def _check_inputs(inputs: Inputs, number: int) -> None:
    """A value that is no number reaches the score as class 0, an ordinary answer."""
    parts = (
        inputs.values() if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else [inputs])
    )
    for part in parts:
        if part.is_floating_point() and (bad := _not_finite(part)):
            raise InputError(
                f"{bad} values in the inputs of batch {number} that are not finite",
                expected="numbers alone",
                hint="look for missing values in the data, and divisions by 0 before they come here",
            )


def _check_outputs(outputs: Tensor, number: int, name: str) -> None:
    if outputs.is_floating_point() and (bad := _not_finite(outputs)):
        raise WeightsError(
            f"{bad} outputs of {name} for batch {number} that are not finite",
            expected="numbers alone",
            hint="float32 instead of half precision, more bits, or a lower learning rate",
        )


def _not_finite(values: Tensor) -> int:
    finite = values.isfinite()
    return 0 if bool(finite.all()) else int((~finite).sum())


def _resamples(n: int, seed: int) -> Tensor:
    return torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))


def _interval(draws: list[float]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
