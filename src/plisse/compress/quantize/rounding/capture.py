"""What enters and leaves a part of a network on the calibration batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Batch, Batches, Inputs, call, first_tensor, main_output, map_inputs, n_samples
from plisse.core.hooks import removed_after
from plisse.core.reparam import plain
from plisse.errors import InputError

MEMORY = 1 << 30
"""Bytes that the calls of one part may take; beyond half of it they are kept in bfloat16."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: its arguments and its main output. n: samples in the batch, rows of the tensors
    that have a row per sample (others, such as a mask for all, are kept whole)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    n: int

    def rows(self, pick: Tensor) -> Call:
        """The call with the samples `pick` [B] only."""

        def picked(value: Any) -> Any:
            if not _has_rows(value, self.n):
                return value
            value = _ordered(value[pick])
            return value.float() if value.dtype == torch.bfloat16 else value

        kwargs = {key: picked(value) for key, value in self.kwargs.items()}
        return Call(tuple(map(picked, self.args)), kwargs, picked(self.output), len(pick))


def check_calibration(batches: Batches) -> None:
    """Raise InputError for no batch, or for NaN or infinity in one."""
    if not len(batches):
        raise InputError("no calibration batch", expected="at least one, to choose symbols by outputs")
    for batch in batches:
        map_inputs(batch.inputs, _check_finite)


def check_inputs(model: nn.Module, batches: Batches) -> None:
    """`check_calibration`, and that `model` takes the first batch. Raises InputError."""
    check_calibration(batches)
    with modules.evaluating(model), torch.no_grad():
        taken(model, batches[0].inputs)


def taken(model: nn.Module, inputs: Inputs) -> Any:
    """What `call` gives. Raises InputError for inputs that the network does not take."""
    try:
        return call(model, inputs)
    except (RuntimeError, IndexError, TypeError) as error:
        raise InputError(
            f"calibration inputs of shape {tuple(first_tensor(inputs).shape)}: {error}",
            expected="inputs that the network takes",
        ) from error


def limited(batches: Batches, samples: int) -> tuple[Batch, ...]:
    """The first `samples` samples of an epoch."""
    kept: list[Batch] = []
    for batch in batches:
        n = min(n_samples(batch.inputs), samples)
        if n <= 0:
            break
        samples -= n
        kept.append(Batch(map_inputs(batch.inputs, lambda value, n=n: value[:n])))  # type: ignore[misc]
    return tuple(kept)


def captured(
    model: nn.Module,
    name: str,
    batches: tuple[Batch, ...],
    calls: int = 1,
    memory: int = MEMORY,
    inside: bool = False,
) -> tuple[Call, ...]:
    """Every call of the module `name` on `batches`, in evaluation mode. A pass ends after `calls` of them.

    With the name "" the module is the network, its call the batch itself. memory: bytes to keep; batches that
    would exceed it are left out, at least one is kept. inside: arguments as the module's own code sees them,
    after quantizers that hang on it; otherwise as they came in.
    """
    found: list[Call] = []
    for batch in batches:
        watched(model, name, _keeper(found, n_samples(batch.inputs)), (batch,), calls, inside)
        size = _bytes(found)
        if size > memory // 2:
            found = [_narrowed(each) for each in found]
        if _bytes(found) * (1 + 1 / len(found)) > memory:
            break
    return tuple(found)


Watch = Callable[[tuple[Any, ...], dict[str, Any], Any], None]


def watched(
    model: nn.Module,
    name: str,
    watch: Watch,
    batches: tuple[Batch, ...],
    stop: int | None = None,
    inside: bool = False,
) -> None:
    """Run `model` on `batches` and call `watch(args, kwargs, output)` after each call of the module `name`.

    stop: calls after which a pass ends; None runs it to the end. inside: see `captured`.
    """
    part = plain(model).get_submodule(name)
    came: list[tuple[Any, Any]] = []
    count = [0]

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before = came.pop()
        watch(*((args, kwargs) if inside else before), output)
        count[0] += 1
        if count[0] == stop:
            raise _Enough

    handles = (
        part.register_forward_pre_hook(
            lambda _, args, kwargs: came.append((args, kwargs)), with_kwargs=True, prepend=True
        ),
        part.register_forward_hook(after, with_kwargs=True),
    )
    with removed_after(handles), modules.evaluating(model), torch.no_grad():
        for batch in batches:
            count[0] = 0
            with suppress(_Enough):
                call(model, batch.inputs)


class _Enough(Exception):  # noqa: N818
    """Ends a pass through the network; never leaves this module."""


def _keeper(found: list[Call], n: int) -> Watch:
    def keep(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kept = {key: _kept(value) for key, value in kwargs.items()}
        found.append(Call(tuple(map(_kept, args)), kept, _kept(main_output(output)), n))

    return keep


def _kept(value: Any) -> Any:
    return _ordered(value.detach()) if isinstance(value, Tensor) else value


def _has_rows(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == n


def _ordered(value: Tensor) -> Tensor:
    """Images [N, C, H, W] in channels-last memory order, in which convolutions are several times faster."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _narrowed(each: Call) -> Call:
    def narrow(value: Any) -> Any:
        return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value

    kwargs = {key: narrow(value) for key, value in each.kwargs.items()}
    return Call(tuple(map(narrow, each.args)), kwargs, narrow(each.output), each.n)


def _bytes(calls: list[Call]) -> int:
    values = [value for each in calls for value in (*each.args, *each.kwargs.values(), each.output)]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def _check_finite(value: Tensor) -> Tensor:
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise InputError(
            f"{bad} NaN or infinite of {value.numel()} values in calibration", expected="finite inputs"
        )
    return value
