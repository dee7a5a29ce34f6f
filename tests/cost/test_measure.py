from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.reparam import Plain, Reparametrized
from plisse.cost.macs import count_macs, mac_table
from plisse.cost.measure import interleaved, latency, measure
from plisse.errors import InputError


class Function(nn.Module):
    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


LAYERS = [
    (nn.Linear(7, 5), (3, 4, 7), 3 * 4 * 7 * 5),
    (nn.Linear(7, 5, bias=False), (3, 7), 3 * 7 * 5),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 11), 2 * 11 * 4 * 6 * 3),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9), 2 * 25 * 4 * 6 * 9),
    (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 6, 6), 16 * 8 * 9),
    (nn.Conv2d(4, 4, (1, 3), dilation=2), (1, 4, 6, 6), 6 * 2 * 4 * 4 * 3),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 27 * 2 * 3 * 8),
    (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 4, 4), 16 * 3 * 5 * 4),
    (nn.Bilinear(3, 4, 5), None, 2 * 3 * 4 * 5),
    (nn.LSTM(4, 5, batch_first=True), (2, 3, 4), 2 * 3 * 4 * 5 * (4 + 5)),
    (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), (1, 3, 4, 4), 0),
]


@pytest.mark.parametrize(("layer", "shape", "macs"), LAYERS, ids=lambda v: type(v).__name__)
def test_macs_of_layers_by_hand(layer: nn.Module, shape: tuple[int, ...] | None, macs: int) -> None:
    example = torch.zeros(shape) if shape else (torch.zeros(2, 3), torch.zeros(2, 4))
    assert count_macs(layer, example) == macs


def test_embedding_counts_nothing() -> None:
    assert count_macs(nn.Embedding(10, 4), torch.zeros(2, 3, dtype=torch.long)) == 0


@pytest.mark.parametrize("mask", [False, True])
def test_macs_of_attention_fused_and_written_out_agree(mask: bool) -> None:
    query, key, value = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 8)
    bias = torch.zeros(2, 1, 5, 7) if mask else None
    fused = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
    apart = Function(lambda q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v)
    expected = 2 * 3 * 5 * 7 * 8 * 2
    assert count_macs(fused, (query, key, value)) == expected
    assert count_macs(apart, (query, key, value)) == expected


def test_macs_of_an_encoder_layer_whose_fast_path_is_one_kernel() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    macs = 3 * 6 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 3 * 6 * 6 * 16
    assert count_macs(layer, torch.zeros(3, 6, 16)) == macs
    assert torch.backends.mha.get_fastpath_enabled()


def test_table_names_the_module_and_the_operator_and_leaves_the_network_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(8, 3))).train()
    rows = mac_table(model, torch.zeros(2, 1, 4, 4))
    assert rows == [("0", "convolution", 144), ("1.1", "addmm", 48)]
    assert model.training
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_macs_and_parameters_of_computed_weights_are_those_of_the_baked_network() -> None:
    model = nn.Linear(4, 3)
    wrapped = Reparametrized(model, {"weight": Plain(torch.ones(3, 4))})
    assert measure(wrapped, torch.zeros(2, 4), written=7, timed=False) == measure(
        nn.Linear(4, 3), torch.zeros(2, 4), written=7, timed=False
    )


def test_measure_times_on_request() -> None:
    cost = measure(nn.Linear(4, 3), torch.zeros(2, 4), written=9, repeats=3)
    assert cost.bytes == 9
    assert cost.latency is not None
    assert cost.latency > 0
    assert cost.latency_spread is not None


def test_latency_keeps_threads_and_the_network_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    timing = latency(model, torch.randn(2, 3, 8, 8), repeats=4, warmup=1, threads=1)
    assert (timing.repeats, timing.threads, torch.get_num_threads()) == (4, 1, threads)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_interleaved_runs_every_one_equally_often_and_in_turns() -> None:
    order: list[str] = []
    timings = interleaved(
        {"a": lambda x: order.append("a"), "b": lambda x: order.append("b")},
        torch.zeros(1),
        repeats=2,
        warmup=1,
    )
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert set(timings) == {"a", "b"}
    assert timings["a"] / timings["a"] == 1.0


def test_another_clock_can_be_read() -> None:
    ticks = iter(range(100))
    timing = interleaved({"a": nn.Identity()}, torch.zeros(1, 2), repeats=4, clock=lambda: 0.5 * next(ticks))[
        "a"
    ]
    assert (timing.median, timing.spread) == (0.5, 0.0)


def test_interleaved_needs_something_to_time() -> None:
    with pytest.raises(InputError):
        interleaved({}, torch.zeros(1))
    with pytest.raises(InputError):
        latency(nn.Identity(), torch.zeros(1), repeats=0)
