"""python -m benchmarks.video.decoding FILE [THREADS]: decode a clip in this process alone.

Prints one JSON object: how many frames came out, and a digest of all their samples.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from plisse.codec.video import decode
from plisse.data.frames import Frame


def digest(frames: Iterable[Frame]) -> dict[str, int | str]:
    """Number of frames, and SHA-256 of their planes one after the other."""
    found, n_frames = hashlib.sha256(), 0
    for frame in frames:
        n_frames += 1
        for plane in frame.planes:
            found.update(plane.contiguous().numpy().tobytes())
    return {"frames": n_frames, "digest": found.hexdigest()}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(json.dumps(digest(decode(Path(sys.argv[1]).read_bytes()))))
