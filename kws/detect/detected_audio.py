"""The audio of detections: taken from what passed, and saved as WAV files by word."""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

import numpy as np

from kws.audio.recordings import wav_bytes
from kws.base.errors import UserError
from kws.base.files import write_bytes
from kws.detect.recent_audio import RecentAudio

BEFORE_S = 0.5  # audio that is kept before what was scored, because it may have led up to a detection
LONGEST_STEM = 40  # characters of a recording's name in the names of its detections


def history(scored_s: float, sample_rate: int) -> int:
    """Return the number of samples to keep before each block, for `scored_audio` of a score in that block."""
    return int((scored_s + BEFORE_S) * sample_rate) + 1


def scored_audio(recent: RecentAudio, seconds: float, scored_s: float, sample_rate: int) -> np.ndarray:
    """Return the audio behind a score, and BEFORE_S before it: int16 [samples].

    `seconds` is the middle of the `scored_s` seconds that were scored.
    """
    # in seconds since the start of the stream; before it there is nothing to keep
    start, end = seconds - scored_s / 2 - BEFORE_S, seconds + scored_s / 2
    return recent.between(round(start * sample_rate), round(end * sample_rate))


class DetectionFolder:
    """A folder that takes the audio of detections, in a folder for each word.

    Raises UserError if it cannot be written.
    """

    def __init__(self, folder, sample_rate: int):
        self._folder, self._rate = Path(folder), sample_rate
        # the process number tells apart streams that start in the same second
        self._started = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, source: str, seconds: float, word: str, score: float, samples: np.ndarray) -> Path:
        """Write a detection's `samples`, int16, to <word>/<source>_nohash_<seconds>s_<score>.wav.

        `source` is the path of the recording, or - for a stream, which gets the time of its start as a name.
        The same detection has the same name, other detections have others. All detections in a recording have
        one speaker, as names with _nohash_ say, so that none is learnt while another is tested on.
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
        # files of one name lie in different folders
        digest = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:6]
        return f"{stem}-{digest}" if "_nohash_" not in stem else f"{stem}_{digest}"


@contextlib.contextmanager
def _writing(folder):
    """Turn errors of the system into UserError, so that they are told from errors in reading recordings."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot save detections in {folder}: {error.strerror or error}") from None
