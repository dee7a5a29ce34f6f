"""Skeletons: networks with fresh weights from their origin, by an explicit table."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn

from plisse.core.origin import Origin, with_origin
from plisse.errors import InputError, PlisseError

BUILTIN = {
    "digits_cnn": "plisse.networks.small:digits_cnn",
    "fourier_mlp": "plisse.networks.coordinate:fourier_mlp",
    "frame_generator": "plisse.networks.coordinate:FrameGenerator",
    "resnet18": "plisse.networks.resnet:resnet18",
    "resnet20": "plisse.networks.resnet:resnet20",
    "resnet56": "plisse.networks.resnet:resnet56",
    "sentence_encoder": "plisse.networks.transformer:SentenceEncoder",
    "siren": "plisse.networks.coordinate:siren",
}
MAX_SIZE = 1 << 15


def build(origin: Origin, allow: Collection[str] = (), seed: int = 0) -> nn.Module:
    """A network of the structure that `origin` tells, with fresh weights drawn from `seed`.

    allow: the factories ("package.module:callable") that may run. Sizes are checked before memory is taken,
    so that an origin from a strange file is safe to build.

    Raises InputError for an unknown name, a factory that is not allowed, and arguments out of range.

    >>> build(Origin("builtin", "resnet20", {"classes": 100})).linear.out_features
    100
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return with_origin(_build(origin, allow), origin)


def _build(origin: Origin, allow: Collection[str]) -> nn.Module:
    if origin.kind == "builtin":
        return _builtin(origin)
    if origin.kind == "transformers":
        from plisse.networks.transformer import from_config

        return from_config(origin.name, origin.arguments)
    if origin.kind == "factory":
        return _from_factory(origin, allow)
    raise InputError(f"an origin of kind {origin.kind!r}", expected="builtin, transformers or factory")


def _builtin(origin: Origin) -> nn.Module:
    if origin.name not in BUILTIN:
        raise unknown("network", origin.name, BUILTIN)
    factory = imported(BUILTIN[origin.name])
    _check_arguments(factory, origin)
    for key, value in origin.arguments.items():
        if isinstance(value, int) and not 0 < value <= MAX_SIZE:
            raise InputError(f"{key}={value} of {origin.name!r}", expected=f"1 to {MAX_SIZE}")
    try:
        return factory(**origin.arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"options of {origin.name!r} that build no network: {error}") from error


def _from_factory(origin: Origin, allow: Collection[str]) -> nn.Module:
    if origin.name not in allow:
        raise InputError(
            f"a network made by {origin.name!r}, whose code was not allowed to run",
            expected="a factory that you trust and name",
            hint=f"--allow {origin.name}",
        )
    factory = imported(origin.name)
    _check_arguments(factory, origin)
    model = factory(**origin.arguments)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{origin.name!r}, which gave a {type(model).__name__}", expected="a torch.nn.Module"
        )
    return model


def imported(name: str) -> Callable[..., Any]:
    """The callable `package.module:callable`. Importing runs its module: only for names that a user gave.

    Raises InputError where there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except PlisseError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{name!r}: {error}", expected="package.module:callable that can be imported"
        ) from error
    if not callable(found):
        raise InputError(f"{name!r}, which is a {type(found).__name__}", expected="a callable")
    return found  # type: ignore[no-any-return]


def _check_arguments(factory: Callable[..., Any], origin: Origin) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # callables that are written in C may have none
        return
    try:
        signature.bind(**origin.arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise InputError(f"options of {origin.name!r}: {error}", expected=f"options {known}") from error


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error that lists what exists, and the closest name to what came."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return InputError(
        f"unknown {what} {name!r}", expected=f"one of {', '.join(names)}", hint=close[0] if close else ""
    )
