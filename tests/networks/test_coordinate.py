from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.core.origin import Origin
from plisse.errors import InputError
from plisse.networks.build import build
from plisse.networks.coordinate import FrameGenerator, coordinates, fourier_mlp, siren


def test_coordinates_are_centres_row_by_row_and_symmetric() -> None:
    grid = coordinates(3, 4).reshape(3, 4, 2)
    assert torch.allclose(grid, -grid.flip(0, 1))
    assert torch.all(grid[1, :, 0] == 0)
    assert grid.abs().max() == 0.75
    fine = coordinates(6, 8).reshape(3, 2, 4, 2, 2).mean((1, 3))
    assert torch.allclose(fine, grid, atol=1e-6)


def test_sine_layers_keep_their_spread() -> None:
    torch.manual_seed(0)
    x = coordinates(40, 40)
    spreads = []
    for layer in siren(width=256, depth=5):
        x = layer(x)
        spreads.append(float(x.detach().std()))
    after_sine = spreads[1:-1:2]
    assert max(after_sine[1:]) / min(after_sine[1:]) < 1.1
    assert 0.5 < after_sine[-1] < 0.8  # of an arcsine distribution: 0.707


@pytest.mark.parametrize("make", [siren, fourier_mlp])
def test_a_coordinate_network_learns_a_slope(make: type) -> None:
    torch.manual_seed(0)
    net: nn.Module = make(width=16, depth=2)
    grid = coordinates(16, 16)
    target = grid[:, :1] * 0.3 + 0.5
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    before = float((net(grid) - target).detach().square().mean())
    for _ in range(60):
        optimizer.zero_grad()
        (net(grid) - target).square().mean().backward()
        optimizer.step()
    assert float((net(grid) - target).detach().square().mean()) < 0.1 * before


def test_frequencies_come_from_the_seed_and_not_from_the_file() -> None:
    a, b, c = fourier_mlp(seed=1), fourier_mlp(seed=1), fourier_mlp(seed=2)
    assert torch.equal(a[0].frequencies, b[0].frequencies)
    assert not torch.equal(a[0].frequencies, c[0].frequencies)
    assert "0.frequencies" not in a.state_dict()


def test_a_change_of_the_latent_stays_near() -> None:
    torch.manual_seed(0)
    net = FrameGenerator(64, 64, width=4, doublings=2)
    with torch.no_grad():
        before = net()
        net.latent[0, :, 0, 0] += 1
        change = (net() - before).abs().amax(0)
    assert change[:8, :8].max() > 0
    assert change[16:, 16:].max() == 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("siren", {"width": 8, "depth": 2}),
        ("fourier_mlp", {"width": 8, "features": 4}),
        ("frame_generator", {"height": 18, "width_pixels": 22, "width": 4, "doublings": 3}),
    ],
)
def test_they_are_built_in(name: str, arguments: dict[str, int]) -> None:
    net = build(Origin("builtin", name, arguments))
    out = net() if isinstance(net, FrameGenerator) else net(coordinates(4, 4))
    assert out.shape[0] == (3 if isinstance(net, FrameGenerator) else 16)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="depth=0"):
        siren(depth=0)
    with pytest.raises(InputError, match="sigma=-1"):
        fourier_mlp(sigma=-1)
    with pytest.raises(InputError, match="height=0"):
        FrameGenerator(0, 4)
