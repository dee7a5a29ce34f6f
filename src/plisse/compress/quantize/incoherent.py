"""Rotate layers before they are rounded, so that no weight and no input stands out (QuIP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.names import without
from plisse.compress.notes import with_notes
from plisse.core import modules
from plisse.core.reparam import baked, plain
from plisse.core.rotation import InputRotation, OutputRotation, can_rotate, turned
from plisse.errors import InputError
from plisse.train.task import Task

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Incoherent:
    """W <- U W V^T with V x at the input and U^T at the output of every layer, U and V fixed rotations of
    random signs and a fast Hadamard transform: outputs stay, up to rounding; entries of W and x become alike
    in size, which a grid with few values wants (QuIP, Chee et al. 2023; QuIP#, Tseng et al. 2024, section 3).
    Convolutions are rotated along their channels.

    To be followed by `Quantize(rounding=GPTQ())`, QuIP's LDLQ. seed: of the signs, below 2^19. sides:
    "both", "input" or "output". ignore: weights, layers or parts of the network that stay. A file holds the
    seeds. Rotations are not merged into neighbours (norms and activations stand between), so each costs a
    fast transform per call and about 2 log2(channels) additions per value. Computed weights are baked first.

    Embeddings, grouped convolutions, layers whose width has no fast rotation (an odd factor above 1,024)
    and layers whose inputs are rounded already are left as they are; the notes say which.
    """

    seed: int = 0
    sides: str = "both"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sides not in ("both", "input", "output") or not 0 <= self.seed < 1 << 19:
            raise InputError(
                f"sides {self.sides!r}, seed {self.seed}",
                expected="'both', 'input' or 'output', and 0 to 2^19",
                hint="Incoherent()",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        network = modules.clone(baked(model))
        wanted = set(without(modules.weight_names(plain(network)), self.ignore))
        left = []
        for number, (name, layer) in enumerate(modules.weighted_layers(network)):
            if f"{name}.weight".lstrip(".") not in wanted:
                continue
            if not self._rotated(layer, 2 * number):
                left.append(f"{name or 'the layer'}: not rotated")
        return with_notes(network, left)

    def _rotated(self, layer: Any, number: int) -> bool:
        """In place; whether anything was done."""
        taken = {"input_quantizer", "input_rotation", "output_rotation", "input_scale"} & set(layer._modules)
        if not isinstance(layer, LAYERS) or getattr(layer, "groups", 1) != 1 or taken:
            return False
        axis, seed = (-1 if isinstance(layer, nn.Linear) else 1), self.seed + number
        rows, columns = layer.weight.shape[:2]
        inner = self.sides != "output" and can_rotate(columns)
        outer = self.sides != "input" and can_rotate(rows)
        with torch.no_grad():
            if inner:
                _attached(InputRotation(columns, seed, axis), layer)
                layer.weight.copy_(_turn(layer.weight, layer.input_rotation, 1))
            if outer:
                _attached(OutputRotation(rows, seed + 1, axis), layer)
                layer.weight.copy_(_turn(layer.weight, layer.output_rotation, 0))
                if layer.bias is not None:
                    layer.bias.copy_(_turn(layer.bias, layer.output_rotation, 0))
        return inner or outer


def _attached(rotation: InputRotation | OutputRotation, layer: nn.Module) -> None:
    weight: Any = layer.weight
    rotation.to(weight.device).train(layer.training).attach(layer)


def _turn(value: Tensor, rotation: Any, axis: int) -> Tensor:
    return turned(value.float(), rotation.signs, rotation.cosines, axis).to(value.dtype)
