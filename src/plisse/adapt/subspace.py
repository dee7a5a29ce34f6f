"""A set of weights as a function of the operating point, over any network."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plisse.adapt.elastic import Point, Space, Switching
from plisse.adapt.reparams import Dial
from plisse.core import modules
from plisse.core.grids import with_grids
from plisse.core.reparam import Reparam, Reparametrized
from plisse.core.stored import Raw

SizesAt = Callable[[Point], Mapping[str, Mapping[str, int]]]


def _no_sizes(point: Point) -> Mapping[str, Mapping[str, int]]:
    return {}


class Subspace(nn.Module):
    """A network whose weights follow a dial: `select` a point, call it, train it.

    wrapped: the network with a reparametrization of every tensor that depends on the point, all of them
    reading `dial`. sizes: attributes of its layers that depend on the point, such as the groups of a
    depthwise convolution. progress: how far training is, 0 to 1 (a buffer, so that a checkpoint resumes it).

    The same tensors come from one function whether they are trained (`forward`), extracted or switched to
    (`materialised`), so that all three compute the same.
    """

    progress: Tensor

    def __init__(self, wrapped: Reparametrized, dial: Dial, sizes: SizesAt = _no_sizes) -> None:
        super().__init__()
        self.wrapped, self.dial, self.sizes = wrapped, dial, sizes
        self.register_buffer("progress", torch.zeros(()))
        self._copied: tuple[tuple[str, ...], list[Piece], dict[str, int]] = (), [], {}

    @property
    def space(self) -> Space:
        return self.dial.space

    @property
    def point(self) -> Point:
        """The selected point."""
        return self.dial.point

    def select(self, point: Point) -> None:
        """Compute at `point` from now on. For one thread: see `elastic` for networks that are served."""
        self.dial.point = self.space.check(point)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with sized(self.wrapped.model, self.sizes(self.point)):
            return self.wrapped(*args, **kwargs)

    def with_reparams(self, reparams: Mapping[str, Reparam]) -> None:
        """Put other reparametrizations in the place of those of the same names, in place."""
        self.wrapped = Reparametrized(self.wrapped.model, {**self.wrapped.reparams, **reparams})

    def materialised(self, point: Point) -> nn.Module:
        """The plain network at a point, in evaluation mode. What no point changes, and slices without gaps,
        are shared with this subspace; where it is in evaluation mode, so are layers without such tensors."""
        self.select(point)
        with torch.no_grad():
            tensors = {name: reparam.forward().detach() for name, reparam in self.wrapped.reparams.items()}
        sizes = self.sizes(point)
        pieces, named = self._changing((*tensors, *sizes), tensors)
        twins = _sharing(pieces)
        for name, value in tensors.items():
            layer, _, attribute = name.rpartition(".")
            _put(twins[named[layer]], attribute, value)
        for layer, attributes in sizes.items():
            _set(twins[named[layer]], attributes)
        return twins[-1].eval() if self.training else twins[-1]

    def _changing(self, names: tuple[str, ...], tensors: Iterable[str]) -> tuple[list[Piece], dict[str, int]]:
        """The layers that points change, and what they are in, found once; in training mode all modules."""
        model = self.wrapped.model
        if self.training:
            return _pieces(model, None)
        if self._copied[0] != names:
            layers = [name.rpartition(".")[0] if name in tensors else name for name in names]
            self._copied = names, *_pieces(model, with_ancestors(model, layers))
        return self._copied[1:]

    def extracted(self, point: Point) -> nn.Module:
        """A plain network at a point with its own tensors; those that are on grids stay on them in its
        file."""
        mine = self.settled()
        network = modules.clone(mine.materialised(point))
        found = {name: each.stored() for name, each in mine.wrapped.reparams.items()}
        return with_grids(network, {name: s for name, s in found.items() if not isinstance(s.grid, Raw)})

    def settled(self) -> Subspace:
        """What is written to a file and served: the same network and dial, with weights as integers where
        points are numbers of bits."""
        reparams = {name: settled(each) for name, each in self.wrapped.reparams.items()}
        made = Subspace(Reparametrized(self.wrapped.model, reparams), self.dial, self.sizes)
        return made.train(self.training)

    def elastic(self, *, keep: int = 16) -> Switching:
        """What serves this subspace: networks are made once per point, `keep` of them held. The weights are a
        copy; this subspace may be trained on."""
        mine = copy.deepcopy(self).settled().eval().requires_grad_(False)
        lock = threading.Lock()

        def make(point: Point) -> nn.Module:
            with lock:
                return mine.materialised(point)

        def extract(point: Point) -> nn.Module:
            with lock:
                return mine.extracted(point)

        return Switching(mine.space, make, extract=extract, keep=keep)


def settled(reparam: Reparam) -> Reparam:
    """A reparametrization that computes the same untrained: its own `settled()`, where it has one."""
    make = getattr(reparam, "settled", None)
    return reparam if make is None else make().eval()


@contextmanager
def sized(model: nn.Module, sizes: Mapping[str, Mapping[str, int]]) -> Iterator[None]:
    """Attributes of layers at other values for a while."""
    before: list[tuple[nn.Module, dict[str, int]]] = []
    try:
        for layer, attributes in sizes.items():
            module = model.get_submodule(layer)
            before.append((module, {name: getattr(module, name) for name in attributes}))
            _set(module, attributes)
        yield
    finally:
        for module, attributes in before:
            _set(module, attributes)


def _set(module: nn.Module, attributes: Mapping[str, int]) -> None:
    for name, value in attributes.items():
        setattr(module, name, value)


def with_ancestors(model: nn.Module, layers: Iterable[str]) -> frozenset[str]:
    """All names of the layers, of the modules around them, and of the model, which is "".

    >>> sorted(with_ancestors(nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.ReLU()), ["0.0"]))
    ['', '0', '0.0']
    """
    modules_of = dict(model.named_modules(remove_duplicate=False))
    found = {id(modules_of[layer]) for layer in layers} | {id(model)}
    while True:
        names = frozenset(name for name, module in modules_of.items() if id(module) in found)
        around = {id(modules_of[name.rpartition(".")[0]]) for name in names}
        if around <= found:
            return names
        found |= around


Piece = tuple[nn.Module, tuple[tuple[str, int], ...]]
"""A module, and which of its children, by their places in a list, are copied too."""


def _pieces(model: nn.Module, only: Collection[str] | None) -> tuple[list[Piece], dict[str, int]]:
    """Modules of these names (None: all), each after what it holds, the model last; and where the module of
    a name is."""
    places: dict[int, int] = {}
    named: dict[str, int] = {}
    found: list[Piece] = []

    def visit(module: nn.Module, name: str) -> int:
        if id(module) not in places:
            inside = [(key, f"{name}.{key}" if name else key) for key in module._modules]
            held = tuple(
                (key, visit(child, full))
                for key, full in inside
                if (child := module._modules[key]) is not None and (only is None or full in only)
            )
            places[id(module)] = len(found)
            found.append((module, held))
        named[name] = places[id(module)]
        return named[name]

    visit(model, "")
    return found, named


def _sharing(pieces: Sequence[Piece]) -> list[nn.Module]:
    """Copies of modules that hold the same tensors; everything else that modules refer to is shared."""
    twins: list[nn.Module] = []
    for module, held in pieces:
        twin = module.__new__(type(module))
        mine = vars(module).copy()
        for table in ("_parameters", "_buffers", "_modules"):
            mine[table] = mine[table].copy()  # an empty one too: a layer may get a tensor of its own
        for key, place in held:
            mine["_modules"][key] = twins[place]
        object.__setattr__(twin, "__dict__", mine)  # one by one, all would pass torch's slow checks
        twins.append(twin)
    return twins


def _put(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Write a tensor in place; slices with gaps are copied once here rather than at every call."""
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(value.contiguous(), requires_grad=False)
    else:
        module._buffers[attribute] = value.clone()
