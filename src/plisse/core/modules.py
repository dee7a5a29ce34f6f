"""Walk, read and replace the modules and tensors of a network by their dotted names."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from plisse.errors import GraphError, WeightsError

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
"""Layers whose one weight matrix is `weight`."""

HOLDERS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Modules that hold several weight matrices of their own, under names that begin as in `MATRICES`."""

MATRICES = ("weight_", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

READ: dict[type, tuple[str, ...]] = {
    nn.MultiheadAttention: ("out_proj",),
    nn.TransformerEncoderLayer: ("linear1", "linear2"),
}

SAMPLED = 4096
"""Numbers of a tensor, at least, that a fingerprint is taken from; all where it has fewer."""


def clone(model: nn.Module) -> nn.Module:
    """A deep copy with its own tensors."""
    return copy.deepcopy(model)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`, in place."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def tensor(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer with the dotted `name`."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute)


def set_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Write `value` into the parameter or buffer `name`, in place, same shape."""
    with torch.no_grad():
        tensor(model, name).copy_(value)


def fingerprint(model: nn.Module) -> str:
    """Eight hex digits that tell networks of other names, shapes or weights apart, from some numbers of each
    tensor: cheap enough to check at every start.

    >>> fingerprint(nn.ReLU()) == fingerprint(nn.ReLU()), fingerprint(nn.ReLU()) == fingerprint(nn.PReLU())
    (True, False)
    """
    check = 0
    for name, value in model.state_dict().items():
        numbers = value.detach().reshape(-1)
        some = numbers[:: max(1, len(numbers) // SAMPLED)].cpu().contiguous()
        check = zlib.crc32(f"{name} {tuple(value.shape)} {value.dtype}".encode(), check)
        check = zlib.crc32(some.view(torch.uint8).numpy().tobytes() if len(some) else b"", check)
    return f"{check:08x}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module's own training flag is as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a weight matrix (linear, convolution, embedding), as (name, module), in call order
    of definition. A module that is reached by two names is given once."""
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            yield name, module


def bound_layers(model: nn.Module) -> dict[str, str]:
    """Layers that no other module may stand in for, and why: their weight is another layer's too, or torch's
    attention and encoder layers read it themselves instead of calling them.

    >>> list(bound_layers(nn.MultiheadAttention(4, 2)))
    ['out_proj']
    """
    reasons: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for child in READ.get(type(module), ()):
            reasons[f"{name}.{child}".lstrip(".")] = f"{type(module).__name__} reads its weight itself"
        if isinstance(module, WEIGHTED):
            first = owners.setdefault(id(module.weight), name)
            if first != name:
                reasons[name], reasons[first] = (
                    f"its weight is that of {first!r}",
                    f"its weight is that of {name!r}",
                )
    return reasons


def places(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Where the tensor of each name lies, every place once: several for a shared one, one for a module that
    is reached by two names. (torch's `functional_call` ties names by itself, but leaves its tensor behind in
    a module of two names.)"""
    found: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for attribute, value in (*module._parameters.items(), *module._buffers.items()):
            found.setdefault(id(value), []).append(f"{path}.{attribute}".lstrip("."))
    return {name: found[id(tensor(model, name))] for name in names}


def weight_names(model: nn.Module) -> list[str]:
    """The names of all weight matrices, in order of definition: `weight` of every weighted layer, those of
    recurrent layers (`weight_ih_l0`, `weight_hh_l0`, ...) and of torch's multi-head attention.

    A matrix that is reached by two names is given once.

    >>> weight_names(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ['0.weight', '2.weight']
    >>> weight_names(nn.GRU(2, 3))
    ['weight_ih_l0', 'weight_hh_l0']
    """
    seen: set[int] = set()
    names = []
    for layer, module in model.named_modules():
        for attribute, value in matrices(module).items():
            if id(value) not in seen:
                seen.add(id(value))
                names.append(f"{layer}.{attribute}" if layer else attribute)
    return names


def matrices(module: nn.Module) -> dict[str, Tensor]:
    """The weight matrices that `module` itself holds, by attribute; empty for most modules."""
    if isinstance(module, WEIGHTED):
        return {"weight": module.weight}
    if isinstance(module, HOLDERS):
        own = module.named_parameters(recurse=False)
        return {name: value for name, value in own if name.startswith(MATRICES)}
    return {}


def distinct_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network with a tensor of several names under its first one alone, as safetensors files
    hold it.

    >>> list(distinct_state(nn.ModuleList([layer := nn.Linear(1, 1), layer])))
    ['0.weight', '0.bias']
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found.setdefault(id(value), (name, value.detach().contiguous().clone()))
    return dict(found.values())


def check_plain(model: nn.Module) -> None:
    """Raise WeightsError for weights that are no float32, GraphError for those computed at each call."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{name!r} in {kind}", expected="float32", hint="model.float(), and inputs alike"
            )
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise GraphError(
                f"{name!r} with weights computed at each call (weight_norm, spectral_norm, ...)",
                expected="plain weights",
                hint="torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
            )


def check_finite(model: nn.Module) -> None:
    """Raise WeightsError with the first tensor that holds NaN or infinity."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise WeightsError(
                f"{bad} NaN or infinite of {value.numel()} values in {name!r}",
                expected="finite weights",
                hint="check the checkpoint, or train again with a lower learning rate",
            )
