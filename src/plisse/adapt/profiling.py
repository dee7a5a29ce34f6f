"""Measuring the operating points of an elastic network on this machine."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plisse.adapt.elastic import Elastic, Point
from plisse.core import modules
from plisse.core.batch import Batches, Inputs, map_inputs, n_samples
from plisse.core.reparam import plain
from plisse.cost.measure import REPEATS, Timing, interleaved, measure
from plisse.cost.memory import peak_memory
from plisse.cost.profile import Profile, ProfileRow
from plisse.errors import GraphError, InputError
from plisse.networks.open import file_bytes
from plisse.train.evaluate import evaluate
from plisse.train.task import Task

Say = Callable[[str], None]


def profile(
    net: Elastic,
    points: Sequence[Point] | None,
    task: Task,
    *,
    batches: Batches | None = None,
    batch: int | None = None,
    repeats: int = REPEATS,
    threads: int | None = None,
    say: Say = lambda _: None,
) -> Profile:
    """Latency (median, spread, p95), bytes, MACs, memory, switching time and score of every point.

    points: None for those that the network lists. batches: labelled batches to score on, None for the task's
    holdout. batch: samples of the timed pass, None for all of the task's example. repeats: timed passes of
    each; points take turns, so that the noise of the machine meets all alike. bytes: length of the plain
    file of the extracted point. The network is left at the point where it was.

    Raises InputError for no point, one outside the network's space, or a batch larger than the example.
    """
    labels = _labelled(net, points)
    example = first_samples(task.example, batch)
    networks = {label: net.extract(point) for label, point in labels.items()}
    say(f"timing {len(labels)} points")
    times = interleaved(networks, example, repeats=repeats, threads=threads)
    switches = _switches(net, labels, repeats)
    rows = []
    for label, network in networks.items():
        say(f"scoring {label}")
        cost = measure(network, example, written=written_bytes(network), timed=False)
        time = times[label]
        cost = dataclasses.replace(cost, latency=time.median, latency_spread=time.spread)
        score = evaluate(network, task, batches).score
        memory = peak_memory(network, example)
        switch = switches[label].median
        rows.append(ProfileRow(label, cost, score, time.p95, memory, switch, modules.fingerprint(network)))
    return Profile(tuple(rows), _conditions(task, example, next(iter(times.values()))))


def first_samples(inputs: Inputs, number: int | None) -> Inputs:
    """The first `number` samples, None for all. Raises InputError for more than there are."""
    there = n_samples(inputs)
    if number is None:
        return inputs
    if not 1 <= number <= there:
        raise InputError(f"a batch of {number}", expected=f"1 to {there}, the samples of the task's example")
    return map_inputs(inputs, lambda tensor: tensor[:number])


def input_form(inputs: Inputs) -> dict[str, Any]:
    """Shape without the batch axis and type of every input, as JSON data; "" names a single tensor.

    >>> input_form(torch.zeros(8, 3, 32, 32))
    {'': {'shape': [3, 32, 32], 'type': 'float32'}}
    """
    named: Mapping[str, Tensor]
    if isinstance(inputs, Tensor):
        named = {"": inputs}
    else:
        named = inputs if isinstance(inputs, dict) else {str(i): t for i, t in enumerate(inputs)}
    return {
        name: {"shape": list(tensor.shape[1:]), "type": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in named.items()
    }


def written_bytes(network: nn.Module) -> int:
    """Length of the plain .plisse file; of its safetensors file where the network has no origin."""
    try:
        return len(file_bytes(network))
    except GraphError:
        state = modules.distinct_state(plain(network))
        return sum(value.numel() * value.element_size() for value in state.values())


def _labelled(net: Elastic, points: Sequence[Point] | None) -> dict[str, Point]:
    chosen = net.space.points if points is None else points
    labels = {str(net.space.check(point)): point for point in chosen}
    if not labels or len(labels) < len(chosen):
        raise InputError(f"{len(chosen)} points, {len(labels)} of them different", expected="each point once")
    return labels


def _switches(net: Elastic, labels: Mapping[str, Point], repeats: int) -> dict[str, Timing]:
    """Seconds of `activate`, coming from another point, once every network has been made."""
    before = net.point
    switching = {label: _activation(net, point) for label, point in labels.items()}
    times = interleaved(switching, torch.zeros(1), repeats=repeats, warmup=1)
    net.activate(before)
    return times


def _activation(net: Elastic, point: Point) -> Callable[[Inputs], object]:
    return lambda _: net.activate(point)


def _conditions(task: Task, example: Inputs, time: Timing) -> dict[str, Any]:
    return {
        "task": task.name.partition(":")[0],
        "score": task.score.name,
        "unit": task.score.unit,
        "batch": n_samples(example),
        "inputs": input_form(example),
        "passes": time.repeats,
        "threads": time.threads,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": str(torch.__version__),
    }
