"""A task without data for networks that take tokens: synthetic sentences and the network's own answers."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.datafree.task import AGREEMENT
from plisse.compress.finetune import distilled
from plisse.core import modules
from plisse.core.batch import Batch, BatchList, call
from plisse.data.text import TextBatches
from plisse.errors import InputError
from plisse.train.task import Score, Task, classification
from plisse.train.text_tasks import cosine_divergence

N_EXAMPLE = 32
LENGTH_ERROR = 1e-3  # of rows that count as embeddings of length 1


def _mean_cosine(found: Tensor, wanted: Tensor) -> float:
    return float(F.cosine_similarity(found, wanted, dim=-1).mean())


COSINE = Score(
    "cosine to the original's embeddings", predict=lambda outputs: outputs.float(), summary=_mean_cosine
)


def data_free_text(model: nn.Module, made: TextBatches, *, held: float = 0.2) -> Task:
    """A `Task` of synthetic sentences alone (`synthetic_sentences`), for a sentence encoder or classifier.

    train, calibration: the made sentences without labels; the objective is distillation from `model`. held:
    share of them that nothing is fitted to, above 0 and below 1. Without data there is no accuracy: the score
    on these is how near the outputs stay to the original's, the mean cosine between embeddings, or the share
    of equal classes.

    Raises InputError for a share out of range, and for outputs that are neither [N, D] nor [N, K].
    """
    rows = made.parts[0]
    apart = round(held * len(rows))
    if not 0 < held < 1 or not 0 < apart < len(rows):
        raise InputError(
            f"held={held} of {len(rows)} sentences", expected="a share that leaves some on both sides"
        )
    fitted = dataclasses.replace(made, parts=(rows[:-apart],))
    examples = dataclasses.replace(fitted, batch_size=N_EXAMPLE, shuffle=False)
    kept = dataclasses.replace(made, parts=(rows[-apart:],), shuffle=False)
    answers = _answers(model, kept)
    first = answers[0].target
    if first is None or first.dim() != 2:
        raise InputError(
            f"outputs of shape {() if first is None else tuple(first.shape)}",
            expected="one embedding or one row of logits per sentence",
        )
    example = examples[len(examples) // 2].inputs
    task = classification("data-free", example, fitted, fitted, answers)
    if bool(((first.norm(dim=1) - 1).abs() < LENGTH_ERROR).all()):
        task = dataclasses.replace(task, score=COSINE, divergence=cosine_divergence)
    else:
        classes = tuple(
            Batch(batch.inputs, batch.target.argmax(1)) for batch in answers if batch.target is not None
        )
        task = dataclasses.replace(task, score=AGREEMENT, holdout=BatchList(classes))
    return distilled(task, model)


def _answers(model: nn.Module, sentences: TextBatches) -> BatchList:
    """Batches with the network's outputs as targets."""
    found = []
    with modules.evaluating(model), torch.inference_mode():
        for batch in sentences:
            found.append(Batch(batch.inputs, call(model, batch.inputs).float().cpu().clone()))
    return BatchList(tuple(found))
