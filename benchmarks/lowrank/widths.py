"""Low rank and few bits together: `python -m benchmarks.lowrank.widths [--small]`.

ResNet-20 on CIFAR-10, 40 % of the parameters of its 18 convolutions removed (scheme Spatial(), whitened
factors, ranks by energy per parameter, no training), then all weights at 8 or 4 bits (GPTQ, one scale per
channel), biases corrected, small tensors compacted; beside the whole network at as many bits. Calibration:
512 images of `val` without labels. Bytes are lengths of the files as written; scores, paired with the
original, are those of the decoded files on the 1,017 lossless test images. Rows that are there already are
kept.
"""

from __future__ import annotations

import argparse
import time

from torch import nn

from benchmarks.lowrank_training import Row, Rows, cifar, original, scored
from plisse.compress.correct import BiasCorrection
from plisse.compress.decompose import Decompose
from plisse.compress.fitting import finishing
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.quantize.grids import PerChannel
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.step import Step, chain

NETWORK, RATIO = "resnet20", 0.4
LOW = Decompose(RATIO, EnergyPerParameter(), steps=0, finetune=0)
WIDTHS = (32, 8, 4)


def steps(low: bool, bits: int) -> Step:
    """Factors or none, then a width, then what brings the rest to few bytes."""
    first: list[Step] = [LOW] if low else []
    if bits == 32:
        return chain(*first)
    rounding = Quantize(bits, symmetric=False, granularity=PerChannel(), rounding=GPTQ(samples=256))
    return chain(*first, rounding, BiasCorrection(), finishing(nn.Sequential(nn.BatchNorm2d(1))))


def measured(low: bool, bits: int) -> Row:
    began = time.process_time()
    made = steps(low, bits)(original(NETWORK), cifar())
    seconds = round(time.process_time() - began, 1)
    row = scored(NETWORK, made)
    about = {"name": name_of(low, bits), "removed": RATIO if low else 0.0, "bits": bits}
    return {**about, "cpu_seconds": seconds, **row}


def name_of(low: bool, bits: int) -> str:
    return f"{f'{RATIO:.0%} removed' if low else 'whole'}, {bits} bits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="8 bits only")
    small = parser.parse_args().small
    rows = Rows("lowrank_widths_small" if small else "lowrank_widths", small)
    for bits in (8,) if small else WIDTHS:
        for low in (False, True):
            if name_of(low, bits) not in rows.found:
                rows.add(measured(low, bits))


if __name__ == "__main__":
    main()
