"""The memory that a network needs while it runs, counted from the tensors it makes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.reparam import baked


def peak_memory(model: nn.Module, example: Inputs) -> int:
    """Bytes of the weights plus the most that lives beside them during one forward pass of `example`.

    Counts the storage of every tensor that an operator gives, from when it is made until it is freed; inputs
    are not counted, nor what a kernel takes for itself and gives back. Does not depend on the machine's load.

    >>> peak_memory(nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU(inplace=True)), torch.zeros(2, 8))
    160
    """
    network = modules.clone(baked(model)).eval()
    counted = _Counted()
    owned = [*network.parameters(), *network.buffers()]
    counted.known = {_key(tensor) for tensor in (*owned, *tree_leaves(example)) if isinstance(tensor, Tensor)}
    weights = {_key(tensor): tensor.untyped_storage().nbytes() for tensor in owned}
    with torch.no_grad(), counted:
        output = call(network, example)
    del output
    return sum(weights.values()) + counted.peak


class _Counted(TorchDispatchMode):
    """Adds up the storages of new tensors and takes them off when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in self.known:
                self._add(tensor)
        self.peak = max(self.peak, self.live)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, length = _key(tensor), storage.nbytes()
        self.known.add(key)
        self.live += length
        weakref.finalize(storage, self._free, key, length)

    def _free(self, key: int, length: int) -> None:
        self.known.discard(key)
        self.live -= length


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
