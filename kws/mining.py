"""Hard negatives: windows of recordings without the words that a model takes for words, to be trained on
more often (bootstrapping: Sung and Poggio, Example-based learning for view-based human face detection, 1998).
"""

from dataclasses import replace

import numpy as np

from input_data import Data, percent_of
from kws.cli import UserError
from kws.negatives import LongRecordings
from kws.settings import UNKNOWN_INDEX
from kws.streaming import window_scores

HOP_STRIDES = 2  # from one window that is tried to the next, in strides of the model's frames
LOWEST_SCORE = 0.05  # of a word, for a window to be among the hard ones


def hard_windows(recordings: LongRecordings, model) -> tuple[np.ndarray, np.ndarray]:
    """The windows in which `model` gives some word at least LOWEST_SCORE: their numbers, int64 [windows], and
    the highest score of a word in each, float32 [windows].
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
    return np.concatenate(numbers), np.concatenate(scores)


def with_hard_negatives(data: Data, model, percentage: float) -> Data:
    """`data` with hard negatives of `model`, in % of the wanted words' clips; what they are is printed."""
    if not percentage:
        return data
    if not data.negatives.windows:
        raise UserError("--hard_negatives_percentage needs recordings to find them in: --negatives_dir")
    numbers, scores = hard_windows(data.negatives, model)
    tried = data.negatives.windows // (HOP_STRIDES * model.settings.front_end.stride_samples)
    if not len(numbers):
        print(f"no hard negatives: none of {tried:,} windows has a word's score of {LOWEST_SCORE:g} or more")
        return data
    print(
        f"hard negatives: {len(numbers):,} of {tried:,} windows have a word's score of {LOWEST_SCORE:g} or "
        f"more, {np.count_nonzero(scores >= 0.5):,} of 0.5 or more"
    )
    wanted = int(np.sum(data.training.label > UNKNOWN_INDEX))
    chance = np.cumsum(scores, dtype=np.float64)
    return replace(
        data,
        hard_negatives=(numbers, chance / chance[-1]),
        hard_negatives_per_epoch=percent_of(wanted, percentage),
    )
