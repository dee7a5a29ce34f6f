"""Ranges (calibrators): which interval [low, high] a uniform grid should span, given samples of each unit.

All are vectorised over the units, the rows of `samples` [U, n], and give low [U] and high [U] with
low <= 0 <= high. Symmetric grids get low = -high. One range per file.

To add one: a file with a frozen dataclass that has `range`, a line here, and a line in the list of
tests/contracts/test_ranges.py.
"""

from plisse.compress.quantize.ranges.aciq import ACIQ
from plisse.compress.quantize.ranges.entropy import Entropy
from plisse.compress.quantize.ranges.family import BatchRange, Range, over_batches
from plisse.compress.quantize.ranges.mean_magnitude import MeanMagnitude
from plisse.compress.quantize.ranges.minmax import MinMax
from plisse.compress.quantize.ranges.moving import MovingAverage
from plisse.compress.quantize.ranges.mse import MSE
from plisse.compress.quantize.ranges.percentile import Percentile
from plisse.compress.quantize.ranges.power import PowerOfTwo

__all__ = [
    "ACIQ",
    "MSE",
    "BatchRange",
    "Entropy",
    "MeanMagnitude",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "PowerOfTwo",
    "Range",
    "over_batches",
]
