"""The public surface: every name resolves, is documented, and importing the package stays light."""

import subprocess
import sys

import pytest

import plisse


@pytest.mark.parametrize("name", plisse.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(plisse, name)
    if name != "__version__":
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_compress_is_callable_whatever_was_imported_before() -> None:
    code = "import plisse, plisse.compress.step; plisse.FineTune; plisse.compress(None, None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: got neither a budget nor a recipe" in done.stderr


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = plisse.nothing_of_that_name


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, plisse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
