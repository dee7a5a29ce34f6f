"""Plissé: neural networks at every size."""

__version__ = "0.1.0"
