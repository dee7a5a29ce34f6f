"""What an export did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ExportReport:
    """A file that was checked against the network.

    bytes: its length. max_error: largest difference from the network's outputs, as a share of the largest
    output. agreement: share of samples with the same highest output, 0 to 1; None where outputs are no
    [N, K]. snr: energy of the outputs by energy of the difference, in dB. integer_operators: of an integer
    file, how often each integer kernel stands in the graph that ONNX Runtime runs.
    """

    path: Path
    bytes: int
    max_error: float
    agreement: float | None = None
    snr: float | None = None
    integer_operators: dict[str, int] = field(default_factory=dict)
