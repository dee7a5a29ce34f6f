"""Steps that make a network smaller, and `compress`, which meets a budget with them.

`plisse.compress` is this package and the function of that name at once: importing any module of the package
binds the package to the name, so the package is made callable and passes calls on.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See plisse.compress.compress.compress."""
        from plisse.compress.compress import compress

        return compress(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
