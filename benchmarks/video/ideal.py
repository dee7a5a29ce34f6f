"""NUMBA_DISABLE_JIT=1 python -m benchmarks.video.ideal FILE: bits that the models of a clip ask for.

Decodes with interpreted coders and adds up -log2 p of every decision of the arithmetic coder (steps, latents,
motion) and of every symbol of the asymmetric numeral system (key networks), p being what the decoder itself
used. Prints one JSON object: for each frame whether it is a key frame, these bits, and the bytes of what the
scheme wrote.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from plisse.bitstream import ans, contexts
from plisse.codec import adaptive
from plisse.codec.presets import scheme_of
from plisse.codec.refine import start
from plisse.codec.scheme import State
from plisse.codec.stream import ClipReader


class Meter:
    """Bits so far."""

    def __init__(self) -> None:
        self.bits = 0.0

    def decision(self, coded: Callable[..., int]) -> Callable[..., int]:
        """The arithmetic coder, listened to: a one has `chance` / 2^16."""

        def listening(bit: int, chance: int, state: Any, data: Any) -> int:
            found = coded(bit, chance, state, data)
            self.bits -= math.log2((chance if found else 65536 - chance) / 65536)
            return found

        return listening

    def symbol(self, pop: Callable[..., Any]) -> Callable[..., Any]:
        """The asymmetric numeral system, listened to: a symbol has its share of 2^24."""

        def listening(first: Any, sums: Any, lookup: Any, slot: Any, state: Any) -> Any:
            place, start, after = pop(first, sums, lookup, slot, state)
            self.bits -= math.log2((int(sums[int(place) + 1]) - int(sums[int(place)])) / ans.TOTAL)
            return place, start, after

        return listening


def ideal(path: str) -> list[dict[str, float]]:
    """Frames of a file. Raises RuntimeError where coders are compiled, as nothing can listen then."""
    if os.environ.get("NUMBA_DISABLE_JIT") != "1":
        raise RuntimeError("coders are compiled; set NUMBA_DISABLE_JIT=1")
    start()  # weights that belong to the format are read before anything is counted
    meter = Meter()
    adaptive._coded_bit = meter.decision(adaptive._coded_bit)
    ans.pop = contexts.pop = meter.symbol(ans.pop)
    frames: list[dict[str, float]] = []
    state: State | None = None
    with open(path, "rb") as file:
        reader = ClipReader(file)
        scheme, _ = scheme_of(reader.header.scheme, "", reader.header.size, reader.header.numbers)
        for chunk in reader:
            before, known = meter.bits, None if chunk.key else state
            state = scheme.decode(chunk.payload, known, chunk.payload_offset, chunk.crf)
            frames.append({"key": chunk.key, "bits": meter.bits - before, "payload": len(chunk.payload)})
    return frames


if __name__ == "__main__":
    print(json.dumps(ideal(sys.argv[1])))
