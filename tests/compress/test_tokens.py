"""Sentences that are drawn from a tokenizer and a network, and the task that they make."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "networks"))

from tiny import WORDS, encoder_folder
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from plisse.compress.datafree.sentencetask import data_free_text
from plisse.compress.datafree.tokens import (
    Lengths,
    MaskedTokens,
    TokenSource,
    TopicTokens,
    UniformTokens,
    ZipfTokens,
    synthetic_sentences,
    takes_tokens,
)
from plisse.compress.datafree.vocabulary import vocabulary_of
from plisse.compress.quantize.quantize import Quantize
from plisse.errors import InputError
from plisse.networks.assets import with_assets
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate, paired

PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", ".", "a", "b", "the", "of", "cat"]
PIECES += ["##s", "dog", "##ing", "run", "sat"]
SOURCES = [UniformTokens(), ZipfTokens(), ZipfTokens(1.5, 0.0), TopicTokens(), TopicTokens(0.0)]


def wordpiece() -> Tokenizer:
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    around = [("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


class Language(nn.Module):
    """A masked language model that knows one thing: behind `the` comes `cat`, elsewhere `of`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(PIECES), 4)
        self.wanted: Any = None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert bool(attention_mask.all())
        before = torch.cat([input_ids[:, :1], input_ids[:, :-1]], 1)
        logits = torch.zeros(*input_ids.shape, len(PIECES))
        after_the = (before == PIECES.index("the"))[..., None]
        choice = torch.where(after_the, PIECES.index("cat"), PIECES.index("of"))
        return logits.scatter(2, choice, 30.0)


def language() -> nn.Module:
    return with_assets(Language(), {"tokenizer.json": wordpiece().to_str().encode()})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return open_model(f"hf:{encoder_folder(tmp_path_factory.mktemp('encoder') / 'e')}")


def test_a_vocabulary_has_words_by_rank_and_no_specials() -> None:
    found = vocabulary_of(wordpiece())
    named = [PIECES[number] for number in found.numbers.tolist()]
    assert named == [".", "the", "of", "cat", "##s", "dog", "##ing", "run", "sat", "!", "a", "b"]
    begins = dict(zip(named, found.begins.tolist(), strict=True))
    assert not begins["##s"]
    assert begins["the"]
    assert (found.before, found.after) == ((3,), (4,))
    assert found.scores is None


def test_unigram_tokenizers_state_their_probabilities() -> None:
    pieces = [("<unk>", 0.0), *((word, -float(i)) for i, word in enumerate(WORDS[::-1], start=1))]
    found = vocabulary_of(Tokenizer(models.Unigram(pieces, 0)))
    assert found.scores is not None
    words = [pieces[number][0] for number in found.numbers.tolist()]
    inner = [word for word in words if len(word) > 1]
    assert inner == sorted(inner, key=dict(pieces).__getitem__, reverse=True)
    assert ZipfTokens().logits(found) is found.scores


@pytest.mark.parametrize(
    "kind", [models.WordLevel({"a": 0}, "a"), models.WordPiece({"ab": 0}, unk_token="ab")]
)
def test_tokenizers_that_say_nothing_are_refused(kind: Any) -> None:
    with pytest.raises(InputError):
        vocabulary_of(Tokenizer(kind))


@pytest.mark.parametrize("source", [*SOURCES, MaskedTokens(1)], ids=repr)
def test_contract_of_sources(source: TokenSource) -> None:
    assert isinstance(source, TokenSource)
    model = language()
    first, again, other = (synthetic_sentences(model, 20, source=source, seed=seed) for seed in (1, 1, 2))
    assert first.parts == again.parts
    assert first.parts != other.parts or isinstance(source, MaskedTokens)
    usable = set(vocabulary_of(wordpiece()).numbers.tolist())
    for row in first.parts[0]:
        assert (row[0], row[-1]) == (3, 4)
        assert set(row[1:-1]) <= usable
        assert not PIECES[row[1]].startswith("##") or isinstance(source, MaskedTokens)


