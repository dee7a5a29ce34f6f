"""Values for the fields of dataclasses, checked against what the annotations of the fields say."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
EXPONENT = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)


def hints(kind: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, those that can be found out at run time."""
    try:
        return typing.get_type_hints(kind)
    except NameError:  # imported for the type checker alone
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is what `hint` says. Of tuples and mappings every item is looked at; of protocols, the
    names of their members; hints of other kinds fit all.

    >>> fits(3, float), fits(True, int), fits((1, 2), tuple[int, ...]), fits("x", int | None)
    (True, False, True, False)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(value, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in WORDS or dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    return not getattr(hint, "_is_protocol", False) or _is_like(type(value), hint)


def _items_fit(items: tuple[Any, ...], arguments: tuple[Any, ...]) -> bool:
    if arguments[-1:] == (Ellipsis,):
        return all(fits(item, arguments[0]) for item in items)
    return len(items) == len(arguments) and all(map(fits, items, arguments))


def _is_like(kind: type, protocol: type) -> bool:
    """Whether a dataclass has the members of a protocol."""
    members = [name for name in vars(protocol) if not name.startswith("_") or name == "__call__"]
    return dataclasses.is_dataclass(kind) and all(hasattr(kind, name) for name in members)


def as_number(value: Any, hint: Any) -> Any:
    """`1e-3`, which YAML takes for text, as a number where `hint` wants one; other values as they are."""
    wanted = isinstance(value, str) and EXPONENT.fullmatch(value) and not fits(value, hint)
    return float(value) if wanted and fits(0.5, hint) else value


def words(hint: Any, kinds: Iterable[type]) -> str:
    """What `hint` asks for, in words; of protocols, those of `kinds` that have their members.

    >>> words(int | None, ())
    'a whole number or null'
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(words(argument, kinds) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is not None:
        return f"a list of {words(arguments[0], kinds)}" if origin is tuple else "names with values"
    if getattr(hint, "_is_protocol", False):
        found = [kind.__name__ for kind in kinds if _is_like(kind, hint)]
        return f"one of {', '.join(sorted(found))}" if found else hint.__name__
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))
