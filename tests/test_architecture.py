"""The rules of the tree: no pickle, no code from files, no prints in the library, files of readable size."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parent.parent / "src" / "plisse").rglob("*.py"))
LONGEST = 330


def calls(path: Path) -> set[str]:
    """Dotted names of everything that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(p.parents[2])))
def test_no_pickle_no_eval_and_readable_size(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "import pickle" not in text
    assert not calls(path) & {"eval", "exec", "torch.load", "pickle.loads", "pickle.load", "yaml.load"}
    assert len(text.splitlines()) <= LONGEST, f"{path.name} may hold a second idea"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "cli" not in p.parts], ids=lambda p: str(p.relative_to(p.parents[2]))
)
def test_the_library_does_not_print(path: Path) -> None:
    assert "print" not in calls(path)
