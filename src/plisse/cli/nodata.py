"""plisse compress --data none: samples made from the network itself, and what to say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.output import note, stderr
from plisse.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from plisse.report.pictures import Exhibit
    from plisse.train.task import Task

NONE = "none"
KIND = "data-free"
SHAPES = {"digits_cnn": (1, 8, 8), "resnet20": (3, 32, 32), "resnet56": (3, 32, 32)}
"""Inputs that built-in networks were trained on."""
SHAPE = re.compile(r"\d{1,5}(x\d{1,5}){0,3}")
BATCH = 64  # images that are made together
SENTENCES_SHOWN = 12
AGREEMENT_NOTE = (
    "agreement on made samples is no accuracy, and falls faster: they often lie between classes; score the "
    "file on data of yours with plisse evaluate"
)
COSINE_NOTE = (
    "nearness to the original on drawn sentences is no score of a task; score the file on sentences of yours "
    "with plisse evaluate"
)


class SchemeName(StrEnum):
    """What made images are fitted to."""

    bns = "bns"
    inception = "inception"
    both = "bns+inception"
    gaussian = "gaussian"


Shape = Annotated[
    str | None,
    typer.Option(
        "--input-shape", metavar="CxHxW", show_default=False, rich_help_panel=options.NO_DATA,
        help="With --data none: the shape of one input, such as 3x224x224. Known for digits_cnn and the "
        "CIFAR networks.",
    ),
]  # fmt: skip
Scheme = Annotated[
    SchemeName | None,
    typer.Option(
        "--scheme", show_default=False, rich_help_panel=options.NO_DATA, case_sensitive=False,
        help="With --data none: fit images to the statistics that batch norm remembers (bns, default), to "
        "classes (inception), to both, or to nothing (gaussian).",
    ),
]  # fmt: skip
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", metavar="N", min=10, max=100_000, show_default=False, rich_help_panel=options.NO_DATA,
        help="With --data none: images (320) or sentences (640) to make. A fifth is kept for the score.",
    ),
]  # fmt: skip
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep-images", metavar="DIR", show_default=False, rich_help_panel=options.NO_DATA,
        help="With --data none: also write the images as PNG files, a folder per class, into DIR: a new or "
        "an empty folder.",
    ),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Made:
    """task: filled with synthetic samples. exhibit: them, for a report."""

    task: Task
    exhibit: Exhibit


def score_note(made: Made) -> str:
    """What the score does not say."""
    return COSINE_NOTE if "cosine" in made.task.score.name else AGREEMENT_NOTE


def check_no_data(data: str | None, task: str, **needy: object) -> None:
    """Raise InputError for the first flag that is given without --data none, and for a task beside it."""
    for name, given in needy.items():
        if given is not None and data != NONE:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} without --data none", expected="both", hint=f"--data none {option} ..."
            )
    if data == NONE and task != "digits":
        raise InputError(
            f"--task {task} with --data none", expected="no task: the score is agreement with the original"
        )


def made_samples(
    network: nn.Module,
    name: str,
    shape: str | None,
    scheme: SchemeName | None,
    samples: int | None,
    keep: Path | None,
    seed: int,
) -> Made:
    """Samples for `network`, as a task and as something to show. Says what it does on standard error.

    name: MODEL as typed. Raises InputError where the shape or the scheme cannot be had.
    """
    from plisse.compress.datafree.tokens import takes_tokens

    if takes_tokens(network):
        for option, given in (("--input-shape", shape), ("--scheme", scheme), ("--keep-images", keep)):
            if given is not None:
                raise InputError(f"{option} for {name}", expected="a network that takes images")
        return _sentences(network, samples or 640, seed)
    return _images(network, name, shape, scheme or SchemeName.bns, samples or 320, keep, seed)


def parsed_shape(text: str) -> tuple[int, ...]:
    """
    >>> parsed_shape("3x32x32")
    (3, 32, 32)
    """
    sides = tuple(int(side) for side in text.lower().split("x")) if SHAPE.fullmatch(text.lower()) else ()
    if not sides or 0 in sides:
        raise InputError(f"--input-shape {text!r}", expected="sizes such as 3x32x32: channels, height, width")
    return sides


def known_shape(network: nn.Module, name: str) -> tuple[int, ...]:
    """The shape of one input where the network is a built-in one. Raises InputError elsewhere."""
    from plisse.core.origin import origin_of
    from plisse.core.reparam import plain

    origin = origin_of(plain(network))
    if origin.kind == "builtin" and origin.name in SHAPES:
        channels, *sides = SHAPES[origin.name]
        return (int(origin.arguments.get("channels", channels)), *sides)
    if origin.kind == "builtin" and origin.name == "resnet18" and origin.arguments.get("stem") == "small":
        return (int(origin.arguments.get("channels", 3)), 32, 32)
    raise InputError(
        f"{name}, whose input shape is unknown",
        expected="the shape of one image as it was trained on",
        hint="--input-shape 3x224x224",
    )


def kept_note(folder: Path, sides: tuple[int, ...]) -> str:
    """Where the images are, and the task that gives them to a network once more.

    >>> print(kept_note(Path("d"), (1, 8, 8)))
    the images are in d; --task 'images:d?size=8,channels=1' uses them again
    """
    channels, height, width = sides
    if height != width:
        return f"the images are in {folder}; --task images: would stretch them, for it reads squares alone"
    options = [f"size={width}"] * (width != 32) + [f"channels={channels}"] * (channels != 3)
    task = f"'images:{folder}?{','.join(options)}'" if options else f"images:{folder}"
    return f"the images are in {folder}; --task {task} uses them again"


def _images(
    network: nn.Module,
    name: str,
    shape: str | None,
    scheme: SchemeName,
    samples: int,
    keep: Path | None,
    seed: int,
) -> Made:
    from plisse.compress.datafree.schemes import SCHEMES
    from plisse.compress.datafree.synthesize import Effort, synthesize
    from plisse.compress.datafree.task import data_free
    from plisse.report.made import made_images

    sides = parsed_shape(shape) if shape is not None else known_shape(network, name)
    _check_scheme(network, name, scheme)
    if keep is not None and (len(sides) != 3 or sides[0] not in (1, 3)):
        raise InputError(
            f"--keep-images with inputs of {'x'.join(map(str, sides))}",
            expected="images of 1 or 3 channels, to be PNG files",
        )
    stderr().print(f"· making {samples} images from {name} ({scheme.value})", markup=False, soft_wrap=True)
    made = synthesize(
        network,
        shape=sides,
        n=samples,
        scheme=SCHEMES[scheme.value],
        effort=Effort(batch=BATCH),
        seed=seed,
        progress="images",
    )
    if keep is not None:
        made.save_folders(keep)
        note(kept_note(keep, sides))
    return Made(data_free(network, made, seed=seed), made_images(made))


def _check_scheme(network: nn.Module, name: str, scheme: SchemeName) -> None:
    from plisse.compress.datafree.schemes import SCHEMES
    from plisse.compress.datafree.statistics import targets

    if SCHEMES[scheme.value].needs_statistics and not targets(network):
        raise InputError(
            f"{name}, which holds no batch-norm statistics of its training data",
            expected="one of: --scheme inception, images from its classes alone (worse); --scheme gaussian, "
            "noise (worst); --data D, some real data; or the network before its batch norms were folded "
            "or absorbed",
            hint="--scheme inception",
        )


def _sentences(network: nn.Module, samples: int, seed: int) -> Made:
    from plisse.compress.datafree.sentencetask import data_free_text
    from plisse.compress.datafree.tokens import synthetic_sentences
    from plisse.networks.assets import tokenizer_of
    from plisse.report.made import made_sentences

    stderr().print(f"· making {samples} sentences from the vocabulary", markup=False, soft_wrap=True)
    made = synthetic_sentences(network, samples, seed=seed)
    shown = tokenizer_of(network).decode_batch([list(row) for row in made.parts[0][:SENTENCES_SHOWN]])
    return Made(data_free_text(network, made), made_sentences(shown, len(made.parts[0])))
