"""What a report says of samples that were made in place of data."""

from __future__ import annotations

from collections.abc import Sequence

from plisse.compress.datafree.synthetic import Synthetic
from plisse.report.pictures import Exhibit, contact_sheet

HEADING = "What was used in place of data"
NOISE = "They are noise."
CLASSES = "Each was changed until the network was sure of its class."
STATISTICS = (
    "They were changed until the network met them with the mean and deviation, channel by channel, that its "
    "batch norms remember of its training data."
)


def made_images(made: Synthetic) -> Exhibit:
    """A sheet of synthetic images and how they came about."""
    found = made.report
    how = {"Gaussian": NOISE, "ClassLogits": CLASSES}.get(found.scheme.partition("(")[0], STATISTICS)
    apart = "" if found.mean_bns is None else f"; the distance of their statistics is {found.mean_bns:.3f}"
    words = (
        f"No data were used. In their place {len(made)} images were made from the network alone, in "
        f"{found.seconds:.0f} s. {how} They show nothing that exists. The network's mean confidence in them "
        f"is {100 * found.confidence:.0f} %{apart}. Four fifths served as calibration. The score is how "
        "often the compressed network puts the other fifth into the class that the original does. That is "
        "not its accuracy: such images often lie between classes, where a small change turns the answer."
    )
    if made.domain is None:
        return Exhibit(HEADING, words)
    shown = made.image_set()
    return Exhibit(HEADING, words, contact_sheet(shown.pixels, made.labels.tolist(), white=shown.white))


def made_sentences(shown: Sequence[str], count: int) -> Exhibit:
    """The first of `count` synthetic sentences and how they came about."""
    words = (
        f"No data were used. In their place {count} sequences of tokens were drawn, each token as often as "
        "its rank in the tokenizer's vocabulary suggests; the first few are below. Four fifths served as "
        "calibration. The score is how near the outputs for the other fifth stay to those of the original; "
        "that is not how good they are."
    )
    return Exhibit(HEADING, words, lines=tuple(shown))
