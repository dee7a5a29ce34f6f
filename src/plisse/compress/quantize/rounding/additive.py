"""Additive codes by what they do to outputs: AQLM, and product codes that know their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.codebooks.onlevels import half_through, halves
from plisse.compress.quantize.codebooks.vectors import OnVectors, encoded
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.rounding.capture import check_calibration, limited
from plisse.compress.quantize.rounding.moments import gram
from plisse.compress.quantize.rounding.units import called
from plisse.core import modules
from plisse.core.reparam import Reparam, Reparametrized, baked
from plisse.core.stored import Stored, Vectors, half_precision
from plisse.errors import InputError
from plisse.train.task import Task

STEPS = 30


@dataclass(frozen=True)
class AdditiveCodes:
    """Codes and codebooks in turn for the least error of a layer's outputs, tr((W - W^) H (W - W^)^T), with
    H = X X^T + damping mean(diag(X X^T)) I: block by block of columns, the codes whose sum is nearest, in
    H's metric, to what makes up for the error of all other blocks (beam search); then all codebooks by least
    squares (conjugate gradients). AQLM (Egiazarian et al. 2024, section 3.2) for several codebooks
    (`ResidualQuantization`); for one (`ProductQuantization`), And the bit goes down (Stock et al. 2020) with
    the whole of H. A round that does not lower the error is not kept.

    To be used as `Quantize(grid=ResidualQuantization(8, 8, 2), rounding=AdditiveCodes())`. rounds: 1 and up.
    damping: above 0. samples: of calibration. Codes are fixed afterwards: further training moves codebooks.
    AQLM's scale per channel is left out, and its training of whole blocks is `aware`.

    Linear layers and convolutions without groups whose flattened channels are whole numbers of blocks take
    part; others, embeddings and other grids stay as they are, with a note.
    """

    rounds: int = 3
    damping: float = 0.01
    samples: int = 256

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.damping > 0:
            raise InputError(f"rounds={self.rounds}, damping={self.damping}", expected="at least 1, above 0")

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        check_calibration(task.calibration)
        batches = limited(task.calibration, self.samples)
        copy = modules.clone(quantized)
        assert isinstance(copy, Reparametrized)
        work, table, left = modules.clone(baked(copy)).eval(), dict(copy.reparams), []
        for name, calls in called(copy, batches[0].inputs).items():
            layer, weight = work.get_submodule(name), f"{name}.weight".lstrip(".")
            grid = table.get(weight)
            if isinstance(grid, OnVectors) and _takes(layer, grid):
                squares = gram(work, None, name, batches, calls).squares[0]
                table[weight] = self.refined(grid, squares)
                modules.set_tensor(work, weight, table[weight]().detach())
            elif grid is not None:
                left.append(f"{weight!r}: codes stay as they are")
        return with_notes(Reparametrized(copy.model, table), left)  # type: ignore[return-value]

    def refined(self, grid: OnVectors, squares: Tensor) -> FixedVectors:
        """Codes and codebooks of one weight for H = `squares` [K, K] before damping."""
        with torch.no_grad():
            weight = grid.source().detach().double()
            rows = weight.flatten(1)
            mean = squares.diagonal().mean().clamp_min(1e-12)
            hessian = squares + self.damping * mean * torch.eye(len(squares), dtype=squares.dtype)
            books = half_through(grid.codebooks.detach(), grid.half_type).double()
            codes = grid._symbols(weight.float())  # [M, blocks]
            best, least = (codes, books), error(rows, codes, books, hessian)
            for _ in range(self.rounds):
                codes = chosen_codes(rows, codes, books, hessian)
                books = _one_half(fitted_books(rows, codes, books, hessian))
                found = error(rows, codes, books, hessian)
                if found >= least:
                    break
                best, least = (codes, books), found
        return FixedVectors(best[0], best[1].float(), tuple(weight.shape))


class FixedVectors(Reparam):
    """Sums of codebook entries with codes that do not change: symbols [M, blocks]. The codebooks [M, K, d]
    are a parameter, whose gradient is divided by the square root of the blocks per entry."""

    symbols: Tensor

    def __init__(self, symbols: Tensor, codebooks: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.half_type = half_precision(codebooks.detach().cpu().numpy()) or "bfloat16"
        self.codebooks = nn.Parameter(codebooks.detach().clone())
        self.register_buffer("symbols", symbols.detach().clone())
        self.entry_gradient = (codebooks.shape[1] / max(symbols.shape[1], 1)) ** 0.5
        self.shape = shape

    def forward(self) -> Tensor:
        books = half_through(ScaleGradient.apply(self.codebooks, self.entry_gradient), self.half_type)
        total = books[0][self.symbols[0]]
        for book, row in zip(books[1:], self.symbols[1:], strict=True):
            total = total + book[row]
        return total.reshape(-1)[: torch.Size(self.shape).numel()].reshape(self.shape)

    def stored(self) -> Stored:
        with torch.no_grad():
            books = half_through(self.codebooks, self.half_type).cpu().numpy()
        return Stored(self.symbols.to(torch.int32).cpu().numpy(), self.shape, Vectors(books))


def summed(codes: Tensor, books: Tensor, rows: Tensor) -> Tensor:
    """The weight [R, K] that codes [M, blocks] stand for."""
    return sum((book[row] for book, row in zip(books, codes, strict=True)), torch.zeros(())).reshape(
        rows.shape
    )


def error(rows: Tensor, codes: Tensor, books: Tensor, hessian: Tensor) -> float:
    """tr((W - W^) H (W - W^)^T)."""
    change = rows - summed(codes, books, rows)
    return float(((change @ hessian) * change).sum())


def chosen_codes(rows: Tensor, codes: Tensor, books: Tensor, hessian: Tensor) -> Tensor:
    """New codes, block after block of columns, with all other blocks as they are."""
    d = books.shape[2]
    codes = codes.reshape(len(codes), len(rows), -1).clone()  # [M, R, blocks of a row]
    change = rows - summed(codes.flatten(1), books, rows)
    for block in range(codes.shape[2]):
        at = slice(block * d, (block + 1) * d)
        own = hessian[at, at]
        others = change.clone()
        others[:, at] = 0
        target = rows[:, at] + torch.linalg.solve(own, (others @ hessian[:, at]).T).T
        root = torch.linalg.cholesky(own)
        found = encoded(target @ root, torch.ones_like(target), books @ root)
        before = summed(codes[:, :, block], books, target)
        after = summed(found, books, target)
        metric: Callable[[Tensor], Tensor] = lambda x, own=own: ((x @ own) * x).sum(1)  # type: ignore[misc]  # noqa: E731
        better = metric(target - after) < metric(target - before)
        codes[:, :, block] = torch.where(better, found, codes[:, :, block])
        change[:, at] = rows[:, at] - torch.where(better[:, None], after, before)
    return codes.flatten(1)


def fitted_books(rows: Tensor, codes: Tensor, books: Tensor, hessian: Tensor) -> Tensor:
    """Codebooks of least error for given codes, by conjugate gradients from `books`."""

    def gathered(weight: Tensor) -> Tensor:
        """The transpose of `summed`: what each entry's blocks have, added up."""
        blocks = weight.reshape(-1, books.shape[2])
        return torch.stack(
            [
                torch.zeros_like(book).index_add_(0, row, blocks)
                for book, row in zip(books, codes, strict=True)
            ]
        )

    found = books.clone()
    left = gathered((rows - summed(codes, found, rows)) @ hessian)
    along, size = left.clone(), float(left.square().sum())
    first = size
    for _ in range(STEPS):
        if size <= 1e-12 * first or size == 0:
            break
        image = gathered(summed(codes, along, rows) @ hessian)
        step = size / max(float((along * image).sum()), 1e-300)
        found, left = found + step * along, left - step * image
        now = float(left.square().sum())
        along, size = left + (now / size) * along, now
    return found


def _one_half(books: Tensor) -> Tensor:
    """Rounded to one 16-bit type."""
    return halves(books.float()).double()


def _takes(layer: Any, grid: OnVectors) -> bool:
    known = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and getattr(layer, "groups", 1) == 1
    return known and layer.weight[0].numel() % grid.codebooks.shape[2] == 0
