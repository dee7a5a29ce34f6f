"""LearnedPrecision: widths that are learned in training, then chosen within a mean width."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from plisse.compress.names import without
from plisse.compress.notes import with_notes
from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.aware.train import train_quantized
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, Granularity, PerChannel, check_bits
from plisse.compress.quantize.mixed.candidates import Uniformly
from plisse.compress.quantize.mixed.widths import Blend, Learning, WidthLearning
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core import modules
from plisse.core.reparam import Reparam, Reparametrized, plain, reparametrize, source
from plisse.cost.allocate import Choices, solve
from plisse.errors import InputError
from plisse.train.loop import fit
from plisse.train.objectives import with_penalty
from plisse.train.task import Task


@dataclass(frozen=True)
class LearnedPrecision:
    """Train weights and their widths together, choose for every weight the width that is wanted most with a
    mean of at most `mean_bits` over all weights, round, and go on training with `aware`.

    mean_bits: bits per weight, at least the least of `bits`. method: Blend() (EdMIPS, DNAS), LearnedRange()
    (Uhlich et al.) or BitPlanes() (BSQ). search: the first training: steps, lr, optimizer, schedule, clip,
    precision and seed are taken from it. aware: the second one; None trains no further. bits: widths to
    choose from, 2 to 8. symmetric, granularity, range, activations, ignore: as in `Quantize`.

    Bits are counted before the entropy coder. Raises InputError for a mean that no choice has.
    """

    mean_bits: float
    method: WidthLearning = field(default_factory=Blend)
    search: Aware = field(default_factory=lambda: Aware(500))
    aware: Aware | None = None
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerChannel)
    range: Range = field(default_factory=MSE)
    activations: Activations | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for bits in self.bits:
            check_bits(bits)
        if not self.bits or not self.mean_bits >= min(self.bits):
            raise InputError(
                f"mean_bits={self.mean_bits} with widths {self.bits}",
                expected="at least the narrowest width",
                hint="LearnedPrecision(4, bits=(2, 3, 4, 6, 8))",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        how = Uniformly(self.symmetric, self.granularity, self.range)
        names = without(modules.weight_names(plain(model)), self.ignore)
        widths = tuple(sorted(set(self.bits)))
        table: dict[str, Reparam] = {n: self.method.wrapped(source(model, n), widths, how) for n in names}
        learning = reparametrize(model, table)
        if self.activations is not None:
            ignored = [name.rpartition(".")[0] for name in self.ignore]
            quantize_inputs(learning, task.calibration, self.activations, {}, [*self.ignore, *ignored])
        self._train(learning, task)
        chosen = self.chosen({name: learning.reparams[name] for name in names}, widths)  # type: ignore[misc]
        made = self._rounded(learning, chosen)
        counts = ", ".join(f"{n} at {b} bits" for b, n in sorted(Counter(chosen.values()).items()))
        trained = made if self.aware is None else train_quantized(made, task, self.aware)
        return with_notes(trained, [f"weights by width: {counts}"])

    def chosen(self, parts: dict[str, Learning], widths: tuple[int, ...]) -> dict[str, int]:
        """The width of every weight with the least summed loss within the mean."""
        total = sum(part.size for part in parts.values())
        loss = tuple(part.losses(widths) for part in parts.values())
        cost = tuple([float(part.size * bits) for bits in widths] for part in parts.values())
        picks = solve(Choices(tuple(parts), loss, cost), self.mean_bits * total)
        return {name: widths[pick] for name, pick in zip(parts, picks, strict=True)}

    def _train(self, learning: Reparametrized, task: Task) -> None:
        how = self.search
        fit(
            learning,
            with_penalty(task.objective, _Penalty(self.method, self.mean_bits), 1.0),
            task.train,
            steps=how.steps,
            optimizer=replace(how.optimizer, lr=how.lr),
            schedule=how.schedule,
            clip=how.clip,
            precision=how.precision,
            seed=how.seed,
            hooks=(self.method,),
        )

    def _rounded(self, learning: Reparametrized, chosen: dict[str, int]) -> Reparametrized:
        table: dict[str, Reparam] = dict(learning.reparams)
        for name, bits in chosen.items():
            part = table[name]
            assert isinstance(part, Learning)
            form = Format(bits, self.symmetric)
            table[name] = FakeQuantized(part.trained(), form, self.granularity, self.range)
        return Reparametrized(learning.model, table)


@dataclass(frozen=True)
class _Penalty:
    method: WidthLearning
    mean_bits: float

    def __call__(self, model: nn.Module) -> Tensor:
        return self.method.penalty(model, self.mean_bits)
