"""What a tokenizer knows of the text that it was made from: its tokens, and how frequent each of them is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plisse.data.text import tokenize
from plisse.errors import InputError

KINDS = ("WordPiece", "BPE", "Unigram")
SPECIAL = re.compile(r"[\[<].*[\]>]")
STOPS = (".", ",")
"""Single characters that are as frequent as any word; others are there so that anything can be written."""
FEWEST = 8


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """V tokens that make up text, the most frequent first. numbers: in the tokenizer [V]. begins: whether a
    text may begin with it [V]. scores: log-probability of each [V] where the tokenizer states them.
    before, after: special tokens around every text."""

    numbers: Tensor
    begins: Tensor
    scores: Tensor | None
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Read a `tokenizers.Tokenizer` of kind WordPiece, BPE or Unigram.

    WordPiece and BPE list tokens roughly in the order in which training found them worth having, which is
    that of frequency; Unigram states probabilities. Special, unused and added tokens are left out; single
    characters come last, but full stop and comma first.
    Raises InputError for other kinds, and for fewer than 8 tokens.
    """
    data = json.loads(tokenizer.to_str())
    kind, listed = data["model"].get("type"), data["model"].get("vocab")
    if kind not in KINDS or not listed:
        raise InputError(f"a tokenizer of kind {kind}", expected=f"one of {', '.join(KINDS)}")
    scores = {number: float(entry[1]) for number, entry in enumerate(listed)} if kind == "Unigram" else {}
    pieces = {n: entry[0] for n, entry in enumerate(listed)} if scores else {n: p for p, n in listed.items()}
    added = {token["id"] for token in data.get("added_tokens", [])}
    kept = [n for n, piece in pieces.items() if n not in added and not SPECIAL.fullmatch(piece)]
    if len(kept) < FEWEST:
        raise InputError(f"a vocabulary of {len(kept)} tokens", expected=f"at least {FEWEST}")
    kept.sort(key=lambda n: (_place(pieces[n]), -scores.get(n, 0.0), n))
    prefix = data["model"].get("continuing_subword_prefix") or ""
    begins = [not (prefix and pieces[n].startswith(prefix)) for n in kept]
    before, after = _around(tokenizer)
    found = torch.tensor([scores[n] for n in kept]) if scores else None
    return Vocabulary(torch.tensor(kept), torch.tensor(begins), found, before, after)


def _place(piece: str) -> int:
    """0 for full stop and comma, 2 for other single characters, 1 for everything else."""
    if piece in STOPS:
        return 0
    return 2 if len(piece) < 2 else 1


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text: those of an empty one, parted where a word would come."""
    empty, word = (tuple(row) for row in tokenize(tokenizer, ["", "a"]))
    same = 0
    while same < min(len(empty), len(word)) and empty[same] == word[same]:
        same += 1
    return empty[:same], empty[same:]
