"""Rounding the states of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.rounding.capture import check_calibration, limited
from plisse.core import modules
from plisse.core.batch import Batch, call
from plisse.core.hooks import before_calls
from plisse.core.recurrent import RoundedGRU, RoundedLSTM, unrolled
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task


@dataclass(frozen=True)
class RoundStates:
    """Hidden states of LSTM and GRU layers on a grid of `bits` bits over [-1, 1], where they lie, and cells
    of LSTM layers on one of `cell_bits` bits over [-c, c], with c the largest cell that calibration shows:
    states are rounded apart from weights and from each other (He et al. 2016, section 3; Ott et al. 2016).
    The layers run step by step afterwards, in plain torch.

    bits, cell_bits: 2 to 16. A cell adds up many small steps, which coarse grids lose: an LSTM that reads
    MNIST by rows bears 4 bits for its hidden states, and not 6 for its cells (`benchmarks.recurrent`).
    samples: of calibration. To be done before `Quantize`, which rounds the weights;
    weights that are computed are written out first. Plain recurrent layers, and layers with projections, stay
    with a note. Initial states that a caller gives outside [-1, 1] are clipped after one step.

    Raises InputError for other bits, and for calibration without batches or with NaN.

    >>> RoundStates(bits=4).cell_bits
    16
    """

    bits: int = 8
    cell_bits: int = 16
    samples: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16 or not 2 <= self.cell_bits <= 16:
            raise InputError(
                f"bits={self.bits}, cell_bits={self.cell_bits}",
                expected="2 to 16",
                hint="RoundStates(bits=8)",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        network = modules.clone(baked(model)).eval()
        taken, left = {}, []
        for name, layer in network.named_modules():
            if type(layer) in (nn.LSTM, nn.GRU) and not layer.proj_size:
                taken[name] = layer
            elif isinstance(layer, nn.RNNBase):
                left.append(f"{name or type(layer).__name__}: states stay as they are")
        if taken:
            check_calibration(task.calibration)
        cells = largest_cells(network, taken, limited(task.calibration, self.samples)) if taken else {}
        for name, layer in taken.items():
            network = _put(network, name, self._rounded(layer, cells[name]))
        return with_notes(network.train(model.training), left)

    def _rounded(self, layer: Any, largest: Tensor) -> nn.Module:
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
        given = {"bits": self.bits, **{name: getattr(layer, name) for name in names}}
        sizes, state = (layer.input_size, layer.hidden_size), layer.state_dict()
        made: nn.Module
        if isinstance(layer, nn.LSTM):
            made = RoundedLSTM(*sizes, cell_bits=self.cell_bits, **given)
            state["largest_cell"] = largest
        else:
            made = RoundedGRU(*sizes, **given)
        made.load_state_dict(state)
        return made.to(next(layer.parameters()).device)


def largest_cells(
    network: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """The largest |c| of each layer's cells over `batches`; 1 for layers without cells."""
    found = {name: torch.zeros(()) for name in layers}

    def see(name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        def watched(cell: Tensor) -> Tensor:
            found[name] = torch.maximum(found[name], cell.abs().amax().cpu())
            return cell

        unrolled(layer, inputs[0], inputs[1] if len(inputs) > 1 else None, cell=watched)

    with before_calls(layers, see), torch.no_grad():
        for batch in batches:
            call(network, batch.inputs)
    return {name: value if float(value) > 0 else torch.ones(()) for name, value in found.items()}


def _put(network: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer
    modules.replace(network, name, layer)
    return network
