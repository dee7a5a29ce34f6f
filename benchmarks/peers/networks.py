"""The two networks as plain torch, and how they run on prepared data; needs numpy, torch and safetensors
alone (the sentence encoder also transformers), so that the Python of any peer can import it.

Same tensors, names and outputs as in `plisse.networks`; every use of a ReLU is a module of its own, because
some tools trace modules by their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIELDS = ("input_ids", "attention_mask", "token_type_ids")


class Pad(nn.Module):
    """Every second row and column, and as many zero channels again, half before and half after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class Block(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 if inputs == outputs else 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Identity() if inputs == outputs else Pad(inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.shortcut(x) + self.bn2(self.conv2(out)))


class ResNet20(nn.Module):
    """[N, 3, 32, 32] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(torch.flatten(self.pool(x), 1))


class Encoder(nn.Module):
    """Token numbers [N, T] to sentence embeddings [N, D] of length 1: the mean over the tokens."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        output = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        mask = attention_mask.unsqueeze(-1).to(output[0].dtype)
        return F.normalize((output[0] * mask).sum(1) / mask.sum(1).clamp_min(1.0), dim=-1)


def resnet20(folder: Path) -> nn.Module:
    """ResNet-20 with the weights in FOLDER/weights.safetensors."""
    from safetensors.torch import load_file

    model = ResNet20()
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    return model.eval()


def minilm(folder: Path) -> nn.Module:
    """The sentence encoder in FOLDER/encoder (config.json and model.safetensors)."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder / "encoder")
    body = AutoModel.from_pretrained(
        folder / "encoder", config=config, add_pooling_layer=False, attn_implementation="eager"
    )
    return Encoder(body).float().eval()


NETWORKS: dict[str, Callable[[Path], nn.Module]] = {"resnet20": resnet20, "minilm": minilm}


def batches(folder: Path, part: str, batch_size: int = 64) -> list[tuple[np.ndarray, ...]]:
    """The prepared inputs FOLDER/PART.npz in batches: (images,), or three token arrays in order of length.

    part: "calibration" or "test".
    """
    with np.load(folder / f"{part}.npz") as stored:
        if "images" in stored:
            images = stored["images"]
            return [(images[i : i + batch_size],) for i in range(0, len(images), batch_size)]
        tokens, lengths = stored["tokens"], stored["lengths"]
    order = np.argsort(lengths, kind="stable")
    return [_padded(tokens, lengths, order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def _padded(tokens: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    ids = tokens[rows, : lengths[rows].max()].astype(np.int64)
    mask = (np.arange(ids.shape[1]) < lengths[rows, None]).astype(np.int64)
    return ids, mask, np.zeros_like(ids)


def run(function: Callable[..., Any], folder: Path, part: str = "test") -> np.ndarray:
    """Outputs [N, D] of `function` (arrays in, array or tensor out) in the order of the stored samples."""
    found = [np.asarray(function(*batch), np.float32) for batch in batches(folder, part)]
    outputs = np.concatenate(found)
    with np.load(folder / f"{part}.npz") as stored:
        if "lengths" not in stored:
            return outputs
        order = np.argsort(stored["lengths"], kind="stable")
    unsorted = np.empty_like(outputs)
    unsorted[order] = outputs
    return unsorted


def torch_function(model: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A network as a function of arrays."""

    def function(*arrays: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(*map(torch.from_numpy, arrays)).detach().float().numpy()

    return function


def packed_bytes(
    model: nn.Module,
    bits: float,
    group: int = 0,
    edge_bits: float = 0,
    embedding_bits: float = 32,
    offset_bits: int = 0,
) -> int:
    """Bytes that a file would take at best if the tool packed its weights: `bits` each, a float32 scale for
    each output channel (float16 for each `group` inputs, if given), float32 for everything else.

    Batch norms count as one bias per channel. edge_bits: of the first and the last layer, 0 for `bits`.
    offset_bits: of the zero point beside every scale.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    total = 0.0
    for layer in layers:
        weight = layer.weight
        width = bits
        if isinstance(layer, nn.Embedding):
            width = embedding_bits
        elif edge_bits and isinstance(model, ResNet20) and layer in (layers[0], layers[-1]):
            width = edge_bits
        total += weight.numel() * width
        if width < 16:
            grouped = group and not isinstance(layer, nn.Embedding)
            scales, scale_bits = (weight.numel() / group, 16) if grouped else (weight.shape[0], 32)
            total += scales * (scale_bits + offset_bits)
        if not isinstance(layer, nn.Embedding):
            total += 32 * weight.shape[0]
    total += sum(32 * 2 * m.weight.numel() for m in model.modules() if isinstance(m, nn.LayerNorm))
    return round(total / 8)


def describe(folder: Path) -> dict[str, Any]:
    """job.json of the folder of a job."""
    return json.loads((folder / "job.json").read_text())
