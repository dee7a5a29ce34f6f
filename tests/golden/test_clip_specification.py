"""docs/format-video.md is enough: a reader written from sections 2 to 5 alone finds the symbols of kept clips
that the library finds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from plisse.codec.presets import scheme_of
from plisse.codec.stream import ClipReader

HERE = Path(__file__).parent
CLIP, MOVING, LATENTS = (HERE / f"clip-v1-{name}.bin" for name in ("warp", "moving", "latents"))
Model = tuple[dict[tuple[int, int], list[int]], list[list[int]]]


def logit(p: int) -> int:
    return -2047 if p == 0 else max(-2047, min(2047, round(256 * math.log(p / (4096 - p)))))


class Reader:
    """Section 2."""

    def __init__(self, data: bytes, model: Model) -> None:
        self.data, self.at, (self.cells, self.weights) = data, 4, model
        self.low, self.high = 0, (1 << 32) - 1
        self.code = int.from_bytes((data + bytes(4))[:4], "big")

    def decide(self, chance: int) -> int:
        span = self.high - self.low
        middle = self.low + (span >> 16) * chance + ((span & 65535) * chance >> 16)
        bit = int(self.code <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            following = self.data[self.at] if self.at < len(self.data) else 0
            self.code, self.at = (self.code << 8 | following) & 0xFFFFFFFF, self.at + 1
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 | 255) & 0xFFFFFFFF
        return bit

    def bit(self, slot: int, *contexts: int) -> int:
        cells = [self.cells.setdefault((context, slot), [1 << 21, 0]) for context in contexts]
        weights = self.weights[slot]
        s = [logit(cell[0] >> 10) for cell in cells]
        d = min(max(sum(w * x for w, x in zip(weights, s, strict=True)) >> 16, -2047), 2047)
        chance = round(65536 / (1 + math.exp(-d / 256)))
        bit = self.decide(chance)
        error = (bit << 16) - chance
        for k in range(3):
            weights[k] += (s[k] * error + 65536) >> 17
        for cell in cells:
            cell[0] += ((bit << 22) - bit - cell[0]) * int(65536 / (cell[1] + 1.6)) >> 16
            cell[1] = min(cell[1] + 1, 120)
        return bit

    def even(self) -> int:
        return self.decide(32768)

    def size(self, *contexts: int) -> int:
        for found in range(1, 9):
            if not self.bit(found + 1, *contexts):
                return found
        bits = 0
        while bits < 20 and self.bit(min(10 + bits, 23), *contexts):
            bits += 1
        rest = 1
        for _ in range(bits):
            rest = rest << 1 | self.even()
        return rest + 8

    def number(self, *contexts: int) -> int:
        if not self.bit(0, *contexts):
            return 0
        return -self.size(*contexts) if self.bit(1, *contexts) else self.size(*contexts)


def median(a: int, b: int, c: int) -> int:
    return sorted((a, b, c))[1]


def motion(reader: Reader, rows: int, columns: int, past: dict[Any, int], m: int = 1200) -> dict[Any, int]:
    """Section 5, motion: numbers by (i, j, x)."""
    v, split, off = {}, {}, {}  # type: ignore[var-annotated]
    for row in range(rows):
        for column in range(columns):
            around = split.get((row, column - 1), 0) + split.get((row - 1, column), 0)
            s = split[row, column] = reader.bit(0, m + around, m + around, m + 3)
            for k in range(4 if s else 1):
                i, j, e, total = 2 * row + k // 2, 2 * column + k % 2, 0, 0
                o = off.get((i, j - 1), 0) + off.get((i - 1, j), 0)
                for x in range(2):
                    left, above = v.get((i, j - 1, x), 0), v.get((i - 1, j, x), 0)
                    beside = v.get((i - 1, j ^ 1 if i & 1 else j + 2, x), above)
                    p = left if i == 0 else median(beside if j == 0 else left, above, beside)
                    d = reader.number(
                        m + 4 + 6 * x + min(o.bit_length(), 5),
                        m + 16 + 5 * x + min(abs(past.get((i, j, x), 0) - p).bit_length(), 4),
                        m + 26 + 8 * x + 4 * s + min(e.bit_length(), 3),
                    )
                    v[i, j, x], e, total = p + d, abs(d), total + abs(d)
                off[i, j] = total
            for k in range(0 if s else 4):
                i, j = 2 * row + k // 2, 2 * column + k % 2
                off[i, j] = off[2 * row, 2 * column]
                v[i, j, 0], v[i, j, 1] = v[2 * row, 2 * column, 0], v[2 * row, 2 * column, 1]
    return v


def count(reader: Reader, f: int, left: int, above: int, before: int) -> int:
    wide = left.bit_length(), above.bit_length()
    contexts = f + sum(wide), f + 20 + before.bit_length(), f + 30 + 5 * min(wide[0], 4) + min(wide[1], 4)
    w = 0
    while w < 9 and reader.bit(w, *contexts):
        w += 1
    found = min(w, 1)
    for place in range(w - 1):
        slot = (8 + w, min(15 + w, 23))[place] if place < 2 else None
        found = found << 1 | (reader.even() if slot is None else reader.bit(slot, *contexts))
    return found


Plane = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def coefficients(
    reader: Reader, sides: tuple[int, int], n: int, f: int, key: bool, before: Plane | None
) -> Plane:
    """Section 5: as told, after prediction, and how many count; [R, C, n n], n n, 1."""
    order = sorted(((u, v) for u in range(n) for v in range(n)), key=lambda p: (sum(p), p[0]))
    rows, columns = sides[0] // n, sides[1] // n
    told, q = np.zeros((rows, columns, n * n), int), np.zeros((rows, columns, n * n), int)
    lasts = np.zeros((rows, columns), int)
    past = (np.zeros_like(q), lasts.copy()) if before is None or before[1].shape != q.shape else before[1:]
    for y in range(rows):
        for x in range(columns):
            left, above = (lasts[y, x - 1] if x else 0), (lasts[y - 1, x] if y else 0)
            most = min(count(reader, f, int(left), int(above), int(past[1][y, x])), n * n)
            lasts[y, x], block = most, {}  # type: ignore[var-annotated]
            for i in range(most - 1, -1, -1):
                u, v = order[i]
                r = 2 * min(block.get((u + 1, v), 0), 4) + 2 * min(block.get((u, v + 1), 0), 4)
                r += sum(min(block.get(p, 0), 4) for p in ((u + 1, v + 1), (u + 2, v), (u, v + 2)))
                z = next(z for z, top in enumerate((0, 1, 2, 4, 7, 999)) if u + v <= top)
                h = (min(abs(told[y, x - 1, i]), 3) if x else 0) + (
                    min(abs(told[y - 1, x, i]), 3) if y else 0
                )
                behind = most - 1 - i
                m = next(m for m, top in enumerate((0, 2, 7, 999)) if behind <= top)
                contexts = (
                    f + 55 + 8 * z + min((r + 1) >> 1, 7), f + 103 + min(i, 36),
                    f + 140 + 12 * min((int(h) + 1) >> 1, 3) + 4 * min(abs(int(past[0][y, x, i])), 2) + m,
                )  # fmt: skip
                if i < most - 1 and not reader.bit(0, *contexts):
                    continue
                negative = reader.even()
                block[u, v] = size = reader.size(*contexts)
                told[y, x, i] = -size if negative else size
            q[y, x] = told[y, x]
            if key:
                a, b = (q[y, x - 1, 0] if x else 0), (q[y - 1, x, 0] if y else 0)
                both = a + b - (q[y - 1, x - 1, 0] if x and y else 0)
                q[y, x, 0] += b if not x else a if not y else median(a, b, both)
    return told, q, lasts


def test_a_reader_written_from_the_document_finds_the_same_symbols() -> None:
    with open(CLIP, "rb") as file:
        reader = ClipReader(file)
        scheme, chunks = scheme_of("warp", "", reader.header.size, ())[0], list(reader)
    state: Any = None
    padded = tuple(-(-side // 16) * 16 for side in reader.header.size)
    sides = ((padded[0], padded[1]), (padded[0] // 2, padded[1] // 2), (padded[0] // 2, padded[1] // 2))
    model: Model = {}, []
    vectors: dict[Any, int] = {}
    planes: list[Plane | None] = []
    moved = False
    for chunk in chunks:
        state = scheme.decode(chunk.payload, None if chunk.key else state, 0, chunk.crf)
        if chunk.key:
            model, vectors, planes = ({}, [[26000] * 3 for _ in range(24)]), {}, [None] * 3
        coded = Reader(chunk.payload[1:], model)
        if not chunk.key:
            vectors = motion(coded, padded[0] // 16, padded[1] // 16, vectors)
            moved = moved or any(vectors.values())
            assert all(state.vectors[place] == value for place, value in vectors.items())
        large = chunk.payload[0] & 1
        for k in range(3):
            f = 200 * ((2 if k else large) + 3 * (not chunk.key))
            planes[k] = found = coefficients(
                coded, sides[k], 8 if k or not large else 16, f, chunk.key, planes[k]
            )
            assert np.array_equal(found[1], state.latents[k].q)
            assert np.array_equal(found[2], state.latents[k].lasts)
    assert len(chunks) == 4
    assert moved


def step(reader: Reader, lengths: list[int], sizes: list[int]) -> tuple[list[int], list[int]]:
    """Section 3, a step: how far exponents move, and symbols. sizes: of the symbols of the step before."""
    n, at, moves, found = len(lengths), 0, [], []
    for g, length in enumerate(lengths):
        moves.append(reader.number(12 * n + 12, 12 * n + 12, 12 * n + 13))
        a = 0
        for z in sizes[at : at + length]:
            contexts = 12 * g + min(z, 3), 12 * g + 4 + min(a, 7), 12 * n + 3 * min(z, 3) + min(a, 2)
            found.append(reader.number(*contexts))
            a = (a >> 1) + min(abs(found[-1]), 4)
        at += length
    return moves, found


def fresh() -> Model:
    return {}, [[26000] * 3 for _ in range(24)]


def test_so_it_does_for_weight_steps_with_motion() -> None:
    with open(MOVING, "rb") as file:
        reader = ClipReader(file)
        header, chunks = reader.header, list(reader)
    assert header.numbers == (6, 2, 1)
    scheme = scheme_of(header.scheme, "", header.size, header.numbers)[0]
    state: Any = scheme.decode(chunks[0].payload, None, 0, 0.0)
    groups = [12, 6 + 6 + 3, 36, 18]  # matrices 6 x 2, 6 x 6, 3 x 6; all vectors after the first of them
    sizes, moving, network = [0] * sum(groups), fresh(), fresh()
    vectors: dict[Any, int] = {}
    for chunk in chunks[1:]:
        before, state = state, scheme.decode(chunk.payload, state, 0, chunk.crf)
        coded = Reader(chunk.payload, moving)
        vectors = motion(coded, header.height // 16, header.width // 16, vectors, m=0)
        assert all(state.motion.vectors[place] == value for place, value in vectors.items())
        assert any(vectors.values())
        coded.cells, coded.weights = network
        moves, found = step(coded, groups, sizes)
        sizes = [abs(q) for q in found]
        assert sizes == state.memory.sizes.tolist()
        ends = [old + move for old, move in zip(before.memory.exponents, moves, strict=True)]
        assert ends == list(state.memory.exponents)
    assert any(sizes)


def sized(data: bytes) -> tuple[bytes, bytes]:
    """Section 1: what follows its length, and the rest."""
    length, shift, at = 0, 0, 0
    while True:
        length, shift, at = length | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return data[at : at + length], data[at + length :]


def test_and_for_networks_with_latents() -> None:
    with open(LATENTS, "rb") as file:
        reader = ClipReader(file)
        header, chunks = reader.header, list(reader)
    assert header.numbers == (6, 2, 2)
    scheme, state = scheme_of(header.scheme, "", header.size, header.numbers)[0], None
    groups, sides = [12, 6 + 6 + 3, 36, 18], ((32, 48), (16, 24), (16, 24))
    sizes, moving, network, told = [0] * sum(groups), fresh(), fresh(), fresh()
    vectors: dict[Any, int] = {}
    planes: list[Plane | None] = [None] * 3
    for chunk in chunks:
        state = scheme.decode(chunk.payload, None if chunk.key else state, 0, chunk.crf)
        form, data = chunk.payload[0], chunk.payload[1:]
        if chunk.key:
            data = sized(data)[1]
        coded = Reader(data, told)
        if not chunk.key:
            coded.cells, coded.weights = moving
            vectors = motion(coded, 2, 3, vectors, m=0)
            assert all(state.motion.vectors[place] == value for place, value in vectors.items())
        if form & 2:
            coded.cells, coded.weights = network
            sizes = [abs(q) for q in step(coded, groups, sizes)[1]]
        assert sizes == state.memory.sizes.tolist()
        coded.cells, coded.weights = told
        for k in range(3):
            n, f = 8 if k or not form & 1 else 16, 200 * ((2 if k else form & 1) + 3)
            planes[k] = found = coefficients(coded, sides[k], n, f, False, planes[k])
            assert np.array_equal(found[1], state.residual.latents[k].q)
            assert np.array_equal(found[2], state.residual.latents[k].lasts)
    assert [chunk.payload[0] for chunk in chunks] == [1, 0, 3, 0]
    assert any(sizes)
    assert any(vectors.values())
