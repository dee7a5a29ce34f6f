"""Learning from a teacher at several depths: its probabilities and what its layers give on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.core.batch import Batch, call, first_tensor, main_output
from plisse.core.hooks import after_calls
from plisse.core.modules import weighted_layers
from plisse.core.reparam import plain
from plisse.errors import GraphError, InputError
from plisse.train.objectives import frozen
from plisse.train.task import Loss, kl_divergence


@dataclass(frozen=True, eq=False)
class IntermediateDistillation:
    """soft * T^2 KL(softmax(teacher / T) || softmax(student / T)) + weight * sum_k w_k smooth_l1(t_k, s_k).

    t_k, s_k: outputs of the k-th of n `layers`, k = 0, 1, ...; w_k = 2 (k + 1) / (n^2 + n), deeper ones more,
    sum 1. KL is the mean over samples. soft=0 leaves the second term alone, to be composed by `weighted`.
    Source: Haroush et al. 2020, fine-tuning on synthetic data (weight 0.01, T = 1).
    """

    teacher: nn.Module
    layers: tuple[str, ...]
    weight: float = 0.01
    soft: float = 1.0
    temperature: float = 1.0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        self.teacher.to(first_tensor(batch.inputs).device)
        with torch.no_grad(), outputs_of(self.teacher, self.layers) as wanted:
            reference = call(self.teacher, batch.inputs).float() / self.temperature
        with outputs_of(model, self.layers) as found:
            logits = call(model, batch.inputs).float() / self.temperature
        near = torch.stack([_smooth_l1(name, found, wanted) for name in self.layers])
        near = (near * growing_weights(len(self.layers)).to(near)).sum()
        soft = self.temperature**2 * kl_divergence(reference, logits)
        parts = {"distillation": soft.detach(), "intermediate": near.detach()}
        return Loss(self.soft * soft + self.weight * near, parts)


def intermediate(
    teacher: nn.Module,
    layers: tuple[str, ...] | None = None,
    weight: float = 0.01,
    soft: float = 1.0,
    temperature: float = 1.0,
) -> IntermediateDistillation:
    """Learn the teacher's class probabilities and its intermediate outputs. The given network stays as it is.

    layers: names of modules, in order of depth, that give outputs of the same shape in teacher and student;
    None takes the blocks of the network, or its batch norms where it has no blocks (see `depths`).

    >>> teacher = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    >>> sorted(intermediate(teacher)(teacher, Batch(torch.ones(5, 3))).parts)
    ['distillation', 'intermediate']
    """
    if not temperature > 0 or weight < 0 or soft < 0:
        raise InputError(
            f"temperature {temperature}, weight {weight}, soft {soft}",
            expected="a temperature above zero, weights from zero",
        )
    kept = frozen(teacher)
    names = depths(kept) if layers is None else tuple(layers)
    known = dict(kept.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"layer {unknown[0]!r}", expected=f"names of modules, such as {list(known)[1:4]}")
    return IntermediateDistillation(kept, names, weight, soft, temperature)


def depths(model: nn.Module) -> tuple[str, ...]:
    """Modules at which networks of one skeleton can be compared: members of sequences with weighted layers
    inside (residual blocks, transformer layers); without any, batch norms, which stand at the same place when
    they are folded.

    Raises InputError where there is neither.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            blocks = {f"{name}.{key}".lstrip("."): child for key, child in module.named_children()}
            found += [key for key, child in blocks.items() if _is_block(child)]
    if not found:
        found = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found:
        raise InputError(
            f"a {type(model).__name__} without blocks and batch norm",
            expected="names of layers to compare",
            hint="intermediate(teacher, layers=(...))",
        )
    return tuple(found)


def growing_weights(n: int) -> Tensor:
    """w_k = 2 (k + 1) / (n^2 + n) for k = 0 ... n - 1: in proportion to the depth, sum 1.

    >>> growing_weights(3)
    tensor([0.1667, 0.3333, 0.5000])
    """
    return 2 * torch.arange(1, n + 1) / (n * n + n)


@contextmanager
def outputs_of(model: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """A table that holds, after a call inside, what the named modules gave (the last time), with gradient."""
    inner, table = plain(model), dict[str, Tensor]()

    def note(name: str, _: object, __: object, output: object) -> None:
        table[name] = main_output(output)

    with after_calls({name: inner.get_submodule(name) for name in names}, note):
        yield table


def _smooth_l1(name: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
        shapes = [tuple(table[name].shape) if name in table else None for table in (found, wanted)]
        raise GraphError(
            f"outputs of {name!r} of shapes {shapes[0]} and {shapes[1]}",
            expected="equal ones of student and teacher",
            hint="layers=(...) with those that both have, or distilled(..., hints=0.0)",
        )
    return F.smooth_l1_loss(found[name].float(), wanted[name].float())


def _is_block(module: nn.Module) -> bool:
    return any(name for name, _ in weighted_layers(module)) and not isinstance(module, nn.Sequential)
