"""Known systems as chains of steps: plain values, to print, change, save as a recipe, and run.

Each says where it comes from and what of it is left out. Where a network does not fit a preset's kind, the
steps say so themselves. `docs/choosing.md` tells which one to take.
"""

from __future__ import annotations

from torch import nn

from plisse.compress.correct import BiasCorrection
from plisse.compress.equalize import Equalize
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware
from plisse.compress.quantize.codebooks.ternary import Ternary
from plisse.compress.quantize.grids import Granularity, PerChannel, PerGroup, PerTensor, check_bits
from plisse.compress.quantize.mixed.curvature import HessianTrace
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.mixed.sensitivity import Sensitivity
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax, MovingAverage
from plisse.compress.quantize.states import RoundStates
from plisse.compress.step import Chain, chain
from plisse.core import modules
from plisse.core.reparam import plain
from plisse.errors import InputError

SCALE_BITS = 16


def convnet(
    bits_weights: int = 8, bits_activations: int = 8, granularity: Granularity | None = None
) -> Chain:
    """Convolutional networks after training, with a few unlabelled inputs: fold batch norm, round weights and
    the inputs of layers to static grids, correct biases (Krishnamoorthi 2018; Nagel et al. 2019).

    bits_weights, bits_activations: 2 to 8; below 8, the first and the last layer get 8. granularity: of the
    weights, one scale per channel unless said otherwise; `PerTensor()` equalizes channels across layers
    before, which is what one scale needs and more scales do not.
    Leaves out: absorbing biases, correction without data, and any search for symbols, for which
    `Quantize(rounding=AdaRound())` is the step below 4 bits.

    >>> [type(step).__name__ for step in convnet(4, 8).steps]
    ['FoldBatchNorm', 'Quantize', 'BiasCorrection']
    """
    shared = PerChannel() if granularity is None else granularity
    edges = 8 if min(bits_weights, bits_activations) < 8 else None
    rounded = Quantize(
        bits=bits_weights,
        granularity=shared,
        range=MinMax() if bits_weights == 3 else MSE(),  # at 3 bits clipping loses more than it saves
        activations=Activations(bits_activations, MSE()),
        first_last_bits=edges,
    )
    even = [Equalize()] if shared == PerTensor() else []
    return chain(FoldBatchNorm(), *even, rounded, BiasCorrection())


def q8bert(steps: int = 0, lr: float = 2e-3) -> Chain:
    """Q8BERT (Zafrir et al. 2019): all linear layers and embeddings at 8 bits, symmetric, one scale per
    tensor; inputs of linear layers at 8 bits, symmetric, ranges by a moving average over batches.

    steps: batches of training aware of rounding, on the task's objective; 0 trains nothing. lr: its peak.
    Leaves out: fixed scales in training (ours go on learning, LSQ), and Adam, the optimizer of the paper.
    """
    return chain(
        Quantize(
            bits=8,
            granularity=PerTensor(),
            range=MinMax(),
            activations=Activations(8, MovingAverage(0.99), symmetric=True),
            aware=Aware(steps=steps, lr=lr) if steps else None,
        )
    )


def qbert(bits: float = 3, group: int = 128, sensitivity: Sensitivity | None = None) -> Chain:
    """Q-BERT (Shen et al. 2020): groups of weights with a scale each, and a width per matrix by the curvature
    of the loss, within the bytes that `bits` for every weight would take; inputs of linear layers at 8 bits.

    bits: mean width, 2 to 8, may be a fraction. group: values per scale. sensitivity: HessianTrace() unless
    said otherwise.
    Leaves out: training. The paper ranks layers by mean and deviation of the largest eigenvalue over batches
    and sets their widths by hand; here the trace decides (HAWQ-V2) and a solver spends the bytes. Embeddings
    take part in the choice rather than staying at 8 bits.
    """
    if not 2 <= bits <= 8:
        raise InputError(f"{bits} bits", expected="2 to 8 bits per value on average", hint="qbert(3)")
    return chain(
        MixedPrecision(
            budget=f"bytes={(bits + SCALE_BITS / group) / 32:.4f}x",
            sensitivity=HessianTrace() if sensitivity is None else sensitivity,
            granularity=PerGroup(group),
            ranges=(MSE(),),
            activations=Activations(8, MovingAverage(0.99)),
            sweeps=0,
        )
    )


