from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from standins import Calls

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("report", "networks")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for what takes long, so that these tests look at the command line alone."""
    import invented
    from torch import nn

    made = Calls()

    def stand_in(module: str, name: str, result: Any, **others: Any) -> None:
        def called(*args: Any, **given: Any) -> Any:
            made.append((name, {**dict(enumerate(args)), **given}))
            return result() if callable(result) else result

        stub = types.ModuleType(module)
        stub.__dict__.update({name: called, **others})
        monkeypatch.setitem(sys.modules, module, stub)

    stand_in("plisse.networks.open", "open_model", nn.Identity)
    stand_in("plisse.train.tasks", "open_task", lambda: object(), TASKS={"digits": 0, "cifar10": 0})
    stand_in("plisse.compress.recipe", "read_recipe", "steps")
    stand_in("plisse.compress.compress", "compress", invented.result)
    return made
