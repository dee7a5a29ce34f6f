"""Which values flow from which layer to which, found by running a network once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import removed_after


@dataclass(frozen=True)
class Reader:
    """Who reads a value: a layer (its dotted name), an operator ("aten.relu.default"), or, with an empty
    name, whoever gets the network's output.

    made: the value that comes of it, None for the output. arguments: of an operator, after the value.
    """

    name: str
    layer: bool = False
    made: int | None = None
    arguments: tuple[Any, ...] = ()


class Trace(TorchDispatchMode):
    """One run of a network in evaluation mode. Values are numbers, in order of appearance; what an operator
    changes in place is a new value.

    kinds: types of modules that are seen as a whole; inside them nothing is noted.

    makers: value to the layer that made it. made: its inverse. inputs: the value that enters each layer (its
    first argument; of the last call). calls: of each layer. readers: of each value, in order. shapes: of each
    value.
    """

    def __init__(self, model: nn.Module, example: Inputs, kinds: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.makers: dict[int, str] = {}
        self.made: dict[str, int] = {}
        self.inputs: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.readers: defaultdict[int, list[Reader]] = defaultdict(list)
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._numbers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice
        self._inside = 0
        with removed_after(self._hooks(model, kinds)), modules.evaluating(model), torch.no_grad(), self:
            call(model, example)
        self._alive.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside:
            return func(*args, **(kwargs or {}))
        read = [self._number(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [self._new(value) for value in tree_leaves(result) if isinstance(value, Tensor)]
        for value in read:
            rest = tuple(part for part in args[1:] if not isinstance(part, Tensor))
            self.readers[value].append(Reader(str(func), False, made[0] if made else None, rest))
        return result

    def _hooks(self, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[Any]:
        for name, module in model.named_modules():
            if isinstance(module, kinds):
                yield module.register_forward_pre_hook(lambda _, inputs, name=name: self._enter(name, inputs))  # type: ignore[misc]
                yield module.register_forward_hook(lambda _, __, result, name=name: self._leave(name, result))  # type: ignore[misc]
        yield model.register_forward_hook(lambda _, __, result: self._end(result))

    def _enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        self._inside += 1
        self.calls[name] += 1
        if self._inside == 1 and inputs and isinstance(inputs[0], Tensor):
            self.inputs[name] = self._number(inputs[0])

    def _leave(self, name: str, result: Any) -> None:
        self._inside -= 1
        if self._inside == 0 and isinstance(result, Tensor):
            self.made[name] = value = self._new(result)
            self.makers[value] = name
            if name in self.inputs:
                self.readers[self.inputs[name]].append(Reader(name, True, value))

    def _end(self, result: Any) -> None:
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.readers[self._number(value)].append(Reader(""))

    def _number(self, value: Tensor) -> int:
        return self._numbers[id(value)] if id(value) in self._numbers else self._new(value)

    def _new(self, value: Tensor) -> int:
        number = self._numbers[id(value)] = len(self.shapes)
        self.shapes[number] = tuple(value.shape)
        self._alive.append(value)
        return number


def sole_holders(model: nn.Module) -> set[str]:
    """Modules whose own tensors no other module holds, by their dotted names."""
    holders = Counter(id(value) for module in model.modules() for value in _own_tensors(module))
    return {
        name
        for name, module in model.named_modules()
        if all(holders[id(value)] == 1 for value in _own_tensors(module))
    }


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
