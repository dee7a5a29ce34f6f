"""Names of tensors and layers that a user gives: check them, and match whole parts of a network."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from plisse.errors import InputError


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError for the first of `names` that is not `known`."""
    every = list(known)
    for name in names:
        if name not in every:
            close = get_close_matches(name, every, 3) or every[:3]
            raise InputError(
                f"no weight {name!r} in the network", expected=f"names such as {', '.join(close)}"
            )


def without(names: Iterable[str], ignore: Iterable[str]) -> list[str]:
    """`names` less those that are, or lie within, an ignored module or tensor.

    Raises InputError for an ignored name that matches nothing.

    >>> without(["stem.weight", "head.out.weight"], ["head"])
    ['stem.weight']
    """
    every = list(names)
    left = every
    for prefix in ignore:
        if not any(_within(name, prefix) for name in every):
            raise InputError(
                f"nothing named {prefix!r} to ignore", expected=f"a part of {', '.join(every[:3])}"
            )
        left = [name for name in left if not _within(name, prefix)]
    return left


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
