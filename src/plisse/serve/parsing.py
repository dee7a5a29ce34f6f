"""From the bytes of a request to tensors that the network can take, or a refusal that says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plisse.core.batch import Inputs
from plisse.errors import InputError
from plisse.serve.limits import Limits, refusal

LONGEST_SEQUENCE = 512
FIELDS = ("inputs", "deadline_ms")


@dataclass(frozen=True)
class Form:
    """What inputs look like: name ("" for a single tensor) to shape without the batch axis and type.

    Integers of one axis are sequences and may have any length up to 512. Named inputs go to the network by
    name; names that are 0, 1, ... by place.
    """

    inputs: Mapping[str, tuple[tuple[int, ...], str]]

    @classmethod
    def of(cls, conditions: Mapping[str, Any]) -> Form:
        """The form that a profile was measured with. Raises InputError where it does not say."""
        try:
            found = {
                str(name): (tuple(int(n) for n in one["shape"]), str(one["type"]))
                for name, one in conditions["inputs"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "a profile that does not say what the inputs look like", expected="one by plisse profile"
            ) from error
        if not found or not all(hasattr(torch, kind) for _, kind in found.values()):
            raise InputError(f"inputs {found}", expected="at least one, each of a type of tensor")
        return cls(found)

    def example(self, samples: int = 1) -> Inputs:
        """Inputs of this form: noise for floats, ones for integers."""
        generator = torch.Generator().manual_seed(0)
        made = {}
        for name, (shape, kind) in self.inputs.items():
            noise = torch.randn((samples, *shape), generator=generator)
            made[name] = noise.to(_dtype(kind)) if _dtype(kind).is_floating_point else torch.ones_like(
                noise, dtype=_dtype(kind)
            )  # fmt: skip
        return self.arranged(made)

    def arranged(self, tensors: Mapping[str, Tensor]) -> Inputs:
        """As the network takes them: one tensor, a tuple, or a dictionary."""
        if "" in tensors:
            return tensors[""]
        if all(name.isdigit() for name in tensors):
            return tuple(tensors[name] for name in sorted(tensors, key=int))
        return dict(tensors)


@dataclass(frozen=True, eq=False)
class Question:
    """One prediction that is asked for. deadline: seconds from its arrival, None for the service's own."""

    inputs: Inputs
    deadline: float | None


def parse_json(body: bytes) -> Any:
    """The JSON document in `body`. Raises RefusedError (400) for what is none, NaN and infinity included."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:160]
        raise refusal(400, f"a body that is no JSON ({reason})", "a JSON document") from error


def question(body: bytes, form: Form, limits: Limits) -> Question:
    """What a request to predict asks for.

    Raises RefusedError (400) for what is no JSON, InputError for anything else that does not fit.
    """
    asked = fields(parse_json(body), FIELDS, '{"inputs": [...], "deadline_ms": 20}')
    if "inputs" not in asked:
        raise InputError("a request without inputs", expected=_expected(form), hint=_hint(form))
    return Question(_inputs(asked["inputs"], form, limits), _deadline(asked.get("deadline_ms")))


def fields(found: Any, known: tuple[str, ...], hint: str) -> dict[str, Any]:
    """`found` as a dictionary with known keys only."""
    if not isinstance(found, dict):
        raise InputError(_json_kind(found), expected="a JSON object", hint=hint)
    if unknown := sorted(set(found) - set(known)):
        raise InputError(f"field {unknown[0][:80]!r}", expected=f"only {', '.join(known)}", hint=hint)
    return found


def _json_kind(found: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return f"{kinds.get(type(found), 'a number')} in JSON"


def _inputs(given: Any, form: Form, limits: Limits) -> Inputs:
    if "" in form.inputs:
        given = {"": given}
    if not isinstance(given, dict) or set(given) != set(form.inputs):
        raise InputError("inputs of other names", expected=_expected(form), hint=_hint(form))
    tensors = {name: _tensor(name, value, form, limits) for name, value in given.items()}
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        raise InputError("inputs of different numbers of samples", expected="one batch size")
    return form.arranged(tensors)


def _tensor(name: str, value: Any, form: Form, limits: Limits) -> Tensor:
    shape, kind = form.inputs[name]
    dtype = _dtype(kind)
    what = f"input {name!r}" if name else "inputs"
    if not isinstance(value, list):
        raise InputError(f"{_json_kind(value)} for {what}", expected=_expected(form), hint=_hint(form))
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:
        raise InputError(f"ragged {what}", expected=_expected(form), hint=_hint(form)) from error
    numbers = "iuf" if dtype.is_floating_point else "iu"
    if array.dtype.kind not in numbers:
        raise InputError(f"{what} that are no {kind} numbers", expected=_expected(form), hint=_hint(form))
    _check_shape(what, array.shape, shape, dtype, form, limits)
    return _converted(what, array, dtype)


def _check_shape(
    what: str, came: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, form: Form, limits: Limits
) -> None:
    sequence = not dtype.is_floating_point and len(shape) == 1
    fits = came[1:] == shape or (sequence and len(came) == 2 and 1 <= came[1] <= LONGEST_SEQUENCE)
    if not fits:
        raise InputError(f"{what} of shape {list(came)}", expected=_expected(form), hint=_hint(form))
    if not 1 <= came[0] <= limits.batch:
        raise InputError(f"{what} of {came[0]} samples", expected=f"1 to {limits.batch} in one request")


def _converted(what: str, array: np.ndarray, dtype: torch.dtype) -> Tensor:
    with np.errstate(all="ignore"):
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    if dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{what} with NaN or infinity", expected=f"finite numbers that fit {dtype}")
    return tensor


def _deadline(given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise InputError(f"deadline_ms {str(given)[:40]}", expected="milliseconds above zero")
    return float(given) / 1000


def _expected(form: Form) -> str:
    parts = [
        f"{f'{name} ' if name else ''}[N, {', '.join(map(str, shape))}] of {kind}"
        for name, (shape, kind) in form.inputs.items()
    ]
    return "inputs of shape " + " and ".join(parts)


def _hint(form: Form) -> str:
    return "GET /example" if form.inputs else ""


def _dtype(kind: str) -> torch.dtype:
    found = getattr(torch, kind)
    if not isinstance(found, torch.dtype):
        raise InputError(f"type {kind!r}", expected="a type of tensor")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
