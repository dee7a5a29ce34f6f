"""Pictures that lie on their side in the file, as those of phones do, and the way to put them upright."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from plisse.data.frames import Frame

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class Turn:
    """Rows and columns change places (swap), then columns (mirror) and rows (flip) go in reverse.

    >>> str(Turn(swap=True, mirror=True)), str(Turn(mirror=True))
    ('a quarter to the right', 'mirrored')
    """

    swap: bool = False
    mirror: bool = False
    flip: bool = False

    def __bool__(self) -> bool:
        return self.swap or self.mirror or self.flip

    def __str__(self) -> str:
        if self.swap != (self.mirror != self.flip):
            return "mirrored" if not self.swap else "mirrored, with rows for columns"
        if not self.swap:
            return "upside down"
        return "a quarter to the right" if self.mirror else "a quarter to the left"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out."""
        return (width, height) if self.swap else (height, width)

    def apply(self, frame: Frame) -> Frame:
        """The frame, turned. Exact, but for the chroma of "420" with an odd side that is reversed."""
        if not self:
            return frame
        if frame.size[0] % 2 or frame.size[1] % 2:  # samples of chroma would lie amid other pixels
            frame = frame.with_chroma("444")
        sides = [side for side, back in ((0, self.flip), (1, self.mirror)) if back]
        first, second, third = (
            torch.flip(plane.T if self.swap else plane, sides).contiguous() for plane in frame.planes
        )
        return replace(frame, planes=(first, second, third))


def turn_of(frame: av.VideoFrame) -> Turn | None:
    """What the display matrix of a decoded frame asks for; None for angles between quarters of a turn."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Turn()
    right, down, _, right_of_row, down_of_row, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    if right and down_of_row and not (down or right_of_row):
        return Turn(False, right < 0, down_of_row < 0)
    if down and right_of_row and not (right or down_of_row):
        return Turn(True, right_of_row < 0, down < 0)
    return None
