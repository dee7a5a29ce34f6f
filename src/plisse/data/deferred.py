"""Batches that are read when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from plisse.core.batch import Batch, Batches


@dataclass(eq=False)
class Deferred:
    """`Batches` behind a function that reads them; called once, at the first use.

    A post-training method never touches the training set, so it should not wait for it either.
    """

    read: Callable[[], Batches]

    @cached_property
    def batches(self) -> Batches:
        return self.read()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)
