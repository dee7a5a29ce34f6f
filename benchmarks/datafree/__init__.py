"""Compression without data beside compression with it."""
