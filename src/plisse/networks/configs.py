"""Configurations of transformers as checked data: nothing in them runs code, downloads or allocates a lot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from plisse.errors import InputError

ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "mobilebert",
    "modernbert",
    "mpnet",
    "roberta",
    "squeezebert",
    "vit",
    "xlm-roberta",
)
DROPPED = (
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "name_or_path",
    "pruned_heads",
    "quantization_config",
    "sinusoidal_pos_embds",
    "torch_dtype",
    "transformers_version",
)
MAX_SIZE = 1 << 20
MAX_LAYERS = 128
MAX_VALUES = 1 << 29


def cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without notes on its history and without anything that names code or a download."""
    return {key: config[key] for key in config if key not in DROPPED and not key.startswith("_")}


def checked(config: Mapping[str, Any]) -> Any:
    """The configuration object of transformers for plain `config` data, with sizes within reason.

    Raises InputError for a `model_type` that is not in ENCODERS, nested data, sizes beyond 2^20, and more
    than 128 layers.
    """
    data = cleaned(config)
    model_type = data.pop("model_type", None)
    if model_type not in ENCODERS:
        raise InputError(f"model_type {model_type!r}", expected=f"one of {', '.join(ENCODERS)}")
    for key, value in data.items():
        _check(key, value)
    auto = transformers().AutoConfig
    try:
        return auto.for_model(model_type, **data)
    except Exception as error:  # its validators raise errors of many kinds
        raise InputError(f"a configuration of {model_type} that fails: {error}") from error


def bounded(make: Callable[[], nn.Module]) -> nn.Module:
    """`make()`, after a rehearsal without memory that must stay within 2^29 values (2 GiB as float32).

    Raises InputError where it would not, or where `make` fails.
    """
    try:
        with torch.device("meta"):
            rehearsal = make()
        values = sum(tensor.numel() for tensor in (*rehearsal.parameters(), *rehearsal.buffers()))
        if values > MAX_VALUES:
            raise InputError(f"a network of {values} values", expected=f"at most {MAX_VALUES}")
        return make()
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"arguments that build no network: {error}") from error


def transformers() -> Any:
    """The package transformers.

    Raises InputError that says how to install it.
    """
    try:
        import transformers as package
    except ImportError as error:
        raise InputError(
            "text without the package transformers", hint="pip install 'plisse[text]'"
        ) from error
    return package


def _check(key: str, value: Any) -> None:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    for item in items:
        if item is not None and not isinstance(item, (bool, int, float, str)):
            raise InputError(f"{key} of type {type(item).__name__}", expected="numbers and text, flat")
        limit = MAX_LAYERS if "layers" in key else MAX_SIZE
        if isinstance(item, int) and abs(item) > limit:
            raise InputError(f"{key}={item}", expected=f"at most {limit}")
