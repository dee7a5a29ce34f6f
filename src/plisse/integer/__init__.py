"""Networks that compute in integers: a reference in plain integer arithmetic, and fast kernels."""

from plisse.integer.convert import StaysFloat, to_integer
from plisse.integer.network import IntegerNetwork, layer_differences

__all__ = ["IntegerNetwork", "StaysFloat", "layer_differences", "to_integer"]
