"""Images from ResNet-20 by the data generation of Sony's model_compression_toolkit, for
`python -m benchmarks.datafree_peers`; runs under that tool's own Python:

    PYTHON benchmarks/peers/mct_images.py JOB OUT.npz N ITERATIONS SEED

JOB: a folder as `prepare` makes it. OUT gets `images` [N, 3, 32, 32] float32, normalized, and `seconds` and
`cpu_seconds` for making them. All settings are the tool's defaults but the number of iterations.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import networks
import numpy as np
import torch
from worker import shim_torchvision


def generated(folder: Path, n: int, iterations: int) -> np.ndarray:
    import model_compression_toolkit as mct

    model = networks.NETWORKS["resnet20"](folder)
    generation = mct.data_generation
    config = generation.get_pytorch_data_generation_config(n_iter=iterations)
    images = generation.pytorch_data_generation_experimental(
        model=model, n_images=n, output_image_size=32, data_generation_config=config
    )
    found = torch.stack([image.detach().cpu().float().reshape(3, 32, 32) for image in images])
    return found[:n].numpy()


def main() -> None:
    job, out = Path(sys.argv[1]), Path(sys.argv[2])
    n, iterations, seed = (int(text) for text in sys.argv[3:])
    shim_torchvision()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    start, cpu = time.perf_counter(), time.process_time()
    images = generated(job / "resnet20", n, iterations)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    np.savez(out, images=images, seconds=seconds, cpu_seconds=cpu_seconds)


if __name__ == "__main__":
    main()
