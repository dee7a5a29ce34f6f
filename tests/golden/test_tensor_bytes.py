"""The bytes of a few tensor records, for good.

A change here means that files already written would be read differently, or that old and new writers differ:
it needs a new format version in the container, and readers that still know the old one.
"""

from __future__ import annotations

import base64
import hashlib

import numpy as np
import pytest

from plisse.bitstream.symbols import NAMES
from plisse.bitstream.tensors import coding_name, decode_tensor, encode_tensor
from plisse.core.stored import Grid, Raw, Stored, Trellis, Uniform, raw

ONE = Uniform(np.array([1.0], np.float32))
EIGHTHS = np.array([0.125, 0.25, 0.125, 0.5, 0.125, 0.125, 0.125, 1.0], np.float32)


def numbers(count: int, spread: int, seed: int = 1) -> np.ndarray:
    """Integers around zero, alike on every machine: sums of bytes of a hash, times spread / 512."""
    pieces = []
    for index in range(-(-count // 4)):
        octets = np.frombuffer(hashlib.sha256(f"{seed} {index}".encode()).digest(), np.uint8)
        pieces.append(octets.astype(np.int64).reshape(4, 8).sum(1) - 1020)
    return np.concatenate(pieces)[:count] * spread // 512


def geometric(count: int, seed: int) -> np.ndarray:
    """Zero bits at the end of hashes: k with probability 2^-(k + 1)."""
    hashes = [int.from_bytes(hashlib.sha256(f"{seed} {i}".encode()).digest()) for i in range(count)]
    return np.array([(number & -number).bit_length() - 1 for number in hashes])


def cases() -> dict[str, Stored]:
    channels = np.arange(1, 9)
    filters = numbers(576, 40).reshape(8, 8, 3, 3) * channels.reshape(8, 1, 1, 1) ** 2 // 40
    matrix = numbers(600, 9).reshape(20, 30) * np.arange(30) ** 2 // 300
    zero = np.array([3, 2, 3, 4, 3, 3, 3, 9], np.int32)
    products = numbers(280, 90, 2) * numbers(280, 90, 3)
    halves = (numbers(120, 90) / 64).astype(np.float32)
    trellis = Trellis(0.5)
    return {
        "constant": held(np.full((2, 3), -5), Uniform(np.array([0.5], np.float32), np.array([3], np.int32))),
        "steps": held(np.arange(7) * 2),
        "packed": held(np.array([3, -4, 0, 2, 1, -1, -2, -3]), Uniform(EIGHTHS)),
        "groups": held(np.array([[7, 1, 8], [-8, 9, 9]]), Uniform(EIGHTHS[:4].reshape(2, 2), None, 2)),
        "empty": held(np.zeros((0, 4)), trellis),
        "integers": held(np.array([1, 2, 40000, -7]), Raw("int32")),
        "laplace": held(geometric(280, 4) - geometric(280, 5)),
        "gauss": held(numbers(280, 30)),
        "categorical": held(np.abs(numbers(280, 6)) % 5 * 9),
        "large": held(products, trellis),
        "filters": held(filters, Uniform(EIGHTHS, zero)),
        "matrix": held(matrix, trellis),
        "float32": raw(halves),
        "float16": raw(halves, "float16"),
        "bfloat16": raw(halves, "bfloat16"),
    }


def held(symbols: np.ndarray, grid: Grid = ONE) -> Stored:
    return Stored(symbols.astype(np.int32), symbols.shape, grid)


# name: coding and base64 of the record
RECORDS = {
    "constant": ("constant", "KAIDAD8GAAk="),
    "steps": ("constant", "FweAPwAABA=="),
    "packed": ("raw", "GQgADUGA+AEAAAEACAAAAMARBwfdKQ=="),
    "groups": ("raw", "KQIDAglBgPgBAAABAAghDy9BECM="),
    "empty": ("raw", "KwAEAD8="),
    "integers": ("raw", "FAR5DQgACQBHnAAA"),
    "laplace": (
        "laplace",
        "F5gCgD8DAAkGB0lSH0Nd1vBpSSlO7wTvl0VmH9LCjkSKZHHRwsTEMaR6VzrveN6HPcOe43YuiallasXrjZVzNvLlbgba"
        "uLctIrgW+4IowccAXzsyeFiTjsBCvyFpXNMAB4w72+HpcoKYb13Pif/0W+OCCw==",
    ),
    "gauss": (
        "gauss",
        "F5gCgD8EACEeQLcNPdbCAtYB3WqjJcGwzO+mqq5pyn7Jdi+3Vt3u7ToSTYrZM4GXMZBWA9eskSDKL7ynzgezf5JNAPSP"
        "+FwZffvZRMk2GsBZJldGAM/9oJOoCGLz7zI80SxpSkFvTICU44j/2grS7opnIXI6yE9v/Cjzd4TxcSzG/3rWyUTsDoAm"
        "u55bJXPNk8m/NDL1HJrtmXSXyV0Lxquk3yfZDGkWBnJF8kA3O13tZS1VwRvnRs4BvZSibTZRilybQ2GcJOtLmMH4ntEW"
        "Aw==",
    ),
    "categorical": (
        "categorical",
        "F5gCgD8CEgkbQGy1Wq1Wq9WK7Ha73W6324Hdbrfb7XY7sVqtVqvVaiUALGNFSeLR/6ZN4LawQqqn9qezcNnlwz7RSQ7I"
        "SeGIUYEWrk5ML44T5psZbKKNHX0SBcBdp/ohrNQgO70Yt4dSShlat/PICG1VCx4/E/M5XmEF",
    ),
    "large": (
        "gauss",
        "G5gCAD8MAGKifUCGDWkQ4GEAJgoVKSaBMAqDDtQA3vW4cIuEzJCKVHXGLigl8gSAMoYh3DJbQoRW0o4Zu5h14YDA1ggK"
        "MbiYGraAouWAQi1BGfgvAYQvEUbGgTD7vy5AswTkhRQoACoRHo4D9AKJfAU2M31anUX94D/K/tBDlA9SAHn8EOYULTJq"
        "3QzVRLZwFqCyG5vcLIOUQg0tvQDuEjVXUPMbd1AGAuH7UHI0F73OvIv5YzwqG4i+tDjDpez5aUTsDtslUPFuCQuyj9JK"
        "njf+7ZXlImkCR2sUp59rpRSAFz1SmWkgH4jbbxmf4yP9kPZF83kYsYk5Sr/uylC0RaOtgys5n/sMtgJ05q0hixLHeZWM"
        "l/tRGxsTZ2ifl7ryl8n2EOPkHx2De9GwZXqWEr5j9hfZnuEMidmqDHAhgPf/vU8b6ObVOo8RBPgDXi03LlfhZWd4jO75"
        "mMpgxw/GHAFVjiLNHEEehwhVXX01p3X0lwHwcm9A/V4Lsuv0Zff/CVHUHZ1gmB24GMGI9oNV/NVhSfQt36ITtLoJB3Ow"
        "lRlAlYwOukIBE2A7A/GcBSTvWQ0sFJL8+PEjKJLAo5zsP9C2SrTDbI0sAg==",
    ),
    "filters": (
        "contexts",
        "SggIAwMADUGA+AEAAAEACAAAAMAFEQRBlOQFAElIBEoJRDsZjiOd02vFbnQMoOo7mzPaYMSSNn30Keqz2pzCdAVjcYtJ"
        "a0GAwyr2tNBAwMidoX3L2r30NdpQmzIDgD/y6oXSRZe50n0Tl61jPI585l/ena4bJdlzy1p2G4IenHkhcxUurmQCZL4X"
        "5vsN1Lq03hZi5Sd9CzOfq4pYNH01P7OORi+htTwqIq92cazBnBkSUJ7hRuOewcOZZFeZgCP1EGDe24+8DKbXVNrJfWzg"
        "TUX1dmiVOsfqrNinX7mFJLXmal5qPcDdLyPDEXsMlOJGAv8Zas2Wz4Ad38SdL+fpJsDf3YyKQMgL1LavyeaEKlBwJ8rB"
        "0ty+tD2TjO884avYkklW0+28hX491F4vw0MfqF2g33OjkLbetFTskvH733LVAR1zOJ5FzmZJwWj2VXvVSM8wrx1Y/hv1"
        "9/U+KiZoqkNtWyNkqFB+egP6barA9FIsI98i/l2orQ7JS71PwXuAXT8yrd5EAFtXOvInfn9NnBIrycz2PJeWTTSShIBr"
        "+AYq",
    ),
    "matrix": (
        "contexts",
        "KxQeAD8FAImAAGMAFBUPq0pX4/uwC9eDB788dtKJ5ihvCoTFoZdGe9/7UPqm8qvqR0o+S7nYxuosKcYgQ9A8TFKxnyEg"
        "T0oUDKrjHllghRXTvo3ZNgmvR/DnFn9l4BAvUD1Jo4AhKkR/Z9qUvo461QeujKCXM8yGmEPrHbwZ0EYDYposcJEaTf8s"
        "3qHCc6Mi+1ETDQUrJz/2tf3A5MIsfoBBa/S2GIAnBGbrDQl0tgeSMd/mP9kHBem4mUVN+AnAfWRklUkrNfQk3Lw/xZq7"
        "YnUjkl4UOdhHOElDb3ZBSPgfIFYHFn1hL4G6eIRTuMeZhiaLz2yWXlBYnxsFRXZFsjumgKXIpkhqmgJHNIcZEFoy/F4x"
        "30XYmVxts5ItwWmBpV2gl1CNXA==",
    ),
    "float32": (
        "planes",
        "EHgGAgAAazEAUA6chGSggEAgjA4DkUBYIBACBKDgUAIIgMIB4SwoCE/jYChAMBEEAGJwEBAVCOAA8QgkCA8FQwFwEIIA"
        "hQJBIAALgMLRkUAkCEVgYYAAEIABwiFgACiACEIDBCgAEI4ACIFACBzExkK4OAP6AX0CDIlIAdRECAAAADkAAAD+zYjT"
        "z/Gn4BLZn1wl53tPJ6uEzDxMfYlx0K2gdWXXmpW9R1ZwAQD+WbHA/uHcsO175QSz3aI=",
    ),
    "float16": (
        "planes",
        "EXgGmAFJAICCAzhIQIIBFIAAAggY6IABBBJAwAIIICAAAgAU4ICCABAAQAEHIOBgAQoQ8KCBAwwoAAIMIkAAAAgMcIAA"
        "BCqAAIADIPBAAAkQ8IACDCgAgAMEBAiAAgogQAABABYAQAEHOpAAAgkQUCCABQyAAAAEABgAAQcEYAAACgCIAAENAARA"
        "AQAg4EAAACGAAAICOEBgAwsIuDIDGg0CB4lIvD8IKM/v3Y44aCJjFs55igKakhA2bNzlXfK2nOetQWyWIWLChit3VAOf"
        "7wEA/lmxwP7h3LDte+UEs92i",
    ),
    "bfloat16": (
        "planes",
        "EngGazEAUA6chGSggEAgjA4DkUBYIBACBKDgUAIIgMIB4SwoCE/jYChAMBEEAGJwEBAVCOAA8QgkCA8FQwFwEIIAhQJB"
        "IAALgMLRkUAkCEVgYYAAEIABwiFgACiACEIDBCgAEI4ACIFACBzExkK4OAP6AX0CDIlIAdRECAAAADkAAAD+zYjTz/Gn"
        "4BLZn1wl53tPJ6uEzDxMfYlx0K2gdWXXmpW9R1ZwAQD+WbHA/uHcsO175QSz3aI=",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_written_records_stay_readable(name: str) -> None:
    coding, text = RECORDS[name]
    data, stored = base64.b64decode(text), cases()[name]
    back = decode_tensor(data)
    assert coding_name(data) == coding
    assert np.array_equal(back.symbols, stored.symbols.reshape(stored.shape))
    assert np.array_equal(back.values(), stored.values())


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_written_as_ever(name: str) -> None:
    assert base64.b64encode(encode_tensor(cases()[name])).decode() == RECORDS[name][1]


def test_every_coding_has_a_record() -> None:
    assert {coding for coding, _ in RECORDS.values()} == set(NAMES)
