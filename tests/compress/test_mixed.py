"""Mixed precision on small networks: budgets are met, every measure works, bad input is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.notes import notes_of
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.grids import PerGroup, PerTensor
from plisse.compress.quantize.mixed.candidates import Uniformly, candidates
from plisse.compress.quantize.mixed.costs import (
    Bound,
    float_bytes,
    matrix_macs,
    measured_seconds,
    written_bytes,
)
from plisse.compress.quantize.mixed.curvature import Fisher, HessianTrace, Itself, Labels
from plisse.compress.quantize.mixed.mixed import MixedPrecision, widths_of
from plisse.compress.quantize.mixed.refine import company, refined, uniform
from plisse.compress.quantize.mixed.sensitivity import Perturbation, Sensitivity
from plisse.compress.quantize.mixed.table import bytes_of, make_table
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.fakequant import InputQuantizer
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.core.reparam import Plain, baked, effective_weight, plain
from plisse.errors import BudgetError, InputError
from plisse.networks.build import build
from plisse.train.loop import fit
from plisse.train.optimizers import SGD
from plisse.train.task import Task, classification, outputs_on

MEASURES: list[Sensitivity] = [
    Perturbation(),
    HessianTrace(samples=2),
    Fisher(batches=2),
    Fisher(batches=2, target=Labels()),
]


FACTORY = f"{__name__}:small_net"


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 24),
        nn.ReLU(),
        nn.Linear(24, 3),
    )


def made_task() -> Task:
    """Three classes: noise around three images."""
    torch.manual_seed(0)
    centres = 0.5 * torch.randn(3, 1, 8, 8)
    items = []
    for _ in range(4):
        target = torch.randint(3, (48,))
        items.append(Batch(centres[target] + torch.randn(48, 1, 8, 8), target))
    batches = BatchList(tuple(items))
    return classification("made", items[0].inputs, batches, BatchList(batches.items[:2]), batches)


@pytest.fixture(scope="module")
def task() -> Task:
    return made_task()


@pytest.fixture(scope="module")
def net(task: Task) -> nn.Module:
    torch.manual_seed(1)
    model = with_origin(small_net(), Origin("factory", FACTORY))
    fit(model, task.objective, task.train, steps=30, optimizer=SGD(lr=0.05), precision="32-true")
    return model.eval()


def mixed(budget: str = "bytes=0.15x", **changes: Any) -> MixedPrecision:
    return replace(MixedPrecision(budget, bits=(2, 4, 8), sensitivity=Perturbation(1)), **changes)


@pytest.mark.parametrize("share", [0.13, 0.16, 0.22])
def test_the_written_file_holds_to_a_budget_in_bytes(net: nn.Module, task: Task, share: float) -> None:
    made = mixed(f"bytes={share}x", sweeps=0)(net, task)
    assert isinstance(made, nn.Module)
    length = len(modelfile.dumps(made, build(origin_of(net), allow=(FACTORY,)), notes={"task": "made"}))
    limit = share * float_bytes(net)
    assert 0.9 * limit <= length <= limit
    assert len(set(widths_of(made).values())) > 1


def test_compress_with_this_step_writes_within_the_budget(net: nn.Module, task: Task) -> None:
    result = compress(net, task, recipe=mixed("bytes=0.16x", sweeps=0), allow=(FACTORY,))
    assert result.after.bytes <= 0.16 * result.before.bytes
    assert "weights by width" in notes_of(mixed(sweeps=0)(net, task))[0]


@pytest.mark.parametrize("sensitivity", MEASURES, ids=repr)
def test_every_measure_beats_the_uniform_width_below_at_its_bytes(
    net: nn.Module, task: Task, sensitivity: Sensitivity
) -> None:
    # with 2, 4 and 8 bits, half way between the files at 2 and 4 bits is better than 2 bits everywhere
    low, high = (Quantize(bits=bits)(net, task) for bits in (2, 4))
    middle = sum(written_bytes(each, net, task.name) for each in (low, high)) // 2
    made = mixed(f"bytes={middle}", sensitivity=sensitivity, sweeps=0, ranges=(MSE(),))(net, task)
    lost = [_lost(net, each, task) for each in (low, made)]
    assert lost[1] < lost[0]


def test_sweeps_never_lose_to_uniform_widths_or_to_the_table(net: nn.Module, task: Task) -> None:
    how = mixed(sweeps=2)
    table = how.table(net, task)
    lost = company(net, task, 2)
    for each in uniform(table):
        budget = sum(bytes_of(name, pick) for name, pick in each.items())
        first = table.choose(budget, bytes_of)
        found = refined(table, first, budget, bytes_of, lost, 2, "dynamic")
        assert lost(found) <= min(lost(first), lost(each)) + 1e-7
        assert sum(bytes_of(name, pick) for name, pick in found.items()) <= budget


def test_the_table_predicts_the_chosen_options(net: nn.Module, task: Task) -> None:
    table = mixed().table(net, task)
    picks = table.choose(1e9, bytes_of)
    assert {pick.bits for pick in picks.values()} == {8}
    assert table.predicted(picks) == pytest.approx(sum(min(row) for row in table.loss.values()))
    assert set(table.options) == set(modules.weight_names(net))


def test_candidates_and_the_network_made_of_them_agree_bit_for_bit(net: nn.Module, task: Task) -> None:
    how = mixed(granularity=PerGroup(16), symmetric=False)
    table = how.table(net, task)
    picks = table.choose(sum(bytes_of(n, o[2]) for n, o in table.options.items()), bytes_of)
    made = how.made(net, task, picks)
    for name, pick in picks.items():
        assert torch.equal(effective_weight(made, name), pick.candidate.values())
        values = torch.from_numpy(made.reparams[name].stored().values())
        assert torch.equal(values, pick.candidate.values())


def test_bit_operations_are_macs_times_both_widths(net: nn.Module, task: Task) -> None:
    how = mixed("bitops=0.01x", activations=Activations(bits=8, range=MinMax()), activation_bits=(4, 8))
    made = how(net, task)
    macs = matrix_macs(net, task.example)
    inputs = _input_widths(made)
    spent = sum(macs[n] * bits * inputs[n.rpartition(".")[0]] for n, bits in widths_of(made).items())
    assert spent <= 0.01 * 1024 * sum(macs.values())
    assert set(inputs.values()) <= {4, 8}
    with pytest.raises(BudgetError):
        mixed("bitops=0.005x", activations=Activations(bits=8))(net, task)


def test_inputs_get_the_width_that_activations_say(net: nn.Module, task: Task) -> None:
    made = mixed(activations=Activations(bits=6, range=MinMax()), sweeps=0)(net, task)
    assert set(_input_widths(made).values()) == {6}
    assert written_bytes(made, net, task.name) <= 0.15 * float_bytes(net)


def test_measured_seconds_choose_the_layers_that_stay(net: nn.Module, task: Task) -> None:
    layers = [name for name, _ in modules.weighted_layers(net)]
    seconds = {layer: {8: 1.0, 32: 3.0} for layer in layers}
    budget = f"latency={len(layers) + 2}s"
    how = MixedPrecision(budget, bits=(8, 32), seconds=seconds, sweeps=0)
    made = how(net, task)
    assert len(widths_of(made)) == len(layers) - 1  # one stays in float32
    with pytest.raises(InputError, match="seconds"):
        replace(how, bits=(4, 32))(net, task)


def test_layers_are_timed_at_every_width_that_has_a_kernel(net: nn.Module, task: Task) -> None:
    def kernel(layer: nn.Module) -> Callable[[Any], Any]:
        if isinstance(layer, nn.Linear):
            raise InputError("a linear layer")
        return layer

    found = measured_seconds(net, task.example, {8: kernel}, repeats=2)
    assert set(found) == {name for name, _ in modules.weighted_layers(net)}
    linear = {name for name, layer in modules.weighted_layers(net) if isinstance(layer, nn.Linear)}
    assert all(set(row) == ({32} if name in linear else {8, 32}) for name, row in found.items())
    assert all(value > 0 for row in found.values() for value in row.values())


def test_fixed_and_ignored_weights(net: nn.Module, task: Task) -> None:
    first, *others = modules.weight_names(net)
    made = mixed("bytes=0.5x", fixed={first: 6}, ignore=(others[-1],), sweeps=0)(net, task)
    assert widths_of(made)[first] == 6
    assert others[-1] not in widths_of(made)


def test_a_network_of_unknown_origin_is_measured_all_the_same(task: Task) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    made = mixed("bytes=0.2x", sweeps=0)(model, task)
    assert written_bytes(made, model, task.name) <= 0.2 * float_bytes(model)


def test_pruned_weights_stay_zero(net: nn.Module, task: Task) -> None:
    model = modules.clone(net)
    name = modules.weight_names(model)[0]
    value = modules.tensor(model, name).detach()
    modules.set_tensor(model, name, value * (value.abs() > value.abs().median()))
    made = mixed(sweeps=0)(model, task)
    assert bool((effective_weight(made, name)[modules.tensor(model, name) == 0] == 0).all())


def test_dynamic_milp_and_exhaustive_choices_agree_on_a_real_table(net: nn.Module, task: Task) -> None:
    how = mixed(ranges=(MinMax(),))
    table = how.table(net, task)
    names = list(table.options)
    assert len(names) <= 6
    budget = 0.5 * sum(bytes_of(n, o[-1]) for n, o in table.options.items())
    best = min(
        sum(table.loss[n][i] for n, i in zip(names, picks, strict=True))
        for picks in itertools.product(*(range(len(table.options[n])) for n in names))
        if sum(bytes_of(n, table.options[n][i]) for n, i in zip(names, picks, strict=True)) <= budget
    )
    for solver in ("dynamic", "milp"):
        assert table.predicted(table.choose(budget, bytes_of, solver)) == pytest.approx(best, abs=1e-6)
    assert table.predicted(table.choose(budget, bytes_of, "greedy")) >= best - 1e-12


def test_losses_of_weights_and_inputs_add_up() -> None:
    made = {
        "0.weight": candidates(Plain(torch.randn(4, 4)), (2, 4), [Uniformly(True, PerTensor(), MinMax())])
    }
    table = make_table(made, {"0.weight": [3.0, 1.0]}, lambda name: (2, 8), {"0": {2: 0.5, 8: 0.0}})
    assert [(o.bits, o.inputs) for o in table.options["0.weight"]] == [(2, 2), (2, 8), (4, 2), (4, 8)]
    assert table.loss["0.weight"] == (3.5, 3.0, 1.5, 1.0)
    assert table.predicted_inputs({"0.weight": table.options["0.weight"][2]}) == 0.5


def test_an_exact_table_of_a_linear_network_needs_no_labels(task: Task) -> None:
    unlabelled = replace(task, calibration=BatchList(tuple(Batch(b.inputs) for b in task.calibration)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    for measure in (Perturbation(1), HessianTrace(samples=1), Fisher(batches=1)):
        table = mixed(sensitivity=measure).table(model, unlabelled)
        assert all(row[0] > row[-1] for row in table.loss.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": "bytes"},
        {"budget": "macs=0.1x"},
        {"budget": "bytes=0.1x, bitops=0.1x"},
        {"budget": "latency=1ms"},
        {"bits": ()},
        {"bits": (1, 8)},
        {"bits": (17,)},
        {"ranges": ()},
        {"sweeps": -1},
        {"activation_bits": (4,)},
        {"activations": Activations(), "activation_bits": (9,)},
        {"fixed": {"a": 1}},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        mixed(**wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Perturbation(batches=0),
        lambda: HessianTrace(samples=0),
        lambda: Fisher(batches=0),
        lambda: Fisher(target=Itself()),
    ],
)
def test_wrong_measures_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


def test_a_budget_that_nothing_meets_names_the_least(net: nn.Module, task: Task) -> None:
    with pytest.raises(BudgetError, match="at least") as caught:
        mixed("bytes=0.01x", sweeps=0)(net, task)
    least = caught.value.closest
    assert isinstance(least, float)
    assert mixed(f"bytes={least + 60:.0f}", sweeps=0)(net, task) is not None


def test_names_and_calibration_are_checked(net: nn.Module, task: Task) -> None:
    with pytest.raises(InputError, match="no weight"):
        mixed(fixed={"nothing.weight": 8})(net, task)
    with pytest.raises(InputError, match="calibration"):
        mixed()(net, replace(task, calibration=BatchList(())))
    broken = Batch(torch.full((4, 1, 8, 8), float("nan")))
    with pytest.raises(InputError, match="finite"):
        mixed()(net, replace(task, calibration=BatchList((broken,))))


@pytest.mark.parametrize("text", ["bytes=0.12x", "bitops=5G", "latency=2ms", "bytes=10kB"])
def test_budgets_are_parsed(text: str) -> None:
    bound = Bound.parse(text)
    assert bound.kind == text.partition("=")[0]
    assert bound.limit.value > 0


def _lost(model: nn.Module, other: nn.Module, task: Task) -> float:
    pairs = zip(outputs_on(model, task.holdout), outputs_on(baked(other), task.holdout), strict=True)
    return sum(float(task.divergence(a, b)) for a, b in pairs)


def _input_widths(model: nn.Module) -> dict[str, int]:
    return {
        name.rpartition(".")[0]: module.bits
        for name, module in plain(model).named_modules()
        if isinstance(module, InputQuantizer)
    }
