"""Elastic networks: one set of weights, many operating points."""
