"""plisse similarity: distances of data sets from what a network was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
from typer.testing import CliRunner, Result

from plisse.cli.main import app
from plisse.networks.open import open_model
from plisse.train.statistics import reestimate_statistics
from plisse.train.tasks import open_task


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that has seen the digits, though it never learned to read them."""
    model = open_model("digits_cnn")
    reestimate_statistics(model, open_task("digits").train)
    path = tmp_path_factory.mktemp("similarity") / "w.safetensors"
    path.write_bytes(safetensors.torch.save(model.state_dict()))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Black and white noise of two classes, as PNG files."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            pixels = 255 * draw.integers(0, 2, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_the_nearest_comes_first_with_noise_for_scale(weights: Path) -> None:
    done = plisse("similarity", "digits_cnn", "--weights", weights, "--data", "digits", "--samples", 128)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["data", "distance"]
    assert lines[1].startswith("digits")
    assert "128" in lines[1]
    assert lines[2].startswith("noise, for scale")


def test_json_has_intervals_and_layers(weights: Path) -> None:
    done = plisse(
        "similarity", "digits_cnn", "--weights", weights, "--data", "digits", "--part", "train", "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    near, noise = found["rows"]
    assert (near["data"], found["part"], near["n"]) == ("digits", "train", 1024)
    assert 0 <= near["low"] <= near["value"] <= near["high"] < noise["low"]
    assert set(near["layers"]) == set(noise["layers"])
    assert 0.1 <= near["confidence"] <= 1


def test_a_folder_is_one_of_images(photos: Path, data_root: Path) -> None:
    weights = data_root / "models" / "cifar10_resnet20.safetensors"
    done = plisse(
        "similarity", "resnet20", "--weights", weights, "--data", photos, "--part", "train", "--json"
    )
    assert done.exit_code == 0, done.output
    found = {row["data"]: row["value"] for row in json.loads(done.stdout)["rows"]}
    assert found[str(photos)] > 0.1


def test_data_that_do_not_fit_and_networks_that_remember_nothing_are_told(weights: Path) -> None:
    done = plisse("similarity", "digits_cnn", "--data", "digits")
    assert done.exit_code != 0
    assert "without batch-norm statistics" in done.output
    assert plisse("similarity", "digits_cnn").exit_code == 2
    missing = plisse("similarity", "digits_cnn", "--weights", weights, "--data", "no/such/folder")
    assert missing.exit_code != 0
    assert "no/such/folder" in missing.output


def test_data_of_another_shape_are_an_error_in_one_line(weights: Path, photos: Path) -> None:
    done = plisse("similarity", "digits_cnn", "--weights", weights, "--data", photos)
    assert done.exit_code == 2, done.output
    assert "(4, 1, 32, 32) that digits_cnn cannot take" in done.stderr
