"""DoReFa-Net (Zhou et al. 2016): weights through tanh onto odd levels of [-1, 1], activations in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format, bfloat16_through, check_bits, check_finite
from plisse.core.fakequant import round_through
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Uniform

TINY = 1e-12


@dataclass(frozen=True)
class DoReFa:
    """w^ = 2 Q(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1 with Q(u) = round(n u) / n, n = 2^bits - 1 (Zhou et al.
    2016, eq. 9): n + 1 levels, evenly spaced from -1 to 1, none of them zero.

    bits: 2 to 8. A grid for `Quantize(grid=DoReFa(2), aware=Aware(...))`. It changes the size of weights (the
    largest becomes 1) and so needs training, and a batch norm behind every layer. Pruned weights do not stay
    zero. Activations in the paper are clipped to [0, 1]: `Activations(bits, range=UnitInterval())` without
    learned steps.
    """

    bits: int = 2

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def quantized(self, source: Reparam) -> Reparam:
        return DoReFaQuantized(source, self.bits)


class DoReFaQuantized(Reparam):
    """The source's values by `DoReFa`. Symbols are the odd whole numbers -n, 2 - n ... n; scale 1 / n."""

    scale: Tensor

    def __init__(self, source: Reparam, bits: int) -> None:
        super().__init__()
        self.source, self.n = source, 2**bits - 1
        with torch.no_grad():
            check_finite(source().detach())
        self.register_buffer("scale", bfloat16_through(torch.tensor([1 / self.n])))

    def forward(self) -> Tensor:
        return self._symbols() * self.scale.reshape(())

    def stored(self) -> Stored:
        with torch.no_grad():
            symbols = self._symbols().to(torch.int32).cpu().numpy()
        return Stored(symbols, symbols.shape, Uniform(self.scale.cpu().numpy().astype(np.float32)))

    def _symbols(self) -> Tensor:
        bent = torch.tanh(self.source().float())
        largest = bent.abs().max() if bent.numel() else bent.new_ones(())
        unit = bent / (2 * largest.clamp_min(TINY)) + 0.5  # 0 to 1
        return 2 * round_through(unit * self.n).clamp(0, self.n) - self.n


@dataclass(frozen=True)
class UnitInterval:
    """The range 0 to 1 whatever the samples are (-1 to 1 on symmetric grids): DoReFa's activations."""

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        high = samples.new_ones(len(samples))
        return (-high if form.symmetric else torch.zeros_like(high)), high
