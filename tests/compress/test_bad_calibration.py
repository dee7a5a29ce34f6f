"""Every step of quantization that reads calibration inputs says what is wrong with them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from plisse.compress.correct import BiasCorrection
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.quantize.importance import Curvature, InputEnergy
from plisse.compress.quantize.intervals import Intervals, Signs
from plisse.compress.quantize.mixed.curvature import Fisher, HessianTrace
from plisse.compress.quantize.mixed.eigenvalue import HessianEigenvalue
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.output import OutputMSE
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding import GPTQ, AdaQuant, AdaRound, Reconstruct
from plisse.compress.smooth import ActivationAware, Smooth
from plisse.compress.step import Step, chain
from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError
from plisse.train.task import Task, classification

BUDGET = "bytes=0.2x"
STEPS: dict[str, Step] = {
    "activations": Quantize(4, activations=Activations(4)),
    "intervals": Quantize(4, activations=Intervals(2)),
    "signs": Quantize(4, activations=Signs()),
    "input energy": Quantize(grid=KMeans(3), importance=InputEnergy()),
    "curvature": Quantize(grid=KMeans(3), importance=Curvature()),
    "GPTQ": Quantize(4, rounding=GPTQ()),
    "AdaRound": Quantize(4, rounding=AdaRound(steps=2)),
    "AdaQuant": Quantize(4, rounding=AdaQuant(steps=2)),
    "reconstruction": Quantize(4, rounding=Reconstruct(steps=2)),
    "output error": Quantize(4, rounding=OutputMSE()),
    "smoothing": Smooth(),
    "activation-aware": ActivationAware(),
    "bias correction": chain(Quantize(4), BiasCorrection()),
    "perturbation": MixedPrecision(BUDGET),
    "Hessian trace": MixedPrecision(BUDGET, sensitivity=HessianTrace()),
    "Hessian eigenvalue": MixedPrecision(BUDGET, sensitivity=HessianEigenvalue()),
    "Fisher": MixedPrecision(BUDGET, sensitivity=Fisher()),
    "compensation": chain(RateQuantize({"0.weight": 0.01, "3.weight": 0.01}), Compensate()),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).eval()


def task(inputs: Tensor) -> Task:
    fine = BatchList((Batch(torch.randn(4, 3, 4, 4), torch.zeros(4, dtype=torch.long)),))
    given = BatchList((Batch(inputs),) if len(inputs) else ())
    return dataclasses.replace(
        classification("made", torch.randn(2, 3, 4, 4), fine, fine, fine), calibration=given
    )


@pytest.mark.parametrize("name", STEPS)
def test_bad_calibration_is_an_input_error(name: str) -> None:
    model, step = net(), STEPS[name]
    step(model, task(torch.randn(4, 3, 4, 4)))
    broken = torch.randn(4, 3, 4, 4)
    broken[1, 0, 2, 2] = torch.nan
    for inputs, text in ((broken, "NaN"), (torch.randn(4, 5, 4, 4), r"\(4, 5, 4, 4\)")):
        with pytest.raises(InputError, match=text):
            step(model, task(inputs))
    with pytest.raises(InputError, match="calibration"):
        step(model, task(torch.empty(0)))
