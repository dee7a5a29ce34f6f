"""Fitting networks to frames."""

import pytest
from clips import moving

from plisse.codec import fit
from plisse.codec.fit import ramped
from plisse.codec.pictures import Arch
from plisse.codec.weightstep import WeightSteps


def contrast(crf: float) -> float:
    """Standard deviation of the luma of a decoded key frame; that of the frame itself is 40."""
    scheme = WeightSteps(Arch("conv", 6, 4), (32, 48), key_steps=100)
    _, state = scheme.encode(moving(1)[0].planes, None, crf, 0)
    return float(state.planes[0].float().std())


def test_a_coarse_key_network_keeps_its_picture_as_lambda_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert contrast(40) > 15
    monkeypatch.setattr(fit, "RAMP_OCTAVES", 0)
    assert contrast(40) < 5, "all of lambda from the start leaves grey"


def test_lambda_grows_for_half_of_the_steps_and_then_stays() -> None:
    shares = [ramped(step / 20) for step in range(21)]
    assert shares == sorted(shares)
    assert shares[0] < 0.02
    assert set(shares[10:]) == {1.0}
