"""The head of a model file as canonical JSON: which skeleton, which edits, how many tensors, which notes."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plisse.bitstream.squeeze import expanded, squeezed
from plisse.core.edits import LAYERS, Edit
from plisse.core.origin import Origin
from plisse.errors import FormatError, InputError

MAX_JSON = 1 << 20
MAX_DEPTH = 32
MAX_EDITS = 4096
MAX_NAME = 256
MAX_NUMBER = 1 << 32

KEYS = {"edits", "names", "notes", "origin", "tensors"}
ORIGIN_KEYS = {"arguments", "kind", "name"}
NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Head:
    """How to rebuild a network without its tensors.

    edits: without the arguments that the skeleton's layers have too. names: CRC32 of the names of its
    tensors in order. tensors: how many there are. notes: JSON data.
    """

    origin: Origin
    edits: tuple[Edit, ...]
    names: int
    tensors: int
    notes: Mapping[str, Any] = field(default_factory=dict)


def names_check(names: Iterable[str]) -> int:
    """CRC32 of tensor names in order."""
    return zlib.crc32("\n".join(names).encode())


def encode_head(head: Head) -> bytes:
    """The payload of the model section. Raises InputError for notes or arguments that are no JSON data.

    >>> head = Head(Origin("builtin", "resnet20"), (), names_check([]), 0)
    >>> decode_head(encode_head(head)) == head
    True
    """
    data = {
        "origin": dataclasses.asdict(head.origin),
        "edits": [[edit.name, edit.layer, dict(edit.arguments)] for edit in head.edits],
        "names": head.names,
        "tensors": head.tensors,
        "notes": dict(head.notes),
    }
    expected = f"text, finite numbers, lists and objects, nested {MAX_DEPTH} deep, {MAX_JSON} bytes in all"
    try:
        raw = canonical_json(data)
        read_head(raw)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"notes or arguments: {error}", expected=expected) from error
    except FormatError as error:
        raise InputError(f"notes, arguments or edits: {error.came}", expected=error.expected) from error
    if len(raw) > MAX_JSON:
        raise InputError(f"{len(raw)} bytes of notes, arguments and edits", expected=expected)
    return squeezed(raw)


def decode_head(payload: bytes) -> Head:
    """The inverse of `encode_head`. Raises FormatError for anything else."""
    return read_head(expanded(payload, MAX_JSON))


def read_head(raw: bytes) -> Head:
    """A head from its JSON. Raises FormatError where a key is missing, unknown, or of another type."""
    data = read_json(raw)
    _check(isinstance(data, dict) and set(data) == KEYS, data, f"the keys {', '.join(sorted(KEYS))}")
    origin, notes = data["origin"], data["notes"]
    _check(isinstance(origin, dict) and set(origin) == ORIGIN_KEYS, origin, "kind, name and arguments")
    _check(isinstance(origin["kind"], str) and isinstance(origin["name"], str), origin, "kind, name as text")
    _check(isinstance(origin["arguments"], dict), origin, "arguments as an object")
    _check(isinstance(notes, dict), notes, "notes as an object")
    for key in ("names", "tensors"):
        _check(type(data[key]) is int and 0 <= data[key] < MAX_NUMBER, data[key], f"{key} of 32 bits")
    return Head(Origin(**origin), _read_edits(data["edits"]), data["names"], data["tensors"], notes)


def read_json(raw: bytes) -> Any:
    """JSON in canonical form and of bounded depth, else FormatError."""
    try:
        data = json.loads(raw)
        _check_depth(data, MAX_DEPTH)
        canonical = canonical_json(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"JSON that cannot be read ({error})", offset=0, expected="a head") from error
    _check(canonical == raw, data, "JSON in canonical form: sorted keys, no spaces, UTF-8")
    return data


def canonical_json(data: Any) -> bytes:
    """The one way to write JSON data: sorted keys, no spaces, UTF-8.

    >>> canonical_json({"b": [1, 2.5], "a": None})
    b'{"a":null,"b":[1,2.5]}'
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def shown(value: Any, length: int = 80) -> str:
    """The start of a value, for error messages."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= length else text[:length] + "..."


def _read_edits(data: Any) -> tuple[Edit, ...]:
    _check(isinstance(data, list) and len(data) <= MAX_EDITS, data, f"a list of at most {MAX_EDITS} edits")
    edits: dict[str, Edit] = {}
    for item in data:
        fine = isinstance(item, list) and len(item) == 3 and isinstance(item[2], dict) and _is_name(item[0])
        _check(fine, item, "an edit as [name, layer, arguments]")
        name, layer, arguments = item
        _check(isinstance(layer, str) and layer in LAYERS, layer, f"one of {', '.join(LAYERS)}")
        _check(name not in edits, name, "one edit of each module")
        edits[name] = Edit(name, layer, arguments)
    return tuple(edits.values())


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return False
    parts = name.split(".")
    return len(parts) <= MAX_DEPTH and all(NAME_PART.fullmatch(part) for part in parts)


def _check(fine: bool, came: Any, expected: str) -> None:
    if not fine:
        raise FormatError(f"{shown(came)} in the head", offset=0, expected=expected)


def _check_depth(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, depth - 1)
