"""A sentence encoder compressed with no data: `python -m benchmarks.datafree_text [--small]`.

MiniLM on STS-B: embeddings 4 bits, the encoder 3 or 2 bits in affine groups of 32 by GPTQ, which needs
sentences. Sentences are 512 of the training split, or as many synthetic ones by each source in
`plisse.compress.datafree.tokens`, in three draws; the score is Spearman's correlation on the development
split (1,500 pairs), of the decoded file, paired with that of the original. Beside them rounding to nearest,
which needs no sentences at all.

Lengths of synthetic sentences are the default's (median 14 tokens), which were not chosen on STS-B.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import Any

from torch import nn

from benchmarks.cifar import interval
from benchmarks.quantization.methods import Setting, encoder
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.compress.datafree.tokens import (
    TokenSource,
    TopicTokens,
    UniformTokens,
    ZipfTokens,
    synthetic_sentences,
)
from plisse.core.origin import origin_of
from plisse.networks.assets import assets
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, evaluate, paired
from plisse.train.task import Task
from plisse.train.tasks import open_task

WIDTHS = (3, 2)
SOURCES: dict[str, TokenSource] = {
    "uniform tokens": UniformTokens(),
    "tokens by frequency": ZipfTokens(),
    "tokens by topic": TopicTokens(),
}
DRAWS = 3


def row(model: nn.Module, task: Task, before: Evaluation, bits: int, name: str, seed: int) -> dict[str, Any]:
    """One network. name: a source, "real sentences", or "none" for rounding to nearest."""
    start, cpu = time.perf_counter(), time.process_time()
    if name in SOURCES:
        made = synthetic_sentences(model, 512, source=SOURCES[name], seed=seed)
        task = dataclasses.replace(task, calibration=made)
    method = "GPTQ, groups of 32" if name != "none" else "nearest, groups of 32"
    small = _steps(bits)[method](model, task)
    data = modelfile.dumps(small, build(origin_of(model)), assets=assets(model))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    after = evaluate(modelfile.loads(data, build), task)
    return {
        "bits": bits,
        "sentences": name,
        "seed": seed,
        "score": after.score,
        "difference": interval(paired(after, before, task.score)),
        "bytes": len(data),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }


def _steps(bits: int) -> dict[str, Any]:
    """GPTQ as in `benchmarks.quantization`, and the same grids without it."""
    from plisse.compress.quantize.families import Nearest
    from plisse.compress.quantize.quantize import Quantize
    from plisse.compress.step import chain

    full = encoder(Setting(f"W{bits}", bits, None))["GPTQ, groups of 32"]
    plainly = [
        dataclasses.replace(step, rounding=Nearest()) if isinstance(step, Quantize) else step
        for step in full.steps
    ]
    return {"GPTQ, groups of 32": full, "nearest, groups of 32": chain(*plainly)}


def wanted(small: bool, draws: int) -> list[tuple[int, str, int]]:
    """bits, sentences, seed."""
    if small:
        return [(3, name, 0) for name in ("real sentences", "tokens by frequency")]
    first = [(bits, name, 0) for bits in WIDTHS for name in ("real sentences", "none", *SOURCES)]
    return first + [(bits, name, seed) for seed in range(1, draws) for bits in WIDTHS for name in SOURCES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two rows, three minutes")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each synthetic source")
    chosen = parser.parse_args()
    model = open_model("minilm").eval()
    task = open_task("stsb", model=model)
    before = evaluate(model, task)
    path = "datafree_text_small" if chosen.small else "datafree_text"
    rows = [] if chosen.fresh else read(path)
    done = {(each["bits"], each["sentences"], each["seed"]) for each in rows}
    for key in wanted(chosen.small, chosen.draws):
        if key in done:
            continue
        rows.append(row(model, task, before, *key))
        print(rows[-1], flush=True)
        write(path, {"network": "minilm", "score_before": before.score, "rows": rows})


def read(name: str) -> list[dict[str, Any]]:
    """The rows of an earlier run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


if __name__ == "__main__":
    main()
