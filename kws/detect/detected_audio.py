"""The audio of detections: kept while it passes, and saved as WAV files by word."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kws.audio.recordings import wav_bytes
from kws.base.errors import UserError
from kws.base.files import write_bytes

BEFORE_S = 0.5  # of audio before the windows that were averaged: what led up to it
LONGEST_STEM = 40  # characters of a file's name that are in those of its detections


class RecentAudio:
    """The latest audio of a stream that may have no end: the block that came last, and before it as much as a
    score is of, `scored_s`, and BEFORE_S more.
    """

    def __init__(self, scored_s: float, sample_rate: int):
        self._scored, self._rate = scored_s, sample_rate
        self._before = int((scored_s + BEFORE_S) * sample_rate) + 1
        self._kept, self._start = np.zeros(0, np.int16), 0

    def passing(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks, int16 [samples], each kept before it is passed on."""
        for block in blocks:
            excess = max(0, len(self._kept) - self._before)
            self._kept, self._start = np.concatenate([self._kept[excess:], block]), self._start + excess
            yield block

    @property
    def seconds(self) -> float:
        """How long the stream has been so far."""
        return (self._start + len(self._kept)) / self._rate

    def scored_around(self, seconds: float) -> np.ndarray:
        """The audio that a score with its middle at `seconds` is of, and BEFORE_S before: int16 [samples]."""
        ends = seconds - self._scored / 2 - BEFORE_S, seconds + self._scored / 2
        first, end = (max(0, round(place * self._rate) - self._start) for place in ends)
        return self._kept[first:end].copy()


class DetectionFolder:
    """A folder that takes the audio of detections, in a folder for each word.

    Raises UserError where it cannot be written.
    """

    def __init__(self, folder, sample_rate: int):
        self._folder, self._rate = Path(folder), sample_rate
        self._started = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, source: str, seconds: float, word: str, score: float, samples: np.ndarray) -> Path:
        """Write a detection's `samples`, int16, to <word>/<source>_nohash_<seconds>s_<score>.wav.

        `source` is the path of the recording, or - for a stream, which has the time of its start instead. All
        of a recording's detections are of one speaker, as names with _nohash_ say, so that none is learnt
        while another is tested on. The same detection has the same name, others have others.
        """
        path = self._folder / word / f"{self._stem(source)}_nohash_{seconds:.3f}s_{score:.2f}.wav"
        with _writing(self._folder):
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, wav_bytes(samples, self._rate))
        return path

    def _stem(self, source):
        if not os.path.isfile(source):
            return f"stream-{self._started}"
        stem = re.sub(r"[^\w-]+", "_", Path(source).stem).lstrip("_")[:LONGEST_STEM]
        digest = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:6]  # files of one name
        return f"{stem}-{digest}" if "_nohash_" not in stem else f"{stem}_{digest}"


@contextlib.contextmanager
def _writing(folder):
    """Turn errors of the system into UserError, which tells them from those of reading recordings."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot save detections in {folder}: {error.strerror or error}") from None
