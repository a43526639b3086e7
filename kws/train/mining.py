"""Hard negatives: windows of recordings without the words that a model takes for words.

They are trained on more often than others (bootstrapping: Sung and Poggio, Example-based learning for
view-based human face detection, 1998).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kws.base.files import appears_complete
from kws.base.settings import UNKNOWN_INDEX
from kws.data.dataset import Data
from kws.data.negatives import LongRecordings
from kws.detect.streaming import window_scores

HOP_STRIDES = 2  # from one window that is tried to the next, in strides of the model's frames
FILE_NAME = "hard_negatives.npz"
LOWEST_SCORE = 0.05  # of a word, for a window to be among the hard ones


def with_hard_negatives(data: Data, model: Callable, train_dir, resumed: bool) -> Data:
    """Return `data` with the windows that `model()`, the one at the start of a run, takes for words.

    They are kept in the run's folder; a resumed run reads them there.
    """
    file = Path(train_dir) / FILE_NAME
    if resumed and file.exists():
        with np.load(file) as stored:
            return drawn_by_score(data, stored["windows"], stored["scores"])
    windows, scores = hard_windows(data.negatives, model())
    with appears_complete(file) as partial, open(partial, "wb") as out:
        np.savez(out, windows=windows, scores=scores)
    return drawn_by_score(data, windows, scores)


def hard_windows(recordings: LongRecordings, model) -> tuple[np.ndarray, np.ndarray]:
    """Find the windows in which `model` gives some word at least LOWEST_SCORE, and print their number.

    Returns the number of each, int64 [windows], and the highest score of a word in it, float32 [windows].
    """
    from tqdm import tqdm

    # windows every `hop` samples, a recording's blocks one after the other
    hop = HOP_STRIDES * model.settings.front_end.stride_samples
    numbers, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    with tqdm(total=recordings.windows, desc="hard negatives", unit=" windows", disable=None) as progress:
        for first, blocks in recordings.pieces():
            for part in window_scores(blocks, model, hop):
                of_words = part[:, UNKNOWN_INDEX + 1 :].max(1)  # [windows, labels] -> [windows]
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


def drawn_by_score(data: Data, numbers: np.ndarray, scores: np.ndarray) -> Data:
    """Return `data` with these hard negatives, to be drawn the more often the higher their scores.

    If there are none, all windows are drawn instead.
    """
    if not len(numbers):
        return replace(data, hard_negatives=None)
    # a uniform number falls between two of these sums with the later one's share of all scores
    chance = np.cumsum(scores, dtype=np.float64)
    return replace(data, hard_negatives=(numbers, chance / chance[-1]))
