"""Predictions one after the other in a thread of their own, so that the service stays responsive."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from plisse.adapt.governed import Answer, Governed
from plisse.adapt.signals import Clock
from plisse.core.batch import n_samples
from plisse.errors import InputError, PlisseError
from plisse.serve.limits import Limits, refusal
from plisse.serve.metrics import Metrics, Served
from plisse.serve.parsing import Question


class Worker:
    """Runs questions through `run` in the order in which they came, and counts them in `metrics`.

    deadline: seconds, for requests that bring none; None: they have none.
    """

    def __init__(
        self,
        run: Governed,
        limits: Limits,
        metrics: Metrics,
        *,
        deadline: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if deadline is not None and not 0 < deadline < math.inf:
            raise InputError(f"a deadline of {deadline} s", expected="seconds above zero, or none")
        self.run, self.limits, self.metrics, self.deadline = run, limits, metrics, deadline
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="plisse-worker")
        self._lock = threading.Lock()
        self._unfinished = 0

    @property
    def unfinished(self) -> int:
        """Predictions that run or wait."""
        return self._unfinished

    async def predict(self, question: Question, arrived: float) -> tuple[Answer, Served]:
        """The answer to one question that arrived at `arrived` on the clock.

        Raises RefusedError: 503 where too many wait, 504 where it takes too long; what the network raises for
        inputs that it cannot take comes as InputError.
        """
        with self._lock:
            if self._unfinished >= self.limits.waiting:
                raise self._busy()
            self._unfinished += 1
        try:
            future = self._pool.submit(self._work, question, arrived)
        except RuntimeError as error:  # the pool is closed
            self._finished()
            raise refusal(503, "a request while the service stops", retry_after="5") from error
        future.add_done_callback(self._finished)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError as error:
            raise refusal(504, f"no answer within {self.limits.seconds:g} s", "a smaller request") from error

    def close(self) -> None:
        """End the running prediction, drop those that wait, take no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self, question: Question, arrived: float) -> tuple[Answer, Served]:
        deadline = question.deadline if question.deadline is not None else self.deadline
        left = None if deadline is None else deadline - (self._clock() - arrived)
        try:
            answer = self.run(question.inputs, deadline=left, queue=max(0, self._unfinished - 1))
        except PlisseError:
            raise
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise InputError(
                f"inputs that the network cannot take ({reason})", hint="GET /example"
            ) from error
        if not bool(torch.isfinite(answer.outputs).all()):
            raise refusal(500, "NaN or infinity in the outputs of the network", "finite outputs")
        taken = self._clock() - arrived
        size = n_samples(question.inputs)
        return answer, self.metrics.predicted(taken, deadline, answer.point, size, answer.switching)

    def _finished(self, _: object = None) -> None:
        with self._lock:
            self._unfinished -= 1

    def _busy(self) -> Exception:
        governor = self.run.governor
        pass_seconds = governor.expected(governor.point) if governor.point else 1.0
        seconds = max(1, math.ceil(self._unfinished * pass_seconds))
        return refusal(
            503, f"{self._unfinished} predictions that run or wait", f"at most {self.limits.waiting}",
            f"again in {seconds} s", retry_after=str(seconds),
        )  # fmt: skip
