"""MixedPrecision: a width for every weight, so that a budget is spent where it matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from plisse.compress.names import check_names, without
from plisse.compress.notes import with_notes
from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Nearest, Rounding
from plisse.compress.quantize.grids import Granularity, PerChannel
from plisse.compress.quantize.mixed import costs
from plisse.compress.quantize.mixed.candidates import FLOAT, WIDEST, Held, Uniformly, candidates
from plisse.compress.quantize.mixed.costs import Bound, Seconds
from plisse.compress.quantize.mixed.refine import company, refined
from plisse.compress.quantize.mixed.sensitivity import (
    Perturbation,
    Sensitivity,
    input_losses,
    takes_quantizer,
)
from plisse.compress.quantize.mixed.table import (
    CostOf,
    Picks,
    Table,
    Widths,
    bytes_of,
    make_table,
    total,
)
from plisse.compress.quantize.ranges import MSE, MinMax, Range
from plisse.compress.quantize.rounding.capture import check_inputs
from plisse.core import modules
from plisse.core.reparam import Reparametrized, baked, plain, reparametrize, source
from plisse.cost.allocate import Solver
from plisse.errors import BudgetError, InputError
from plisse.train.task import Task

BATCHES = 2
"""Of the calibration set, that sweeps look at."""
TRIES = 4
CLOSE = 0.003
"""Share of a budget in bytes that may stay unspent."""
SPARE = 4
"""Bytes that are kept in reserve after a file that was too long."""


@dataclass(frozen=True)
class MixedPrecision:
    """Round every weight at its own width: the widths with the least summed loss within a budget
    (HAWQ-V3, Yao et al. 2021; CalibTIP, Hubara et al. 2021).

    budget: one of "bytes=0.12x" (of the file as written, by this very network), "bitops=0.05x" (multiply-adds
    times bits of weight and input, over all weighted layers), "latency=2ms" (of all layers in `seconds`);
    shares refer to the network as it comes, in float32. bits: widths to choose from, 2 to 16, and 32 to leave
    a weight. sensitivity: Perturbation(), HessianTrace() or Fisher(). sweeps: of `refine` over the chosen
    widths, each two passes over a few calibration batches per weight. solver: "dynamic", "milp" or "greedy".
    ranges: one or several to choose from, per weight: with an entropy coder, a wider range takes fewer bytes.
    symmetric, granularity, rounding, ignore: as in `Quantize`. activations: how layers' inputs are
    rounded; None leaves them. activation_bits: widths to choose from for these, per layer; empty: all as
    `activations` says. fixed: weight name to its width, outside the choice. seconds: from `measured_seconds`.

    A file of this network holds to a budget in bytes, also after `rounding`. Losses of weights are measured
    one by one and added; sweeps correct for their company. Does not train.

    Raises BudgetError where the narrowest widths do not fit, InputError for widths out of range, an unknown
    name, and a bound on latency without `seconds`.
    """

    budget: str
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    sensitivity: Sensitivity = field(default_factory=Perturbation)
    sweeps: int = 1
    solver: Solver = "dynamic"
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerChannel)
    ranges: tuple[Range, ...] = (MSE(), MinMax())
    rounding: Rounding = field(default_factory=Nearest)
    activations: Activations | None = None
    activation_bits: tuple[int, ...] = ()
    fixed: Mapping[str, int] = field(default_factory=dict)
    seconds: Seconds | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bound = Bound.parse(self.budget)
        if not self.ranges or self.sweeps < 0:
            raise InputError(
                f"{len(self.ranges)} ranges and {self.sweeps} sweeps", expected="1 or more, 0 or more"
            )
        check_widths((*self.bits, *self.fixed.values()))
        for bits in self.activation_bits:
            if not 2 <= bits <= 8:
                raise InputError(f"{bits} bits of activations", expected="2 to 8 bits per value")
        if self.activation_bits and self.activations is None:
            raise InputError("activation_bits without activations", expected="activations=Activations()")
        if bound.kind == "latency" and self.seconds is None:
            raise InputError(
                "a budget of latency without seconds",
                expected="a measured table",
                hint="seconds=measured_seconds(model, task.example, {8: kernel})",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        return self.within(model, task, self.table(model, task))

    def table(self, model: nn.Module, task: Task) -> Table:
        """What every choice loses; takes nearly all the time. Serves any budget (`within`)."""
        names = without(modules.weight_names(plain(model)), self.ignore)
        check_names(self.fixed, names)
        hows = [Uniformly(self.symmetric, self.granularity, range) for range in self.ranges]
        options = {name: candidates(source(model, name), self._widths(name), hows) for name in names}
        probe = baked(model)
        if len(task.calibration):
            check_inputs(probe, task.calibration)
        losses = self.sensitivity.losses(probe, task, options)
        layers = {_layer(name) for name in names}
        lost = {}
        if self.activations is not None and self.activation_bits:
            lost = input_losses(probe, task, self.activations, sorted(layers), self.activation_bits)
        return make_table(options, losses, lambda name: self._input_widths(probe, name), lost)

    def within(self, model: nn.Module, task: Task, table: Table) -> Reparametrized:
        """The network at the best choice of `table` within this budget."""
        bound = Bound.parse(self.budget)
        if bound.kind == "bytes":
            made, picks = self._within_bytes(model, task, table, bound)
        else:
            cost, reference = self._additive(model, task, bound.kind, table)
            limit = bound.limit.absolute(reference)
            picks = self._refined(model, task, table, table.choose(limit, cost, self.solver), limit, cost)
            made = self.made(model, task, picks)
        return with_notes(made, [_told(picks)])  # type: ignore[return-value]

    def _within_bytes(
        self, model: nn.Module, task: Task, table: Table, bound: Bound
    ) -> tuple[Reparametrized, dict[str, Widths]]:
        """Choose by the length of records, ask for the length of the file, and correct by the difference."""
        limit = bound.limit.absolute(costs.float_bytes(model))
        least = table.cheapest(bytes_of)
        rest = self._rest(model, task, least)
        if (shortest := rest + total(least, bytes_of)) > limit:
            raise _too_small(limit, shortest)
        rest = self._settled(model, task, table, limit, rest)
        for _ in range(TRIES):
            budget = max(limit - rest, total(least, bytes_of))
            picks = table.choose(budget, bytes_of, self.solver)
            picks = self._refined(model, task, table, picks, budget, bytes_of)
            made = self.made(model, task, picks)
            length = costs.written_bytes(made, model, task.name)
            if length <= limit:
                return made, picks
            rest += length - limit + SPARE
        made = self.made(model, task, least)
        if (shortest := costs.written_bytes(made, model, task.name)) > limit:
            raise _too_small(limit, shortest)
        return made, least

    def _settled(self, model: nn.Module, task: Task, table: Table, limit: float, rest: float) -> float:
        """What to take from `limit` so that the file of the best choice is just short enough."""
        for _ in range(TRIES):
            picks = table.choose(limit - rest, bytes_of, self.solver)
            found = self._rest(model, task, picks)
            if 0 <= rest - found <= CLOSE * limit:
                break
            rest = found + (SPARE if found > rest else 0)
            if rest >= limit - total(table.cheapest(bytes_of), bytes_of):
                break
        return rest

    def _refined(
        self, model: nn.Module, task: Task, table: Table, picks: Picks, budget: float, cost: CostOf
    ) -> dict[str, Widths]:
        if not self.sweeps:
            return dict(picks)
        lost = company(baked(model), task, BATCHES)
        return refined(table, picks, budget, cost, lost, self.sweeps, self.solver)

    def _rest(self, model: nn.Module, task: Task, picks: Picks) -> float:
        """Bytes of the file that are no records of chosen weights."""
        held = {name: Held(pick.candidate) for name, pick in picks.items() if pick.bits != FLOAT}
        network = reparametrize(model, held)
        self._quantize_inputs(network, task, picks)
        return costs.written_bytes(network, model, task.name) - total(picks, bytes_of)

    def made(self, model: nn.Module, task: Task, picks: Picks) -> Reparametrized:
        """The network at a given choice of options of `table`."""
        chosen = {name: pick.candidate for name, pick in picks.items() if pick.bits != FLOAT}
        made = reparametrize(model, {name: c.reparam(source(model, name)) for name, c in chosen.items()})
        self._quantize_inputs(made, task, picks)
        return self.rounding(made, model, task)

    def _quantize_inputs(self, network: nn.Module, task: Task, picks: Picks) -> None:
        if self.activations is None:
            return
        widths = {_layer(name): pick.inputs for name, pick in picks.items()}
        every = [name for name, _ in modules.weighted_layers(plain(network))]
        ignored = [name for name in every if widths.get(name) is None]
        chosen = {name: bits for name, bits in widths.items() if bits is not None}
        quantize_inputs(network, task.calibration, self.activations, chosen, ignored)

    def _additive(self, model: nn.Module, task: Task, kind: str, table: Table) -> tuple[CostOf, float]:
        """A cost per weight that is known beforehand, and that of the float network."""
        if kind == "bitops":
            macs = costs.matrix_macs(plain(model), task.example)
            cost: CostOf = lambda name, pick: costs.bit_operations(macs[name], pick.bits, pick.inputs)  # noqa: E731
            return cost, sum(macs.values()) * costs.BITS_SQUARED
        seconds = self.seconds or {}
        return lambda name, pick: _seconds(seconds, name, pick.bits), sum(
            _seconds(seconds, name, FLOAT) for name in table.options
        )

    def _widths(self, name: str) -> tuple[int, ...]:
        return (self.fixed[name],) if name in self.fixed else tuple(sorted(set(self.bits)))

    def _input_widths(self, model: nn.Module, name: str) -> tuple[int | None, ...]:
        if self.activations is None or not takes_quantizer(model, _layer(name)):
            return (None,)
        return tuple(sorted(set(self.activation_bits))) or (self.activations.bits,)


def widths_of(model: nn.Module) -> dict[str, int]:
    """The width of every weight matrix of a quantized network that is on a uniform grid."""
    reparams = model.reparams if isinstance(model, Reparametrized) else {}
    found = {name: reparams.get(name) for name in modules.weight_names(plain(model))}
    return {name: item.form.bits for name, item in found.items() if isinstance(item, FakeQuantized)}


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise InputError unless there is a width and all are 2 to 16, or 32."""
    wrong = [bits for bits in widths if not (2 <= bits <= WIDEST or bits == FLOAT)]
    if wrong or not widths:
        raise InputError(f"widths {widths}", expected=f"2 to {WIDEST} bits, or {FLOAT} to leave a weight")


def _too_small(limit: float, shortest: float) -> BudgetError:
    return BudgetError(
        f"a budget of {limit:.0f} bytes",
        expected=f"at least {shortest:.0f}, the file with the narrowest widths",
        hint="narrower bits, or compact small tensors first (CompactSmall)",
        closest=shortest,
    )


def _seconds(seconds: Seconds, name: str, bits: int) -> float:
    """A layer's time, once for each layer; nothing for layers that were not reached."""
    layer, _, attribute = name.rpartition(".")
    if layer not in seconds or attribute != "weight":
        return 0.0
    if bits not in seconds[layer]:
        raise InputError(
            f"no seconds for {layer!r} at {bits} bits", expected=f"bits among {sorted(seconds[layer])}"
        )
    return seconds[layer][bits]


def _told(picks: Picks) -> str:
    """How many weights got which width, for the table of steps."""
    counts = sorted(Counter(pick.bits for pick in picks.values()).items())
    return "weights by width: " + ", ".join(f"{number} at {bits} bits" for bits, number in counts)


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]
