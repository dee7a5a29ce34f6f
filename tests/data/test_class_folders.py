from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plisse.data.class_folders import read_class_folders
from plisse.errors import InputError


def write(path: Path, value: int = 0, size: int = 32, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size) if grey else (size, size, 3)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_train_and_test_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog", "eel")):
        write(tmp_path / "train" / name / "a.png", 10 * number)
        write(tmp_path / "train" / name / "b.png", 10 * number, size=50)
        (tmp_path / "train" / name / "notes.txt").write_text("no image")
    write(tmp_path / "test" / "eel" / "a.png", 77, grey=True)
    write(tmp_path / "test" / "cat" / "a.bmp", 78)
    train, test = read_class_folders(tmp_path, size=16)
    assert train.pixels.shape == (6, 16, 16, 3)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.pixels[:, 3, 3, 0].tolist() == [0, 0, 10, 10, 20, 20]
    assert test.labels.tolist() == [0, 2]
    assert test.pixels[:, 0, 0, 1].tolist() == [78, 77]
    assert train.classes == ("cat", "dog", "eel")


def test_one_folder_is_split(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(10):
            write(tmp_path / name / f"{number}.png", number, size=4)
    (tmp_path / ".cache").mkdir()
    train, test = read_class_folders(tmp_path, size=4)
    assert (len(train), len(test)) == (16, 4)
    again, _ = read_class_folders(tmp_path, size=4)
    assert np.array_equal(train.pixels, again.pixels)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_class_folders(tmp_path / "absent")
    with pytest.raises(InputError, match="with 0 class folders"):
        read_class_folders(tmp_path)
    write(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"b' without images"):
        read_class_folders(tmp_path)
    (tmp_path / "b" / "broken.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"broken\.png', which is no readable image"):
        read_class_folders(tmp_path)
    with pytest.raises(InputError, match="image size 0"):
        read_class_folders(tmp_path, size=0)


def test_classes_of_the_test_set_must_be_known(tmp_path: Path) -> None:
    for part, names in (("train", "ab"), ("test", "ac")):
        for name in names:
            write(tmp_path / part / name / "1.png")
    with pytest.raises(InputError, match="class 'c' in test only"):
        read_class_folders(tmp_path)


def test_train_without_test_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "train" / name / "1.png")
    with pytest.raises(InputError, match="without test"):
        read_class_folders(tmp_path)


def test_listed_classes_keep_their_place_without_images(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("owl\nant\nbee\n")
    for name in ("owl", "bee"):
        for number in range(10):
            write(tmp_path / name / f"{number}.png", 90 if name == "owl" else 30, size=4)
    train, test = read_class_folders(tmp_path, size=4)
    assert train.classes == ("owl", "ant", "bee")
    assert dict(zip(train.pixels[:, 0, 0, 0].tolist(), train.labels.tolist(), strict=True)) == {90: 0, 30: 2}
    assert set(test.labels.tolist()) == {0, 2}
    write(tmp_path / "cat" / "1.png")
    with pytest.raises(InputError, match=r"cat'; expected one that classes\.txt names"):
        read_class_folders(tmp_path, size=4)
    (tmp_path / "classes.txt").write_text("owl\nowl\n")
    with pytest.raises(InputError, match="each once"):
        read_class_folders(tmp_path, size=4)


def test_listed_classes_hold_for_train_and_test_folders(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("c\nb\na\n")
    for part, names in (("train", "ac"), ("test", "a")):
        for name in names:
            write(tmp_path / part / name / "1.png", size=4)
    train, test = read_class_folders(tmp_path, size=4)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2], [2])


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(2):
            write(tmp_path / name / f"{number}.png", 77, size=4, grey=number == 1)
    train, _ = read_class_folders(tmp_path, size=4, channels=1)
    assert train.pixels.shape == (2, 4, 4, 1)
    assert set(train.pixels.flatten().tolist()) == {77}
    with pytest.raises(InputError, match="2 channels"):
        read_class_folders(tmp_path, channels=2)
