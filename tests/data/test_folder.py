from __future__ import annotations

from pathlib import Path

import pytest

from plisse.data import folder
from plisse.errors import InputError


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path))
    assert folder.data_folder() == tmp_path
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(InputError, match="absent"):
        folder.data_folder()


def test_a_folder_beside_a_parent_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    below = tmp_path / "shared" / "data"
    below.mkdir(parents=True)
    (tmp_path / "project" / "src").mkdir(parents=True)
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path / "project" / "src")
    assert folder.data_folder() == below


def test_no_folder_is_said_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    monkeypatch.setattr(folder, "_starts", lambda: iter(()))
    assert folder.data_folder() is None
    with pytest.raises(InputError, match="PLISSE_DATA"):
        folder.data_set("cifar10")


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*expected a table"):
        folder.require(tmp_path / "nowhere", "a table")


def test_a_relative_path_is_told_where_it_starts_or_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "data" / "birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "data"))
    with pytest.raises(InputError) as raised:
        folder.require("cats")
    assert raised.value.hint == f"check the path: it starts in {tmp_path / 'here'}"
    with pytest.raises(InputError) as raised:
        folder.require("birds")
    assert raised.value.hint == str(tmp_path / "data" / "birds")
