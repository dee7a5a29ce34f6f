"""An elastic network that a governor drives: choose, switch, run, learn, one pass after the other."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.adapt.elastic import Elastic, Point
from plisse.adapt.governor import Governor
from plisse.adapt.signals import Clock, Signals
from plisse.core.batch import Batch, Inputs, first_tensor, main_output, n_samples, on_device
from plisse.cost.measure import interleaved
from plisse.errors import InputError

CPU = torch.device("cpu")
CALIBRATION = 9
PAUSE_SECONDS = 0.02
LEAST_SECONDS = 1e-9


@dataclass(frozen=True, eq=False)
class Answer:
    """What one pass gave. seconds: of the pass. switching: seconds that the switch before it took, 0 without
    one."""

    outputs: Tensor
    point: str
    seconds: float
    switching: float


class Governed:
    """Runs `net` at the point that `governor` chooses for each call.

    watch: gives the signals of the device, such as `Watch.latest`. Calls are made one at a time, in the order
    in which they come to the lock: a pass never sees a half-made switch, and no pass slows another down.
    Every point is made once at the start, so that a later switch is short. example: a batch of the profile's
    size; where given, every point runs it a few times at the start, with pauses as there are between
    requests, and the governor goes by these times.

    Raises InputError where the profile names points that the network does not have.
    """

    def __init__(
        self,
        net: Elastic,
        governor: Governor,
        watch: Callable[[], Signals],
        *,
        example: Inputs | None = None,
        clock: Clock = time.perf_counter,
        device: torch.device = CPU,
    ) -> None:
        self.net, self.governor, self._watch = net, governor, watch
        self._clock, self._device = clock, device
        self._lock = threading.Lock()
        self._points = {row.point: point_named(net, row.point) for row in governor.profile.rows}
        for point in self._points.values():
            net.activate(point)
        if example is not None:
            governor.calibrate(self._calibrated(example))

    def __call__(self, inputs: Inputs, *, deadline: float | None = None, queue: int = 0) -> Answer:
        """Run one batch. deadline: seconds that this request may still take. queue: requests behind it."""
        with self._lock, torch.inference_mode():
            size = n_samples(inputs)
            seen = dataclasses.replace(self._watch(), deadline=deadline, queue=float(queue), size=float(size))
            label = self.governor.choose(seen)
            switching = self._switch(self._points[label])
            return self._run(inputs, label, size, switching)

    def _calibrated(self, example: Inputs) -> dict[str, float]:
        """Seconds of a pass at every point, coming from a pause."""
        passes: dict[str, Callable[[Inputs], object]] = {"pause": _pause}
        for label, point in self._points.items():
            passes[label] = functools.partial(self._pass, point)
            passes[f"pause after {label}"] = _pause
        times = interleaved(passes, example, repeats=CALIBRATION, warmup=1, clock=self._clock)
        return {label: max(times[label].median, LEAST_SECONDS) for label in self._points}

    def _pass(self, point: Point, inputs: Inputs) -> Tensor:
        self.net.activate(point)
        images = first_tensor(inputs).dim() == 4
        moved = on_device(Batch(inputs), self._device, channels_last=images).inputs
        return _called(self.net, moved).cpu()

    def _switch(self, point: Point) -> float:
        if self.net.point == point:
            return 0.0
        start = self._clock()
        self.net.activate(point)
        return self._clock() - start

    def _run(self, inputs: Inputs, label: str, size: int, switching: float) -> Answer:
        start = self._clock()
        outputs = self._pass(self._points[label], inputs)
        seconds = self._clock() - start
        self.governor.observe(seconds, float(size), label)
        return Answer(outputs, label, seconds, switching)


def _pause(_: Inputs) -> None:
    time.sleep(PAUSE_SECONDS)


def point_named(net: Elastic, label: str) -> Point:
    """The point that a profile calls `label`: a listed one, else what the words say.

    Raises InputError for a point outside the network's space.
    """
    for point in net.space.points:
        if str(point) == label:
            return point
    try:
        return net.space.check(Point.parse(label))
    except InputError as error:
        raise InputError(
            f"a profile with point {label!r}", expected=error.expected, hint="a profile of this network"
        ) from error


def _called(net: Elastic, inputs: Inputs) -> Tensor:
    """As `core.batch.call`, for what is callable but no module."""
    if isinstance(inputs, dict):
        return main_output(net(**inputs))
    return main_output(net(*inputs) if isinstance(inputs, tuple) else net(inputs))
