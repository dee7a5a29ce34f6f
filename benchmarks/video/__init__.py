"""Rate and distortion of clips under this codec and others: `python -m benchmarks.video`."""

from benchmarks.video.tables import section

__all__ = ["section"]
