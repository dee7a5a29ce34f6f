"""Run a network again after some of its layers changed, without repeating what comes before those layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.batch import Batch, call
from plisse.core.hooks import after_calls, before_calls

MEMORY = 1 << 31
"""Bytes of outputs that are remembered at most; modules beyond are simply run again."""


class PrefixCache:
    """Outputs of the modules of `model` on one batch, and when each was begun and ended.

    While layers are tried with other weights, every module that ended before the first of them began answers
    from memory, whole blocks at once. Only modules with parameters that are called once and put out one
    tensor, which nothing changes in place later, are remembered, so that any network works.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.begun: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.outputs: dict[str, Tensor] = {}
        self.logits = self._record()

    def rerun(self, changed: Iterable[str]) -> Any:
        """The network's outputs now that the layers `changed` are others; what is earlier is remembered."""
        first = min((self.begun[name] for name in changed if name in self.begun), default=0)
        earlier = [name for name in self.outputs if self.ended[name] < first]
        with _answering(self.model, earlier, self.outputs), torch.no_grad():
            return call(self.model, self.batch.inputs)

    def _record(self) -> Any:
        calls: Counter[str] = Counter()
        versions: dict[str, int] = {}
        clock = used = 0

        def begin(name: str) -> None:
            nonlocal clock
            clock += 1
            self.begun.setdefault(name, clock)

        def end(name: str, output: Any) -> None:
            nonlocal clock, used
            clock += 1
            calls[name] += 1
            self.ended[name] = clock
            if isinstance(output, Tensor) and used + output.nbytes <= MEMORY:
                used += output.nbytes
                self.outputs[name], versions[name] = output, output._version

        with _observed(self.model, begin, end), torch.no_grad():
            logits = call(self.model, self.batch.inputs)
        for name, output in list(self.outputs.items()):
            if calls[name] > 1 or output._version != versions[name]:
                del self.outputs[name]
        return logits


@contextmanager
def _observed(model: nn.Module, begin: Any, end: Any) -> Iterator[None]:
    """Call begin(name) and end(name, output) around every module with parameters but the whole network."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is not None
    }
    with (
        before_calls(layers, lambda name, *_: begin(name)),
        after_calls(layers, lambda name, _, __, output: end(name, output)),
    ):
        yield


@contextmanager
def _answering(model: nn.Module, names: Sequence[str], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Let modules return what is remembered instead of computing."""
    found: list[Any] = [model.get_submodule(name) for name in names]
    for name, module in zip(names, found, strict=True):
        module.forward = lambda *_, answer=outputs[name], **__: answer
    try:
        yield
    finally:
        for module in found:
            del module.forward
