"""Frozen dataclasses to plain data (for YAML and JSON) and back, by an explicit table of types."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from plisse.core.fields import as_number, fits, hints, words
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
    """The inverse of `to_data`; only the types in the table are built. Lists become tuples.

    A name alone stands for the type with its defaults, where a field wants a value of that type. Raises
    InputError for unknown names, and for values that are not what a field is annotated with.
    """
    if isinstance(data, Mapping) and TYPE_KEY in data:
        return _build(dict(data), types)
    if isinstance(data, Mapping):
        return {key: from_data(item, types) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return tuple(from_data(item, types) for item in data)
    return data


def _build(data: dict[str, Any], types: Mapping[str, type]) -> Any:
    name = data.pop(TYPE_KEY)
    kind = types.get(name) if isinstance(name, str) else None
    if kind is None:
        raise unknown_type(str(name), types)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if strange := sorted(map(str, set(data) - set(fields))):
        raise InputError(
            f"unknown field {strange[0]!r} of {name}", expected=f"one of {', '.join(sorted(fields))}"
        )
    if missing := [field.name for field in fields.values() if _is_needed(field) and field.name not in data]:
        raise InputError(f"{name} without {missing[0]}", expected=f"{missing[0]}: a value")
    known = hints(kind)
    given = {key: _value(f"{key} of {name}", item, known.get(key, Any), types) for key, item in data.items()}
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}, which cannot be made ({error})", expected="fields that fit") from error


def _value(place: str, data: Any, hint: Any, types: Mapping[str, type]) -> Any:
    """The value of one field. Raises InputError for one that is not what the field wants."""
    value = as_number(from_data(data, types), hint)
    if not fits(value, hint) and isinstance(value, str) and value in types:
        value = _build({TYPE_KEY: value}, types)
    if not fits(value, hint):
        raise InputError(f"{value!r} for {place}", expected=words(hint, types.values()))
    return value


def unknown_type(name: str, types: Mapping[str, type], wanted: Iterable[str] = ()) -> InputError:
    """An error that gives the nearest names. wanted: those to choose from, without them all of `types`."""
    among = list(wanted) or list(types)
    lower = {one.lower(): one for one in among}
    near = [lower[one] for one in get_close_matches(name.lower(), list(lower), 4)]
    expected = f"a name such as {', '.join(near or sorted(among)[:12])}"
    return InputError(f"unknown type {name!r} in a recipe", expected=expected)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether `value` is what the field of a dataclass has when nothing is said."""
    if field.default is not dataclasses.MISSING:
        return bool(type(field.default) is type(value) and field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(field.default_factory() == value)
    return False
