"""Batch-norm statistics of every listed point: measured once, stored, interpolated between.

Statistics measured at one point are wrong at others (Yu and Huang 2019 measure them anew on the device, which
needs data there). A table of them takes two numbers per channel and point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.adapt.reparams import Tabled
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import Sliced
from plisse.core import modules
from plisse.core.batch import Batches
from plisse.core.reparam import Reparam
from plisse.train.statistics import reestimate_statistics

BUFFERS = ("running_mean", "running_var")


def measure_statistics(subspace: Subspace, batches: Batches, n: int = 20) -> None:
    """Give `subspace`, in place, a table of batch-norm statistics with a row for each listed point.

    Each row is the average over the first n of `batches` (inputs only) of the network at its point, rounded
    to 16 bits as in the file. Does nothing where no batch norm keeps statistics.
    """
    names = list(statistic_names(subspace.wrapped.model))
    if not names:
        return
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for point in subspace.space.points:
        network = modules.clone(subspace.materialised(point))
        reestimate_statistics(network, batches, n)
        for name in names:
            rows[name].append(modules.tensor(network, name).half().float())
    put_statistics(subspace, rows)


def put_statistics(subspace: Subspace, rows: dict[str, list[Tensor]]) -> None:
    """Read batch-norm statistics from tables from now on. rows: for every listed point, its channels only."""
    reparams: dict[str, Reparam] = {}
    for name, values in rows.items():
        now = subspace.wrapped.reparams.get(name)
        if isinstance(now, Sliced):
            kept = [now.kept(0, point) for point in subspace.space.points]
            table = Tabled(torch.stack(filled_rows(values, kept, now.dimensions[0].entries)), subspace.dial)
            reparams[name] = Sliced(table, now.dimensions, now.plan, subspace.dial)
        else:
            reparams[name] = Tabled(torch.stack(values), subspace.dial)
    subspace.with_reparams(reparams)


def statistic_names(model: nn.Module) -> Iterator[str]:
    """The running statistics of all batch norms, by their dotted names."""
    for layer, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield from (f"{layer}.{buffer}" for buffer in BUFFERS)


def tables(subspace: Subspace) -> dict[str, Tabled]:
    """The table behind each statistic, by its name; empty before `measure_statistics`."""
    found = {}
    for name, reparam in subspace.wrapped.reparams.items():
        inner = reparam.source if isinstance(reparam, Sliced) else reparam
        if isinstance(inner, Tabled):
            found[name] = inner
    return found


def filled_rows(values: Sequence[Tensor], kept: Sequence[tuple[int, ...]], size: int) -> list[Tensor]:
    """Rows of all channels from rows of those that each point keeps, which are at the places `kept`; what a
    point does not have is as in the next dearer one."""
    full: list[Tensor] = []
    for row, at in zip(reversed(values), reversed(kept), strict=True):
        whole = full[-1].clone() if full else torch.zeros(size, device=row.device)
        whole[torch.tensor(at, device=row.device)] = row
        full.append(whole)
    return full[::-1]
