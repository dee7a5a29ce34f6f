"""Several processes that train one network: how they start, and which samples each one takes."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, distributed

from plisse import errors
from plisse.core.batch import Batch, map_inputs, n_samples
from plisse.errors import InputError, PlisseError

PORT = "MASTER_PORT"
ERROR = ".error"


def share(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """The slice of `batch` along dimension 0 that process `rank` of `world` takes, and its weight.

    Slices differ by at most one sample. The weight, samples here times world / samples in all, is 1 where
    they are equal; means over slices, so weighted and averaged over processes, are means over the batch.
    Where there are k inputs per target (pairs), the k rows of a sample must lie next to each other.

    >>> import torch
    >>> piece, weight = share(Batch(torch.arange(8), torch.arange(4)), rank=1, world=2)
    >>> piece.inputs.tolist(), piece.target.tolist(), weight
    ([4, 5, 6, 7], [2, 3], 1.0)
    """
    if world == 1:
        return batch, 1.0
    rows = n_samples(batch.inputs) if batch.target is None else int(batch.target.shape[0])
    if rows < world:
        raise InputError(f"a batch of {rows} samples for {world} processes", expected="one sample for each")
    first, last = rank * rows // world, (rank + 1) * rows // world

    def cut(tensor: Tensor) -> Tensor:
        per_sample, rest = divmod(tensor.shape[0], rows)
        if rest:
            raise InputError(
                f"a tensor of {tensor.shape[0]} rows in a batch of {rows} samples",
                expected="the same number of rows for every sample",
            )
        return tensor[first * per_sample : last * per_sample]

    target = None if batch.target is None else cut(batch.target)
    return Batch(map_inputs(batch.inputs, cut), target), (last - first) * world / rows


def launch(fabric: Fabric, work: Callable[[Fabric], None]) -> None:
    """Run `work` in fresh processes (start method spawn) and wait for them.

    Errors of Plissé are raised here as they were there; any other error of `work` comes as torch's
    ProcessRaisedException, which carries its traceback as text.
    """
    with tempfile.TemporaryDirectory() as folder:
        _launch(fabric, work, Path(folder))


def _launch(fabric: Fabric, work: Callable[[Fabric], None], folder: Path) -> None:
    """folder: where a process leaves its error, should it abort before it can hand it over."""
    port = os.environ.get(PORT)
    try:
        failure = fabric.launch(partial(_attempt, work, folder))
    except PlisseError:
        raise
    except Exception as error:  # what cannot be sent fails with one of several types; the text tells
        if (left := _left(folder)) is not None:
            raise left from error
        if "pickle" not in str(error):
            raise
        raise InputError(
            f"something that cannot be sent to another process: {error}",
            expected="objective, batches and hooks made of functions and classes at the top of a module",
            hint="devices=1",
        ) from error
    finally:
        if port is None:
            os.environ.pop(PORT, None)
        else:
            os.environ[PORT] = port
    if failure is not None:
        raise failure


def _attempt(work: Callable[[Fabric], None], folder: Path, fabric: Fabric) -> PlisseError | None:
    try:
        work(fabric)
    except PlisseError as error:
        part = folder / f"{fabric.global_rank}.part"
        words = {key: value if isinstance(value, (str, int)) else None for key, value in vars(error).items()}
        kept = {"kind": type(error).__name__, "text": str(error), "words": words}
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.rename(part.with_suffix(ERROR))
        return error
    finally:
        _leave(fabric)
    return None


def _left(folder: Path) -> PlisseError | None:
    """The error of the first process that left one."""
    for path in sorted(folder.glob(f"*{ERROR}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        kind: Any = getattr(errors, found["kind"], PlisseError)
        error: PlisseError = kind.__new__(kind)
        error.args = (found["text"],)
        vars(error).update(found["words"])
        return error
    return None


def _leave(fabric: Fabric) -> None:
    """End the process group: a process that exits with its threads still running may abort."""
    if fabric.world_size > 1 and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from announcing devices and precision."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
