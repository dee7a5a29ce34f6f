"""plisse compress --data none: samples from the network itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
from tiny import encoder_folder
from typer.testing import CliRunner, Result

from plisse.cli.main import app
from plisse.cli.nodata import parsed_shape
from plisse.cli.quantizing import Preset, preset_steps, quantizing
from plisse.compress.datafree.statistics import targets
from plisse.compress.quantize.ranges import MSE
from plisse.errors import InputError
from plisse.networks.open import open_model
from plisse.train.statistics import reestimate_statistics
from plisse.train.tasks import open_task


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that remembers the digits."""
    model = open_model("digits_cnn")
    reestimate_statistics(model, open_task("digits").train)
    path = tmp_path_factory.mktemp("nodata") / "w.safetensors"
    path.write_bytes(safetensors.torch.save(model.state_dict()))
    return path


def test_compress_without_data_shows_what_it_used(weights: Path, tmp_path: Path) -> None:
    out, report, images = tmp_path / "a.plisse", tmp_path / "r.html", tmp_path / "images"
    done = plisse(
        "compress", "digits_cnn", "--weights", weights, "-o", out, "--data", "none", "--samples", 40,
        "--bits", 4, "--report", report, "--keep-images", images, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["score_before"]["name"] == "agreement with the original"
    assert (found["score_before"]["score"], found["score_before"]["n"]) == (1.0, 8)
    assert found["record"]["task"] == "data-free"
    text = report.read_text(encoding="utf-8")
    assert "digits_cnn without data" in text
    assert "What was used in place of data" in text
    assert "data:image/png;base64," in text
    assert len(list(images.glob("*/*.png"))) == 40
    assert f"--task 'images:{images}?size=8,channels=1' uses them again" in done.stderr
    again = plisse(
        "evaluate", out, "--task", f"images:{images}?size=8,channels=1", "--json"
    )  # what the note says
    assert again.exit_code == 0, again.output
    assert len(targets(open_model(out))) == 2  # folded, and still able to be compressed without data


def test_steps_for_made_images_keep_statistics_and_weigh_large_values_more() -> None:
    network = open_model("digits_cnn")
    fold, rounded, *_ = quantizing(network, 4, 4, None, None, no_data=True).steps
    assert (fold.keep_statistics, rounded.activations.range) == (True, MSE(2.4))
    fold, rounded, *_ = quantizing(network, 4, 4, None, None).steps
    assert (fold.keep_statistics, rounded.activations.range) == (False, MSE())
    for given in (True, False):
        assert preset_steps(network, Preset.convnet, 4, given).steps[0].keep_statistics is given


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--budget", "bytes=0.3x"), ("--preset", "convnet")], ids=" ".join)
def test_any_file_made_without_data_can_be_compressed_without_data_again(
    flags: tuple[str, str], weights: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.plisse", tmp_path / "b.plisse"
    given = ("--data", "none", "--samples", 20)
    done = plisse("compress", "digits_cnn", "--weights", weights, "-o", first, *given, *flags)
    assert done.exit_code == 0, done.output
    assert len(targets(open_model(first))) == 2
    done = plisse("compress", first, "-o", second, *given, "--bits", 4)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_folded_file_can_be_compressed_without_data_again(weights: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.plisse", tmp_path / "b.plisse"
    given = ("--data", "none", "--samples", 20)
    assert (
        plisse("compress", "digits_cnn", "--weights", weights, "-o", first, *given, "--bits", 8).exit_code
        == 0
    )
    done = plisse("compress", first, "-o", second, *given, "--bits", 4)
    assert done.exit_code == 0, done.output
    assert second.stat().st_size < first.stat().st_size


def test_a_network_that_remembers_nothing_is_told_its_options(tmp_path: Path) -> None:
    out = tmp_path / "a.plisse"
    done = plisse("compress", "digits_cnn", "-o", out, "--data", "none")
    assert done.exit_code == 2
    for words in ("no batch-norm statistics", "--scheme inception", "--scheme gaussian", "--data D"):
        assert words in done.output
    assert not out.exists()


@pytest.mark.slow
def test_noise_needs_no_memory(tmp_path: Path) -> None:
    noise = ("--data", "none", "--scheme", "gaussian", "--samples", 20, "--bits", 8)
    assert plisse("compress", "digits_cnn", "-o", tmp_path / "a.plisse", *noise).exit_code == 0


def test_an_unknown_shape_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "a.plisse"
    done = plisse("compress", "resnet18", "-o", out, "--data", "none")
    assert done.exit_code == 2
    assert "--input-shape 3x224x224" in done.output
    wrong = plisse(
        "compress",
        "digits_cnn",
        "-o",
        out,
        "--data",
        "none",
        "--scheme",
        "gaussian",
        "--input-shape",
        "1x9x20",
    )
    assert wrong.exit_code == 2
    assert "(1, 9, 20)" in wrong.output


@pytest.mark.parametrize("text", ["3x32", "8", "3X224x224"])
def test_shapes_are_read(text: str) -> None:
    assert "x".join(map(str, parsed_shape(text))) == text.lower()


@pytest.mark.parametrize("text", ["", "3x", "0x8x8", "3,32,32", "3x-1x2", "axbxc", "1x1x1x1x1"])
def test_shapes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="3x32x32"):
        parsed_shape(text)


@pytest.mark.parametrize(
    "flags", [("--input-shape", "1x8x8"), ("--scheme", "bns"), ("--samples", 20), ("--keep-images", "d")]
)
def test_flags_that_need_no_data_say_so(flags: tuple[object, ...], tmp_path: Path) -> None:
    done = plisse("compress", "digits_cnn", "-o", tmp_path / "a.plisse", *flags)
    assert done.exit_code == 2
    assert f"{flags[0]} without --data none" in done.output


@pytest.mark.parametrize("kept", ["file", "full", "file/inside", "a.plisse"])
def test_a_folder_for_images_is_checked_before_they_are_made(
    kept: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "3").mkdir(parents=True)
    monkeypatch.setattr("plisse.cli.compress.made_samples", lambda *_: pytest.fail("the work has begun"))
    given = ("--weights", weights, "--data", "none", "--keep-images", tmp_path / kept)
    done = plisse("compress", "digits_cnn", *given, "-o", tmp_path / "a.plisse")
    assert done.exit_code == 9, done.output
    assert f"--keep-images '{tmp_path / kept}'" in done.stderr


def test_images_that_no_file_can_hold_are_refused_before_they_are_made(tmp_path: Path) -> None:
    given = (
        "--data",
        "none",
        "--scheme",
        "gaussian",
        "--input-shape",
        "5x8x8",
        "--keep-images",
        tmp_path / "k",
    )
    done = plisse("compress", "digits_cnn", *given, "-o", tmp_path / "a.plisse")
    assert done.exit_code == 2
    assert "--keep-images with inputs of 5x8x8" in done.stderr
    assert "making" not in done.stderr


def test_a_task_beside_no_data_is_refused(tmp_path: Path) -> None:
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", "--data", "none", "--task", "cifar10")
    assert done.exit_code == 2
    assert "agreement with the original" in done.output


def test_a_sentence_encoder_gets_sentences(tmp_path: Path) -> None:
    folder, out, report = encoder_folder(tmp_path / "encoder"), tmp_path / "a.plisse", tmp_path / "r.html"
    given = ("-o", out, "--data", "none", "--samples", 30, "--bits", 8, "--report", report)
    done = plisse("compress", f"hf:{folder}", *given)
    assert done.exit_code == 0, done.output
    assert "cosine to the original" in " ".join(done.stdout.lower().split())
    assert "no score of a task" in " ".join(done.output.split())
    text = report.read_text(encoding="utf-8")
    assert "sequences of tokens" in text
    assert "<li>" in text
    done = plisse("compress", f"hf:{folder}", *given, "--scheme", "bns")
    assert done.exit_code == 2
    assert "takes images" in done.output
