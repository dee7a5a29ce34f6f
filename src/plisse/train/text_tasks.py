"""Tasks on sentences: similarity of pairs (STS-B) and sentiment (SST-2), from the GLUE tables."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from plisse.core.batch import Batch, Inputs, call
from plisse.core.reparam import plain
from plisse.data.text import FIELDS, TextBatches, Tokens, numbers, pad_number, read_table, tokenize
from plisse.errors import InputError
from plisse.networks.assets import tokenizer_of
from plisse.train.task import Loss, Score, Task, classification

N_CALIBRATION = 512
CALIBRATION_BATCH = 64
N_EXAMPLE = 32
HIGHEST = 5.0


def pair_cosine(embeddings: Tensor) -> Tensor:
    """Cosines [N] between the first and the second half of embeddings [2N, D]."""
    if embeddings.dim() != 2 or len(embeddings) % 2:
        raise InputError(
            f"outputs of shape {tuple(embeddings.shape)}",
            expected="one embedding [D] per sentence",
            hint="a sentence encoder, such as minilm or a folder of sentence-transformers",
        )
    first, second = embeddings.float().chunk(2)
    return F.cosine_similarity(first, second, dim=-1)


def spearman(predicted: Tensor, target: Tensor) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where either is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(values.numpy()) for values in (predicted, target))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


SPEARMAN = Score("spearman", predict=pair_cosine, summary=spearman)


def cosine_loss(model: nn.Module, batch: Batch) -> Loss:
    """Mean squared error of the pairs' cosines against their scores, scaled from 0..5 to 0..1."""
    assert batch.target is not None
    total = F.mse_loss(pair_cosine(call(model, batch.inputs)), batch.target / HIGHEST)
    return Loss(total, {"cosine_error": total.detach()})


def cosine_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """1 minus the mean cosine between embeddings [N, D] of the same sentences."""
    return 1 - F.cosine_similarity(reference.float(), outputs.float(), dim=-1).mean()


def stsb(
    folder: str | Path, model: nn.Module, batch_size: int = 128, seed: int = 0, max_tokens: int = 256
) -> Task:
    """Semantic textual similarity (Cer et al. 2017): pairs of sentences with scores from 0 to 5.

    A batch of N pairs has the N first sentences and then the N second ones as inputs. Train: the train split.
    Calibration: 512 sentences of the train split, no scores. Holdout: the dev split, by Spearman's
    correlation.
    """
    tokens = _Tokens(model, max_tokens)
    train, holdout = _pairs(folder, "train", tokens), _pairs(folder, "dev", tokens)
    sentences = _drawn([row for part in train[0] for row in part], seed)
    return Task(
        "stsb",
        tokens.example(sentences),
        train=tokens.batches(*train, batch_size, seed, shuffle=True),
        calibration=tokens.batches((sentences,), None, CALIBRATION_BATCH, seed, shuffle=True),
        holdout=tokens.batches(*holdout, batch_size, seed),
        objective=cosine_loss,
        score=SPEARMAN,
        divergence=cosine_divergence,
    )


def sst2(
    folder: str | Path, model: nn.Module, batch_size: int = 128, seed: int = 0, max_tokens: int = 256
) -> Task:
    """Sentiment of film reviews (Socher et al. 2013), for networks that give logits [N, 2].

    Train: the train split. Calibration: 512 of its sentences, no labels. Holdout: the dev split, by accuracy.
    """
    tokens = _Tokens(model, max_tokens)
    train, holdout = _labelled(folder, "train", tokens), _labelled(folder, "dev", tokens)
    sentences = _drawn(train[0][0], seed)
    example = tokens.example(sentences)
    _check_classes(model, example)
    return classification(
        "sst2",
        example,
        tokens.batches(*train, batch_size, seed, shuffle=True),
        tokens.batches((sentences,), None, CALIBRATION_BATCH, seed, shuffle=True),
        tokens.batches(*holdout, batch_size, seed),
    )


class _Tokens:
    """The tokenizer of a network and the inputs that the network takes."""

    def __init__(self, model: nn.Module, max_tokens: int) -> None:
        self.tokenizer = tokenizer_of(model)
        self.max_tokens = max_tokens
        parameters = inspect.signature(plain(model).forward).parameters
        self.fields = tuple(field for field in FIELDS if field in parameters)
        self.filler = pad_number(self.tokenizer)

    def __call__(self, sentences: Sequence[str]) -> Tokens:
        return tokenize(self.tokenizer, sentences, self.max_tokens)

    def example(self, sentences: Tokens) -> Inputs:
        """32 sentences of about the median length."""
        batches = self.batches((sentences,), None, N_EXAMPLE, 0)
        return batches[len(batches) // 2].inputs

    def batches(
        self,
        parts: tuple[Tokens, ...],
        targets: NDArray[Any] | None,
        batch_size: int,
        seed: int,
        shuffle: bool = False,
    ) -> TextBatches:
        return TextBatches(parts, targets, batch_size, seed, shuffle, self.fields, self.filler)


def _pairs(
    folder: str | Path, part: str, tokens: _Tokens
) -> tuple[tuple[Tokens, Tokens], NDArray[np.float32]]:
    rows = read_table(folder, part, ("sentence1", "sentence2", "score"))
    first, second, scores = zip(*rows, strict=True)
    return (tokens(first), tokens(second)), numbers(scores, 0.0, HIGHEST)


def _labelled(folder: str | Path, part: str, tokens: _Tokens) -> tuple[tuple[Tokens], NDArray[np.int64]]:
    sentences, labels = zip(*read_table(folder, part, ("sentence", "label")), strict=True)
    return (tokens(sentences),), numbers(labels, 0.0, 1.0).astype(np.int64)


def _drawn(rows: Tokens, seed: int) -> Tokens:
    """At most 512 distinct rows."""
    distinct = list(dict.fromkeys(map(tuple, rows)))
    order = np.random.default_rng(seed).permutation(len(distinct))[:N_CALIBRATION]
    return [distinct[i] for i in np.sort(order)]


def _check_classes(model: nn.Module, example: Any) -> None:
    with torch.inference_mode():
        shape = tuple(call(model, example).shape)
    if len(shape) != 2 or shape[1] != 2:
        raise InputError(
            f"outputs of shape {shape} for sst2",
            expected="logits [N, 2]",
            hint="hf:DIR of a sequence classifier with two labels",
        )
