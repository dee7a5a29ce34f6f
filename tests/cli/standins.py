from __future__ import annotations

from typing import Any


class Calls(list[tuple[str, dict[str, Any]]]):
    """What the stand-ins below were called with."""

    def of(self, name: str) -> dict[str, Any]:
        found = [given for called, given in self if called == name]
        assert found, f"{name} was not called"
        return found[-1]
