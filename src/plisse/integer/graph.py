"""A network as a list of pieces: what each operator is to an integer network, and what flowed through it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.utils._pytree import tree_leaves

from plisse.core.batch import Inputs
from plisse.errors import GraphError, InputError
from plisse.integer.forms import Form, Kind, argument, does_nothing, form_of
from plisse.integer.layers import OURS


@dataclass(frozen=True)
class Piece:
    """One operator. call: runs it on the values of `sources`."""

    name: str
    form: Form
    sources: tuple[str, ...]
    call: Call


@dataclass(frozen=True)
class Seen:
    """The shape, and the extremes of the values, of a tensor while the network ran."""

    shape: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True)
class Pieces:
    """inputs: names, with the values of those that have defaults. keywords: the network's own names for
    them. output: the result's structure."""

    inputs: Mapping[str, Any]
    keywords: Mapping[str, str]
    pieces: tuple[Piece, ...]
    output: Call
    results: tuple[str, ...]
    seen: Mapping[str, Seen]


@dataclass(frozen=True)
class _Operand:
    """The place of the n-th operand among arguments."""

    number: int


class Call(nn.Module):
    """An operator with its constant arguments; called with the values of its operands."""

    def __init__(self, node: fx.Node, root: nn.Module) -> None:
        super().__init__()
        places: Any = {source: _Operand(n) for n, source in enumerate(node.all_input_nodes)}
        self.op, self.target = node.op, node.target
        self.args = map_arg(node.args, places.__getitem__)
        self.kwargs = map_arg(dict(node.kwargs), places.__getitem__)
        if node.op == "call_module":
            self.module = root.get_submodule(str(node.target))
        elif node.op == "get_attr":
            self.value = operator.attrgetter(str(node.target))(root)

    def forward(self, *operands: Any) -> Any:
        def filled(item: Any) -> Any:
            return operands[item.number] if isinstance(item, _Operand) else item

        args, kwargs = map_aggregate(self.args, filled), map_aggregate(self.kwargs, filled)
        if self.op == "call_function":
            return self.target(*args, **kwargs)  # type: ignore[operator]
        if self.op == "call_method":
            return getattr(args[0], str(self.target))(*args[1:], **kwargs)
        if self.op == "call_module":
            return self.module(*args, **kwargs)
        return self.value if self.op == "get_attr" else args[0]

    def padding_with(self, zero: int) -> Callable[[Tensor], Tensor]:
        """The same padding, with the symbol of zero."""
        pads: Any = self.module.padding if self.op == "call_module" else argument(self, 1, "pad")
        return _Pad(tuple(pads), zero)

    def __str__(self) -> str:
        if self.op == "call_module":
            return f"{type(self.module).__name__} {self.target!r}"
        return getattr(self.target, "__name__", str(self.target))


class _Pad:
    def __init__(self, pads: tuple[int, ...], zero: int) -> None:
        self.pads, self.zero = pads, zero

    def __call__(self, q: Tensor) -> Tensor:
        return F.pad(q, self.pads, value=self.zero)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, OURS) or super().is_leaf_module(module, name)


def traced(model: nn.Module, batches: Iterable[Inputs], integer: set[str]) -> Pieces:
    """The pieces of `model`, an evaluation-mode network, with what they gave on `batches`.

    integer: names of the layers that have an integer form.
    Raises GraphError where torch.fx cannot follow the network.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the network's own code on proxies, which may raise anything
        raise GraphError(
            f"a {type(model).__name__} that torch.fx cannot trace ({str(error).splitlines()[0][:120]})",
            expected="a network without data-dependent control flow",
        ) from error
    watch = _Watch(fx.GraphModule(model, graph))
    for inputs in batches:
        watch.feed(inputs)
    defaults: dict[str, Any] = {}
    keywords = watch.keywords
    pieces, outputs = [], []
    for node in graph.nodes:
        if does_nothing(node, model):
            node.replace_all_uses_with(node.all_input_nodes[0])
            continue
        if node.op == "placeholder":
            defaults[node.name] = node.args[0] if node.args else None
        elif node.op == "output":
            outputs.append(node)
        else:
            sources = tuple(source.name for source in node.all_input_nodes)
            form = form_of(node, model, watch.kinds, integer)
            pieces.append(Piece(node.name, form, sources, Call(node, model)))
    results = tuple(source.name for source in outputs[0].all_input_nodes)
    return Pieces(defaults, keywords, tuple(pieces), Call(outputs[0], model), results, watch.seen)


class _Watch(fx.Interpreter):
    """Runs the network and keeps shapes and extremes of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Seen] = {}
        self.kinds: dict[str, Kind] = {}
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self.names = [node.name for node in inputs]
        self.keywords = {str(node.target): node.name for node in inputs}

    def feed(self, inputs: Inputs) -> None:
        if isinstance(inputs, dict):
            if unknown := set(inputs) - set(self.keywords):
                raise InputError(f"an input {min(unknown)!r}", expected=f"some of {', '.join(self.keywords)}")
            self.given = {self.keywords[key]: value for key, value in inputs.items()}
        else:
            values = inputs if isinstance(inputs, tuple) else (inputs,)
            self.given = dict(zip(self.names, values, strict=False))
        try:
            with torch.no_grad():
                self.run(*[self.given.get(name) for name in self.names])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"an example that the network does not take ({str(error).splitlines()[0][:120]})",
                expected="inputs as for a call of the network",
            ) from error

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder" and n.name not in self.given:
            return n.args[0] if n.args else None
        value = super().run_node(n)
        self.kinds[n.name] = _kind(value)
        if isinstance(value, Tensor):
            self._look(n.name, value)
        return value

    def _look(self, name: str, value: Tensor) -> None:
        low, high = 0.0, 0.0
        if value.is_floating_point() and value.numel():
            low, high = float(value.min()), float(value.max())
            if not low > -float("inf") or not high < float("inf"):
                raise InputError(f"NaN or infinity at {name!r} on the example", expected="finite activations")
        before = self.seen.get(name, Seen(tuple(value.shape), 0.0, 0.0))
        self.seen[name] = Seen(before.shape, min(before.low, low), max(before.high, high))


def _kind(value: Any) -> Kind:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (int, torch.Size)):
        return "size"
    return "tensors" if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)) else "other"
