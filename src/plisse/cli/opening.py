"""Networks and tasks from what was typed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plisse.cli.output import note
from plisse.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from plisse.train.task import Task

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
UNTRAINED = re.compile(r"(digits_cnn|resnet\d+)\b")


def open_network(spec: str, weights: Path | None, allow: Collection[str] | None, seed: int = 0) -> nn.Module:
    """The network that `spec` names. Says so when its weights are fresh, since scores then mean nothing."""
    from plisse.networks.open import open_model

    if weights is not None and is_file(spec):
        raise InputError(f"--weights with {spec!r}", expected="no weights, since the file holds its own")
    _see_working_folder(spec, *(allow or ()))
    if weights is None and UNTRAINED.match(spec) and not is_file(spec):
        note(f"{spec} has fresh, untrained weights; --weights FILE.safetensors gives it trained ones")
    return open_model(spec, weights, allow=tuple(allow or ()), seed=seed)


def open_networks(
    specs: Sequence[str], weights: Path | None, allow: Collection[str] | None, seed: int = 0
) -> dict[str, nn.Module]:
    """The networks that `specs` name; `weights` are those of the ones that are no files.

    Raises InputError for weights where each is a file.
    """
    if weights is not None and all(map(is_file, specs)):
        raise InputError("--weights with files alone", expected="no weights, since the files hold their own")
    return {spec: open_network(spec, None if is_file(spec) else weights, allow, seed) for spec in specs}


def open_named_task(task: str, data: str | None, model: nn.Module, seed: int) -> Task:
    """The task that `task` names, on `data`, in the form that `model` takes.

    Raises InputError where both name a place.
    """
    from plisse.train.tasks import TASKS, open_task

    name, _, place = task.partition(":")
    if data is not None and place and name in TASKS:
        raise InputError(
            f"--task {task} and --data {data}", expected="one place", hint=f"--task {name} --data {data}"
        )
    _see_working_folder(task)
    return open_task(task, data, model=model, seed=seed)


def joined(task: str, data: str | None) -> str:
    """`--task T --data D` as people read it.

    >>> joined("cifar10", "data"), joined("cifar10:data", None), joined("digits", None)
    ('cifar10:data', 'cifar10:data', 'digits')
    """
    return task if data is None else f"{task}:{data}"


def kind(task: str) -> str:
    """The task without its place, for titles and for the file, which should not tell where data lay.

    >>> kind("cifar10:data/cifar10"), kind("mine.tasks:birds")
    ('cifar10', 'mine.tasks:birds')
    """
    return task if CALLABLE.fullmatch(task) and "." in task.partition(":")[0] else task.partition(":")[0]


def is_file(spec: str) -> bool:
    return spec.endswith(".plisse") or Path(spec).is_file()


def written_bytes(spec: str, model: nn.Module) -> int:
    """Length of the file of a network: as it lies there, or as a plain safetensors file would."""
    if is_file(spec):
        return Path(spec).stat().st_size
    import safetensors.torch

    from plisse.core.modules import distinct_state

    return len(safetensors.torch.save(distinct_state(model)))


def _see_working_folder(*specs: str) -> None:
    """Let `package.module:callable` be found in the working folder, behind everything installed."""
    here = os.getcwd()
    if any(CALLABLE.fullmatch(spec) for spec in specs) and here not in sys.path:
        sys.path.append(here)
