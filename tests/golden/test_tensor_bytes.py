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
        "F5gCgD8DAAkGB0lSlX14ehFUNRFRaQSZu+J3WdEYg/ZM03H4bVnFKh/AhmHbx9a6NVuEUVZIiz5NgLmu30Zj8QMKYNje"
        "yLZITwgirwskx0jUIURCpc90ym0MuqCKca4tRxkxVcu+dOzbXJR6sPv0W+OCCw==",
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
        "SgwMAwMAEkGA+AEAAAEACAAAAMAAAAEACAcRBEGU5EEEBQWyBM8LGxsDAQxc5/gEZYcIyaDEdAG97u2s+P6kglG2Mk//"
        "zx55zkF2xhQtUMct9aDANbPdl+xN0h3HyasNDA+j5OjLQ9bwLYTIU92B5hkG3ZyrJjwbCT/cZ8cNWb0o7nE+luqYFIvL"
        "J2NUstDcIcldglPQae3pKzbjCVO+QZ1346dih/1f16vXXlUcpuChqOzeJr33Bj9qwXG2Ynjja204UzjE6n+ahVG4DWPI"
        "8G6WwY6Cwe6Hc2lQYxXptu5eCJwscfjQ9SjR6x0p3ap+2fzUULgwwzErjNyztaXhTLQQ68So+uJobOy40aeQpV1Z2EAA"
        "HADLcqiAq+MNV6+p2uZyB+b4xt0/w30VyvAvFx0BmihrJMirg+h3kZ2otT6Odr0N296Zq1kijzfJQMte7iPjzCzfqIEJ"
        "VvTpgWJbC+oYqZHLJdCiPJ24ezaiUXAazcJBdLGAFMf/nMdi7vZuiEb0f3Eey3v7Mc9LfWWvIUTeriq3NGHsPgTlyER+"
        "37xY4+rWABskLU3g0SdoZ9+jxG7vSqACxoMLzQlKmzMoxolXbounYXHuKyfzX4g29o5dp/nmpz/JAoG0sFUzTrpcuiKf"
        "7J/PVaNCHxGDt2YvcJJ8cifEtPeML9iB5ZTCQFUNhoyqM/973gTm8qGEPLmv4peScbV9SPSFLrE41M/XnSY93uwG0dKw"
        "2/+pfJyt8fx2e4Ra6ifijExB6OxkY5ZOX/DQWo4ZDgKWN3ssfMninvZl2XTGdNApgxbDKZZlCu7fBhKHgQdtVK8aQo1n"
        "Fo0ztADcH/ZSxPnPtM1ofR7VkjcdwJyYs9A2FUAqO56780QfiRhvOFSc1k/O2dtARocWo/HaVzo8xmTlldg8diYgJRlq"
        "Dx+B/l16qAXTpn+sZuNR7vAPBgp8Ymag7h/0Y1gRlqI2hFMSrRfoMe7KfGuY/FhDp/RCaP1V",
    ),
    "matrix": (
        "contexts",
        "KxQeAD8FALQJuQUUFQYCERvLPGZ5LhX3m6NNu/RSodsIANqhSoFvi+/nZQBGmuKcVa4QPBvRWiI6tg2bygR91QsT6FaZ"
        "YQ1A7YI0zbc/pKEsN7m+9TJoLFQds3XggAo8cTZQ6pWnTNd9+5bFyqNB82aKwcEGkObD13Bin83T+9w9ZckFp5uDuxe1"
        "FKUjLZvtFSYXT4ECcCo+vDsQxRnSQsRvvYJtVQ4OG5LGvcHdo0yEfWTctdahQj04aGlunJfnxKTY8Pnwwc95AbOcH6jb"
        "5YbC9eqwOSIXpFG1parIGKt8lwPG5c3fowIakRPv75VwnIw3yRIvAghlrPzi/SVv1lglun9GLiEWg3Wcfarbqnz8Pj8U"
        "vrt2Z1AEiok=",
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
