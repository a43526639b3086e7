"""Labelled clips, and which partition a recording belongs to."""

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.cli import composed
from kws.recordings import PcmFile

PARTITIONS = ("training", "validation", "testing")


@dataclass(frozen=True)
class Clips:
    """Labelled clips in a fixed order. The audio stays on disk until asked for."""

    pcm: tuple[np.ndarray | PcmFile, ...]  # int16 [rows, clip_samples] each
    source: np.ndarray  # int32 [clips]: which of `pcm` a clip is in
    row: np.ndarray  # int32 [clips]: and where in it
    label: np.ndarray  # int32 [clips]: index into Settings.labels
    names: tuple[str, ...]  # folder/file of each clip, '' for generated silence

    def __len__(self):
        return len(self.label)

    def samples(self, clip: int) -> np.ndarray:
        """The audio of one clip, int16 [clip_samples]."""
        return self.pcm[self.source[clip]][self.row[clip]]

    def audio(self, chosen) -> np.ndarray:
        """The audio of several clips, int16 [len(chosen), clip_samples]."""
        audio = np.empty((len(chosen), self.pcm[0].shape[1]), np.int16)
        for out, clip in zip(audio, chosen, strict=True):
            pcm, row = self.pcm[self.source[clip]], self.row[clip]
            if isinstance(pcm, PcmFile):
                pcm.read(row, out)
            else:
                out[:] = pcm[row]
        return audio

    def take(self, chosen) -> "Clips":
        """The clips with the indices `chosen`, in that order."""
        names = tuple(self.names[i] for i in chosen)
        return Clips(self.pcm, self.source[chosen], self.row[chosen], self.label[chosen], names)


def which_partition(file_name: str, validation_percentage: float, testing_percentage: float) -> str:
    """The partition of a recording, by its speaker: all files of a speaker go together.

    This is the rule the data set's README gives: the SHA-1 of the speaker, modulo 2**27, scaled to per cent.
    """
    largest = 2**27 - 1
    digest = hashlib.sha1(path_bytes(speaker_of(file_name))).hexdigest()
    position = int(digest, 16) % (largest + 1) * (100 / largest)
    if position < validation_percentage:
        return "validation"
    return "testing" if position < validation_percentage + testing_percentage else "training"


def speaker_of(file_name: str) -> str:
    """The speaker of a recording, by its path in the folder of its word.

    Files named alike up to `_nohash_` are of one speaker, as are others in one folder (`anna/2.wav`,
    `anna/monday/1.wav`); what is in neither way told is a speaker of its own.
    """
    folder, _, name = file_name.rpartition("/")
    if folder and "_nohash_" not in name:
        return folder.split("/")[0]
    return re.sub(r"_nohash_.*$", "", name)


def path_bytes(name: str) -> bytes:
    """A name for hashing: the same on every system, and of names that are no text too."""
    return composed(name).encode(errors="surrogateescape")


def report_unknown_speakers(folder: Path, names: list[str]):
    """Print, in one line, how many of the recordings do not tell their speaker."""
    unknown = sum("_nohash_" not in name and "/" not in name for name in names)
    if unknown:
        print(
            f"{unknown:,} of {len(names):,} files of {folder} do not name their speaker "
            "(<speaker>_nohash_<number> or <speaker>/<file>): each counts as a speaker of its own, so test "
            "clips may be of voices that the model was trained on",
            file=sys.stderr,
        )
