"""What can go wrong, as a tree; the number is the exit code of the command line.

PlisseError                 1
├── InputError              2   an unknown name, missing data, a bad option
├── WeightsError            3   a checkpoint of other shapes, NaN in weights
├── GraphError              4   a network that tracing cannot follow
├── BudgetError             5   a budget that nothing meets; carries the closest
├── FormatError             6   a file that is no valid .plisse file; carries the offset
├── SavedNothingError       7   under --strict, a step that saved neither bytes nor time
├── ExportError             8   an exported file that does not compute what the network does
└── OutputError             9   a file that cannot be written: full disk, no permission
"""

from __future__ import annotations

from typing import Any


class PlisseError(Exception):
    """An error that a user can act on: what came, what was expected, what to try.

    >>> str(InputError("task 'digit'", expected="digits or cifar10:DIR", hint="plisse compress --help"))
    "got task 'digit'; expected digits or cifar10:DIR; try: plisse compress --help"
    """

    exit_code = 1

    def __init__(self, came: str, *, expected: str = "", hint: str = "") -> None:
        self.came, self.expected, self.hint = came, expected, hint
        parts = [f"got {came}"]
        if expected:
            parts.append(f"expected {expected}")
        if hint:
            parts.append(f"try: {hint}")
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[PlisseError], args: tuple[Any, ...], state: dict[str, Any]) -> PlisseError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(PlisseError):
    exit_code = 2


class WeightsError(PlisseError):
    exit_code = 3


class GraphError(PlisseError):
    exit_code = 4


class BudgetError(PlisseError):
    """A budget that nothing meets. `closest` is the nearest `Cost` that was reached, if any."""

    exit_code = 5

    def __init__(self, came: str, *, expected: str = "", hint: str = "", closest: object = None) -> None:
        super().__init__(came, expected=expected, hint=hint)
        self.closest = closest


class FormatError(PlisseError):
    """Bytes that are no valid file. `offset` counts bytes from the start of the file or section."""

    exit_code = 6

    def __init__(self, came: str, *, offset: int, expected: str = "", hint: str = "") -> None:
        super().__init__(f"{came} at byte {offset}", expected=expected, hint=hint)
        self.offset = offset


class SavedNothingError(PlisseError):
    exit_code = 7


class ExportError(PlisseError):
    exit_code = 8


class OutputError(PlisseError):
    exit_code = 9


class StaysFloat(UserWarning):
    """Operators of a network that run in floating point although the rest runs in integers."""
