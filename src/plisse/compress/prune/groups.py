"""Which channels depend on each other: read from torch-pruning's dependency graph, then checked.

A group is trusted only after a trial: with half its channels cut, drawn at random, a copy of the network with
fresh weights must compute what the copy with the same channels masked computes. What fails (shortcuts that
pad channels, channels that reach the output, statistics over channels) is left alone and named.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plisse.compress.prune.cutting import SIDES, Axis, ChannelGroup, Member, cut_channels, mask_channels
from plisse.core import modules
from plisse.core.batch import Inputs, call, map_inputs
from plisse.cost.macs import names_tracked
from plisse.errors import GraphError

HINT = "pattern=Unstructured(), or ignore=[...] with the module's name"
RUNS = "inputs that the network takes, from a task that fits it"
TOLERANCE = 1e-3
TRACED_SAMPLES = 2


@dataclass(frozen=True)
class ChannelGraph:
    """The groups that can be cut, and a remark for every one that is left alone."""

    groups: tuple[ChannelGroup, ...]
    notes: tuple[str, ...]


def channel_graph(model: nn.Module, example: Inputs, ignore: Sequence[str] = ()) -> ChannelGraph:
    """Find the channel groups of a plain network.

    ignore: patterns of layer names (as in file names, "layer3.*"); a group that makes channels in one of them
    is left alone. Raises GraphError where the network does not run, cannot be traced, or nothing can be cut.
    """
    example = map_inputs(example, lambda tensor: tensor[:TRACED_SAMPLES])
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = _trial_copy(model)
        reference = _reference(trial, example)
        found, notes = _traced(trial, example, ignore)
        found = [group for group in found if group.size > 1]
        groups, failed = _trusted(trial, example, reference, found)
    if not groups:
        raise GraphError(
            f"a {type(model).__name__} in which no channel can be cut",
            expected="a layer whose channels reach other layers only: " + "; ".join([*failed, *notes])[:400],
            hint=HINT,
        )
    return ChannelGraph(tuple(groups), tuple(notes + failed))


def _trial_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with gradients on and fresh weights, none of them mute or too small to tell:
    filters as He et al. (2015), norms and running variances around 1, the rest around 0."""
    trial = modules.clone(model).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in [*trial.named_parameters(), *trial.named_buffers()]:
        if not value.is_floating_point() or value.dim() == 0:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if isinstance(value, nn.Parameter) and value.dim() > 1:
            embeds = isinstance(trial.get_submodule(name.rpartition(".")[0]), nn.Embedding)
            value.data.copy_(noise * (1.0 if embeds else (2 / value[0].numel()) ** 0.5))
        elif isinstance(value, nn.Parameter) or "running" in name:
            around = 1.0 if name.endswith(("weight", "running_var")) else 0.0
            value.data.copy_(around + 0.1 * noise.clamp(-3, 3))
        value.requires_grad_(isinstance(value, nn.Parameter))
    return trial


class _LastCall(TorchFunctionMode):
    name = "no operator"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = getattr(func, "__name__", str(func))
        return func(*args, **(kwargs or {}))


def _run(model: nn.Module, example: Inputs) -> Tensor:
    """The output; an exception becomes a GraphError that names the module and the operator."""
    running: list[str] = [""]
    last = _LastCall()
    try:
        with names_tracked(model, running), last:
            return call(model, example)
    except GraphError:
        raise
    except Exception as error:
        where = f"in module {running[-1]!r} at operator {last.name!r}"
        message = (str(error) or "no message").splitlines()[0]
        raise GraphError(f"{type(error).__name__} {where}: {message}", hint=RUNS) from error


def _reference(trial: nn.Module, example: Inputs) -> Tensor:
    output = _run(trial, example)
    if output.grad_fn is None:
        raise GraphError(
            f"an output of {type(trial).__name__} that no gradient reaches",
            expected="a network that is differentiable from its weights to its output",
            hint=HINT,
        )
    return output.detach()


