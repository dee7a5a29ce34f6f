"""The short flags of quantization: what would otherwise be a recipe of three or four steps."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from plisse.compress.quantize.families import Rounding
    from plisse.compress.step import Step


class Method(StrEnum):
    """How symbols are chosen: by name, from the quickest to the best."""

    nearest = "nearest"
    gptq = "gptq"
    adaround = "adaround"
    brecq = "brecq"
    qdrop = "qdrop"


class Preset(StrEnum):
    """What is known to suit a kind of network."""

    convnet = "convnet"
    q8bert = "q8bert"
    qbert = "qbert"
    ternarybert = "ternarybert"
    ibert = "ibert"
    zeroquant = "zeroquant"
    recurrent = "recurrent"
    embeddings = "embeddings"


Bits = Annotated[
    int | None,
    typer.Option(
        "--bits", metavar="B", show_default=False, rich_help_panel=options.FAR,
        help="Quantize weights to B = 2 to 8 bits each, the first and last layer to 8. No labels are used.",
    ),
]  # fmt: skip
Activations = Annotated[
    int | None,
    typer.Option(
        "--activations", metavar="A", show_default=False, rich_help_panel=options.FAR,
        help="With --bits: quantize what enters each layer to A = 2 to 8 bits as well.",
    ),
]  # fmt: skip
Group = Annotated[
    int | None,
    typer.Option(
        "--group", metavar="G", show_default=False, rich_help_panel=options.FAR,
        help="With --bits: one scale per G weights instead of one per output channel.",
    ),
]  # fmt: skip
Rounding_ = Annotated[
    Method | None,
    typer.Option(
        "--rounding", show_default=False, rich_help_panel=options.FAR, case_sensitive=False,
        help="With --bits: nearest (default), or by what layers (gptq, adaround) or blocks (brecq, qdrop) "
        "put out: slower and better at 4 bits and below.",
    ),
]  # fmt: skip


PresetFlag = Annotated[
    Preset | None,
    typer.Option(
        "--preset", show_default=False, rich_help_panel=options.FAR, case_sensitive=False,
        help="Quantize as a published recipe does; --bits sets its weights where it leaves a choice.",
    ),
]  # fmt: skip


def check_flags(bits: int | None, preset: Preset | None, **needy: object) -> None:
    """Raise InputError for the first flag that is given without --bits, or that a preset decides."""
    for name, given in needy.items():
        if given is not None and preset is not None:
            raise InputError(f"--{name} with --preset {preset}", expected="one of them", hint="--bits 4")
        if given is not None and bits is None:
            raise InputError(f"--{name} without --bits", expected="both", hint=f"--bits 4 --{name} {given}")


def quantizing(
    network: nn.Module,
    bits: int,
    activations: int | None,
    group: int | None,
    method: Method | None,
    no_data: bool = False,
) -> Step:
    """The steps that the flags stand for. no_data: calibration images are made ones. Then folded batch norms
    keep their statistics, and ranges of activations weigh large values more (errors to the power 2.4), for
    made images have fewer of them than real ones.

    Raises InputError for a number out of range.
    """
    from plisse.compress.fold import NORMS, FoldBatchNorm
    from plisse.compress.quantize.activations import Activations as Inputs
    from plisse.compress.quantize.grids import PerChannel, PerGroup
    from plisse.compress.quantize.quantize import Quantize
    from plisse.compress.quantize.ranges import MSE, MinMax
    from plisse.compress.quantize.small import CompactSmall
    from plisse.compress.step import chain

    folds = any(isinstance(module, NORMS) for module in network.modules())
    return chain(
        *([FoldBatchNorm(no_data)] if folds else []),
        Quantize(
            bits=bits,
            symmetric=bits > 4,  # few symbols: an affine grid uses them all
            range=MinMax() if bits == 3 else MSE(),
            granularity=PerChannel() if group is None else PerGroup(group),
            activations=None if activations is None else Inputs(activations, MSE(2.4) if no_data else MSE()),
            first_last_bits=8,
            rounding=_rounding(method or Method.nearest),
        ),
        CompactSmall(),
    )


def preset_steps(network: nn.Module, preset: Preset, bits: int | None, no_data: bool = False) -> Step:
    """The steps of a preset. no_data: folded batch norms keep their statistics.

    Raises InputError for bits that it does not take.
    """
    found = _preset(network, preset, bits)
    return _keeping(found) if no_data else found


def _preset(network: nn.Module, preset: Preset, bits: int | None) -> Step:
    from plisse.compress.quantize import presets
    from plisse.compress.quantize.small import CompactSmall
    from plisse.compress.step import chain

    fixed = {
        Preset.q8bert: (8, presets.q8bert),
        Preset.ibert: (8, presets.ibert),
        Preset.ternarybert: (2, presets.ternarybert),
    }
    if preset in fixed:
        own, make = fixed[preset]
        if bits not in (None, own):
            raise InputError(f"--preset {preset} with {bits} bits", expected=f"{own}, which is what it is")
        return chain(make(), CompactSmall())
    chosen = {} if bits is None else {"bits_weights" if preset == Preset.convnet else "bits": bits}
    if preset == Preset.embeddings:
        return chain(presets.embeddings(network, **chosen), CompactSmall())
    return chain(getattr(presets, preset.value)(**chosen), CompactSmall())


def _keeping(step: Step) -> Step:
    """The same steps, where batch norms that are folded keep their statistics."""
    from plisse.compress.fold import FoldBatchNorm
    from plisse.compress.step import chain

    return chain(
        *(
            replace(each, keep_statistics=True) if isinstance(each, FoldBatchNorm) else each
            for each in chain(step).steps
        )
    )


def _rounding(method: Method) -> Rounding:
    from plisse.compress.quantize.families import Nearest
    from plisse.compress.quantize.rounding import GPTQ, AdaRound, Reconstruct

    members: dict[Method, Rounding] = {
        Method.nearest: Nearest(),
        Method.gptq: GPTQ(),
        Method.adaround: AdaRound(),
        Method.brecq: Reconstruct(steps=150, drop=0.0),
        Method.qdrop: Reconstruct(steps=150),
    }
    return members[method]
