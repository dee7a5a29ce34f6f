"""The reduced parameter space: weights of a neuron on the unit sphere, its threshold in an interval.

Brings a trained network into that form exactly (`canonicalize`), trains inside it (`training`), and stores
what is in it on one grid per fan-in (`shared`).
"""
