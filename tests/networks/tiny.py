"""A sentence encoder and folders of transformers small enough for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "cat", "dog", "sat", "ran", "bad", "good"]
WORDS += ["on", "mat"]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
}


def tokenizer_json() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str()


def encoder_folder(folder: Path) -> Path:
    """A folder as sentence-transformers writes it, with mean pooling."""
    from plisse.networks.transformer import SentenceEncoder

    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["BertModel"]}))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    torch.manual_seed(0)
    state = SentenceEncoder(CONFIG).transformer.state_dict()
    state["embeddings.position_ids"] = torch.arange(32)
    state["pooler.dense.weight"] = torch.zeros(16, 16)
    save_file(state, folder / "model.safetensors")
    return folder


def classifier_folder(folder: Path, labels: int = 2) -> Path:
    """A folder as transformers writes it, of a sequence classifier."""
    import transformers

    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIG.items() if key != "model_type"}
    config = transformers.BertConfig(**settings, num_labels=labels)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder
