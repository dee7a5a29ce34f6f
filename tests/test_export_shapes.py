"""Files over tokens with constant sizes compute the same, for every batch and length."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from plisse.core.batch import call
from plisse.export.attention import FusedAttention
from plisse.export.onnx import OPSET, onnx_bytes
from plisse.export.session import open_session, runner
from plisse.export.shapes import plain_shape, with_plain_shapes
from plisse.networks.transformer import from_config

TINY = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}


def tokens(batch: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(batch))
    mask = torch.ones_like(ids)
    mask[:, max(1, length - 1) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


class Turned(nn.Module):
    """Sizes that change places, an inferred size, a reshape that does nothing, transposes that cancel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Embedding(50, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        n, t = input_ids.shape
        x = self.rows(input_ids)
        x = x.view(n, t, 3, 2).reshape(n, t, 6).transpose(1, 2).transpose(2, 1)
        swapped = x.reshape(t, n, 6).reshape(n * t, 6)
        return self.out(swapped.view(n, t, -1)) * attention_mask.unsqueeze(-1)


@pytest.mark.parametrize("kind", ["bert", "turned"])
def test_the_same_outputs_for_every_batch_and_length(kind: str) -> None:
    torch.manual_seed(0)
    model = (from_config("AutoModel", TINY) if kind == "bert" else Turned()).eval()
    before = onnx_bytes(model, tokens(2, 5), OPSET, within=FusedAttention())
    after = with_plain_shapes(before)
    old, new = (runner(open_session(data)) for data in (before, after))
    for batch, length in [(2, 5), (1, 1), (3, 3), (1, 7), (4, 2)]:
        inputs = tokens(batch, length)
        assert torch.equal(old(inputs), new(inputs))
        with torch.no_grad():
            torch.testing.assert_close(new(inputs), call(model, inputs), rtol=1e-4, atol=1e-4)


def test_layers_ask_for_no_sizes() -> None:
    torch.manual_seed(0)
    model = from_config("AutoModel", TINY).eval()
    before = onnx_bytes(model, tokens(2, 5), OPSET, within=FusedAttention())
    after = with_plain_shapes(before)
    assert kinds(before).count("Reshape") > 10
    assert kinds(before).count("Transpose") >= 8
    assert kinds(after).count("Reshape") <= 4  # of the mask
    assert kinds(after).count("Transpose") == 0
    assert len(after) < len(before)


def test_files_with_operators_of_unknown_sizes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strange = onnx.helper.make_node("Strange", ["x"], ["y"], domain="nobody")
    turn = onnx.helper.make_node("Reshape", ["y", "sizes"], ["z"])
    wanted = onnx.helper.make_tensor("sizes", onnx.TensorProto.INT64, [1], [-1])
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N"]) for n in "xz"]
    graph = onnx.helper.make_graph([strange, turn], "g", values[:1], values[1:], [wanted])
    domains = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("nobody", 1)]
    data = onnx.helper.make_model(graph, opset_imports=domains).SerializeToString()
    assert kinds(with_plain_shapes(data)) == ["Strange", "Reshape"]
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_two_sizes_that_would_follow_are_left_to_run_time() -> None:
    assert plain_shape(["N", "T"], ["T", "N"]) is None
    assert plain_shape(["N", "T", 0], ["N", "T", 0]) is None  # a 0 would mean "as the input has it"
    assert plain_shape(["N", "T", 6], ["N", "N", 6]) == [0, -1, 0]
