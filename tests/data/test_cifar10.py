from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plisse.data.cifar10 import _tiles, read_jpeg_test, read_test, read_train, read_validation
from plisse.errors import InputError


def test_a_tile_lies_at_its_row_and_column() -> None:
    sheet = np.zeros((800, 1280, 3), np.uint8)
    sheet[32 * 7 : 32 * 8, 32 * 11 : 32 * 12] = 9
    images = _tiles(sheet, Path("sheet"))
    assert np.flatnonzero(images.any((1, 2, 3))).tolist() == [7 * 40 + 11]
    assert (images[7 * 40 + 11] == 9).all()


@pytest.mark.data
def test_the_real_folder(data_root: Path) -> None:
    folder = data_root / "cifar10"
    train, validation, test = read_train(folder, 2), read_validation(folder, 1), read_test(folder)
    assert train.pixels.shape == (2000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [200] * 10, "every sheet is class-balanced"
    assert len(validation) == 1000
    assert len(test) == 1017
    known = {image.tobytes() for image in train.pixels}
    assert not any(image.tobytes() in known for image in validation.pixels)
    mean = train.pixels.mean((0, 1, 2)) / 255
    assert np.abs(mean - (0.4914, 0.4820, 0.4463)).max() < 0.02


@pytest.mark.data
def test_jpeg_images_are_near_the_exact_ones(data_root: Path) -> None:
    exact, lossy = read_test(data_root / "cifar10"), read_jpeg_test(data_root / "cifar10")
    assert len(lossy) == 5000
    assert np.array_equal(lossy.labels[:1017], exact.labels)
    error = (lossy.pixels[:1017].astype(float) - exact.pixels).var()
    assert 28 < 10 * np.log10(255**2 / error) < 32


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.npz"):
        read_train(tmp_path)
    np.savez(tmp_path / "labels.npz", train_label=np.zeros(1000, np.uint8))
    with pytest.raises(InputError, match=r"train_00\.webp"):
        read_train(tmp_path)
    Image.new("RGB", (64, 32)).save(tmp_path / "train_00.webp", lossless=True)
    with pytest.raises(InputError, match=r"shape \(32, 64, 3\)"):
        read_train(tmp_path)
    (tmp_path / "test_exact.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="test_exact"):
        read_test(tmp_path)
