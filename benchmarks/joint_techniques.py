"""The techniques of `python -m benchmarks.joint`: each gives the largest file that fits, or None."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.fitting import Fitting, finishing, shrink_within
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import pose
from plisse.compress.lowrank.schemes import Spatial
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.codebooks.ternary import TrainedTernary
from plisse.compress.quantize.grids import PerChannel, PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.compress.quantize.rated import RateQuantize, coded_bytes
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.sensitivity import divergence, held_apart, rate_table
from plisse.compress.step import Step, chain
from plisse.compress.within import DEAD_ZONE, TRAINED_MARGIN
from plisse.core.origin import origin_of
from plisse.core.reparam import plain
from plisse.errors import PlisseError
from plisse.networks.assets import assets
from plisse.networks.build import build
from plisse.train.optimizers import SGD
from plisse.train.task import Task

BISECTIONS = 9
WIDER = 1.3
"""The coder saves less than this over a fixed width, so that wider ones need no trial."""

TRAINED = ", trained"
TRAINING = FineTune(steps=600, clip=1.0)
"""What every technique gets, with the original as teacher, where its name ends so."""

Technique = Callable[..., bytes | None]


def data_of(model: nn.Module, original: nn.Module) -> bytes:
    """The file of a network."""
    return modelfile.dumps(model, build(origin_of(plain(model))), assets=assets(original))


def bisected(
    make: Callable[[float], Step], model: nn.Module, task: Task, bound: float, training: FineTune | None
) -> bytes | None:
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
    repair = training or ReestimateNorm(20)
    return data_of(chain(make(best), repair, finishing(model))(model, distilled(task, model)), model)


def pruning(model: nn.Module, task: Task, bound: float, training: FineTune | None = None) -> bytes | None:
    return bisected(Prune, model, task, bound, training)


def low_rank(model: nn.Module, task: Task, bound: float, training: FineTune | None = None) -> bytes | None:
    problem = pose(model, task, scheme=Spatial(), whitened=True)

    def step(ratio: float) -> Step:
        ranks = {name: max(rank, 1) for name, rank in EnergyPerParameter().ranks(problem, ratio).items()}
        return lambda network, _: factorized(network, ranks, problem.spectra, problem.scheme)

    return bisected(step, model, task, bound, training)


def quantization(
    model: nn.Module, task: Task, bound: float, training: FineTune | None = None
) -> bytes | None:
    """One width: GPTQ, for convolutions after folding and with the range that diverges less. With training,
    learned steps from those of least squared error, and three values where two bits do not fit."""
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    allowed = [bits for bits in (8, 6, 5, 4, 3, 2) if bits <= WIDER * 32 * bound / size]
    ways = [rounded(model, task, bits) for bits in allowed]
    if training:
        aware = Aware(training.steps, lr=0.01, optimizer=SGD(weight_decay=5e-5))
        ways = [[Quantize(bits, range=MSE(), aware=aware)] for bits in allowed]
        ways.append([Quantize(4, grid=TrainedTernary(), aware=aware)])
    taught, judges = distilled(task, model), held_apart(task)
    for steps in ways:
        made = [chain(step, finishing(model))(model, taught) for step in steps]
        fitting = [each for each in made if len(data_of(each, model)) <= bound]
        if fitting:
            return data_of(min(fitting, key=lambda each: divergence(each, model, task, judges)), model)
    return None


def rounded(model: nn.Module, task: Task, bits: int) -> list[Step]:
    """Ways to round to one width."""
    if not hasattr(model, "conv1"):
        step = Quantize(bits, symmetric=False, granularity=PerGroup(64), rounding=GPTQ(samples=128))
        return [chain(step, BiasCorrection())]
    common = {"symmetric": False, "granularity": PerChannel(), "rounding": GPTQ(samples=256)}
    steps = [Quantize(bits, range=each, **common) for each in (MinMax(), MSE())]  # type: ignore[arg-type]
    return [chain(*fold, step, BiasCorrection()) for step in steps for fold in ((), (FoldBatchNorm(),))]


def step_sizes(model: nn.Module, task: Task, bound: float, training: FineTune | None = None) -> bytes:
    table = rate_table(model, task).only(lambda option: option.rank is None and not option.sparsity)
    way = RateQuantize({}, dead_zone=DEAD_ZONE) if training else RateQuantize({}, rounding="trellis")

    def written(net: nn.Module) -> int:
        return len(data_of(net, model))

    fitting = Fitting(model, task, table, way, (), way, written)
    last = finishing(model)
    if training is None:
        return data_of(last(fitting.within(bound).network, task), model)
    steps = fitting.within(TRAINED_MARGIN * bound).steps
    held = replace(training, hold=coded_bytes(chain(*steps)(model, task)))
    trained = chain(*steps, held, last)(model, distilled(task, model))
    return data_of(shrink_within(trained, bound, written), model)


def joint(model: nn.Module, task: Task, bound: float, training: FineTune | None = None) -> bytes:
    batches = training.steps if training else 0
    return compress(model, task, budget=f"bytes={int(bound)}", finetune_steps=batches).data


def reference(technique: str) -> str:
    """What a technique is compared with: the joint default, trained as well where it is."""
    return f"joint{TRAINED}" if technique.endswith(TRAINED) else "joint"


ALONE: dict[str, Technique] = {
    "joint": joint,
    "step sizes": step_sizes,
    "quantization": quantization,
    "low rank": low_rank,
    "pruning": pruning,
}
TECHNIQUES: dict[str, Technique] = {
    **ALONE,
    **{f"{name}{TRAINED}": partial(made, training=TRAINING) for name, made in ALONE.items()},
}
