"""Frozen dataclasses to plain data (for YAML and JSON) and back, by an explicit table of types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from plisse.errors import InputError

TYPE_KEY = "type"


def to_data(value: Any) -> Any:
    """A dataclass as {"type": name, field: value, ...} without the fields that are at their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: to_data(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not is_default(field, getattr(value, field.name))
        }
        return {TYPE_KEY: type(value).__name__, **changed}
    if isinstance(value, Mapping):
        return {key: to_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_data(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"a {type(value).__name__} in a recipe", expected="numbers, text, lists and known steps")


def from_data(data: Any, types: Mapping[str, type]) -> Any:
    """The inverse of `to_data`; only the types in the table are built. Lists become tuples."""
    if isinstance(data, Mapping) and TYPE_KEY in data:
        return _build(dict(data), types)
    if isinstance(data, Mapping):
        return {key: from_data(item, types) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return tuple(from_data(item, types) for item in data)
    return data


def _build(data: dict[str, Any], types: Mapping[str, type]) -> Any:
    name = data.pop(TYPE_KEY)
    if name not in types:
        raise InputError(f"unknown type {name!r} in a recipe", expected=f"one of {', '.join(sorted(types))}")
    known = {field.name for field in dataclasses.fields(types[name])}
    if unknown := sorted(set(data) - known):
        raise InputError(
            f"unknown field {unknown[0]!r} of {name}", expected=f"one of {', '.join(sorted(known))}"
        )
    return types[name](**{key: from_data(item, types) for key, item in data.items()})


def is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether `value` is what the field of a dataclass has when nothing is said."""
    if field.default is not dataclasses.MISSING:
        return bool(type(field.default) is type(value) and field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(field.default_factory() == value)
    return False
