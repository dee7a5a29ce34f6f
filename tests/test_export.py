from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.prune.channels import prune_channels
from plisse.compress.quantize.incoherent import Incoherent
from plisse.core.batch import BatchList
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import Plain, Reparametrized
from plisse.errors import ExportError, InputError, StaysFloat
from plisse.export import to_integer_onnx, to_onnx
from plisse.export.attention import FusedAttention
from plisse.export.session import open_session, runner
from plisse.export.stem import SpaceToDepthConvolution, with_fast_stems
from plisse.train.task import Task, classification

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    model(torch.randn(32, 3, 12, 12))
    return model.eval()


EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def no_task() -> Task:
    return classification("none", EXAMPLE, *[BatchList(())] * 3)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(left) - self.layer(right)}


def test_a_file_is_checked_whole_and_takes_any_batch(tmp_path: Path) -> None:
    model = net()
    report = to_onnx(model, EXAMPLE, tmp_path / "net.onnx")
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert report.max_error < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    other = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    run = runner(open_session(report.path, threads=1))
    torch.testing.assert_close(run(other), model(other), rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(str(report.path))


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_tuples_and_dictionaries_of_inputs(tmp_path: Path, form: str) -> None:
    left, right = torch.randn(2, 6), torch.randn(2, 6)
    inputs: Any = (left, right) if form == "tuple" else {"right": right, "left": left}
    report = to_onnx(Two(), inputs, tmp_path / "two.onnx")
    names = [node.name for node in open_session(report.path).get_inputs()]
    assert set(names) == ({"input_0", "input_1"} if form == "tuple" else {"left", "right"})


def test_computed_weights_are_baked(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    doubled = Reparametrized(model, {"weight": Plain(2 * model.weight.detach())})
    x = torch.randn(4, 3)
    report = to_onnx(doubled, x, tmp_path / "linear.onnx")
    torch.testing.assert_close(runner(open_session(report.path))(x), doubled(x).detach())


class Branch(nn.Module):
    """Gives other outputs for other batch sizes, which no fixed graph does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(x) if len(x) > 2 else x.relu()


def test_a_wrong_file_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differ"):
        to_onnx(Branch(), torch.randn(2, 3), tmp_path / "branch.onnx")
    assert not list(tmp_path.iterdir())


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x.view(-1, 2, 2)).real


@pytest.mark.slow
def test_an_operator_without_counterpart_is_an_export_error(tmp_path: Path, capfd: Any) -> None:
    with pytest.raises(ExportError, match="cannot export"):
        to_onnx(Unknown(), torch.randn(2, 4), tmp_path / "unknown.onnx")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_integer_files_run_in_integers_and_agree(tmp_path: Path) -> None:
    calibration = [torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    floating = to_onnx(net(), EXAMPLE, tmp_path / "float.onnx")
    report = to_integer_onnx(net(), EXAMPLE, calibration, tmp_path / "integer.onnx")
    assert report.integer_operators["QLinearConv"] == 2
    assert report.integer_operators["QGemm"] == 1
    assert report.snr is not None
    assert report.snr > 20
    assert report.agreement is not None
    assert report.agreement > 0.9
    assert floating.max_error < report.max_error < 0.1
    assert report.bytes == (tmp_path / "integer.onnx").stat().st_size
    kinds = {tensor.data_type for tensor in onnx.load(str(report.path)).graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= kinds


def test_pruned_networks_export_to_integers(tmp_path: Path) -> None:
    pruned = prune_channels(net(), EXAMPLE, keep=0.5)
    report = to_integer_onnx(pruned, EXAMPLE, [EXAMPLE], tmp_path / "pruned.onnx")
    assert sum(report.integer_operators.values()) == 3


def test_input_quantizers_become_real_integers_and_are_exported_as_rounding_otherwise(tmp_path: Path) -> None:
    model = net()
    InputQuantizer(8, scale=0.05, zero_point=128.0).attach(model[3])  # type: ignore[index]
    rounded = to_onnx(model, EXAMPLE, tmp_path / "rounded.onnx")
    assert "Round" in {node.op_type for node in onnx.load(str(rounded.path)).graph.node}
    integer = to_integer_onnx(model, EXAMPLE, [EXAMPLE], tmp_path / "integer.onnx")
    assert "Round" not in {node.op_type for node in onnx.load(str(integer.path)).graph.node}
    assert isinstance(model[3].input_quantizer, InputQuantizer)  # type: ignore[index]


STEMS = [
    (7, 2, 3, (31, 29)),
    (3, 2, 1, (13, 12)),
    (3, 2, 0, (13, 14)),
    ((5, 3), 2, (2, 0), (20, 21)),
    (8, 4, 2, (32, 33)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), STEMS)
def test_a_stem_by_space_to_depth_is_the_same_convolution(
    kernel: Any, stride: int, padding: Any, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, kernel, stride, padding), nn.ReLU())
    x = torch.randn(2, 3, *size)
    changed = with_fast_stems(model, x)
    assert isinstance(changed[0], SpaceToDepthConvolution)  # type: ignore[index]
    assert changed[0].convolution.stride == (1, 1)  # type: ignore[index]
    torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
    assert isinstance(model[0], nn.Conv2d)


def test_a_stem_whose_input_is_rounded_gets_that_form_too(tmp_path: Path) -> None:
    model = net()
    model[0] = nn.Conv2d(3, 16, 3, stride=2, padding=1)  # type: ignore[operator]
    InputQuantizer(8, 8 / 255, 128).attach(model[0])  # type: ignore[index]
    written = to_integer_onnx(model, EXAMPLE, [EXAMPLE], tmp_path / "integer.onnx")
    assert "SpaceToDepth" in {node.op_type for node in onnx.load(str(written.path)).graph.node}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x)).mean((2, 3))


def test_layers_that_are_no_stem_or_see_several_sizes_stay() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    assert isinstance(with_fast_stems(Twice(), x).layer, nn.Conv2d)
    others = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2))
    assert [type(layer) for layer in with_fast_stems(others, x)] == [nn.Conv2d] * 2  # type: ignore[attr-defined]


def test_integer_files_hold_the_fast_stem(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
    ]
    model = nn.Sequential(*layers, nn.LazyLinear(4))
    batches = [torch.randn(8, 3, 20, 20, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    model(batches[0])
    report = to_integer_onnx(model.eval(), batches[0], batches, tmp_path / "stem.onnx")
    assert report.integer_operators["QLinearConv"] == 2
    assert report.snr is not None
    assert report.snr > 20
    shapes = [list(tensor.dims) for tensor in onnx.load(str(report.path)).graph.initializer]
    assert [16, 12, 4, 4] in shapes


NAMES = {"7": "Conv2d '3'", "3": "Linear '7'"}


@pytest.mark.parametrize(("sides", "plain"), [("both", "7"), ("output", "3")])
def test_rotated_layers_stay_in_floating_point_and_are_named(sides: str, plain: str, tmp_path: Path) -> None:
    rotated = Incoherent(sides=sides, ignore=("0", plain))(net(), no_task())
    calibration = [torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with pytest.warns(StaysFloat, match=f"stays in floating point: {NAMES[plain]}$"):
        report = to_integer_onnx(rotated, EXAMPLE, calibration, tmp_path / "rotated.onnx")
    assert sum(report.integer_operators.values()) == 2
    assert report.snr is not None
    assert report.snr > 40
    with pytest.raises(ExportError, match=NAMES[plain]):
        to_integer_onnx(rotated, EXAMPLE, calibration, tmp_path / "strict.onnx", strict=True)
    assert not (tmp_path / "strict.onnx").exists()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rows(x)[0][:, -1])


def test_recurrent_layers_stay_in_floating_point_and_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(4, 5, 8)
    with pytest.warns(StaysFloat, match="LSTM 'rows'"):
        report = to_integer_onnx(model, x, [x], tmp_path / "rows.onnx")
    assert report.integer_operators == {"QGemm": 1}
    assert "LSTM" in {node.op_type for node in onnx.load(str(report.path)).graph.node}


def test_rotated_transformers_export(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes))
    ids = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    ignored = ("classifier", "bert.pooler", "bert.encoder.layer.0.attention", "bert.encoder.layer.0.output")
    rotated = Incoherent(sides="input", ignore=ignored)(model.eval(), no_task())
    with pytest.warns(StaysFloat, match="point: Linear 'bert.encoder.layer.0.intermediate.dense'$"):
        report = to_integer_onnx(rotated, ids, [ids], tmp_path / "bert.onnx")
    whole = to_integer_onnx(model, ids, [ids], tmp_path / "whole.onnx")
    assert sum(report.integer_operators.values()) == sum(whole.integer_operators.values()) - 1


def test_a_rotated_stem_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    made = Incoherent(ignore=("3",))(stem, no_task())
    with pytest.warns(StaysFloat, match="Conv2d '0'$"):
        found = to_integer_onnx(made, EXAMPLE, [EXAMPLE], tmp_path / "stem.onnx")
    assert found.integer_operators == {"QGemm": 1}


def test_integer_export_refuses_what_gains_nothing_or_is_too_far_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibration"):
        to_integer_onnx(net(), EXAMPLE, [], tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="nothing in integers"):
        to_integer_onnx(nn.Sigmoid(), torch.randn(2, 3), [torch.randn(2, 3)], tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="dB"):
        to_integer_onnx(net(), EXAMPLE, [EXAMPLE], tmp_path / "a.onnx", least_snr=90.0)
    assert not list(tmp_path.iterdir())


def test_transformers_export_both_ways(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(0)
    ids = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    ids["attention_mask"][1, 4:] = 0
    model = transformers.BertForSequenceClassification(config)
    assert to_onnx(model, ids, tmp_path / "bert.onnx").max_error < 1e-4
    report = to_integer_onnx(model, ids, [ids], tmp_path / "integer.onnx")
    assert sum(report.integer_operators.values()) >= 6


def operators_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


class Attending(nn.Module):
    """Attention under a mask of keys from token symbols: 0 is a symbol that nobody sees."""

    def __init__(self, causal: bool, heads: int = 2) -> None:
        super().__init__()
        self.causal, self.heads = causal, heads
        self.rows, self.inner = nn.Embedding(20, 16), nn.Linear(16, 48)
        self.outer, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.rows(ids)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inner(x).chunk(3, -1)
        )
        seen = (ids != 0)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        out = F.scaled_dot_product_attention(q, k, v, None if self.causal else seen, is_causal=self.causal)
        return self.norm(x + self.outer(out.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_one_operator_also_where_queries_see_nothing(tmp_path: Path, causal: bool) -> None:
    torch.manual_seed(0)
    ids = {"ids": torch.randint(1, 20, (3, 7))}
    ids["ids"][0, 3:], ids["ids"][1] = 0, 0
    model = Attending(causal).eval()
    report = to_integer_onnx(model, ids, [ids], tmp_path / "attention.onnx")
    operators = operators_of(report.path)
    assert operators.count("MultiHeadAttention") == 1
    assert "Softmax" not in operators
    assert operators.count("Sum") == 1  # before the layer norm
    assert report.snr is not None
    assert report.snr > 25
    other = {"ids": torch.randint(1, 20, (2, 5))}
    with torch.no_grad():
        found, wanted = runner(open_session(report.path))(other), model(**other)
    assert (found - wanted).abs().max() < 0.1


def test_attention_with_more_heads_of_queries_than_of_keys_stays_as_exported() -> None:
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    fused = FusedAttention()
    assert fused.attention(q, k, k, enable_gqa=True) is None
    assert fused.attention(q, q, q, attn_mask=torch.ones(5, 5, dtype=torch.bool)) is None
    torch.testing.assert_close(fused.attention(q, q, q), F.scaled_dot_product_attention(q, q, q))


def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("onnx", "onnxruntime"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install plisse\[onnx\]"):
        to_onnx(net(), EXAMPLE, tmp_path / "net.onnx")
