from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from plisse.core.origin import Origin, origin_of
from plisse.errors import InputError
from plisse.networks.build import build

FACTORY = "torch.nn.modules.linear:Linear"
SIMPLE = [
    Origin("builtin", "digits_cnn"),
    Origin("builtin", "resnet18", {"classes": 5, "stem": "small"}),
    Origin("builtin", "resnet20", {"channels": 1}),
    Origin("factory", FACTORY, {"in_features": 3, "out_features": 2}),
]


@pytest.mark.parametrize("origin", SIMPLE, ids=lambda origin: origin.name)
def test_an_origin_gives_the_same_structure_and_is_noted(origin: Origin) -> None:
    first, second = build(origin, (FACTORY,)), build(origin, (FACTORY,), seed=1)
    assert origin_of(first) == origin
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (first, second)]
    assert shapes[0] == shapes[1]
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_seeds_decide_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build(SIMPLE[0])
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.fc1.weight, build(SIMPLE[0]).fc1.weight)


def test_unknown_names_list_what_exists_and_the_closest() -> None:
    with pytest.raises(InputError, match=r"'resnet21'.*digits_cnn.*try: resnet20"):
        build(Origin("builtin", "resnet21"))
    with pytest.raises(InputError, match="kind 'pickle'"):
        build(Origin("pickle", "x"))


def test_a_factory_runs_only_when_allowed() -> None:
    with pytest.raises(InputError, match=f"--allow {FACTORY}"):
        build(SIMPLE[3])
    with pytest.raises(InputError, match="--allow os:system"):
        build(Origin("factory", "os:system", {"command": "true"}), (FACTORY,))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("no_such_package.here:make", {}, "can be imported"),
        ("torch.nn:Absent", {}, "can be imported"),
        ("torch:__version__", {}, "a callable"),
        ("collections:OrderedDict", {}, "a torch.nn.Module"),
        (FACTORY, {"width": 3}, "options in_features"),
    ],
)
def test_factories_that_fail(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(Origin("factory", name, arguments), (name,))


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 10**12},
        {"classes": 0},
        {"classes": -1},
        {"classes": "ten"},
        {"classes": 2.5},
        {"depth": 3},
    ],
)
def test_hostile_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError):
        build(Origin("builtin", "resnet20", arguments))


@pytest.mark.slow
def test_building_images_networks_needs_no_transformers() -> None:
    code = (
        "import sys, plisse.networks.build as b, plisse.train.tasks; from plisse.core.origin import Origin;"
        "b.build(Origin('builtin', 'resnet20')); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_built_is_a_module() -> None:
    assert isinstance(build(SIMPLE[0]), nn.Module)
