"""What files of each paradigm are like: the same frames in every process, speed, bits against entropy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.video.clips import Row, clip
from benchmarks.video.decoding import digest
from plisse.codec.rate import Rate
from plisse.codec.video import Settings, decode, encode
from plisse.cost.measure import interleaved

SCHEMES = ("warp", "conv", "siren")
CRF = 28.0
ROUNDS = 5
NO_INPUT = torch.zeros(1)


def stream(scheme: str, name: str, preset: str) -> bytes:
    """A clip under a scheme at one quality number."""
    frames, rate = clip(name)
    return encode(frames, rate, Settings(scheme, preset, Rate(crf=CRF)))


def identical_row(scheme: str, name: str, preset: str) -> Row:
    """Whether a file gives the same frames here and in two fresh processes, with one thread and with two;
    and the bits that its models ask for, against those that were written."""
    data = stream(scheme, name, preset)
    here = digest(decode(data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.plv"
        path.write_bytes(data)
        fresh = [_run("benchmarks.video.decoding", str(path), str(threads)) for threads in (1, 2)]
        asked = _run("benchmarks.video.ideal", str(path), compiled=False)
    return {
        "clip": name, "codec": f"{scheme} {preset}", "bytes": len(data), "frames": here["frames"],
        "identical": all(found == here for found in fresh), "digest": here["digest"],
        **against_ideal(asked, len(data)),
    }  # fmt: skip


def against_ideal(frames: list[dict[str, Any]], written: int) -> Row:
    """Bytes of key frames and of steps over the ideal ones, as shares above 1; and of the file as a whole."""
    row: Row = {}
    for word, key in (("key", True), ("step", False)):
        some = [frame for frame in frames if frame["key"] == key]
        bits, payload = sum(f["bits"] for f in some), sum(f["payload"] for f in some)
        row |= {f"{word}_bits": bits, f"{word}_bytes": payload}
        row[f"{word}_over_ideal"] = 8 * payload / bits if bits else None
    row["file_over_ideal"] = 8 * written / sum(frame["bits"] for frame in frames)
    return row


def _run(module: str, *arguments: str, compiled: bool = True) -> Any:
    """What a module printed in a process of its own, as JSON."""
    surroundings = {**os.environ, **({} if compiled else {"NUMBA_DISABLE_JIT": "1"})}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True,
        env=surroundings, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    return json.loads(done.stdout)


def speed_row(name: str, preset: str) -> Row:
    """Frames per second decoded, all schemes in turns: with one thread by processor time, with two by the
    clock on the wall (which other work on the machine slows)."""
    streams = {scheme: stream(scheme, name, preset) for scheme in SCHEMES}
    runs = {s: lambda _, data=data: digest(decode(data)) for s, data in streams.items()}
    n_frames = len(clip(name)[0])
    row: Row = {"clip": name, "codec": preset, "frames": n_frames}
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        timings = interleaved(runs, NO_INPUT, repeats=ROUNDS, warmup=1, threads=threads, clock=clock)
        for scheme, timing in timings.items():
            row[f"{scheme} fps {threads}"] = n_frames / timing.median
            row[f"{scheme} spread {threads}"] = timing.spread / timing.median
    return row