def test_frequencies_follow_the_law() -> None:
    rows = synthetic_sentences(language(), 2000, source=ZipfTokens(1.0, 2.7), lengths=Lengths(9, 0.0)).parts[
        0
    ]
    counts = Counter(token for row in rows for token in row[2:-1])
    wanted = 1 / (torch.arange(1, 13) + 2.7)
    found = torch.tensor([counts[n] for n in vocabulary_of(wordpiece()).numbers.tolist()]) / sum(
        counts.values()
    )
    assert torch.allclose(found, wanted / wanted.sum(), atol=0.012)
    even = synthetic_sentences(language(), 2000, source=UniformTokens(), lengths=Lengths(9, 0.0)).parts[0]
    each = Counter(token for row in even for token in row[2:-1])
    assert max(each.values()) < 1.15 * min(each.values())


def test_no_topic_is_plain_frequency_and_a_strong_one_gathers_relatives() -> None:
    model = language()
    with torch.no_grad():
        model.words.weight.copy_(torch.randn(len(PIECES), 4, generator=torch.Generator().manual_seed(0)))
    weights = nn.functional.normalize(model.words.weight.detach(), dim=1)

    def closeness(source: TokenSource) -> float:
        rows = synthetic_sentences(model, 300, source=source, lengths=Lengths(8, 0.0)).parts[0]
        pairs = [
            (row[i], row[j]) for row in rows for i in range(2, 9) for j in range(i + 1, 9) if row[i] != row[j]
        ]
        first, second = (weights[[pair[side] for pair in pairs]] for side in (0, 1))
        return float((first * second).sum(1).mean())

    assert closeness(TopicTokens(3.0)) > closeness(TopicTokens(0.0)) + 0.05


def test_gibbs_sampling_takes_what_the_network_holds_likely() -> None:
    rows = synthetic_sentences(language(), 10, source=MaskedTokens(2), lengths=Lengths(5, 0.3)).parts[0]
    assert {PIECES[token] for row in rows for token in row[1:-1]} <= {"of", "cat", "the"}
    bare = with_assets(Plain(), {"tokenizer.json": wordpiece().to_str().encode()})
    with pytest.raises(InputError, match="ZipfTokens"):
        synthetic_sentences(bare, 4, source=MaskedTokens(1))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(PIECES), 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.words(input_ids).mean(1)


def test_lengths_are_as_asked() -> None:
    draw = torch.Generator().manual_seed(0)
    found = torch.tensor(Lengths(10, 0.5, 40).drawn(4000, draw)).float()
    assert 9 <= float(found.median()) <= 11
    assert 1 <= float(found.min()) < float(found.max()) <= 40
    assert set(Lengths(7, 0.0).drawn(5, draw)) == {7}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lengths(0.5),
        lambda: Lengths(80, longest=62),
        lambda: ZipfTokens(0.0),
        lambda: TopicTokens(-1.0),
        lambda: MaskedTokens(0),
        lambda: synthetic_sentences(language(), 0),
        lambda: synthetic_sentences(nn.Linear(2, 2), 5),
    ],
    ids=["short", "long", "exponent", "strength", "sweeps", "none", "no tokenizer"],
)
def test_bad_values_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_a_task_of_sentences_serves_any_step(encoder: nn.Module) -> None:
    assert takes_tokens(encoder)
    assert not takes_tokens(nn.Linear(2, 2))
    made = synthetic_sentences(encoder, 40, lengths=Lengths(6))
    task = data_free_text(encoder, made)
    assert max(len(row) for row in made.parts[0]) <= 32 - 2
    before = evaluate(encoder, task)
    assert before.n == 8
    assert before.score == pytest.approx(1.0, abs=1e-5)
    fine, coarse = (evaluate(Quantize(bits=bits)(encoder, task), task) for bits in (8, 2))
    assert coarse.score < fine.score < 1.0
    assert paired(coarse, before, task.score).high < 0
    assert float(task.objective(encoder, task.train[0]).total.detach()) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(InputError, match="held"):
        data_free_text(encoder, made, held=1.0)
