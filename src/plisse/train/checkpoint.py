"""The state of a training run in one file: safetensors with a JSON header, written whole or not at all.

Tensors: `model/NAME` for every parameter and buffer, `optimizer/NAME/KEY` for what the optimizer keeps for a
parameter. Header entry `plisse`: version, identity of the run, steps done, whether it finished, history.
There is no random state, since the loop draws afresh from (seed, step) in every step.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from plisse.bitstream.atomic import write_atomic
from plisse.core.batch import Batch
from plisse.errors import InputError

VERSION = 1
HEADER = "plisse"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """step: steps done. history: `History.to_data()` so far."""

    step: int
    finished: bool
    history: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """Every tensor of `model`, and what `optimizer` keeps, as copies on the CPU."""
    tensors = {f"model/{name}": value for name, value in named_tensors(model).items()}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{name}/{key}"] = value
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def restore(saved: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put saved tensors back in place; memory order and device stay those of the network."""
    with torch.no_grad():
        for name, value in named_tensors(model).items():
            value.copy_(saved.tensors[f"model/{name}"])
    if optimizer is None:
        return
    parameters = dict(model.named_parameters())
    for entry, value in saved.tensors.items():
        if entry.startswith("optimizer/"):
            name, _, key = entry.removeprefix("optimizer/").rpartition("/")
            parameter = parameters[name]
            moment = key != "step" and value.shape == parameter.shape  # torch counts steps on the CPU
            kept = torch.empty_like(parameter.detach()).copy_(value) if moment else value
            optimizer.state[parameter][key] = kept


def write(path: Path, saved: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write atomically, so that `path` always holds a whole checkpoint. Raises OutputError."""
    header = {
        "version": VERSION,
        "identity": identity,
        "step": saved.step,
        "finished": saved.finished,
        "history": saved.history,
    }
    data = safetensors.torch.save(dict(saved.tensors), {HEADER: json.dumps(header)})
    write_atomic(path, data)


def read(path: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint at `path`, or None where there is none.

    Raises InputError for a file that is no checkpoint, or one of a run with another identity.
    """
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, theirs = header["version"], header["identity"]
        saved = Checkpoint(header["step"], header["finished"], header["history"], tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"a file {path} that is no checkpoint ({error})", expected="one that fit wrote", hint=f"rm {path}"
        ) from error
    _check_identity(path, {"version": version, **theirs}, {"version": VERSION, **identity})
    return saved


def _check_identity(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    ours = json.loads(json.dumps(ours))
    for key in ours:
        if theirs.get(key) != ours[key]:
            raise InputError(
                f"checkpoint {path} of another run, with {key} = {theirs.get(key)}",
                expected=f"{key} = {ours[key]}",
                hint="delete it, or give another checkpoint path",
            )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, also buffers that a state dictionary leaves out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Eight bytes of BLAKE2b over names, types, shapes and values, in hexadecimal."""
    found = hashlib.blake2b(digest_size=8)
    for name, value in tensors.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def batch_digest(batch: Batch) -> str:
    """The digest of inputs and target."""
    inputs = batch.inputs
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    named = inputs if isinstance(inputs, dict) else {str(i): value for i, value in enumerate(inputs)}
    return digest(named if batch.target is None else {**named, " target": batch.target})


def describe(value: Any) -> Any:
    """JSON data that tells two objectives, hooks or optimizers apart: types, fields, digests of weights.

    >>> from plisse.train.optimizers import SGD
    >>> describe(SGD(lr=0.1))["lr"]
    0.1
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return digest({"": value})
    if isinstance(value, nn.Module):
        return {"module": type(value).__qualname__, "weights": digest(named_tensors(value))}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": kind, **fields}
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else kind
