"""Remarks that a step leaves on the network that it returns: what it left alone, and why."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

_ATTRIBUTE = "plisse_notes"


def with_notes(model: nn.Module, notes: Iterable[str]) -> nn.Module:
    """Put `notes` on `model`, in place of those of an earlier step, and return the model."""
    model.__dict__[_ATTRIBUTE] = tuple(notes)
    return model


def notes_of(model: nn.Module) -> tuple[str, ...]:
    """The remarks of the step that made `model`; empty where there is nothing to say.

    >>> notes_of(with_notes(nn.ReLU(), ["'fc' left dense"]))
    ("'fc' left dense",)
    """
    return model.__dict__.get(_ATTRIBUTE, ())
