"""Hard negatives: windows of recordings without the words that a model takes for words, to be trained on
more often (bootstrapping: Sung and Poggio, Example-based learning for view-based human face detection, 1998).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kws.base.errors import UserError
from kws.base.files import appears_complete
from kws.base.settings import UNKNOWN_INDEX
from kws.data.dataset import Data, DataOptions
from kws.data.negatives import LongRecordings
from kws.detect.streaming import window_scores

HOP_STRIDES = 2  # from one window that is tried to the next, in strides of the model's frames
FILE_NAME = "hard_negatives.npz"
LOWEST_SCORE = 0.05  # of a word, for a window to be among the hard ones


def hard_windows(recordings: LongRecordings, model) -> tuple[np.ndarray, np.ndarray]:
    """The windows in which `model` gives some word at least LOWEST_SCORE: their numbers, int64 [windows], and
    the highest score of a word in each, float32 [windows]. How many they are is printed.
    """
    from tqdm import tqdm

    hop = HOP_STRIDES * model.settings.front_end.stride_samples
    numbers, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    with tqdm(total=recordings.windows, desc="hard negatives", unit=" windows", disable=None) as progress:
        for first, blocks in recordings.pieces():
            for part in window_scores(blocks, model, hop):
                of_words = part[:, UNKNOWN_INDEX + 1 :].max(1)
                (hard,) = np.nonzero(of_words >= LOWEST_SCORE)
                numbers.append(first + hop * hard)
                scores.append(of_words[hard])
                first += hop * len(part)
                progress.update(hop * len(part))
    numbers, scores = np.concatenate(numbers), np.concatenate(scores)
    print(
        f"hard negatives: {len(numbers):,} of {recordings.windows // hop:,} windows have a word's score of "
        f"{LOWEST_SCORE:g} or more, {np.count_nonzero(scores >= 0.5):,} of 0.5 or more",
        flush=True,
    )
    return numbers, scores


def with_hard_negatives(data: Data, numbers: np.ndarray, scores: np.ndarray) -> Data:
    """`data` with the windows that `hard_windows` found, to be drawn the more often the higher their scores;
    without any, all windows are drawn instead.
    """
    if not len(numbers):
        return replace(data, hard_negatives=None)
    chance = np.cumsum(scores, dtype=np.float64)
    return replace(data, hard_negatives=(numbers, chance / chance[-1]))


class HardNegatives:
    """Hard negatives of a training run, found by `model()`, the one of then, at the start where
    `starts_trained`, and every `--hard_negatives_interval` steps. They are kept in the run's folder.

    Raises UserError where there is nothing to find them with, or an interval that no validation ends.
    """

    def __init__(
        self, data: Data, data_options: DataOptions, training, model: Callable, starts_trained: bool
    ):
        self._data, self._model, self._starts_trained = data, model, starts_trained
        self._interval = data_options.hard_negatives_interval
        self._file = Path(training.train_dir) / FILE_NAME
        if not data_options.hard_negatives_percentage:
            if self._interval:
                raise UserError("--hard_negatives_interval is for a --hard_negatives_percentage above 0")
        elif not (self._interval or starts_trained):
            raise UserError(
                "--hard_negatives_percentage needs a model that finds them: --start_checkpoint, or, with "
                "--hard_negatives_interval, the one in training"
            )
        elif self._interval and self._interval % training.eval_step_interval:
            raise UserError(
                f"--hard_negatives_interval {self._interval} is to be a multiple of --eval_step_interval, "
                f"{training.eval_step_interval}"
            )

    def rounds(self, steps: int) -> list[range]:
        """The steps of a run of so many, from one search to the next."""
        length = self._interval or max(steps, 1)
        return [range(first, min(first + length, steps)) for first in range(0, steps, length)]

    def data_of(self, number: int, resumed: bool) -> Data:
        """The data of a round, with the hard negatives of the model of now; of the file where `resumed`."""
        if not self._data.hard_negatives_per_epoch or not (number or self._starts_trained):
            return self._data
        if resumed and self._file.exists():
            with np.load(self._file) as stored:
                found = stored["windows"], stored["scores"]
        else:
            found = hard_windows(self._data.negatives, self._model())
            with appears_complete(self._file) as partial, open(partial, "wb") as out:
                np.savez(out, windows=found[0], scores=found[1])
        return with_hard_negatives(self._data, *found)