def ternarybert(steps: int = 0, lr: float = 2e-3) -> Chain:
    """TernaryBERT (Zhang et al. 2020): weights and embeddings of three values by TWN's threshold, one scale
    per row (the paper has one per matrix for linear layers), inputs of linear layers at 8 bits, min-max.

    steps: batches of training aware of rounding on the task's objective; 0 trains nothing, which costs most
    of the score. lr: its peak. The teacher is the task's: `distilled(...)` gives the paper's last term; its
    terms on hidden states and attention maps are left out. For LAT, the paper's other way, the grid is
    `LossAwareTernary()` with `Aware(soften=LossAware())`.
    """
    return chain(
        Quantize(
            grid=Ternary(),
            activations=Activations(8, MinMax()),
            aware=Aware(steps=steps, lr=lr) if steps else None,
        )
    )


def ibert() -> Chain:
    """I-BERT (Kim et al. 2021): what integer-only inference takes: weights at 8 bits, symmetric, one scale
    per channel; inputs of linear layers at 8 bits with static ranges. The integers themselves are
    `plisse.integer.to_integer`, with polynomials for softmax, GELU and layer norm.

    Leaves out: training aware of rounding, and 32-bit symbols for the inputs of softmax, GELU and layer norm,
    which `to_integer` chooses by itself.
    """
    return chain(Quantize(bits=8, range=MinMax(), activations=Activations(8, MinMax())))


def zeroquant(bits: int = 8, group: int = 64) -> Chain:
    """ZeroQuant (Yao et al. 2022): groups of weights with a scale each, and inputs of linear layers at 8 bits
    with a range per token, found as the network runs. Needs no data at all.

    bits: of weights, 2 to 8; the paper has 8, and 4 for the feed-forward part. group: values per scale.
    Leaves out: layer-by-layer distillation, and 8 bits in attention where others have 4: for that,
    `MixedPrecision(fixed={...})`.
    """
    return chain(
        Quantize(
            bits=bits, granularity=PerGroup(group), activations=Activations(8, symmetric=True, dynamic="row")
        )
    )


def recurrent(bits: int = 8, states: int | None = None) -> Chain:
    """Recurrent networks: the matrices of LSTM, GRU and plain recurrent layers, and all other weights, with
    one scale per row, that is per unit of each gate (He et al. 2016, section 3; Alom et al. 2018).

    bits: 2 to 8. states: bits of hidden states, 2 to 16, beside cells of 16 bits; None for float, in which
    torch runs a layer at once rather than step by step. Gates and biases stay in float. Leaves out: binary
    codes, which are `Quantize(grid=...)` with the alternating code of Xu et al. 2018 at 2 and 3 bits.
    """
    weights = Quantize(bits=bits)
    return chain(weights) if states is None else chain(RoundStates(states), weights)


def embeddings(model: nn.Module, bits: int = 4, group: int = 0) -> Chain:
    """The embedding tables of `model` and nothing else, one scale per row by least squared error (Guan et al.
    2019, row-wise with greedy search), or per group of a row.

    bits: 2 to 8. group: values per scale, 0 for whole rows. Leaves out: product codes, which are
    `Quantize(grid=...)`, and rows that are never looked up, which cost as much as others.
    Raises InputError where the network has no embedding.
    """
    check_bits(bits)
    network = plain(model)
    tables = {f"{name}.weight".lstrip(".") for name, layer in _tables(network)}
    if not tables:
        raise InputError(
            f"a {type(network).__name__} without nn.Embedding", expected="a network with an embedding table"
        )
    others = tuple(name for name in modules.weight_names(network) if name not in tables)
    granularity = PerGroup(group) if group else PerChannel()
    return chain(Quantize(bits=bits, granularity=granularity, ignore=others))


def _tables(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Embedding)]
