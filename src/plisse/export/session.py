"""ONNX Runtime with networks' inputs: feeds by name, comparison of outputs, sessions on one thread."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plisse.core.batch import Inputs
from plisse.errors import InputError

OUTPUT = "output"
INPUT = "input"


def optional(name: str) -> Any:
    """Import a module of the extra "onnx". Raises InputError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"no module {package!r}", expected="the extra 'onnx'", hint="pip install plisse[onnx]"
        ) from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Exporters talk by print, warnings and logging, some from C++; none of it helps the caller."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.WARNING)
    try:
        os.dup2(nothing, 1)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
        logging.disable(logging.NOTSET)


def input_names(inputs: Inputs) -> list[str]:
    """Names of the graph's inputs: the keys of a dictionary, "input", or "input_0", "input_1", ..."""
    if isinstance(inputs, dict):
        return list(inputs)
    return [f"{INPUT}_{i}" for i in range(len(inputs))] if isinstance(inputs, tuple) else [INPUT]


def tensors_of(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of `inputs` in the order of `input_names`."""
    if isinstance(inputs, dict):
        return tuple(inputs.values())
    return inputs if isinstance(inputs, tuple) else (inputs,)


def feeds(inputs: Inputs, known: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """What ONNX Runtime is called with; only names in `known` (an exporter drops inputs without effect)."""
    named = zip(input_names(inputs), tensors_of(inputs), strict=True)
    return {name: value.detach().cpu().numpy() for name, value in named if known is None or name in known}


def open_session(
    model: str | Path | bytes, *, threads: int | None = None, optimized: Path | None = None
) -> Any:
    """An inference session on the CPU. threads: None leaves the number to ONNX Runtime. optimized: where to
    write the graph that really runs."""
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads wait idly between runs
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Callable[[Inputs], Tensor]:
    """The session as a function from inputs to the first output.

    Prepared feeds are not kept: a call costs what a caller of ONNX Runtime pays.
    """
    known = [node.name for node in session.get_inputs()]

    def run(inputs: Inputs) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], feeds(inputs, known))[0])

    return run


def relative_difference(reference: Tensor, found: Tensor) -> float:
    """Largest absolute difference as a share of the largest reference value; infinite for other shapes."""
    if reference.shape != found.shape:
        return float("inf")
    apart = (reference.double() - found.double()).abs().max() / reference.double().abs().max().clamp_min(
        1e-12
    )
    return float(apart) if bool(torch.isfinite(apart)) else float("inf")
