"""Roundings: which symbols stand for the weights of a network whose grids are chosen."""

from plisse.compress.quantize.families import Nearest
from plisse.compress.quantize.rounding.adaquant import AdaQuant
from plisse.compress.quantize.rounding.adaround import AdaRound
from plisse.compress.quantize.rounding.additive import AdditiveCodes
from plisse.compress.quantize.rounding.bitsplit import BitSplit
from plisse.compress.quantize.rounding.gptq import GPTQ
from plisse.compress.quantize.rounding.reconstruct import Reconstruct
from plisse.compress.quantize.rounding.stochastic import Stochastic

__all__ = [
    "GPTQ",
    "AdaQuant",
    "AdaRound",
    "AdditiveCodes",
    "BitSplit",
    "Nearest",
    "Reconstruct",
    "Stochastic",
]
