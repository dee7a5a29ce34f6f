"""What one client may ask of the service, and how it is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plisse.errors import InputError, PlisseError


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. batch: samples in one. waiting: predictions that run or wait at once; the
    next client is told when to come again. clients: requests of any kind at once. body_seconds: for a body
    to arrive. seconds: for an answer."""

    body: int = 4 << 20
    batch: int = 64
    waiting: int = 32
    clients: int = 64
    body_seconds: float = 10.0
    seconds: float = 30.0

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        if wrong := [name for name, value in values.items() if not 0 < value < math.inf]:
            raise InputError(f"{wrong[0]}={values[wrong[0]]}", expected="a limit above zero")


class RefusedError(Exception):
    """An error with the status that HTTP has for it, and headers that belong to it."""

    def __init__(self, status: int, error: PlisseError, headers: Mapping[str, str]) -> None:
        super().__init__(str(error))
        self.status, self.error, self.headers = status, error, headers


def refusal(status: int, came: str, expected: str = "", hint: str = "", **headers: str) -> RefusedError:
    """A `RefusedError` in words; headers in snake case: `retry_after="1"`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return RefusedError(status, PlisseError(came, expected=expected, hint=hint), named)


def told(error: PlisseError) -> dict[str, Any]:
    """The JSON document of an error.

    >>> told(InputError("a word"))
    {'error': {'message': 'got a word', 'came': 'a word', 'expected': '', 'hint': ''}}
    """
    words = {"came": error.came, "expected": error.expected, "hint": error.hint}
    return {"error": {"message": str(error), **words}}
