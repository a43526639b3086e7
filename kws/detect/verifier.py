"""A second stage: a larger model that is asked only about what a small one detected.

A detection of the first stage is a word whose smoothed score reaches a gate. The second stage then scores the
same windows, and the mean of its scores of that word decides.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import Settings
from kws.base.text import show

WINDOWS_AT_ONCE = 200


class RecentAudio:
    """Blocks of samples that are passed on, the latest of which are kept."""

    def __init__(self, blocks: Iterable[np.ndarray], kept: int):
        self._blocks, self._kept = blocks, kept
        self._samples, self._end = np.zeros(0, np.int16), 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            self._samples = np.concatenate([self._samples[max(0, len(self._samples) - self._kept) :], block])
            self._end += len(block)
            yield block

    def window(self, start: int, length: int) -> np.ndarray:
        """Samples from number `start` on, which must be in the latest block or among the `kept` before it."""
        first = start - (self._end - len(self._samples))
        return self._samples[first : first + length]


def check_fits(verifier: Settings, first_stage: Settings):
    """UserError where the models take different audio, or the verifier lacks a word of the first stage."""
    for name in ("sample_rate", "clip_duration_ms"):
        its, theirs = getattr(verifier, name), getattr(first_stage, name)
        if its != theirs:
            raise UserError(f"the verifier has --{name} {show(its)}, the model {show(theirs)}")
    absent = [word for word in first_stage.wanted_words if word not in verifier.wanted_words]
    if absent:
        raise UserError(f"the verifier does not know {', '.join(absent)}")


class Verifier:
    """Mean scores by a model of words over the windows that a detector averages.

    `settings` are the first stage's, `hop` is in samples, `count` the windows averaged. UserError where the
    two models do not fit each other.
    """

    def __init__(self, model, settings: Settings, hop: int, count: int):
        check_fits(model.settings, settings)
        self._model, self._hop, self._count = model, hop, count
        self._label = [model.settings.labels.index(label) for label in settings.labels]
        self._known = {}  # scores of the latest windows, by number

    @property
    def history(self) -> int:
        """Samples before those of a window that are needed to verify it."""
        return self._hop * (self._count + 1) + self._model.settings.clip_samples

    def means(self, audio: RecentAudio, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The mean score of each of `labels` over the windows averaged at each of `windows`, numbered since
        the start: float32 [windows].
        """
        ranges = [range(max(0, window - self._count + 1), window + 1) for window in windows]
        self._score(audio, sorted({window for numbers in ranges for window in numbers}))
        means = [
            np.mean([self._known[window][self._label[label]] for window in numbers])
            for numbers, label in zip(ranges, labels, strict=True)
        ]
        return np.array(means, np.float32)

    def _score(self, audio, windows):
        if windows:
            self._known = {number: row for number, row in self._known.items() if number >= windows[0]}
        unknown = [window for window in windows if window not in self._known]
        front_end = self._model.settings.front_end
        for first in range(0, len(unknown), WINDOWS_AT_ONCE):
            part = unknown[first : first + WINDOWS_AT_ONCE]
            samples = np.stack([audio.window(window * self._hop, front_end.clip_samples) for window in part])
            self._known.update(zip(part, self._model.predict(mfcc(samples, front_end)), strict=True))
