"""Profiles as files, and memory counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plisse.cost.budget import Cost
from plisse.cost.kept import MAX_BYTES, parse_profile, profile_json, read_profile, write_profile
from plisse.cost.memory import peak_memory
from plisse.cost.profile import Profile, ProfileRow
from plisse.errors import InputError

ROWS = (
    ProfileRow("width=0.5", Cost(1, 2, 3, 0.5, 0.01), 0.9, 0.6, 1000, 1e-6),
    ProfileRow("width=1", Cost(10, 20, 30), 0.95),
)


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    kept = Profile(ROWS, {"task": "digits", "batch": 1})
    write_profile(kept, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == kept


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(plisse_profile=2),
        lambda d: d.update(rows=[]),
        lambda d: d.update(rows={}),
        lambda d: d.update(conditions=[]),
        lambda d: d["rows"].append(d["rows"][0]),
        lambda d: d["rows"].append(3),
        lambda d: d["rows"][0].update(point=""),
        lambda d: d["rows"][0].update(score="high"),
        lambda d: d["rows"][0].update(score=True),
        lambda d: d["rows"][0].update(p95=-1),
        lambda d: d["rows"][0]["cost"].pop("bytes"),
        lambda d: d["rows"][0]["cost"].update(latency=1e999),
        lambda d: d["rows"][0].update(cost=None),
    ],
)  # fmt: skip
def test_what_is_no_profile_is_refused(change: object, tmp_path: Path) -> None:
    found = json.loads(profile_json(Profile(ROWS)))
    change(found)  # type: ignore[operator]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"p\.json"):
        read_profile(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null", '"x"'], ids=range(6))
def test_text_that_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_profile(text)


def test_files_that_cannot_be_profiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_profile(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text"):
        read_profile(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="at most"):
        read_profile(tmp_path / "large")


class Branch(nn.Module):
    """Keeps its first result until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 100, bias=False)
        self.back = nn.Linear(100, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = x + 1
        return first + self.back(self.wide(first))


def test_peak_memory_by_hand() -> None:
    weights = 4 * 1600
    # first [2, 8], wide [2, 100] and back [2, 8] live at once; then wide is freed before the sum
    assert peak_memory(Branch(), torch.zeros(2, 8)) == weights + 4 * (16 + 200 + 16)
    assert peak_memory(nn.Identity(), torch.zeros(2, 8)) == 0
    assert peak_memory(nn.Flatten(), torch.zeros(2, 3, 4)) == 0, "a view takes nothing"


def test_peak_memory_grows_with_the_batch_and_leaves_the_network_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    small, large = (peak_memory(model, torch.zeros(n, 4)) for n in (2, 20))
    assert large > small
    assert model.training
    assert int(model[1].num_batches_tracked) == 0  # type: ignore[arg-type]
