"""The search for ranks: it stops and goes on, remembers rightly, and never loses by exchanging."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.exchange import settled
from plisse.compress.lowrank.judge import Judge
from plisse.compress.lowrank.prefix import PrefixCache
from plisse.compress.lowrank.problem import Problem, pose
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError
from plisse.train.task import classification

EXACT = "32-true"


class StoppedError(Exception):
    pass


class Block(nn.Module):
    """Batch norm, and a sum in place that changes what the last layer gave."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.relu(self.norm(self.first(x))))
        out += x
        return self.relu(out)


def net() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(12) for _ in range(3)]
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(192, 5))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(-1, 1)
    return network.eval()


def problem() -> Problem:
    torch.manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))) for _ in range(2)))
    return pose(net(), classification("tiny", batches[0].inputs, batches, batches, batches))


def test_what_is_remembered_is_what_would_be_computed() -> None:
    posed = problem()
    cache = PrefixCache(posed.model, posed.task.calibration[0])
    names = list(posed.spectra)
    assert len(cache.outputs) > 3
    for changed in ([names[0]], [names[-1]], [names[2], names[4]]):
        before = [posed.model.get_submodule(name).weight.detach().clone() for name in changed]
        for name, weight in zip(changed, before, strict=True):
            posed.model.get_submodule(name).weight.data = weight * 0.5
        with torch.no_grad():
            wanted = posed.model(cache.batch.inputs)
        found = [cache.rerun(changed) for _ in range(2)]
        assert torch.equal(found[0], wanted)
        assert torch.equal(found[1], wanted)
        assert not torch.equal(wanted, cache.logits)
        for name, weight in zip(changed, before, strict=True):
            posed.model.get_submodule(name).weight.data = weight


def test_folding_does_not_change_what_is_judged() -> None:
    posed = problem()
    judge = Judge(posed, 2, EXACT)
    ranks = dict.fromkeys(posed.spectra, 4)
    folded = judge.enter(ranks)
    assert judge.enter({}).loss == pytest.approx(0, abs=1e-6)
    assert judge.changed(dict(ranks)).loss == pytest.approx(folded.loss, rel=1e-4)
    assert any(float((gain - 1).abs().max()) > 0.01 for gain in judge.gains.values())


@pytest.mark.parametrize("width", [1, 2])
def test_a_search_that_was_stopped_comes_to_the_same_answer(width: int, tmp_path: Path) -> None:
    posed, place = problem(), tmp_path / "search.json"

    def stop(share: float) -> None:
        if share > 0.3:
            raise StoppedError

    settings = {"width": width, "levels": (6,), "precision": EXACT}
    whole = BeamSearch(**settings).search(posed, 0.6)
    with pytest.raises(StoppedError):
        BeamSearch(**settings, checkpoint=place, progress=stop).search(posed, 0.6)
    shares: list[float] = []
    again = BeamSearch(**settings, checkpoint=place, progress=shares.append).search(posed, 0.6)
    assert again == whole
    assert 0 < len(shares) < len(whole)
    shares.clear()
    assert BeamSearch(**settings, checkpoint=place, progress=shares.append).search(posed, 0.6) == whole
    assert not shares


def test_checkpoints_of_other_searches_and_broken_ones_are_refused(tmp_path: Path) -> None:
    posed, place = problem(), tmp_path / "search.json"
    BeamSearch(levels=(3,), checkpoint=place).search(posed, 0.3)
    with pytest.raises(InputError, match="another search"):
        BeamSearch(levels=(4,), checkpoint=place).search(posed, 0.3)
    posed.model[0].weight.data.mul_(2)  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match="another search"):
        BeamSearch(levels=(3,), checkpoint=place).search(posed, 0.3)
    place.write_text("{]")
    with pytest.raises(InputError, match="no search"):
        BeamSearch(levels=(3,), checkpoint=place).search(posed, 0.3)


def test_judging_all_children_of_one_state_is_a_greedy_descent() -> None:
    posed = problem()
    path = BeamSearch(levels=(4,), fresh=None, settle=None, precision=EXACT).search(posed, 0.6)
    judge = Judge(posed, 4, EXACT)
    for state, following in itertools.pairwise(path):
        here = judge.enter(state.ranks)
        changed = next(name for name, rank in following.ranks.items() if state.ranks.get(name) != rank)
        taken = (following.loss - here.loss) / (following.removed - here.removed)
        for name, spectrum in posed.spectra.items():
            steps = [max(1, round(spectrum.break_even * k / 4)) for k in (1, 2, 3)] + [1]
            lower = [rank for rank in steps if rank < state.ranks.get(name, 99)]
            if name != changed and lower:
                other = judge.changed({name: max(lower)})
                assert taken <= (other.loss - here.loss) / (other.removed - here.removed) + 1e-6


def test_waiting_scores_save_most_of_the_runs() -> None:
    posed = problem()
    runs = [
        BeamSearch(levels=(6,), fresh=fresh, settle=None, precision=EXACT).search(posed, 0.6)[-1].runs
        for fresh in (None, 1)
    ]
    assert runs[1] < 0.75 * runs[0]


def test_exchanges_lower_the_loss_and_keep_the_share() -> None:
    posed = problem()
    judge = Judge(posed, 2, EXACT)
    start = judge.enter(EnergyPerParameter().ranks(posed, 0.5))
    end = settled(start, 0.5, judge, (4, 8), rounds=3)
    assert end.loss < start.loss
    assert end.removed >= 0.5
    assert end.loss == pytest.approx(judge.enter(end.ranks).loss, rel=1e-5)


def test_searches_go_down_to_rank_one() -> None:
    posed = problem()
    most = posed.removed(dict.fromkeys(posed.spectra, 1))
    ranks = BeamSearch(levels=(3,), settle=None).ranks(posed, most)
    assert set(ranks.values()) == {1}


@pytest.mark.parametrize(
    "bad",
    [{"width": 0}, {"levels": ()}, {"levels": (1,)}, {"batches": 0}, {"fresh": 0}, {"settle": 0.0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        BeamSearch(**bad)  # type: ignore[arg-type]
