"""A second stage: a larger model that is asked only about what a small one detected.

The first stage detects a word whose smoothed score reaches a gate. The second stage then scores the same
windows, and the mean of its scores of that word decides.
"""

from collections.abc import Iterable

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import Settings
from kws.base.text import show
from kws.detect.recent_audio import RecentAudio


def check_same(verifier: str, values: Iterable[tuple[str, object, object]]):
    """Raise UserError if a value of the first stage differs from the verifier's.

    `values` are (what it is, the first stage's, the verifier's).
    """
    for what, ours, theirs in values:
        if ours != theirs:
            differing = f"must be the same, but are {show(theirs)}, not {show(ours)}"
            raise UserError(f"{verifier} cannot verify this model: {what} {differing}")


def check_fits(verifier: Settings, first_stage: Settings):
    """Raise UserError if the models take different audio, or the verifier lacks a word of the first stage."""
    # both score the same windows; features, words and their order may differ
    names = "sample_rate", "clip_duration_ms"
    compared = ((f"--{name}", getattr(first_stage, name), getattr(verifier, name)) for name in names)
    check_same("the verifier", compared)
    absent = [word for word in first_stage.wanted_words if word not in verifier.wanted_words]
    if absent:
        raise UserError(f"the verifier does not know {', '.join(absent)}")


class Verifier:
    """The second stage's mean scores of words, over the windows that a detector averages.

    `settings` are the first stage's, `hop` is in samples, `count` the number of windows averaged. The two
    models must fit each other: see `check_fits`.
    """

    def __init__(self, model, settings: Settings, hop: int, count: int):
        self._model, self._hop, self._count = model, hop, count
        # the verifier's number of each label
        self._label = [model.settings.labels.index(label) for label in settings.labels]
        # scores of the latest windows, by the number of the window
        self._known = {}

    @property
    def history(self) -> int:
        """Return the number of samples before a block that are needed to verify a window in it."""
        return self._hop * (self._count + 1) + self._model.settings.clip_samples

    def means(self, audio: RecentAudio, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the mean score of each of `labels` over the windows averaged at each of `windows`, float32.

        Windows are numbered since the start of the stream.
        """
        # the same windows as the first stage's mean, fewer at the start of the stream
        averaged = [range(max(0, window - self._count + 1), window + 1) for window in windows]
        self._score(audio, sorted({number for numbers in averaged for number in numbers}))
        # [windows]
        means = [
            np.mean([self._known[number][self._label[label]] for number in numbers])
            for numbers, label in zip(averaged, labels, strict=True)
        ]
        return np.array(means, np.float32)

    def _score(self, audio, windows):
        """Score the windows that were not scored yet; forget the scores of earlier ones."""
        if windows:
            self._known = {number: row for number, row in self._known.items() if number >= windows[0]}
        unknown = [number for number in windows if number not in self._known]
        if not unknown:
            return
        front_end = self._model.settings.front_end
        starts = [number * self._hop for number in unknown]
        # [windows, clip_samples]
        samples = np.stack([audio.between(start, start + front_end.clip_samples) for start in starts])
        self._known.update(zip(unknown, self._model.predict(mfcc(samples, front_end)), strict=True))
