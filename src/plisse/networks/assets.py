"""What a network needs beside its weights to run by itself: for text, its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from plisse.core.reparam import plain
from plisse.data.text import TOKENIZER, load_tokenizer, pack_tokenizer

_ATTRIBUTE = "plisse_assets"


def with_assets(model: nn.Module, assets: Mapping[str, bytes]) -> nn.Module:
    """Note `assets` on `model` (in place) and return the model. Copies of the model keep them."""
    model.__dict__[_ATTRIBUTE] = dict(assets)
    return model


def assets(model: nn.Module) -> dict[str, bytes]:
    """The named bytes that belong into the model's file; empty for most networks.

    >>> assets(nn.Linear(2, 2))
    {}
    """
    return dict(plain(model).__dict__.get(_ATTRIBUTE, {}))


def folder_assets(folder: Path) -> dict[str, bytes]:
    """The assets of a folder as transformers and sentence-transformers write it."""
    path = folder / TOKENIZER
    return pack_tokenizer(path.read_bytes()) if path.exists() else {}


def tokenizer_of(model: nn.Module) -> Any:
    """The `tokenizers.Tokenizer` that travels with `model`.

    Raises InputError where there is none.
    """
    return load_tokenizer(assets(model))
