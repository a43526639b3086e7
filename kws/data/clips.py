"""Labelled clips, and which partition a recording belongs to."""

import contextlib
import hashlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.audio.shards import PcmFile
from kws.base.features import FrontEnd, mfcc
from kws.base.settings import UNKNOWN_INDEX
from kws.base.text import composed

CLIPS_AT_ONCE = 400  # of a thread, whose buffers are made once for them
PARTITIONS = ("training", "validation", "testing")
# The speakers of synthetic recordings have names that begin with these (kws.synth.engines; and festival).
SYNTHESISERS = "hibari", "piper", "espeak-ng", "mbrola", "rhvoice", "flite", "festival", "pico"
# A few natural voices teach most, so that none can be spared, except speakers of a voice that has several.
NATURAL_VOICE = re.compile(r"(hibari|piper)-(?!.*-s\d+$)")
LAST_POSITION = 99.999  # in per cent of the speakers: held back only if all are


@dataclass(frozen=True)
class Clips:
    """Labelled clips in a fixed order. The audio stays on disk until asked for."""

    pcm: tuple[np.ndarray | PcmFile, ...]  # int16 [rows, clip_samples] each
    source: np.ndarray  # int32 [clips]: which of `pcm` a clip is in
    row: np.ndarray  # int32 [clips]: which row of that
    label: np.ndarray  # int32 [clips]: index into Settings.labels
    names: tuple[str, ...]  # folder/file of each clip, '' for generated silence

    def __len__(self):
        return len(self.label)

    def samples(self, clip: int) -> np.ndarray:
        """Return the audio of one clip, int16 [clip_samples]."""
        return self.pcm[self.source[clip]][self.row[clip]]

    def audio(self, chosen) -> np.ndarray:
        """Return the audio of several clips, int16 [len(chosen), clip_samples]."""
        audio = np.empty((len(chosen), self.pcm[0].shape[1]), np.int16)
        for out, clip in zip(audio, chosen, strict=True):
            pcm, row = self.pcm[self.source[clip]], self.row[clip]
            if isinstance(pcm, PcmFile):
                pcm.read(row, out)
            else:
                out[:] = pcm[row]
        return audio

    def take(self, chosen) -> "Clips":
        """Return the clips with the indices `chosen`, in that order."""
        names = tuple(self.names[i] for i in chosen)
        return Clips(self.pcm, self.source[chosen], self.row[chosen], self.label[chosen], names)


def which_partition(file_name: str, validation_percentage: float, testing_percentage: float) -> str:
    """Return the partition of a recording, by its speaker: all files of a speaker go together.

    The rule is the one in the data set's README: the SHA-1 of the speaker, modulo 2**27, scaled to per cent.
    A synthesiser's natural voices are the last to be held back.
    """
    largest = 2**27 - 1
    speaker = speaker_of(file_name)
    digest = hashlib.sha1(path_bytes(speaker)).hexdigest()
    position = int(digest, 16) % (largest + 1) * (100 / largest)
    if NATURAL_VOICE.match(speaker):
        position = LAST_POSITION
    if position < validation_percentage:
        return "validation"
    return "testing" if position < validation_percentage + testing_percentage else "training"


def speaker_of(file_name: str) -> str:
    """Return the speaker of a recording, by its path in the folder of its word.

    Files named alike up to `_nohash_` are of one speaker. So are other files below one folder (`anna/2.wav`,
    `anna/monday/1.wav`). A file that names its speaker in neither way is a speaker of its own.
    """
    folder, _, name = file_name.rpartition("/")
    if folder and "_nohash_" not in name:
        return folder.split("/")[0]
    return re.sub(r"_nohash_.*$", "", name)


def path_bytes(name: str) -> bytes:
    """Return a name as bytes to hash: the same on every system, also if the name is no valid text."""
    return composed(name).encode(errors="surrogateescape")


