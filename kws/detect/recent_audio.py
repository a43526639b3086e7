"""The latest audio of a stream that may have no end."""

from collections.abc import Iterable, Iterator

import numpy as np


class RecentAudio:
    """Blocks of samples, int16, that are passed on while the latest are kept.

    What is kept is the block that came last, and `kept` samples before it.
    """

    def __init__(self, blocks: Iterable[np.ndarray], kept: int):
        self._blocks, self._kept = blocks, kept
        # int16 [samples], and the number of the first of them since the start of the stream
        self._samples, self._start = np.zeros(0, np.int16), 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            # the reader asks about a block while it has it, so this block is kept whole
            excess = max(0, len(self._samples) - self._kept)
            self._samples, self._start = np.concatenate([self._samples[excess:], block]), self._start + excess
            yield block

    @property
    def received(self) -> int:
        """Return the number of samples since the start of the stream."""
        return self._start + len(self._samples)

    def between(self, start: int, end: int) -> np.ndarray:
        """Return the samples from number `start` to before `end`, but those no longer kept: int16."""
        first, stop = (max(0, number - self._start) for number in (start, end))
        # a view would keep the whole array in memory
        return self._samples[first:stop].copy()
