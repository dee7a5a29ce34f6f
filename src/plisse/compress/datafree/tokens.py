"""Sentences for networks without batch norm, drawn from what a tokenizer and a network know of text."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.datafree.vocabulary import Vocabulary, vocabulary_of
from plisse.core import modules
from plisse.core.batch import call
from plisse.core.reparam import plain
from plisse.data.text import FIELDS, TextBatches, pad_number
from plisse.errors import InputError
from plisse.networks.assets import tokenizer_of

ROWS = 64  # sentences at a time
OFFSET = 2  # positions that some networks number from
CLOSEST = 4.0  # deviations beyond which embeddings count as equally close


@dataclass(frozen=True)
class Lengths:
    """Tokens per sentence, special ones not counted: log-normal around `median`, with the standard deviation
    `spread` of the logarithm, at most `longest`. Say what your sentences are like; nothing else can know."""

    median: float = 14.0
    spread: float = 0.5
    longest: int = 62

    def __post_init__(self) -> None:
        if not 1 <= self.median <= self.longest or self.spread < 0:
            raise InputError(f"{self}", expected="1 <= median <= longest, spread from 0")

    def drawn(self, n: int, draw: torch.Generator) -> list[int]:
        logs = torch.randn(n, generator=draw) * self.spread
        return (self.median * logs.exp()).round().clamp(1, self.longest).long().tolist()


@dataclass(frozen=True, eq=False)
class Words:
    """What sentences are made of. embedding: of the tokens in the vocabulary's order [V, D]."""

    model: nn.Module
    vocabulary: Vocabulary
    embedding: Tensor


@runtime_checkable
class TokenSource(Protocol):
    """Contract: a frozen dataclass; called with the words, the length of each sentence and a generator, it
    gives positions in the vocabulary, one list per sentence, the same for the same seed."""

    def __call__(self, words: Words, lengths: list[int], draw: torch.Generator) -> list[list[int]]: ...


@dataclass(frozen=True)
class UniformTokens:
    """Every token as often as any other: what to compare with."""

    def __call__(self, words: Words, lengths: list[int], draw: torch.Generator) -> list[list[int]]:
        return _drawn(torch.zeros(1, len(words.vocabulary)), words.vocabulary, lengths, draw)


@dataclass(frozen=True)
class ZipfTokens:
    """Tokens drawn independently with probability proportional to 1 / (rank + shift)^exponent, the rank being
    that of the vocabulary; by its own probabilities where the tokenizer states them.

    exponent: above 0. shift: 0 or more. Source: Mandelbrot 1953 (Zipf's law, flattened at the top).
    """

    exponent: float = 1.0
    shift: float = 2.7

    def __post_init__(self) -> None:
        if not self.exponent > 0 or self.shift < 0:
            raise InputError(f"{self}", expected="exponent above 0, shift from 0")

    def __call__(self, words: Words, lengths: list[int], draw: torch.Generator) -> list[list[int]]:
        return _drawn(self.logits(words.vocabulary)[None], words.vocabulary, lengths, draw)

    def logits(self, vocabulary: Vocabulary) -> Tensor:
        """Log-probabilities [V], not normalized."""
        if vocabulary.scores is not None:
            return vocabulary.scores
        ranks = torch.arange(1, len(vocabulary) + 1, dtype=torch.float32)
        return -self.exponent * (ranks + self.shift).log()


@dataclass(frozen=True)
class TopicTokens:
    """Every sentence has a topic, a token drawn by the square root of its frequency; its tokens are drawn by
    frequency times exp(strength * min(z, CLOSEST)), z being how much closer than most their word embedding is
    to the topic's: the cosine between embeddings, less their mean, in deviations over the vocabulary.

    frequency: as `ZipfTokens`. strength: 0 gives that back. So that a sentence holds what the network itself
    takes as related. A method of this package; we know of none in print.
    """

    strength: float = 1.0
    frequency: ZipfTokens = ZipfTokens()

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise InputError(f"strength {self.strength}", expected="0 or more")

    def __call__(self, words: Words, lengths: list[int], draw: torch.Generator) -> list[list[int]]:
        near = F.normalize(words.embedding - words.embedding.mean(0), dim=1)
        frequency = self.frequency.logits(words.vocabulary)
        topics = torch.multinomial((frequency / 2).exp(), len(lengths), replacement=True, generator=draw)
        found: list[list[int]] = []
        for start in range(0, len(lengths), ROWS):
            cosine = near[topics[start : start + ROWS]] @ near.T
            z = (cosine - cosine.mean(1, keepdim=True)) / cosine.std(1, keepdim=True).clamp_min(1e-6)
            logits = frequency + self.strength * z.clamp_max(CLOSEST)
            found += _drawn(logits, words.vocabulary, lengths[start : start + ROWS], draw)
        return found


