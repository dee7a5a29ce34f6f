from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plisse.adapt import file
from plisse.adapt.channels import channel_plan
from plisse.adapt.elastic import Point
from plisse.adapt.heads import head_groups
from plisse.adapt.width import width_subspace
from plisse.compress.notes import notes_of
from plisse.core.batch import call
from plisse.core.origin import Origin
from plisse.cost.macs import count_macs
from plisse.networks.build import build

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 14,
    "max_position_embeddings": 16,
}
TOKENS = {
    "input_ids": torch.arange(14).reshape(2, 7),
    "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
}
ORIGIN = Origin("transformers", "AutoModelForSequenceClassification", BERT)


def vision_transformer() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, image_size=8,
        patch_size=4, num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


class Fixed(nn.Module):
    """An attention that takes its number of heads for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out_proj = nn.Linear(8, 8)
        self.ffn = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each(x).view(len(x), -1, 4, 2).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.ffn(x + self.out_proj(mixed.transpose(1, 2).reshape(x.shape[0], -1, 8)))


def test_bert_is_narrowed_over_heads_and_feed_forward_layers():
    net = build(ORIGIN).eval()
    elastic = width_subspace(net, TOKENS, widths=(0.25, 0.5, 1.0)).elastic()
    assert torch.allclose(call(elastic.network, TOKENS), call(net, TOKENS), atol=1e-6)
    half = elastic.extract(Point("width", 0.5))
    for layer in half.bert.encoder.layer:
        assert layer.attention.self.query.out_features == 8  # 2 heads of 4
        assert layer.attention.output.dense.in_features == 8
        assert layer.intermediate.dense.out_features == 12
    assert count_macs(half, TOKENS) < 0.65 * count_macs(net, TOKENS)
    for point in elastic.space.points:
        elastic.activate(point)
        assert torch.equal(call(elastic.network, TOKENS), call(elastic.extract(point), TOKENS))


def test_a_head_less_is_a_head_that_nobody_listens_to():
    net = build(ORIGIN).eval()
    elastic = width_subspace(net, TOKENS, widths=(0.75, 1.0), ignore=("*dense",)).elastic()
    wanted = elastic.extract(Point("width", 1.0))
    with torch.no_grad():
        for layer in wanted.bert.encoder.layer:
            layer.attention.output.dense.weight[:, 12:] = 0.0
    found = call(elastic.extract(Point("width", 0.75)), TOKENS)
    assert torch.allclose(found, call(wanted, TOKENS), atol=1e-6)


def test_a_vision_transformer_is_narrowed_over_heads_too():
    net = vision_transformer()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plan, _ = channel_plan(net, images)
    assert sorted(plan.blocks) == [4, 24]


def test_the_file_of_a_transformer_holds_every_width():
    subspace = width_subspace(build(ORIGIN).eval(), TOKENS, widths=(0.25, 1.0)).eval()
    read = file.loads(file.dumps(subspace, build(ORIGIN)), build).elastic()
    for point in subspace.space.points:
        wanted = call(subspace.elastic().extract(point), TOKENS)
        assert torch.equal(call(read.extract(point), TOKENS), wanted)


def test_heads_that_cannot_go_are_left_alone_with_the_reason():
    torch.manual_seed(0)
    net, x = Fixed().eval(), torch.randn(2, 3, 8)
    groups, notes = head_groups(net, x)
    assert not groups
    assert "left alone" in notes[0]
    subspace = width_subspace(net, x, widths=(0.5, 1.0))
    assert any("heads" in note for note in notes_of(subspace.wrapped.model))
    half = subspace.elastic().extract(Point("width", 0.5))
    assert (half.query.out_features, half.ffn[0].out_features) == (8, 6)
