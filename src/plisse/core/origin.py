"""Where a network comes from, so that a file can rebuild its skeleton without pickled code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from plisse.errors import GraphError

_ATTRIBUTE = "plisse_origin"


@dataclass(frozen=True)
class Origin:
    """How to build a network of the same structure with fresh weights.

    kind: "builtin" (a name in plisse.networks), "transformers" (a configuration) or "factory"
    ("package.module:callable", which a reader must allow by name before it runs).
    arguments: JSON data, passed to the builder by keyword (for "transformers": the configuration).
    """

    kind: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def with_origin(model: nn.Module, origin: Origin) -> nn.Module:
    """Note `origin` on `model` (in place) and return the model. Copies of the model keep it."""
    model.__dict__[_ATTRIBUTE] = origin
    return model


def origin_of(model: nn.Module) -> Origin:
    """The origin noted on `model`.

    Raises GraphError where there is none, since such a network could not be loaded again.
    """
    origin = model.__dict__.get(_ATTRIBUTE)
    if origin is None:
        raise GraphError(
            f"a {type(model).__name__} whose origin is unknown",
            expected="a built-in network, a transformers model, or one made by a named factory",
            hint="plisse.with_origin(model, plisse.Origin('factory', 'package.module:callable'))",
        )
    return origin
