"""Mixed precision against one width, luck of single roundings averaged out:
`python -m benchmarks.mixed_draws [--draw N]`.

A rounding that happens to score above the original says little about the method that made it. Here ResNet-20
is rounded again for each of several draws of the 512 calibration images (seeds of the task), at one width and
by steps that get the bytes of that file, both as in benchmarks.mixed_precision. Scores are means over the
draws; differences are mixed minus uniform, with intervals by a bootstrap over samples of their means. Sets:
the 1,017 lossless test images, and 5,000 test images after JPEG. Which samples were right is kept as bits in
hexadecimal. Rows that are there stay; `--draw` measures one draw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import interval
from benchmarks.joint_samples import sets_of
from benchmarks.mixed_precision import MEAN, Arms, Subject, resnet20
from benchmarks.record import RESULTS, write
from plisse.core.batch import Batches
from plisse.core.reparam import baked
from plisse.train.evaluate import Evaluation, paired
from plisse.train.task import outputs_on
from plisse.train.tasks import open_task

NAME = "mixed_draws"
DRAWS = (0, 1, 2, 3)
WIDTHS = (3, 4, 5, 6)
SETS = {"holdout": "test", "jpeg": "JPEG"}
Row = dict[str, Any]


def packed(right: Tensor) -> str:
    """Which samples were right, eight to a byte.

    >>> packed(torch.tensor([True] * 8 + [False]))
    'ff00'
    """
    return np.packbits(right.numpy()).tobytes().hex()


def unpacked(text: str, count: int) -> Tensor:
    """What was packed, as 0 and 1.

    >>> unpacked("ff00", 9).tolist()[-2:]
    [1.0, 0.0]
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count]
    return torch.from_numpy(bits).float()


def right(model: nn.Module, batches: Batches) -> Tensor:
    """Whether each sample is put into its class."""
    found = torch.cat([outputs.argmax(-1) for outputs in outputs_on(baked(model), batches)])
    return found == torch.cat([batch.target for batch in batches if batch.target is not None])


def rows(subject: Subject, draw: int, sets: dict[str, Batches], done: set[tuple[int, int]]) -> Iterator[Row]:
    """A row for every width and form of one draw."""
    arms = Arms(subject)
    for width in WIDTHS:
        if (draw, width) in done:
            continue
        same = arms.uniform(width)
        size = arms.size(same)
        mixed = arms.steps(size)
        found: Row = {"draw": draw, "width": width, "bytes": {"uniform": size, "steps": arms.size(mixed)}}
        for name in SETS:
            found[name] = {
                form: packed(right(model, sets[name]))
                for form, model in (("uniform", same), ("steps", mixed))
            }
        yield found


def averaged(found: Iterable[Row], counts: dict[str, int]) -> list[Row]:
    """For every width and set the mean scores and their difference."""
    table, kept = [], list(found)
    for width in sorted({row["width"] for row in kept}):
        some = [row for row in kept if row["width"] == width]
        for name in SETS:
            means = {
                form: torch.stack([unpacked(row[name][form], counts[name]) for row in some]).mean(0)
                for form in ("uniform", "steps")
            }
            seen = {form: _evaluation(values) for form, values in means.items()}
            difference = interval(paired(seen["steps"], seen["uniform"], MEAN))
            scores = {form: each.score for form, each in seen.items()}
            table.append(
                {"width": width, "set": name, "draws": len(some), **scores, "difference": difference}
            )
    return table


def _evaluation(values: Tensor) -> Evaluation:
    score = float(values.mean())
    return Evaluation("mean", score, score, score, len(values), values, torch.zeros_like(values))


def known() -> Row:
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one draw, not kept with others")
    parser.add_argument("--draw", type=int, choices=DRAWS, help="one draw")
    chosen = parser.parse_args()
    name = f"{NAME}_small" if chosen.small else NAME
    subject = resnet20()
    sets = sets_of("resnet20", subject.task)
    counts = {each: sum(len(batch.target) for batch in sets[each]) for each in SETS}  # type: ignore[arg-type]
    fresh: list[Row] = []
    for draw in DRAWS[:1] if chosen.small else DRAWS if chosen.draw is None else (chosen.draw,):
        drawn = Subject(**{**vars(subject), "task": open_task("cifar10", seed=draw)})
        done = set() if chosen.small else {(row["draw"], row["width"]) for row in known()["rows"]}
        for row in rows(drawn, draw, sets, done):
            fresh.append(row)
            kept = [] if chosen.small else known()["rows"]
            keys = {(each["draw"], each["width"]) for each in fresh}
            every = [each for each in kept if (each["draw"], each["width"]) not in keys] + fresh
            every.sort(key=lambda each: (each["draw"], each["width"]))
            write(name, {"samples": counts, "averages": averaged(every, counts), "rows": every})
            print({"draw": draw, "width": row["width"], **row["bytes"]}, flush=True)


if __name__ == "__main__":
    main()
