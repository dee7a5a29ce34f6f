"""What a network costs on this machine: parameters, MACs, and time measured fairly."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from plisse.core import modules
from plisse.core.batch import Batch, Inputs, call, first_tensor, on_device
from plisse.core.reparam import Reparametrized, baked
from plisse.cost.budget import Cost
from plisse.cost.macs import count_macs
from plisse.errors import InputError

REPEATS = 30
WARMUP = 5

Runnable = nn.Module | Callable[[Inputs], object]


@dataclass(frozen=True)
class Timing:
    """median and spread (half the interquartile range) of `repeats` forward passes, in seconds; p95: the time
    that 95 % of them keep to, None where only the median is known."""

    median: float
    spread: float
    repeats: int
    threads: int
    p95: float | None = None

    def __truediv__(self, other: Timing) -> float:
        """This median as a share of the other's."""
        return self.median / other.median


def latency(
    model: nn.Module,
    example: Inputs,
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    threads: int | None = None,
) -> Timing:
    """Seconds per forward pass of `example`, measured on the baked network in evaluation mode.

    repeats, warmup: timed and untimed passes. threads: of torch; None leaves them as they are. Images run in
    channels-last memory order. Compare networks by `interleaved`, not by two calls of this.
    """
    timings = interleaved({"model": model}, example, repeats=repeats, warmup=warmup, threads=threads)
    return timings["model"]


def interleaved(
    runnables: Mapping[str, Runnable],
    example: Inputs,
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several networks in turns, so that the noise of the machine meets all of them alike.

    runnables: networks, prepared as in `latency`, or functions that are called with `example` as they are
    (a session of another runtime). Every round runs each once; rounds alternate in direction. clock: gives
    seconds; `time.process_time` counts only those that this process computed, over all its threads, which on
    a machine with other work is the fairer clock for one thread.
    """
    if repeats < 1 or warmup < 0 or not runnables:
        raise InputError(f"repeats={repeats}, warmup={warmup}", expected="at least one of each to time")
    passes = {name: _prepared(item, example) for name, item in runnables.items()}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    with _threads(threads), _quiet(), torch.inference_mode():
        for run in passes.values():
            for _ in range(warmup):
                run()
        for number in range(repeats):
            names = list(passes) if number % 2 == 0 else list(reversed(passes))
            for name in names:
                start = clock()
                passes[name]()
                seconds[name].append(clock() - start)
        used = torch.get_num_threads()
    return {name: _timing(values, used) for name, values in seconds.items()}


def measure(
    model: nn.Module,
    example: Inputs,
    *,
    written: int,
    timed: bool = True,
    repeats: int = REPEATS,
    threads: int | None = None,
) -> Cost:
    """The `Cost` of a network; `written` is the length in bytes of its file, from the function that wrote it.

    >>> measure(nn.Linear(3, 2), torch.zeros(5, 3), written=40, timed=False)
    Cost(params=8, bytes=40, macs=30, latency=None, latency_spread=None)
    """
    model = baked(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    macs = count_macs(model, example)
    if not timed:
        return Cost(params, written, macs)
    timing = latency(model, example, repeats=repeats, threads=threads)
    return Cost(params, written, macs, timing.median, timing.spread)


def _prepared(item: Runnable, example: Inputs) -> Callable[[], object]:
    if not isinstance(item, nn.Module):
        return lambda: item(example)
    model = (item.baked() if isinstance(item, Reparametrized) else modules.clone(item)).eval()
    device = first_tensor(example).device
    images = first_tensor(example).dim() == 4
    inputs = on_device(Batch(example), device, channels_last=images).inputs
    if images:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run() -> object:
        output = call(model, inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return output

    return run


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection in between."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _timing(seconds: list[float], threads: int) -> Timing:
    low, median, high, slow = np.percentile(seconds, [25, 50, 75, 95])
    return Timing(float(median), float(high - low) / 2, len(seconds), threads, float(slow))
