"""Sentences: GLUE tables (Wang et al. 2019), tokens, and batches of token tensors."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plisse.core.batch import Batch
from plisse.data.folder import require
from plisse.errors import InputError

MAX_TOKENS = 256
WINDOW = 16
FIELDS = ("input_ids", "attention_mask", "token_type_ids")
TOKENIZER, VOCABULARY = "tokenizer.json", "vocabulary.txt"

Tokens = Sequence[Sequence[int]]


def read_table(folder: str | Path, part: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The named columns of `part`.tsv.gz or `part`.tsv: tab-separated, quotes are ordinary characters.

    Raises InputError for a missing file, a missing column, or a row that is too short.
    """
    folder = require(folder, f"a folder with {part}.tsv.gz")
    path = folder / f"{part}.tsv"
    path = path if path.exists() else require(folder / f"{part}.tsv.gz", f"{part}.tsv or {part}.tsv.gz")
    lines = _text(path).split("\n")
    header = lines[0].lstrip("\ufeff").rstrip("\r").split("\t")
    if missing := [column for column in columns if column not in header]:
        raise InputError(
            f"{str(path)!r} without column {missing[0]!r}", expected=f"one of {', '.join(columns)}"
        )
    picks = [header.index(column) for column in columns]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.rstrip("\r").split("\t")
        if len(cells) > max(picks):
            rows.append(tuple(cells[pick] for pick in picks))
        elif line.strip():
            raise InputError(
                f"line {number} of {str(path)!r} with {len(cells)} cells", expected=f"{len(header)}"
            )
    if not rows:
        raise InputError(f"{str(path)!r} without rows", expected=f"columns {', '.join(columns)}")
    return rows


def numbers(cells: Sequence[str], low: float, high: float) -> NDArray[np.float32]:
    """Cells as numbers within [low, high]; InputError with the first that is none."""
    values = []
    for number, cell in enumerate(cells, start=2):
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InputError(f"{cell!r} in row {number}", expected=f"a number from {low:g} to {high:g}")
        values.append(value)
    return np.array(values, np.float32)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r}, which cannot be read ({error})", expected="UTF-8 text") from error


def pack_tokenizer(data: bytes) -> dict[str, bytes]:
    """A tokenizer.json as two parts that code in fewer bytes: the vocabulary, one token a line in the order
    of their numbers, and the rest. A tokenizer whose vocabulary is no such list stays in one part."""
    rest = json.loads(data)
    vocabulary = rest.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict) or any("\n" in token for token in vocabulary):
        return {TOKENIZER: data}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        return {TOKENIZER: data}
    rest["model"]["vocab"] = {}
    compact = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
    return {TOKENIZER: compact.encode(), VOCABULARY: "\n".join(tokens).encode()}


def load_tokenizer(assets: Mapping[str, bytes]) -> Any:
    """The `tokenizers.Tokenizer` that `pack_tokenizer` packed.

    Raises InputError where there is none, or it cannot be read.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError("text without the package tokenizers", hint="pip install 'plisse[text]'") from error
    if TOKENIZER not in assets:
        raise InputError("a network without a tokenizer", expected=f"{TOKENIZER} beside its weights")
    try:
        data = json.loads(assets[TOKENIZER])
        if VOCABULARY in assets:
            tokens = assets[VOCABULARY].decode().split("\n")
            data["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
        return Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"a tokenizer that cannot be read: {error}", expected="a tokenizer.json") from error


def tokenize(tokenizer: Any, sentences: Sequence[str], max_tokens: int = MAX_TOKENS) -> list[list[int]]:
    """Token numbers of every sentence with its special tokens, cut to `max_tokens`, without padding."""
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]


def pad_number(tokenizer: Any) -> int:
    """The number of the token that fills short rows: what the tokenizer says, else that of [PAD] or <pad>."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    numbers = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((number for number in numbers if number is not None), 0)


def pad(rows: Tokens, fields: Sequence[str] = FIELDS, filler: int = 0) -> dict[str, Tensor]:
    """Rows of token numbers as {"input_ids", "attention_mask", "token_type_ids"}, each [N, T] int64.

    >>> pad([[101, 7, 102], [101, 102]])["attention_mask"].tolist()
    [[1, 1, 1], [1, 1, 0]]
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, filler, np.int64)
    ids[mask] = np.concatenate([np.asarray(row, np.int64) for row in rows])
    every = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": mask * np.int64(0)}
    return {field: torch.from_numpy(every[field]) for field in fields}


@dataclass(frozen=True, eq=False)
class TextBatches:
    """Batches of token tensors.

    parts: one list of tokenized sentences, or two for pairs. A batch of N samples stacks the first sentences
    and then the second ones, so inputs are [2N, T] for pairs. targets: [samples], None for sentences without.
    Samples of similar length share a batch: in order of length without `shuffle`, within windows of 16 random
    batches, drawn from (seed, epoch), with it.
    """

    parts: tuple[Tokens, ...]
    targets: NDArray[Any] | None = None
    batch_size: int = 64
    seed: int = 0
    shuffle: bool = False
    fields: tuple[str, ...] = FIELDS
    filler: int = 0

    def __post_init__(self) -> None:
        counts = {len(part) for part in self.parts} | (
            {len(self.targets)} if self.targets is not None else set()
        )
        if len(counts) != 1 or counts == {0} or self.batch_size < 1:
            raise InputError(
                f"text of {sorted(counts)} rows in batches of {self.batch_size}", expected="equal, at least 1"
            )

    def __len__(self) -> int:
        return -(-len(self.parts[0]) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch, position = divmod(index, len(self))
        picks = self._epoch(epoch)[position]
        inputs = pad([part[pick] for part in self.parts for pick in picks], self.fields, self.filler)
        return Batch(inputs, None if self.targets is None else torch.from_numpy(self.targets[picks]))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """The length of the longer sentence of every sample, in tokens."""
        return np.array([[len(row) for row in part] for part in self.parts]).max(0)

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The sample numbers of every batch of an epoch."""
        lengths = self._lengths
        if not self.shuffle:
            return _cut(np.argsort(lengths, kind="stable"), self.batch_size)
        draw = np.random.default_rng((self.seed, epoch))
        windows = _cut(draw.permutation(len(lengths)), WINDOW * self.batch_size)
        batches = [
            b for w in windows for b in _cut(w[np.argsort(lengths[w], kind="stable")], self.batch_size)
        ]
        return [batches[i] for i in draw.permutation(len(batches))]


def _cut(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [order[start : start + size] for start in range(0, len(order), size)]
