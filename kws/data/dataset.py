"""A data set ready for use, and the options that say which recordings are in it."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data.clips import Clips
from kws.data.download import DATA_URL
from kws.data.negatives import LongRecordings

DEFAULT_DATA_DIR = Path(__file__).resolve().parents[2] / "data" / "speech_commands_v0.02"


@dataclass(frozen=True)
class DataOptions:
    """Which recordings are used, and in what mixture: the flags of input_data.py."""

    data_dir: str = str(DEFAULT_DATA_DIR)
    data_url: str = DATA_URL
    silence_percentage: float = 10
    unknown_percentage: float = 10
    training_unknown_percentage: float | None = None  # unknown_percentage if None
    real_percentage: float = 0
    negatives_dir: tuple[str, ...] = ()
    negatives_percentage: float = 50
    hard_negatives_percentage: float = 0

    @property
    def unknown_in_training(self) -> float:
        """Return the clips of unknown words in an epoch of training, in % of the wanted words' clips."""
        percentage = self.training_unknown_percentage
        return self.unknown_percentage if percentage is None else percentage


@dataclass(frozen=True)
class Data:
    """A data set ready for use: labelled clips by partition, background noise, and negatives.

    An epoch of training holds every clip of `training` that is not an unknown word once, those in `repeated`
    once more, and a fresh draw of unknown words and of negatives.
    """

    training: Clips  # with all clips of unknown words
    unknown_per_epoch: int
    validation: Clips
    testing: Clips
    noise: list[np.ndarray]  # float32 [samples] each, -1 to 1, none shorter than a clip
    negatives: LongRecordings | None = None
    negatives_per_epoch: int = 0
    hard_negatives_per_epoch: int = 0
    repeated: tuple[int, ...] = ()  # indices of clips in `training`
    # windows that a model takes for words, int64 [windows], and the chance to draw one up to each, [windows]
    hard_negatives: tuple[np.ndarray, np.ndarray] | None = None
    cut_ms: tuple[int, ...] = ()  # lengths of the wanted words' recordings that are longer than a clip

    @property
    def no_words_per_epoch(self) -> int:
        """Unknown words and windows without words in an epoch."""
        return self.unknown_per_epoch + self.negatives_per_epoch + self.hard_negatives_per_epoch


def percent_of(count, percentage):
    return math.ceil(count * percentage / 100)  # rounded up, so that a small set has some
