"""plisse demo: the main job from end to end on a network that trains while one waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plisse.cli import options
from plisse.cli.compress import print_result
from plisse.cli.failures import reported
from plisse.cli.output import (
    Say,
    check_folder,
    check_outputs,
    counted,
    print_json,
    stdout,
    stepping,
    working,
)
from plisse.errors import OutputError, PlisseError

if TYPE_CHECKING:
    from plisse.compress.result import Result

NETWORK, TASK, BUDGET = "digits_cnn", "digits", "bytes=0.05x"
TRAINING_STEPS = 600
FINETUNE_STEPS = 900
FINETUNE_LR = 0.02

Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder to write into.", rich_help_panel=options.OUTPUT)
]


@reported
def demo(
    out: Out = Path("plisse-demo"),
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train a small network on digits, make its file twenty times smaller, and read it back in a new process.

    Needs no data and no network connection. Writes digits.plisse, report.html and record.json.
    """
    file, report, kept = (out / name for name in ("digits.plisse", "report.html", "record.json"))
    _prepare(out)
    check_outputs(file=file, report=report, record=kept)
    with working("loading") as say:
        result = _trained_and_compressed(seed, say)
        _write(result, file, report, kept)
        say(f"reading {file} again, in a new process")
        again = _evaluated_apart(file, seed)
    reported_score = result.score_after.score
    if again["score"] != reported_score:
        raise PlisseError(
            f"score {again['score']!r} from {file} in a new process", expected=f"exactly {reported_score!r}"
        )
    if as_json:
        print_json({**json.loads(kept.read_text(encoding="utf-8")), "score_again": again["score"]})
        return
    print_result(result)
    lines = [
        f"wrote {file} ({len(result.data):,} bytes)",
        f"wrote {report}",
        f"wrote {kept}",
        f"plisse evaluate {file}, in a new process: {again['name']} {again['score']!r}, exactly as reported",
    ]
    stdout().print("\n".join(lines), markup=False, soft_wrap=True)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {str(folder)!r}: {error.strerror}", expected="a folder") from error
    check_folder(folder, f"--out {str(folder)!r}")


def _trained_and_compressed(seed: int, say: Say) -> Result:
    from plisse.compress.compress import compress
    from plisse.networks.open import open_model
    from plisse.train.loop import fit
    from plisse.train.tasks import open_task

    model = open_model(NETWORK, seed=seed)
    task = open_task(TASK, model=model, seed=seed)
    say(f"training {NETWORK} on {TASK}")
    hooks = (stepping(f"training {NETWORK}", say),)
    fit(model, task.objective, task.train, steps=TRAINING_STEPS, seed=seed, hooks=hooks)
    say("compressing")
    return compress(
        model.eval(),
        task,
        budget=BUDGET,
        finetune_steps=FINETUNE_STEPS,
        finetune_lr=FINETUNE_LR,
        seed=seed,
        notes={"task": TASK},
        say=say,
        progress=counted("measuring", say),
        hooks=(stepping("training", say),),
    )


def _write(result: Result, file: Path, report: Path, kept: Path) -> None:
    from plisse.bitstream.atomic import write_atomic
    from plisse.report.html import write_report
    from plisse.report.record import record

    write_atomic(file, result.data)
    write_report(result, report, title=f"{NETWORK} on {TASK}")
    words = json.dumps(record(result), indent=2, ensure_ascii=False)
    write_atomic(kept, f"{words}\n".encode())


def _evaluated_apart(file: Path, seed: int) -> dict[str, Any]:
    """What a new process says about the file."""
    command = [sys.executable, "-m", "plisse.cli", "evaluate", str(file), "--task", TASK]
    done = subprocess.run([*command, "--seed", str(seed), "--json"], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        raise PlisseError(f"exit code {done.returncode} in a new process ({last[0]})", expected="a score")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
