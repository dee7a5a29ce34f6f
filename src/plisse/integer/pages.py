"""Packed weights in large pages of memory.

A pass reads all weights once. In pages of 4 KiB the 85 MB of a BERT-base make the processor look up 21,000
addresses of pages, more than it remembers, and on a virtual machine each lookup is a double walk: the integer
products took twice as long there as in pages of 2 MiB. Linux changes the pages in place where it is asked to.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

PAGE = 1 << 21
FEWEST = 1 << 22  # bytes of weights; below, the processor remembers all small pages
WISH, COLLAPSE = 14, 25  # MADV_HUGEPAGE, and (Linux 6.1) MADV_COLLAPSE, which does it at once


def use_large_pages(weights: Iterable[Tensor]) -> int:
    """Ask Linux to keep these packed tensors in pages of 2 MiB; their values and addresses stay.

    Returns the number of pages asked for: 0 on other systems and for less than 4 MiB of weights. Where the
    system grants none (/sys/kernel/mm/transparent_hugepage), nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return 0
    with contextlib.suppress(AttributeError, RuntimeError, OSError):
        ranges = [_range(weight) for weight in weights]
        if sum(size for _, size in ranges) < FEWEST:
            return 0
        pages = {page for start, size in ranges for page in range(start // PAGE, -(-(start + size) // PAGE))}
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for page in sorted(pages):
            for wish in (WISH, COLLAPSE):
                advise(page * PAGE, PAGE, wish)  # a refusal costs nothing
        return len(pages)
    return 0


def _range(packed: Tensor) -> tuple[int, int]:
    """Address and bytes of a tensor in oneDNN's own order, or of a plain one."""
    if packed.layout == torch._mkldnn:  # type: ignore[attr-defined]
        return int(torch.ops.mkldnn.data_ptr(packed)), int(torch.ops.mkldnn._nbytes(packed))
    return packed.data_ptr(), packed.nbytes
