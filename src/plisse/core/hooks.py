"""Hooks on layers: those that look on for a while, and children through which values pass for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Before = Callable[[str, Any, tuple[Any, ...]], None]
"""Gets the name of a layer, the layer, and the positional arguments that enter it."""
After = Callable[[str, Any, tuple[Any, ...], Any], None]
"""Gets the same and what comes out."""


@contextmanager
def before_calls(layers: Mapping[str, nn.Module], see: Before) -> Iterator[None]:
    """For a while, `see(name, layer, inputs)` runs before each call of a layer, after hooks that are there.

    >>> import torch
    >>> net, seen = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), []
    >>> with before_calls({"0": net[0]}, lambda name, _, inputs: seen.append((name, tuple(inputs[0].shape)))):
    ...     _ = net(torch.ones(4, 2))
    >>> seen
    [('0', (4, 2))]
    """

    def hook(name: str) -> Any:
        return lambda layer, inputs: see(name, layer, inputs)

    with removed_after(layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()):
        yield


@contextmanager
def after_calls(layers: Mapping[str, nn.Module], see: After) -> Iterator[None]:
    """For a while, `see(name, layer, inputs, output)` runs after each call of a layer that gave a result."""

    def hook(name: str) -> Any:
        return lambda layer, inputs, output: see(name, layer, inputs, output)

    with removed_after(layer.register_forward_hook(hook(name)) for name, layer in layers.items()):
        yield


@contextmanager
def removed_after(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are removed at the end, whatever happens in between."""
    held: list[RemovableHandle] = []
    try:
        held.extend(handles)
        yield
    finally:
        for handle in held:
            handle.remove()


def hang_before(layer: nn.Module, child: str, module: nn.Module, first: bool = False) -> None:
    """In place: the first input of `layer` passes through `module`, its child `child` from now on; one that
    hangs there already goes. Deep copies of the layer keep both. first: before all other hooks."""
    if _is_new(layer, child, module):
        layer.register_forward_pre_hook(partial(_input_through, child), prepend=first)


def hang_after(layer: nn.Module, child: str, module: nn.Module) -> None:
    """In place: the output of `layer` passes through `module`, as in `hang_before`."""
    if _is_new(layer, child, module):
        layer.register_forward_hook(partial(_output_through, child))


def take_down(layer: nn.Module, child: str) -> None:
    """In place: what hangs on `layer` as its child `child` goes, with its hook.

    >>> net = nn.Linear(2, 2)
    >>> hang_before(net, "doubled", nn.Identity())
    >>> take_down(net, "doubled")
    >>> list(net.children()), list(net._forward_pre_hooks.values())
    ([], [])
    """
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        through = (key for key, hook in hooks.items() if isinstance(hook, partial) and hook.args == (child,))
        for key in list(through):
            del hooks[key]
    delattr(layer, child)


def _is_new(layer: nn.Module, child: str, module: nn.Module) -> bool:
    """Whether nothing hung there; `module` does afterwards."""
    new = child not in layer._modules
    setattr(layer, child, module)
    return new


def _input_through(child: str, layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, child)(inputs[0]), *inputs[1:])


def _output_through(child: str, layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    return getattr(layer, child)(output)
