"""How a window moves over a stream: what `hw.engine` and `hw.window` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from math import prod

import numpy as np

__all__ = ["Sliding"]


class Sliding:
    """Part of the descriptions of blocks that look at windows; these have the fields `moves` and `frame`.

    `moves` holds positions along each axis, innermost first, and by how many words the window moves on along it;
    `frame` are the words from the window of a frame's last position to the next frame's first.
    """

    moves: tuple[tuple[int, int], ...]
    frame: int

    @property
    def positions(self) -> int:
        """Windows of a frame."""
        return prod(count for count, _ in self.moves)

    @property
    def frame_words(self) -> int:
        """Words of a frame."""
        total, repeats = self.frame, 1
        for count, words in reversed(self.moves):
            total += repeats * (count - 1) * words
            repeats *= count
        return total

    @property
    def moved(self) -> np.ndarray:
        """Words by which the window moves on after each position of a frame."""
        moved = np.array([self.frame], np.int64)
        for count, words in reversed(self.moves):
            moved = np.concatenate([np.array([*[words] * (count - 1), int(m)], np.int64) for m in moved])
        return moved

    def advances(self) -> Iterator[int]:
        """Words by which the window moves on after each position, frame after frame."""
        for position in cycle(range(1, self.positions + 1)):
            left, move = position, self.frame
            for count, words in self.moves:
                if left % count:
                    move = words
                    break
                left //= count
            yield move
