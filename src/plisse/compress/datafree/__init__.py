"""Compress with no data: images and sentences made from what a network knows of its training data."""
