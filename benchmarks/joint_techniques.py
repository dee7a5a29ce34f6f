"""The techniques of `python -m benchmarks.joint`: each gives the largest file that fits, or None."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import ReestimateNorm
from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import pose
from plisse.compress.lowrank.schemes import Spatial
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.grids import PerChannel, PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.sensitivity import rate_table
from plisse.compress.step import Step, chain
from plisse.compress.within import Fitting, finishing
from plisse.core.origin import origin_of
from plisse.core.reparam import plain
from plisse.errors import PlisseError
from plisse.networks.assets import assets
from plisse.networks.build import build
from plisse.train.task import Task

BISECTIONS = 9
WIDER = 1.3
"""The coder saves less than this over a fixed width, so that wider ones need no trial."""


def data_of(model: nn.Module, original: nn.Module) -> bytes:
    """The file of a network."""
    return modelfile.dumps(model, build(origin_of(plain(model))), assets=assets(original))


def bisected(make: Callable[[float], Step], model: nn.Module, task: Task, bound: float) -> bytes | None:
    """The largest file within `bound` over a knob from 0 (everything stays) to 1 (nothing does); in the end
    batch norm is measured again, where there is one, for which a thousandth of the bytes is kept."""
    low, high, best = 0.0, 1.0, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            size = len(data_of(chain(make(middle), finishing(model))(model, task), model))
        except PlisseError:
            high = middle
            continue
        if size <= 0.999 * bound:
            best = high = middle
        else:
            low = middle
    if best is None:
        return None
    return data_of(chain(make(best), ReestimateNorm(20), finishing(model))(model, task), model)


def pruning(model: nn.Module, task: Task, bound: float) -> bytes | None:
    return bisected(Prune, model, task, bound)


def low_rank(model: nn.Module, task: Task, bound: float) -> bytes | None:
    problem = pose(model, task, scheme=Spatial(), whitened=True)

    def step(ratio: float) -> Step:
        ranks = {name: max(rank, 1) for name, rank in EnergyPerParameter().ranks(problem, ratio).items()}
        return lambda network, _: factorized(network, ranks, problem.spectra, problem.scheme)

    return bisected(step, model, task, bound)


def quantization(model: nn.Module, task: Task, bound: float) -> bytes | None:
    text = not hasattr(model, "conv1")
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    for bits in (8, 6, 5, 4, 3, 2):
        if bits > WIDER * 32 * bound / size:
            continue
        step = Quantize(
            bits,
            symmetric=False,
            granularity=PerGroup(64) if text else PerChannel(),
            rounding=GPTQ(samples=128 if text else 256),
        )
        data = data_of(chain(step, BiasCorrection(), finishing(model))(model, task), model)
        if len(data) <= bound:
            return data
    return None


def step_sizes(model: nn.Module, task: Task, bound: float) -> bytes:
    table = rate_table(model, task).only(lambda option: option.rank is None and not option.sparsity)
    trellis = RateQuantize({}, rounding="trellis")

    def written(net: nn.Module) -> int:
        return len(data_of(net, model))

    fitted = Fitting(model, task, table, trellis, (), trellis, written).within(bound)
    return data_of(finishing(model)(fitted.network, task), model)


def joint(model: nn.Module, task: Task, bound: float) -> bytes:
    return compress(model, task, budget=f"bytes={int(bound)}").data


TECHNIQUES: dict[str, Callable[[nn.Module, Task, float], bytes | None]] = {
    "joint": joint,
    "step sizes": step_sizes,
    "quantization": quantization,
    "low rank": low_rank,
    "pruning": pruning,
}