def _traced(trial: nn.Module, example: Inputs, ignore: Sequence[str]) -> tuple[list[ChannelGroup], list[str]]:
    """Groups as torch-pruning sees them (Fang et al. 2023), and remarks on those that we cannot express."""
    import torch_pruning

    names = {module: name for name, module in trial.named_modules()}
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            trial, example, forward_fn=call, verbose=False
        )
        raw = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    except Exception as error:
        raise GraphError(
            f"{type(error).__name__} while tracing {type(trial).__name__}: {error}",
            expected="operators that torch-pruning follows",
            hint=HINT,
        ) from error
    groups: list[ChannelGroup] = []
    notes: list[str] = []
    for items in raw:
        root = names[items[0].dep.target.module]
        outcome = _group(graph, items, names, root)
        matched = [m.layer for m in _makers(outcome) if any(fnmatch(m.layer, p) for p in ignore)]
        if matched:
            notes.append(f"{root!r} left alone: {matched[0]!r} is to be ignored")
        elif isinstance(outcome, str):
            notes.append(f"{root!r} left alone: {outcome}")
        else:
            groups.append(outcome)
    return groups, notes


def _makers(outcome: ChannelGroup | str) -> list[Member]:
    return [] if isinstance(outcome, str) else [m for m in outcome.members if m.axis != "in"]


def _group(graph: Any, items: Any, names: dict[nn.Module, str], root: str) -> ChannelGroup | str:
    """Our own description of a torch-pruning group, or what stands in the way."""
    members = []
    for item in items.items:
        target = item.dep.target.module
        if isinstance(target, nn.Parameter):
            return "a free parameter shares its channels"
        if target not in names or not list(target.parameters(recurse=False)):
            continue
        axis = _axis(graph, target, item.dep.handler)
        if type(target) not in SIDES or axis not in SIDES[type(target)]:
            return f"{names[target]!r} is a {type(target).__name__}, which is not cut"
        if isinstance(target, nn.Conv2d) and target.groups > 1 and axis != "both":
            return f"{names[target]!r} is a grouped convolution"
        if item.root_idxs is None or any(i is None for i in item.root_idxs):
            return f"the channels of {names[target]!r} cannot be told apart"
        members.append(_member(names[target], target, axis, item))
    if all(member.axis != "in" for member in members):
        return "its channels are the network's output"
    return ChannelGroup(root, len(items[0].idxs), tuple(members))


def _axis(graph: Any, layer: Any, handler: Any) -> Axis:
    if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1:
        return "both"
    makes, reads = graph.is_out_channel_pruning_fn(handler), graph.is_in_channel_pruning_fn(handler)
    return "both" if makes and reads else "out" if makes else "in"


def _member(name: str, layer: Any, axis: Axis, item: Any) -> Member:
    dim = SIDES[type(layer)][axis].tensors["weight"]
    has_weight = layer.weight is not None
    return Member(name, axis, dim, has_weight, tuple(item.idxs), tuple(item.root_idxs))


def _trusted(
    trial: nn.Module, example: Inputs, reference: Tensor, groups: list[ChannelGroup]
) -> tuple[list[ChannelGroup], list[str]]:
    """The groups that pass the trial together, and remarks on those that do not; found by halving."""
    objection = _objection(trial, example, reference, groups)
    if not objection:
        return groups, []
    if len(groups) == 1:
        return [], [f"{groups[0].root!r} left alone: {objection}"]
    middle = len(groups) // 2
    first, first_notes = _trusted(trial, example, reference, groups[:middle])
    second, second_notes = _trusted(trial, example, reference, groups[middle:])
    kept, notes = first + second, first_notes + second_notes
    if objection := _objection(trial, example, reference, kept):
        return [], [*notes, f"{kept[0].root!r} and others left alone: together, {objection}"]
    return kept, notes


def _objection(trial: nn.Module, example: Inputs, reference: Tensor, groups: list[ChannelGroup]) -> str:
    """Why cutting half of the channels of `groups` is not the same as masking them; "" if it is."""
    generator = torch.Generator().manual_seed(1)
    cuts = {
        group.root: torch.randperm(group.size, generator=generator)[: group.size // 2].tolist()
        for group in groups
    }
    try:
        with torch.no_grad():
            found = _run(cut_channels(trial, groups, cuts), example)
            wanted = _run(mask_channels(trial, groups, cuts), example)
    except (GraphError, IndexError, RuntimeError) as error:
        return f"without its channels, {getattr(error, 'came', error)}"
    if found.shape != reference.shape:
        return "its channels are the network's output"
    apart = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    return "" if apart <= TOLERANCE else f"cutting differs from masking by {apart:.1e}"
