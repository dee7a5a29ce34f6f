"""Run a network again after one of its layers changed, without repeating what comes before that layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.batch import Batch, call

MEMORY = 1 << 31
"""Bytes of outputs that are remembered at most; modules beyond are simply run again."""


class PrefixCache:
    """Outputs of the leaf modules of `model` on one batch, in the order in which they are called.

    While layer l is tried with another weight, every leaf that is called before it answers from memory. Only
    leaves that are called once and put out one tensor are remembered, so that any network works; those
    without parameters are cheap and always run.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.order: dict[str, int] = {}
        self.outputs: dict[str, Tensor] = {}
        self.logits = self._record()

    def _record(self) -> Any:
        calls: Counter[str] = Counter()
        used = 0

        def note(name: str, output: Any) -> None:
            nonlocal used
            calls[name] += 1
            self.order.setdefault(name, len(self.order))
            if isinstance(output, Tensor) and used + output.nbytes <= MEMORY:
                used += output.nbytes
                self.outputs[name] = output

        handles = [
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))  # type: ignore[misc]
            for name, module in self.model.named_modules()
            if not list(module.children()) and list(module.parameters())
        ]
        try:
            with torch.inference_mode():
                logits = call(self.model, self.batch.inputs)
        finally:
            for handle in handles:
                handle.remove()
        for name in [name for name, n in calls.items() if n > 1]:
            self.outputs.pop(name, None)
        return logits

    def rerun(self, changed: str) -> Any:
        """The network's outputs now that the layer `changed` is another; earlier ones answer from memory."""
        before = self.order.get(changed, 0)
        earlier = [name for name in self.outputs if self.order[name] < before]
        with _answering(self.model, earlier, self.outputs), torch.inference_mode():
            return call(self.model, self.batch.inputs)


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
