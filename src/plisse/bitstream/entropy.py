"""Integer probability tables and the asymmetric numeral system coder (Duda 2009, through constriction).

A *table* is an int64 array of positive frequencies that sum to 2^24. Every machine gets the same table, since
tables come from integers by integer arithmetic only. constriction takes floating-point weights w and gives
entry i the frequency 1 + w_i (2^24 - n) / sum(w). We hand it w_i = frequency_i - 1, whose sum is 2^24 - n
exactly: the factor is 1 and all partial sums are integers below 2^53, so that nothing is ever rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import constriction
import numpy as np

from plisse.errors import FormatError

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
LOG_UNIT = 32
"""Fixed-point logarithms count in units of 1/32 octave."""
EXP2 = np.array(
    [math.isqrt(math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << (512 + i)))))) for i in range(LOG_UNIT)],
    np.int64,
)
"""floor(2^16 * 2^(i/32)) for i = 0..31, by exact integer roots."""
LOG2 = np.array([0] + [(x**LOG_UNIT).bit_length() - 1 for x in range(1, 4096)], np.int32)
"""floor(32 log2(x)) for x = 0..4095 (0 for x = 0), by exact integer powers."""


def normalized(weights: np.ndarray) -> np.ndarray:
    """Tables proportional to non-negative integer weights along the last axis, every entry at least 1.

    weights: int64 [..., A] with sums below 2^53, A between 2 and 2^16. Weights are shifted right until their
    sum would be below 2^38; then entry = 1 + floor(weight (2^24 - A) / sum), and the first largest weight
    gets what is missing.

    >>> normalized(np.array([3, 1, 0])).tolist()
    [12582911, 4194304, 1]
    """
    size = weights.shape[-1]
    exponent = np.frexp(weights.sum(-1, keepdims=True, dtype=np.int64).astype(np.float64))[1]
    weights = weights >> np.maximum(exponent - 38, 0)
    total = np.maximum(weights.sum(-1, keepdims=True, dtype=np.int64), 1)
    table = weights * (TOTAL - size) // total + 1
    missing = TOTAL - table.sum(-1, keepdims=True)
    largest = weights.argmax(-1)[..., None]
    np.put_along_axis(table, largest, np.take_along_axis(table, largest, -1) + missing, -1)
    return table


def code_length(counts: np.ndarray, table: np.ndarray) -> float:
    """Bits that symbols with these counts cost under a table. For choosing only: uses floating point."""
    return float((counts * (TOTAL_BITS - np.log2(table))).sum())


def _model(table: np.ndarray) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical((table - 1).astype(np.float64), perfect=False)


def encode_parts(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Code (symbols int32 [n], table [A]) pairs, symbols from 0 to A - 1, to be read in this order.

    The words of the coder, little-endian, without trailing zero bytes.
    """
    coder = constriction.stream.stack.AnsCoder()
    for symbols, table in reversed(parts):
        if symbols.size:
            coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), _model(table))
    words = np.array(coder.get_compressed(), np.uint32)
    return words.astype("<u4").tobytes().rstrip(b"\0")


class PartsDecoder:
    """Reads back, part by part, what `encode_parts` wrote.

    offset: where the data starts, for errors.
    """

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.offset = offset
        data = data.rstrip(b"\0")
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        self.coder = constriction.stream.stack.AnsCoder(words)

    def decode(self, table: np.ndarray, count: int) -> np.ndarray:
        """The next `count` symbols, int32 [count]. Raises FormatError where the coder gives up."""
        if not count:
            return np.zeros(0, np.int32)
        try:
            return self.coder.decode(_model(table), count)
        except BaseException as error:  # a panic in Rust derives from BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise FormatError(f"coded symbols that do not decode ({error})", offset=self.offset) from error

    def finish(self) -> None:
        """Check that nothing is left, as is the case after the last symbol of an intact stream."""
        if not self.coder.is_empty():
            raise FormatError(
                "coded bytes left over after the last symbol", offset=self.offset, expected="none"
            )
