from __future__ import annotations

import pytest

from plisse.core.spec import Spec
from plisse.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet20", Spec("resnet20")),
        ("resnet18(classes=10, stem='small')", Spec("resnet18", "", {"classes": 10, "stem": "small"})),
        ("resnet18?classes=10&stem=small", Spec("resnet18", "", {"classes": 10, "stem": "small"})),
        ("images:a/b.c?size=64", Spec("images", "a/b.c", {"size": 64})),
        ("pkg.mod:make(scale=0.5, deep=true)", Spec("pkg.mod", "make", {"scale": 0.5, "deep": True})),
    ],
)
def test_forms(text: str, expected: Spec) -> None:
    assert Spec.parse(text) == expected


@pytest.mark.parametrize("text", ["", ":x", "a(b)", "a(b=)", "a(b=1, b=2)", "a?1x=2"])
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Spec.parse(text)


def test_only_identifiers_are_callables() -> None:
    assert Spec.parse("pkg.mod:make").is_callable
    assert not Spec.parse("images:some/folder").is_callable
    assert not Spec.parse("resnet20").is_callable