@dataclass(frozen=True)
class MaskedTokens:
    """Sentences that a masked language model finds likely: start from `start`, then `sweeps` times over every
    position, in random order, hide it and draw its token from the network's own distribution, with
    probabilities raised to 1 / temperature (Gibbs sampling).

    Needs a network that gives logits over its vocabulary [N, T, V]; a sentence encoder does not. All
    sentences of one length go together. Source: Wang and Cho 2019 ("BERT has a mouth, and it must speak").
    """

    sweeps: int = 2
    temperature: float = 1.0
    start: ZipfTokens = ZipfTokens()

    def __post_init__(self) -> None:
        if self.sweeps < 1 or not self.temperature > 0:
            raise InputError(f"{self}", expected="sweeps from 1, temperature above 0")

    def __call__(self, words: Words, lengths: list[int], draw: torch.Generator) -> list[list[int]]:
        mask = tokenizer_of(words.model).token_to_id("[MASK]") or tokenizer_of(words.model).token_to_id(
            "<mask>"
        )
        if mask is None:
            raise InputError("a tokenizer without a token that hides others", expected="[MASK] or <mask>")
        found = self.start(words, lengths, draw)
        for length in sorted(set(lengths)):
            alike = [i for i, each in enumerate(lengths) if each == length]
            rows = torch.tensor([found[i] for i in alike])
            for _ in range(self.sweeps):
                for place in torch.randperm(length, generator=draw).tolist():
                    rows[:, place] = self._redrawn(words, rows, place, mask, draw)
            for i, row in zip(alike, rows.tolist(), strict=True):
                found[i] = row
        return found

    def _redrawn(self, words: Words, rows: Tensor, place: int, mask: int, draw: torch.Generator) -> Tensor:
        """New tokens [N] at `place` of sentences [N, T]."""
        vocabulary = words.vocabulary
        ids = torch.cat(
            [
                torch.tensor(vocabulary.before).repeat(len(rows), 1).long(),
                vocabulary.numbers[rows],
                torch.tensor(vocabulary.after).repeat(len(rows), 1).long(),
            ],
            dim=1,
        )
        place += len(vocabulary.before)
        ids[:, place] = mask
        with modules.evaluating(words.model), torch.no_grad():
            logits = call(words.model, _inputs(words.model, ids))
        if logits.dim() != 3 or logits.shape[2] <= int(vocabulary.numbers.max()):
            raise InputError(
                f"outputs of shape {tuple(logits.shape)}",
                expected="logits over the vocabulary [N, T, V]",
                hint="a network with a language-model head, or ZipfTokens(), which needs none",
            )
        chances = (logits[:, place, vocabulary.numbers].float() / self.temperature).softmax(1)
        return torch.multinomial(chances, 1, generator=draw)[:, 0]


def synthetic_sentences(
    model: nn.Module,
    n: int = 512,
    *,
    source: TokenSource = ZipfTokens(),
    lengths: Lengths = Lengths(),
    batch_size: int = 64,
    seed: int = 0,
) -> TextBatches:
    """n sentences for `model`, which carries its tokenizer, as batches without labels.

    Raises InputError for a network without a tokenizer or without an embedding of its vocabulary.
    """
    if n < 1:
        raise InputError(f"{n} sentences", expected="at least 1")
    tokenizer = tokenizer_of(model)
    vocabulary = vocabulary_of(tokenizer)
    words = Words(model, vocabulary, _embedding(model, vocabulary))
    draw = torch.Generator().manual_seed(seed)
    room = _room(model, vocabulary)
    rows = source(words, [min(length, room) for length in lengths.drawn(n, draw)], draw)
    around = vocabulary.before, vocabulary.after
    sentences = [[*around[0], *vocabulary.numbers[row].tolist(), *around[1]] for row in rows]
    return TextBatches((sentences,), None, batch_size, seed, True, fields_of(model), pad_number(tokenizer))


def fields_of(model: nn.Module) -> tuple[str, ...]:
    """The token tensors that `model` takes, by name."""
    parameters = inspect.signature(plain(model).forward).parameters
    return tuple(field for field in FIELDS if field in parameters)


def takes_tokens(model: nn.Module) -> bool:
    """Whether the inputs of `model` are token numbers."""
    return "input_ids" in fields_of(model)


def _inputs(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Rows without padding."""
    every = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return {field: every[field] for field in fields_of(model)}


def _embedding(model: nn.Module, vocabulary: Vocabulary) -> Tensor:
    """The word embeddings [V, D]: of the first table that has one for every token."""
    top = int(vocabulary.numbers.max())
    for layer in plain(model).modules():
        if isinstance(layer, nn.Embedding) and layer.num_embeddings > top:
            return layer.weight.detach().float()[vocabulary.numbers]
    raise InputError(
        f"a {type(model).__name__} without an embedding of {top + 1} tokens",
        expected="a network that takes the numbers of its tokenizer",
    )


def _room(model: nn.Module, vocabulary: Vocabulary) -> int:
    """The longest sentence that `model` has positions for, special tokens not counted."""
    limits = [
        getattr(getattr(part, "config", None), "max_position_embeddings", None) for part in model.modules()
    ]
    most = min((limit for limit in limits if isinstance(limit, int)), default=1 << 16)
    return max(1, most - OFFSET - len(vocabulary.before) - len(vocabulary.after))


def _drawn(
    logits: Tensor, vocabulary: Vocabulary, lengths: list[int], draw: torch.Generator
) -> list[list[int]]:
    """Independent tokens by log-probabilities [1 or N, V]; the first of a sentence may begin one."""
    chances = (logits - logits.amax(1, keepdim=True)).exp().expand(len(lengths), -1)
    rest = torch.multinomial(chances, max(lengths), replacement=True, generator=draw)
    first = torch.multinomial(chances * vocabulary.begins, 1, generator=draw)
    rows = torch.cat([first, rest[:, 1:]], dim=1).tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
