"""Batches, and the one way to call a network on them.

Networks take a tensor, a tuple of tensors or a dictionary of tensors, and return a tensor or a mapping
(such as the ModelOutput of transformers). Everything else in Plissé goes through `call` and sees tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plisse.errors import GraphError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]

OUTPUT_FIELDS = ("logits", "sentence_embedding", "last_hidden_state")


@dataclass(frozen=True)
class Batch:
    """Inputs of N samples and, where there are labels, their targets [N, ...]."""

    inputs: Inputs
    target: Tensor | None = None


class Batches(Protocol):
    """Batches by index: any index from 0 on gives the same batch every time.

    `len` is the number of batches in one epoch; later indices are later epochs, shuffled and augmented anew
    where the set does that. Iterating gives exactly one epoch. Resuming and data-parallel training need no
    more than this.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class BatchList:
    """A fixed list of batches as `Batches`; every epoch is the same."""

    items: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.items[index % len(self.items)]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.items)


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Run `model` on `inputs` and return its main output tensor.

    >>> call(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if isinstance(inputs, dict):
        return main_output(model(**inputs))
    if isinstance(inputs, tuple):
        return main_output(model(*inputs))
    return main_output(model(inputs))


def main_output(output: Any) -> Tensor:
    """The tensor of a network's output: itself, a known field of a mapping, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for field in OUTPUT_FIELDS:
            if isinstance(output.get(field), Tensor):
                return output[field]
        output = tuple(output.values())
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise GraphError(
        f"an output of type {type(output).__name__}",
        expected=f"a tensor, a tuple that starts with one, or a mapping with one of {OUTPUT_FIELDS}",
    )


def map_inputs(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same structure with `change` applied to every tensor."""
    if isinstance(inputs, dict):
        return {key: change(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(change(value) for value in inputs)
    return change(inputs)


def first_tensor(inputs: Inputs) -> Tensor:
    if isinstance(inputs, dict):
        return next(iter(inputs.values()))
    return inputs[0] if isinstance(inputs, tuple) else inputs


def n_samples(inputs: Inputs) -> int:
    """Length of the batch axis."""
    return int(first_tensor(inputs).shape[0])


def on_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch moved to `device`; images [N, C, H, W] optionally in channels-last memory order."""

    def move(tensor: Tensor) -> Tensor:
        if channels_last and tensor.dim() == 4:
            return tensor.to(device, memory_format=torch.channels_last)
        return tensor.to(device)

    return Batch(map_inputs(batch.inputs, move), None if batch.target is None else batch.target.to(device))
