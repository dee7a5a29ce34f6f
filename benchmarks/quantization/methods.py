"""The methods that are compared, as chains of steps by name, for one setting at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plisse.compress.correct import BiasCorrection
from plisse.compress.equalize import Equalize
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.codebooks.codes import BinaryCodes
from plisse.compress.quantize.codebooks.floats import Microscaling
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.codebooks.levels import AdditivePowersOfTwo, Logarithmic, NormalFloat
from plisse.compress.quantize.codebooks.ternary import Ternary
from plisse.compress.quantize.codebooks.vectors import ProductQuantization, ResidualQuantization
from plisse.compress.quantize.families import Grid
from plisse.compress.quantize.grids import Granularity, PerChannel, PerGroup
from plisse.compress.quantize.output import OutputMSE
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import ACIQ, MSE, Entropy, MinMax, Percentile, PowerOfTwo, Range
from plisse.compress.quantize.rounding import GPTQ, AdaQuant, AdaRound, BitSplit, Reconstruct, Stochastic
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.smooth import ActivationAware, Smooth
from plisse.compress.step import Chain, Step, chain


@dataclass(frozen=True)
class Setting:
    """weights, activations: bits; None leaves activations in float."""

    name: str
    weights: int
    activations: int | None


SETTINGS = (
    Setting("W8A8", 8, 8),
    Setting("W4A8", 4, 8),
    Setting("W4A4", 4, 4),
    Setting("W4", 4, None),
    Setting("W3", 3, None),
    Setting("W2", 2, None),
)
BESIDE_PEERS = (Setting("W3A8", 3, 8), Setting("W2A8", 2, 8))
"""Settings of other tools (benchmarks.peers), measured where `--setting` asks for them."""

Methods = dict[str, Chain]
RANGES: dict[str, Range] = {
    "min-max": MinMax(),
    "percentile": Percentile(99.9),
    "MSE": MSE(),
    "entropy": Entropy(),
    "ACIQ": ACIQ("laplace"),
    "power of two": PowerOfTwo(MSE()),
}


def convnet(setting: Setting) -> Methods:
    """For ResNet-20: batch norm folded, first and last layer 8 bits."""

    def steps(
        *before: Step, after: tuple[Step, ...] = (), inputs: Range | None = None, **fields: Any
    ) -> Chain:
        quantize = Quantize(
            bits=setting.weights, first_last_bits=8, activations=_inputs(setting, inputs), **fields
        )
        return chain(FoldBatchNorm(), *before, quantize, *after, CompactSmall())

    methods = {f"nearest, {name}": steps(range=each, inputs=each) for name, each in RANGES.items()}
    methods["nearest, output error"] = steps(range=MinMax(), rounding=OutputMSE())
    methods["nearest, affine"] = steps(symmetric=False, range=MinMax())
    methods["stochastic"] = steps(range=MinMax(), rounding=Stochastic())
    methods["bias correction"] = steps(range=MinMax(), after=(BiasCorrection(),))
    methods["equalization"] = steps(Equalize(), range=MinMax())
    methods["equalization, bias correction"] = steps(Equalize(), range=MinMax(), after=(BiasCorrection(),))
    low = {"symmetric": False, "range": MinMax() if setting.weights == 3 else MSE()}
    methods["GPTQ"] = steps(**low, rounding=GPTQ())
    methods["Bit-Split"] = steps(**low, rounding=BitSplit())
    methods["AdaRound"] = steps(**low, rounding=AdaRound())
    methods["AdaQuant"] = steps(**low, rounding=AdaQuant())
    length = 300 if setting.weights == 2 else 150
    methods["BRECQ"] = steps(**low, rounding=Reconstruct(steps=length, drop=0.0))
    methods["QDrop"] = steps(**low, rounding=Reconstruct(steps=length))
    methods["output error, QDrop"] = steps(**low, rounding=OutputMSE(then=Reconstruct(steps=length)))
    for name, grid in _grids(setting.weights, PerChannel()).items():
        methods[name] = steps(grid=grid)
    return methods


def encoder(setting: Setting) -> Methods:
    """For MiniLM: embeddings 4 bits (8 at W8) in affine groups of 64, the encoder as the setting says."""

    def steps(*before: Step, group: int = 64, table: int = max(4, setting.weights), **fields: Any) -> Chain:
        fields = {"activations": _inputs(setting, None), **fields}
        words = Quantize(table, symmetric=False, granularity=PerGroup(64), ignore=("transformer.encoder",))
        quantize = Quantize(
            bits=setting.weights,
            granularity=PerGroup(group),
            ignore=("transformer.embeddings",),
            **fields,
        )
        return chain(*before, words, quantize, CompactSmall())

    methods = {f"nearest, {name}": steps(range=RANGES[name]) for name in ("min-max", "MSE")}
    methods["nearest, affine"] = steps(symmetric=False)
    methods["smoothing"] = steps(Smooth(), symmetric=False)
    methods["activation-aware"] = steps(
        ActivationAware(bits=setting.weights, symmetric=False, granularity=PerGroup(64)), symmetric=False
    )
    methods["GPTQ"] = steps(symmetric=False, rounding=GPTQ(samples=128))
    methods["Bit-Split"] = steps(symmetric=False, rounding=BitSplit(samples=128))
    if setting.activations is not None:
        rows = Activations(setting.activations, dynamic="row")
        methods["GPTQ, inputs per token"] = steps(
            symmetric=False, rounding=GPTQ(samples=128), activations=rows
        )
    methods["GPTQ, groups of 32"] = steps(group=32, symmetric=False, rounding=GPTQ(samples=128))
    methods["GPTQ, BRECQ, groups of 32"] = steps(
        group=32, symmetric=False, rounding=Reconstruct(steps=150, start=GPTQ(samples=128))
    )
    if setting == Setting("W2", 2, None):  # about the bytes that other tools take at 2 bits
        methods["GPTQ, BRECQ, groups of 16, embeddings 6 bits"] = steps(
            group=16, table=6, symmetric=False, rounding=Reconstruct(steps=150, start=GPTQ(samples=128))
        )
    for name, grid in _grids(setting.weights, PerGroup(64)).items():
        if not isinstance(grid, (ProductQuantization, ResidualQuantization)):  # an hour for 22 M weights
            methods[name] = steps(grid=grid)
    return methods


def _inputs(setting: Setting, range: Range | None) -> Activations | None:
    return None if setting.activations is None else Activations(setting.activations, range or MSE())


def _grids(bits: int, granularity: Granularity) -> dict[str, Grid]:
    """Weight grids that are not uniform, where they are more than a uniform one could be."""
    if bits > 4:
        return {}
    grids: dict[str, Grid] = {
        "logarithmic": Logarithmic(bits),
        "additive powers of two": AdditivePowersOfTwo(bits, granularity=granularity),
        "k-means": KMeans(bits),
        "k-means, scaled": KMeans(bits, granularity=granularity),
        "normal float": NormalFloat(bits, granularity.group),
        "binary codes": BinaryCodes(bits),
        "product quantization": ProductQuantization(2, 2 * bits),
        "residual quantization": ResidualQuantization(4, 2 * bits, 2),
    }
    if bits == 4:
        grids["microscaling"] = Microscaling()
    if bits == 2:
        grids["ternary"] = Ternary(granularity=granularity)
    return grids


METHODS: dict[str, Callable[[Setting], Methods]] = {"resnet20": convnet, "minilm": encoder}
