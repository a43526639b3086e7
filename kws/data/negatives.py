"""What an open microphone hears that is none of the words: windows of long recordings, and words cut in
half.

Both are drawn afresh in every epoch. They are labelled NO_WORD, not `_unknown_`: some hold near silence, and
where the line between the two is, only the clips say.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kws.audio.folders import list_recordings
from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.audio.shards import CACHE_VERSION, writable_cache
from kws.base.errors import UserError
from kws.base.features import FrontEnd
from kws.base.files import appears_complete, delete_leftovers, lock
from kws.base.settings import NO_WORD, SILENCE_INDEX

CUT = 0.35, 0.65  # of a clip: where the first of two words ends and the second begins
BLOCK = 2**20  # samples that are read at once


class LongRecordings:
    """Recordings of any length, decoded to files of int16 samples that are read when they are asked for.

    A window is numbered by the recording it is in and the sample that it begins at: there are `windows`,
    those of each folder in one of the ranges `of_folders`. A recording of less than two clips has as many
    windows as a clip has samples, some of them the same, so that it is not drawn less often for being short;
    one of less than a clip is followed by zeros.
    """

    def __init__(self, folders: list[list[Path]], window_samples: int):
        files = [file for folder in folders for file in folder]
        lengths = np.array([file.stat().st_size // 2 for file in files], np.int64)  # of int16
        self._files = files
        self._starts = np.maximum(1, lengths - window_samples + 1)  # where windows can begin
        counts = np.where(lengths > 0, np.maximum(self._starts, window_samples), 0)
        self._ends = np.cumsum(counts)
        self.windows = int(counts.sum())
        ends = [0, *np.cumsum([len(folder) for folder in folders])]
        ends = [int(self._ends[end - 1]) if end else 0 for end in ends]
        self.of_folders = [range(*pair) for pair in zip(ends, ends[1:], strict=False)]

    def pieces(self) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
        """Of each recording with a window: the number of its first one, and the samples, int16, in blocks."""
        first = 0
        for file, end in zip(self._files, self._ends.tolist(), strict=True):
            if end > first:
                samples = np.memmap(file, np.int16, "r")
                yield first, (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
            first = end

    def read(self, window: int, out: np.ndarray) -> np.ndarray:
        """The samples of a window, into `out`, int16 [window_samples]."""
        number = int(np.searchsorted(self._ends, window, side="right"))
        start = int(window) - (int(self._ends[number - 1]) if number else 0)
        starts = int(self._starts[number])
        if starts == 1:  # it may be shorter
            out[:] = 0
        # opened for each window: a system lets a process hold some thousand files open, and here may be more
        with open(self._files[number], "rb", buffering=0) as file:
            file.seek(start % starts * out.itemsize)
            file.readinto(out)
        return out


def open_long_recordings(folders: tuple[str, ...], front_end: FrontEnd) -> LongRecordings:
    """All recordings in these folders and the folders in them, each decoded once, block after block.

    UserError where a folder has none that can be read.
    """
    decoded = []
    for folder in map(Path, folders):
        decoded.append(_decoded(folder, front_end))
        if not any(file.stat().st_size for file in decoded[-1]):
            raise UserError(f"{folder} has no recordings that can be read")
    return LongRecordings(decoded, front_end.clip_samples)


def recordings_below(folder: Path) -> list[Path]:
    """The recordings in a folder and in the folders below it, sorted."""
    return sorted(folder / name for name, _, _ in list_recordings(folder))


def _decoded(folder, front_end) -> list[Path]:
    """The files of decoded samples of a folder's recordings, in its cache."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    from tqdm import tqdm

    recordings = recordings_below(folder)
    cache = writable_cache(folder)

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
                for block in audio_blocks(file, front_end.sample_rate):
                    out.write(block.tobytes())
        except BadAudio as error:
            return f"left out {recording}: it {error}"
        return None

    with lock(cache / "lock", f"waiting for another run that decodes {folder}"):
        delete_leftovers(cache / "*.pcm")
        missing = [recording for recording in recordings if not target(recording).exists()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            progress = tqdm(
                pool.map(decode, missing),
                f"decoding {folder.name}",
                len(missing),
                unit=" files",
                disable=None,
            )
            for problem in progress:
                if problem:
                    progress.write(problem)
    return [target(recording) for recording in recordings if target(recording).exists()]


class TrainingAudio:
    """The clips that training draws, numbered: those of the data set (kws.data.clips), after them windows
    of long recordings (`windows`, by folder), and windows between two words (`cut_words`).
    """

    def __init__(self, clips, negatives: LongRecordings | None):
        self._clips, self._negatives = clips, negatives
        self._recordings = np.flatnonzero(clips.label != SILENCE_INDEX)
        self.first_window = len(clips)
        folders = negatives.of_folders if negatives else []
        self.windows = [range(len(clips) + part.start, len(clips) + part.stop) for part in folders]
        end = len(clips) + (negatives.windows if negatives else 0)
        self.cut_words = range(end, end + 2**31)

    def windows_to_draw(self, count: int) -> list[tuple[range, int]]:
        """(range, how many) to draw `count` windows from the folders, the same number from each: a few
        recordings of what was wrongly detected weigh as much as hours of speech.
        """
        folders = len(self.windows)
        return [
            (part, count // folders + (number < count % folders)) for number, part in enumerate(self.windows)
        ]

    def labels(self, chosen: np.ndarray) -> np.ndarray:
        """Label of each of the clips `chosen`, int32; NO_WORD for windows."""
        is_clip = chosen < len(self._clips)
        labels = self._clips.label[np.where(is_clip, chosen, 0)]
        return np.where(is_clip, labels, NO_WORD).astype(np.int32)

    def audio(self, chosen: np.ndarray) -> np.ndarray:
        """Their samples, int16 [len(chosen), clip_samples]."""
        is_clip = chosen < len(self._clips)
        if is_clip.all():
            return self._clips.audio(chosen)
        audio = np.empty((len(chosen), self._clips.pcm[0].shape[1]), np.int16)
        audio[is_clip] = self._clips.audio(chosen[is_clip])
        for row in np.flatnonzero(~is_clip):
            number = int(chosen[row])
            if number < self.cut_words.start:
                self._negatives.read(number - self.first_window, audio[row])
            else:
                self._between_words(number - self.cut_words.start, audio[row])
        return audio

    def _between_words(self, number, out):
        """The end of one clip and the beginning of another; `number` chooses them and where they are cut."""
        rng = np.random.default_rng(number)
        first, second = rng.choice(self._recordings, 2)
        cut = int(rng.uniform(*CUT) * len(out))
        out[: len(out) - cut] = self._clips.samples(first)[cut:]
        out[len(out) - cut :] = self._clips.samples(second)[:cut]
