"""The reduced parameter space: see benchmarks/sphere/__main__.py."""
