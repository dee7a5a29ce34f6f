from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import encoder_folder

from plisse.core.origin import Origin, origin_of, with_origin
from plisse.errors import FormatError, GraphError, InputError, WeightsError
from plisse.networks.assets import assets
from plisse.networks.open import load, open_model, save


def saved(model: torch.nn.Module, path: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint of the network with some tensors changed, added, or (None) left out."""
    state: dict[str, torch.Tensor | None] = {**model.state_dict(), **changes}
    save_file({name: value for name, value in state.items() if value is not None}, path)
    return path


def test_options_and_evaluation_mode() -> None:
    model = open_model("resnet18(classes=10, stem=small)")
    assert model.fc.out_features == 10
    assert not model.training
    assert origin_of(model) == Origin("builtin", "resnet18", {"classes": 10, "stem": "small"})


def test_a_factory_of_the_user() -> None:
    model = open_model("torch.nn.modules.linear:Linear(in_features=3, out_features=2)")
    assert model.weight.shape == (2, 3)
    assert origin_of(model).kind == "factory"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet2", r"unknown network 'resnet2'.*FILE\.plisse.*minilm.*try: resnet20"),
        ("sentence_encoder", "unknown network"),
        ("images:DIR", "can be imported|unknown network"),
        ("resnet20(depth=3)", "options classes, channels"),
        ("minilm(layers=3)", "no options"),
        ("absent.plisse", "no file"),
        ("", "an empty name"),
    ],
)
def test_what_does_not_exist(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_model(spec)


def test_weights_are_loaded(tmp_path: Path) -> None:
    source = open_model("digits_cnn", seed=3)
    path = saved(source, tmp_path / "w.safetensors")
    model = open_model("digits_cnn", path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))
    prefixed = tmp_path / "p.safetensors"
    save_file({f"module.{name}": value for name, value in source.state_dict().items()}, prefixed)
    assert torch.equal(open_model("digits_cnn", prefixed).fc1.weight, source.fc1.weight)


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    counters = {"bn1.num_batches_tracked": None, "bn2.num_batches_tracked": None}
    open_model("digits_cnn", saved(open_model("digits_cnn"), tmp_path / "w.safetensors", **counters))


def test_weights_that_do_not_fit_say_how(tmp_path: Path) -> None:
    small, path = open_model("digits_cnn"), tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match=r"'fc2.bias' of shape \(10,\).*expected \(7,\)"):
        open_model("digits_cnn(classes=7)", saved(small, path))
    with pytest.raises(WeightsError, match=r"1 missing \(fc2.bias\) and 1 unexpected \(extra\)"):
        open_model("digits_cnn", saved(small, path, **{"fc2.bias": None, "extra": torch.ones(1)}))
    bias = torch.tensor([0.0] * 7 + [float("nan"), float("inf"), float("-inf")])
    with pytest.raises(WeightsError, match=r"3 NaN or infinite of 10 values in 'fc2.bias'"):
        open_model("digits_cnn", saved(small, path, **{"fc2.bias": bias}))


def test_integers_for_real_weights_are_refused_by_name(tmp_path: Path) -> None:
    source, path = open_model("digits_cnn"), tmp_path / "w.safetensors"
    whole = torch.arange(10, dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"'fc2.bias' of int8.*expected floating-point"):
        open_model("digits_cnn", saved(source, path, **{"fc2.bias": whole}))
    halved = open_model("digits_cnn", saved(source, path, **{"fc2.bias": whole.half()}))
    assert halved.fc2.bias.tolist() == list(range(10))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_model("digits_cnn", tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match=r"weights '\.', a folder; expected a \.safetensors file"):
        open_model("digits_cnn", ".")
    pickled = tmp_path / "w.pth"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="could run code"):
        open_model("digits_cnn", pickled)
    broken = tmp_path / "w.safetensors"
    broken.write_bytes(b"\xff" * 40)
    with pytest.raises(WeightsError, match="no safetensors file"):
        open_model("digits_cnn", broken)


def test_a_file_comes_back_with_its_assets(tmp_path: Path) -> None:
    model = open_model(f"hf:{encoder_folder(tmp_path / 'encoder')}")
    path = tmp_path / "encoder.plisse"
    save(model, path)
    for again in (load(path), open_model(path), open_model(str(path))):
        assert not again.training
        assert assets(again) == assets(model)
        assert origin_of(again) == origin_of(model)
        pairs = zip(again.state_dict().items(), model.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_file_runs_no_code_that_was_not_allowed(tmp_path: Path) -> None:
    spec = "torch.nn.modules.linear:Linear"
    save(open_model(f"{spec}(in_features=3, out_features=2)"), tmp_path / "f.plisse")
    with pytest.raises(InputError, match=f"--allow {spec}"):
        load(tmp_path / "f.plisse")
    assert open_model(tmp_path / "f.plisse", allow=(spec,)).weight.shape == (2, 3)


def test_broken_files_and_unknown_origins(tmp_path: Path) -> None:
    (tmp_path / "x.plisse").write_bytes(b"not a model")
    with pytest.raises(FormatError):
        load(tmp_path / "x.plisse")
    with pytest.raises(GraphError, match="origin is unknown"):
        save(torch.nn.Linear(2, 2), tmp_path / "y.plisse")
    assert not (tmp_path / "y.plisse").exists()
    broken = open_model("digits_cnn")
    with_origin(broken, Origin("builtin", "resnet20"))
    with pytest.raises(GraphError):
        save(broken, tmp_path / "y.plisse")