def report_unknown_speakers(folder: Path, names: list[str]):
    """Print in one line how many of the recordings do not name their speaker."""
    unknown = sum("_nohash_" not in name and "/" not in name for name in names)
    if unknown:
        print(
            f"{unknown:,} of {len(names):,} files of {folder} do not name their speaker "
            "(<speaker>_nohash_<number> or <speaker>/<file>): each counts as a speaker of its own, so test "
            "clips may be of voices that the model was trained on",
            file=sys.stderr,
        )


def report_copies(folder: Path, recordings: list[tuple[str, str, str]]) -> dict[str, str]:
    """Print in one line how many recordings are copies under other speakers' names or in other words.

    `recordings` are (word, file name, digest of the samples). Returns {digest: file name} of the file that
    chooses the partition of all its copies: the shortest name, as a copy's has something added. It is empty
    for a data set that lists its partitions, as Speech Commands does.
    """
    copies = {}
    for word, name, digest in recordings:
        copies.setdefault(digest, []).append((len(name), name, word))
    copies = {
        digest: sorted(files)
        for digest, files in copies.items()
        if len(files) > 1 and len({(speaker_of(name), word) for _, name, word in files}) > 1
    }
    if not copies:
        return {}
    published = all((folder / f"{partition}_list.txt").is_file() for partition in PARTITIONS[1:])
    count = sum(len(files) - 1 for files in copies.values())
    words = sum(len({word for _, _, word in files}) > 1 for files in copies.values())
    (_, name, word), (_, copy, other), *_ = min(copies.values())
    print(
        f"{count:,} recordings of {folder} are copies under other speakers' names or in other words "
        f"({words:,} recordings are in several words), such as {word}/{name} and {other}/{copy}: "
        + ("they stay in the published partitions" if published else "copies are kept in one partition"),
        file=sys.stderr,
    )
    return {} if published else {digest: files[0][1] for digest, files in copies.items()}


# ---- features ----


@contextlib.contextmanager
def numpy_threads():
    """Open a pool of threads for numpy's work, one a core.

    BLAS is kept from starting threads of its own, which would compete with these.
    """
    from threadpoolctl import threadpool_limits

    # threads suffice: numpy, BLAS and OpenCV release Python's lock
    pool = ThreadPoolExecutor(os.cpu_count())
    with threadpool_limits(1, user_api="blas"):
        try:
            yield pool
        finally:
            # batches that were made ahead and are not wanted any more
            pool.shutdown(cancel_futures=True)


def features(clips: Clips, front_end: FrontEnd) -> np.ndarray:
    """Return the MFCC features of all clips as they are, float32 [clips, feature_count], on all cores."""
    out = np.empty((len(clips), front_end.feature_count), np.float32)

    def fill(start):
        part = range(start, min(start + CLIPS_AT_ONCE, len(clips)))
        mfcc(clips.audio(part), front_end, out[part.start : part.stop])

    with numpy_threads() as pool:
        # a list, which raises what a thread raised
        list(pool.map(fill, range(0, len(clips), CLIPS_AT_ONCE)))
    return out


# ---- real and synthetic recordings ----


def is_synthetic(name: str) -> bool:
    """Return whether a recording of this name (`folder/file`) was made by synthesize.py."""
    return name.rpartition("/")[2].startswith(tuple(f"{name}-" for name in SYNTHESISERS))


def real_to_repeat(clips: Clips, percentage: float) -> tuple[int, ...]:
    """Choose the real recordings to use more than once, so that they are at least `percentage` % of a word's.

    Words without synthetic recordings need none. Returns the index of a clip for each further use; all real
    recordings of a word are used about equally often.
    """
    synthetic = np.array([is_synthetic(name) for name in clips.names], bool)
    repeated = []
    for word in np.unique(clips.label[clips.label > UNKNOWN_INDEX]):
        of_word = clips.label == word
        (real,) = np.nonzero(of_word & ~synthetic)
        made = np.count_nonzero(of_word & synthetic)
        if made and len(real):
            # real / (real + made) = percentage / 100
            wanted = int(np.ceil(made * percentage / (100 - percentage)))
            repeated += np.resize(real, max(0, wanted - len(real))).tolist()
    return tuple(repeated)
