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
from plisse.core.stored import Codes, Grid, Levels, Raw, Stored, Trellis, Uniform, Vectors, raw

ONE = Uniform(np.array([1.0], np.float32))
TENTHS = np.array([-0.8, -0.4, -0.1, 0, 0.1, 0.2, 0.4, 0.8], np.float16).astype(np.float32)
BOOKS = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 1024 - 1
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
    channels = np.arange(1, 13)
    filters = numbers(144, 12, 6).reshape(12, 12, 1, 1) * channels.reshape(12, 1, 1, 1) // 4
    filters = filters + numbers(1296, 5).reshape(12, 12, 3, 3)
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
        "filters": held(filters, Uniform(np.resize(EIGHTHS, 12), np.resize(zero, 12))),
        "matrix": held(matrix, trellis),
        "float32": raw(halves),
        "float16": raw(halves, "float16"),
        "bfloat16": raw(halves, "bfloat16"),
        "levels": held(
            np.array([0, 3, 1, 4, 2, 3]), Levels(np.array([-1, -0.3125, 0, 0.4375, 1], np.float32))
        ),
        "scaled": held(np.array([[7, 0, 1], [2, 6, 5]]), Levels(TENTHS, np.array([0.5, 3], np.float32))),
        "powers": held(np.array([[7, 0, 1], [2, 6, 5]]), Levels(TENTHS, EIGHTHS[:4].reshape(2, 2), 2)),
        "signs": held(np.array([1, 0, 0, 1, 1]), Levels(np.array([-1, 1], np.float32), EIGHTHS[:1])),
        "code": held(np.array([3, 0, 2, 1]), Codes(np.array([[0.25, 1.5]], np.float32))),
        "codes": held(np.array([[3, 0], [2, 1]]), Codes(np.array([[0.25, 1.5], [0.5, 2]], np.float32))),
        "vectors": Stored(np.array([[1, 0, 2], [0, 2, 1]], np.int32), (5,), Vectors(BOOKS)),
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
        "SgwMAwMAEkGA+AEAAAEACAAAAMAAAAEACAcRBEGU5EEEBQVFSEQqJRsbFV8S4fz/0l5FZIVnTNuWlDOtpFA0uaBXL5wu"
        "BIW8L98E+4D2PEA/Hwbbf/DoipyPHW0yYv2AFpl6tfiyyekxtCdFG6e/amUfanyVqDc5k1a0KXi6X1d5g1wZyCQ1mu+t"
        "BV7hvddhiUGR0YcUcFPNXqFOZgwQ5q7H97b/+BB4OYOS12HaYC11MtOV1NoOoO/W/kEIQLe/7rC3V7oOSlzmsv9NUBb0"
        "hMiGOqZfktbF8IZ0tvKEGrDCW6+m83sCyWeeCsr75j7c2jtusQdrf9CPmmyds8Lv40LW1lBtS827m648ZStW7O0umWVj"
        "zi0j9ZJGi1jdvu9h08fmMXvrc/PkAmmagT0FZ1/mP5+XgXfJyqOuWhA7wD9CGLVhh5ODFR9x1tDX+K1jDQyg/7IHCvye"
        "QOeZFIf3jAvwz0vpiXbN/K15827wAvEdp2y87xAzmbhPFLv8jifMMW60RpKdADfktgyZWiWWqBlqK7LuOLJd2EP/OuO9"
        "vcsxFn3amTkPb33BLtHthKC9DpteJPjAfRv3Zm4jGEc2xJb2gX710n8xj1Iq1PEIoZkel7v17T25vdWxp2n0STerHeFC"
        "RYK742E+uVEfRwzzYnOV4ffrEyNCobqs1spwhkSbgLf2Qg52KOgr9ipIWFmvpeLS18bX0/IuFjzC+Xu5CboSD+kPBKXh"
        "eQNBFmKZDpU+aHVKrBRC/zQva/w2XrgKgonPE/sUiR3QG1EOoOm9nJebQCUe9GPvbmPL2t9WD+RcNrm/eD3X0wXTDpn9"
        "Xr8wlOw9mfSlVSU1ogFCoBj7LsdbzexoJovmZckahI+ddDIZxzAgioGKmskZG0N7LLL9Py1zV/UNumeU97uHFGBT9/YM"
        "0hqceNEhwQ9WU+n72mWiuxl7nVbFrTGjd+RGxzRRUu6cADGvBlHNDJcgl1Xd8zRHpfBq9uuAElbRq6j84cCJw3qfD35F"
        "bYCR+xCqj8Hn4viZimAVEAMp",
    ),
    "matrix": (
        "contexts",
        "KxQeAD8FAImIAEICFRUPq0oqn0/1KzANccRL/ea0CZAtDaLyXq2qCzhdGGkmvW+Ygmrch7PDATfTPy3HuZ54LmRLU7/3"
        "zZ2EN2c20xPcuaX/4hX8sw6DzMwJsk+il21HI0ceN03Z5r3IZDfA/ThJWA5dczJZmjcVnNMMy/STaNglE/9IhahU30Ug"
        "q0j9QNjSmb/qrKpq+5yM8uH7svUZNrFPIsHRZEl4U3Ih6Qm2ghajOgCmAtwfOBIjfwAoTiBT3360dFSXtkylScO7cLqa"
        "c+00A35Y31gYOFtzfiyurwV3ZL/pFaDVx3zyvmAFGZcIVj4NB5lAmI7gYskJeMUKRbT8BpAFPXLfNW3pvd8Vx1hXOyRH"
        "3vm4vN7140ZVv9w+nKdKXWK6LopGXg==",
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
    "levels": ("raw", "HAYFAP/9AQlpAOAAqA/ugwIRAFioAQ=="),
    "scaled": ("raw", "LAIDCDXL6QEPaQAABABi5pq5AAQAAUAAAAQA+AMKEQBH5AI="),
    "powers": ("raw", "LAIDCD3L6QEPaQAABABi5pq5AAQAAUAAAgQJ+AGEEQBH5AI="),
    "signs": ("raw", "HAUCAv/9AQQAgPwDAD4BABk="),
    "code": ("raw", "HQQCAIA+wD8JAGM="),
    "codes": ("raw", "LQICAgEABgCA+gGAAgYAgP8BgAEJAGM="),
    "vectors": ("raw", "HgUCAwIBBQCA8AUDCQAhBg=="),
}


@pytest.mark.parametrize("name", RECORDS)
def test_written_records_stay_readable(name: str) -> None:
    coding, text = RECORDS[name]
    data, stored = base64.b64decode(text), cases()[name]
    back = decode_tensor(data)
    assert coding_name(data) == coding
    assert np.array_equal(back.symbols, stored.symbols.reshape(back.symbols.shape))
    assert np.array_equal(back.values(), stored.values())


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_written_as_ever(name: str) -> None:
    assert base64.b64encode(encode_tensor(cases()[name])).decode() == RECORDS[name][1]


def test_every_coding_has_a_record() -> None:
    assert {coding for coding, _ in RECORDS.values()} == set(NAMES)
