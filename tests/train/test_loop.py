from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Plain, Reparametrized, reparametrize
from plisse.errors import InputError, WeightsError
from plisse.train.history import History
from plisse.train.loop import State, fit
from plisse.train.objectives import weighted
from plisse.train.optimizers import SGD, AdamW, parameter_groups
from plisse.train.schedules import Constant, Cosine
from plisse.train.task import Loss, cross_entropy


def blobs(n_batches: int = 4, size: int = 16) -> BatchList:
    """Three well separated classes in eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(3, 8, generator=generator)
    items = []
    for _ in range(n_batches):
        target = torch.randint(3, (size,), generator=generator)
        items.append(Batch(centres[target] + 0.3 * torch.randn(size, 8, generator=generator), target))
    return BatchList(tuple(items))


def images() -> BatchList:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (8,), generator=generator)
    return BatchList((Batch(torch.randn(8, 2, 6, 6, generator=generator), target),))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def trained(**settings: object) -> tuple[nn.Module, History]:
    model = network()
    history = fit(model, cross_entropy, blobs(), **{"steps": 40, "optimizer": SGD(lr=0.1), **settings})
    return model, history


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, nesterov=True), AdamW(lr=0.01)])
def test_fit_learns(optimizer: SGD | AdamW) -> None:
    model, history = trained(optimizer=optimizer, steps=60)
    assert history.rows[0].loss > 3 * history.loss
    batch = blobs()[0]
    assert float((model.eval()(batch.inputs).argmax(-1) == batch.target).float().mean()) > 0.9


def test_steps_are_those_of_plain_torch() -> None:
    model, reference = network().eval(), network().eval()
    model[2].p = reference[2].p = 0.0
    schedule = Cosine()
    fit(model, cross_entropy, blobs(), steps=7, optimizer=SGD(0.1, weight_decay=0.01), clip=0.5)
    optimizer = torch.optim.SGD(parameter_groups(reference, 0.01), lr=0.1, momentum=0.9)
    for step in range(7):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * schedule.factor(step, 7)
        optimizer.zero_grad()
        cross_entropy(reference, blobs()[step]).total.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_same_call_gives_the_same_network_whatever_was_drawn_before() -> None:
    first, _ = trained(seed=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = network()
    torch.set_rng_state(before)
    fit(second, cross_entropy, blobs(), steps=40, optimizer=SGD(lr=0.1), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].weight, second[0].weight)
    other, _ = trained(seed=4)
    assert not torch.equal(first[0].weight, other[0].weight), "dropout should depend on the seed"


def test_the_network_comes_back_in_its_flags_and_memory_order() -> None:
    model = convnet().eval()
    model[0].train()
    history = fit(model, cross_entropy, images(), steps=3)
    assert [module.training for module in model] == [True, False, False, False, False, False]
    assert model[0].weight.is_contiguous()
    assert model[0].weight.dtype == torch.float32
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[1].num_batches_tracked == 3
    assert history.precision in ("bf16-mixed", "32-true")


def test_training_runs_in_channels_last_and_in_autocast() -> None:
    seen: list[tuple[bool, bool, torch.dtype]] = []

    def objective(model: nn.Module, batch: Batch) -> Loss:
        filters = model[0].weight.is_contiguous(memory_format=torch.channels_last)
        images = batch.inputs.is_contiguous(memory_format=torch.channels_last)
        seen.append((filters, images, model(batch.inputs).dtype))
        return cross_entropy(model, batch)

    for precision in ("bf16-mixed", "32-true"):
        fit(convnet(), objective, images(), steps=1, precision=precision)
    assert seen == [(True, True, torch.bfloat16), (True, True, torch.float32)]


def test_targets_and_inputs_are_not_rounded_by_autocast() -> None:
    seen: list[torch.dtype] = []

    def objective(model: nn.Module, batch: Batch) -> Loss:
        seen.extend((batch.inputs.dtype, batch.target.dtype))
        return Loss((model(batch.inputs).float().mean() - batch.target).square().mean())

    batches = BatchList((Batch(torch.randn(4, 8), torch.rand(4)),))
    fit(network(), objective, batches, steps=1, precision="bf16-mixed")
    assert set(seen) == {torch.float32}


def test_inputs_may_be_dictionaries_and_tuples() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.linear(left + right)

    torch.manual_seed(0)
    x, target = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    results = []
    for inputs in ({"right": x, "left": 2 * x}, (2 * x, x)):
        torch.manual_seed(0)
        model = Added()
        fit(model, cross_entropy, BatchList((Batch(inputs, target),)), steps=3)
        results.append(model.linear.weight)
    assert torch.equal(*results)


def test_a_reparametrized_network_trains_its_stored_tensors() -> None:
    plain = network()
    model = reparametrize(plain, {"0.weight": Plain(plain[0].weight)})
    history = fit(model, cross_entropy, blobs(), steps=40, optimizer=SGD(lr=0.1))
    assert isinstance(model, Reparametrized)
    assert history.loss < history.rows[0].loss / 2
    assert torch.equal(model.model[0].weight, plain[0].weight), "the covered weight is stale and stays so"
    assert not torch.equal(model.reparams["0.weight"].weight, plain[0].weight)


def test_weight_decay_spares_vectors() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    decaying, others = parameter_groups(model, 0.1)
    assert [p.dim() for p in decaying["params"]] == [2]
    assert [p.dim() for p in others["params"]] == [1, 1]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_hooks_see_every_step_and_may_change_weights() -> None:
    seen: list[State] = []

    def zero_first_row(state: State) -> None:
        seen.append(state)
        with torch.no_grad():
            state.model[0].weight[0].zero_()

    model, _ = trained(steps=5, hooks=(zero_first_row,), schedule=Constant())
    assert [(state.step, state.steps, state.lr) for state in seen] == [(i, 5, 0.1) for i in range(5)]
    assert not model[0].weight[0].any()
    assert model[0].weight[1].any()


def test_training_ends_where_until_says_and_its_checkpoint_counts_as_finished(tmp_path: Path) -> None:
    def third(state: State) -> bool:
        return state.step == 2

    path = tmp_path / "state.safetensors"
    model, history = trained(steps=10, until=third, checkpoint=path, log_every=1)
    again, same = trained(steps=10, until=third, checkpoint=path, log_every=1)
    assert [row.step for row in history.rows] == [row.step for row in same.rows] == [1, 2, 3]
    assert torch.equal(model[0].weight, again[0].weight)
    with pytest.raises(InputError, match="until"):
        trained(until=third, devices=2)


def test_errors_of_hooks_pass_through() -> None:
    def fail(state: State) -> None:
        raise KeyError(state.step)

    with pytest.raises(KeyError, match="0"):
        trained(hooks=(fail,))


def test_history_is_data_and_means_cover_every_step() -> None:
    losses: list[float] = []
    _, history = trained(steps=25, log_every=10, hooks=(lambda state: losses.append(float(state.loss)),))
    assert [row.step for row in history.rows] == [10, 20, 25]
    assert history.rows[1].loss == pytest.approx(sum(losses[10:20]) / 10, rel=1e-6)
    assert history.rows[1].parts["cross_entropy"] == pytest.approx(history.rows[1].loss)
    assert (history.precision, history.devices, history.seconds > 0) == ("32-true", 1, True)
    assert History.from_data(json.loads(json.dumps(history.to_data()))) == history


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    batches = blobs()
    broken = replace(batches[3], inputs=batches[3].inputs * float("nan"))
    with pytest.raises(WeightsError, match=r"nan in step 3.*learning rate"):
        fit(network(), cross_entropy, BatchList((*batches.items[:3], broken)), steps=8)


def test_weights_that_are_not_finite_at_the_end_are_refused() -> None:
    def spoil(state: State) -> None:
        with torch.no_grad():
            state.model[0].bias[0] = torch.inf

    with pytest.raises(WeightsError, match=r"0\.bias"):
        fit(network(), cross_entropy, blobs(), steps=1, hooks=(spoil,))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"precision": "bf16"},
        {"accelerator": "abacus"},
        {"devices": 0},
        {"log_every": 0},
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        trained(**settings)


def test_a_frozen_network_is_refused() -> None:
    with pytest.raises(InputError, match="without trainable"):
        fit(network().requires_grad_(False), cross_entropy, blobs(), steps=1)


def test_a_sum_of_objectives_logs_its_parts_apart() -> None:
    model = modules.clone(network())
    history = fit(model, weighted((1.0, cross_entropy), (1.0, cross_entropy)), blobs(), steps=3)
    row = history.rows[-1]
    assert row.loss == pytest.approx(sum(row.parts.values()), rel=1e-5)


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    trained(steps=10)
    assert capsys.readouterr() == ("", "")
    trained(steps=10, progress="train digits")
    out, err = capsys.readouterr()
    assert out == ""
    assert "train digits" in err
    assert "10/10" in err
    assert "loss" in err
