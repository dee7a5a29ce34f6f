"""Peak memory of `plisse video encode` and `decode` at 1920 x 1080, in processes of their own.

`python -m benchmarks.video.memory ARGUMENTS` runs one command of plisse and prints its peak.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.video.clips import Row, clip
from plisse.data.frames import Frame
from plisse.data.video_out import write_video

HEIGHT, WIDTH = 1080, 1920
CRF = 34


def memory_row(n_frames: int, preset: str) -> Row:
    """bunny-360, forth and back until there are enough frames, three times as high and as wide."""
    frames, rate = clip("bunny-360")
    there_and_back = itertools.cycle([*frames, *frames[-2:0:-1]])
    with tempfile.TemporaryDirectory() as folder:
        large, coded, back = (Path(folder) / name for name in ("in.y4m", "clip.plv", "out.y4m"))
        write_video(large, map(enlarged, itertools.islice(there_and_back, n_frames)), rate)
        encode = _peak("encode", large, "-o", coded, "--preset", preset, "--crf", CRF)
        decode = _peak("decode", coded, "-o", back)
        return {
            "codec": f"warp {preset}", "frames": n_frames, "bytes": coded.stat().st_size,
            "encode_mib": encode, "decode_mib": decode,
        }  # fmt: skip


def enlarged(frame: Frame) -> Frame:
    """At 1920 x 1080, chroma at half of it."""
    sizes = ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2))
    planes = [
        F.interpolate(plane[None, None].float(), size, mode="bicubic").round().clamp(0, 255)[0, 0]
        for plane, size in zip(frame.planes, sizes, strict=True)
    ]
    luma, blue, red = (plane.to(torch.uint8) for plane in planes)
    return Frame((luma, blue, red), frame.colour, frame.time)


def _peak(*arguments: object) -> int:
    """MiB at most while `plisse video ARGUMENTS` ran in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.video.memory", *map(str, arguments)]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    from plisse.cli.main import app

    torch.set_num_threads(1)
    app(["video", *sys.argv[1:]], standalone_mode=False)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    print(json.dumps(int(peak.split()[1]) // 1024))


if __name__ == "__main__":
    main()
