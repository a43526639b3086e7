"""Negatives: windows of long recordings, which hold what an open microphone hears beside the words.

They are drawn afresh in every epoch. Their label is NO_WORD, not `_unknown_`: some hold near silence, and
only the clips say where the line between silence and unknown is.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kws.audio.folders import list_recordings, report_left_out
from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.audio.shards import CACHE_VERSION, writable_cache
from kws.base.errors import UserError
from kws.base.features import FrontEnd
from kws.base.files import appears_complete, delete_leftovers, lock
from kws.base.settings import NO_WORD
from kws.data.clips import Clips

BLOCK = 2**20  # samples that are read at once: 2 MiB, a minute at 16 kHz


# ---- recordings of any length ----


class LongRecordings:
    """Recordings of any length, decoded to files of int16 samples that are read when they are needed.

    A window is one clip's length of audio. The windows of all recordings are numbered one after the other,
    `windows` in all; `of_folders` has the range of each folder's numbers. Short recordings must not be drawn
    less often for being short. So a recording shorter than two clips has as many windows as a clip has
    samples, some of them twice, and one shorter than a clip is followed by zeros.
    """

    def __init__(self, folders: list[list[Path]], window_samples: int):
        self._files = [file for folder in folders for file in folder]
        lengths = np.array([file.stat().st_size // 2 for file in self._files], np.int64)  # of int16
        # [files]: places where a window can begin
        self._starts = np.maximum(1, lengths - window_samples + 1)
        # [files]: windows, none in a file without samples
        counts = np.where(lengths > 0, np.maximum(self._starts, window_samples), 0)
        # [files]: number of the window after a file's last
        self._ends = np.cumsum(counts)
        self.windows = int(counts.sum())
        # [folders + 1]: number of files before each folder, and of all
        files_until = np.cumsum([0, *map(len, folders)])
        ends = [int(self._ends[count - 1]) if count else 0 for count in files_until]
        self.of_folders = [range(*pair) for pair in zip(ends, ends[1:], strict=False)]

    def pieces(self) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
        """Yield for each recording with a window the number of its first, and the int16 samples in blocks."""
        first = 0
        for file, end in zip(self._files, self._ends.tolist(), strict=True):
            if end > first:
                # hours of audio stay on disk
                samples = np.memmap(file, np.int16, "r")
                yield first, (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
            first = end

    def read(self, window: int, out: np.ndarray) -> np.ndarray:
        """Read the samples of a window into `out`, int16 [window_samples], and return it."""
        number = int(np.searchsorted(self._ends, window, side="right"))
        start = int(window) - (int(self._ends[number - 1]) if number else 0)
        starts = int(self._starts[number])
        if starts == 1:
            # the recording may be shorter than the window
            out[:] = 0
        # opened for each window: a process may hold some thousand files open, and there may be more
        with open(self._files[number], "rb", buffering=0) as file:
            # a short recording has more windows than places, so places come again
            file.seek(start % starts * out.itemsize)
            file.readinto(out)
        return out


def open_long_recordings(folders: tuple[str, ...], front_end: FrontEnd) -> LongRecordings:
    """Open all recordings in these folders and in the folders below them; each is decoded once.

    Raises UserError if a folder has no recording that can be read.
    """
    decoded = []
    for folder in map(Path, folders):
        decoded.append(_decoded(folder, front_end))
        if not any(file.stat().st_size for file in decoded[-1]):
            raise UserError(f"{folder} has no recordings that can be read")
    return LongRecordings(decoded, front_end.clip_samples)


def recordings_below(folder: Path) -> list[Path]:
    """Return the recordings in a folder and below it, sorted; print which folders are left out."""
    report_left_out(folder)
    return sorted(folder / name for name, _, _ in list_recordings(folder))


def _decoded(folder, front_end) -> list[Path]:
    """Decode a folder's recordings that are not in its cache yet; return the files of samples."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    from tqdm import tqdm

    recordings = recordings_below(folder)
    cache = writable_cache(folder)

    # the name of a decoded file says of what recording it is, and at what rate
    def target(recording):
        status = recording.stat()
        what = CACHE_VERSION, str(recording.relative_to(folder)), status.st_size, status.st_mtime_ns
        name = hashlib.sha256(json.dumps([*what, front_end.sample_rate]).encode()).hexdigest()[:24]
        return cache / f"long-{name}.pcm"

    def decode(recording):
        try:
            with (
                open_audio(recording) as file,
                appears_complete(target(recording), sweep=False) as partial,
                open(partial, "wb") as out,
            ):
                # int16 of the platform's byte order, as memmap reads them
                for block in audio_blocks(file, front_end.sample_rate):
                    out.write(block.tobytes())
        except BadAudio as error:
            return f"left out {recording}: it {error}"
        return None

    with lock(cache / "lock", f"waiting for another run that decodes {folder}"):
        # once for all files, so not for each that is written
        delete_leftovers(cache / "*.pcm")
        missing = [recording for recording in recordings if not target(recording).exists()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems, title = pool.map(decode, missing), f"decoding {folder.name}"
            progress = tqdm(problems, title, len(missing), unit=" files", disable=None)
            for problem in filter(None, progress):
                progress.write(problem)
    return [target(recording) for recording in recordings if target(recording).exists()]


# ---- among the clips that training draws ----


class TrainingAudio:
    """The clips that training draws, by number: the labelled clips, then the windows of long recordings.

    `windows` has the range of each folder's windows, the first of which is `first_window`.
    """

    def __init__(self, clips: Clips, negatives: LongRecordings | None):
        self._clips, self._negatives = clips, negatives
        # windows are numbered on from the last clip
        first = self.first_window = len(clips)
        folders = negatives.of_folders if negatives else []
        self.windows = [range(first + numbers.start, first + numbers.stop) for numbers in folders]

    def windows_to_draw(self, count: int) -> list[tuple[range, int]]:
        """Share `count` windows evenly among the folders: return (range, number to draw) for each.

        So a few recordings of wrong detections weigh as much as hours of speech.
        """
        share, more = divmod(count, max(1, len(self.windows)))
        return [(numbers, share + (place < more)) for place, numbers in enumerate(self.windows)]

    def labels(self, chosen: np.ndarray) -> np.ndarray:
        """Return the label of each of the clips `chosen`, int32; NO_WORD for windows."""
        is_clip = chosen < self.first_window
        # any clip stands in for a window, whose number is beyond the labels
        labels = self._clips.label[np.where(is_clip, chosen, 0)]
        return np.where(is_clip, labels, NO_WORD).astype(np.int32)

    def audio(self, chosen: np.ndarray) -> np.ndarray:
        """Return the samples of the clips `chosen`, int16 [len(chosen), clip_samples]."""
        is_clip = chosen < self.first_window
        if is_clip.all():
            return self._clips.audio(chosen)
        audio = np.empty((len(chosen), self._clips.pcm[0].shape[1]), np.int16)
        audio[is_clip] = self._clips.audio(chosen[is_clip])
        for row in np.flatnonzero(~is_clip):
            self._negatives.read(int(chosen[row]) - self.first_window, audio[row])
        return audio
