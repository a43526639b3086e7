"""A second stage: a larger model that is asked only about what a small one detected.

While a word's smoothed score reaches a gate, the second stage scores the newest window every few hops. The
mean of its latest scores of that word decides. So it never runs twice in a hop, and a board keeps up.
"""

from collections.abc import Iterable

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import Settings
from kws.base.text import show
from kws.detect.recent_audio import RecentAudio

# From one question to the next: a Cortex-M4 of 64 MHz answers DS-CNN Small's in less time.
ASK_EVERY_MS = 240.0
# Answers that are averaged; fewer give more false alarms.
ASK_MEAN = 3
# Questions about a word, until its score has fallen below the gate.
ASK_MOST = 4


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


def history(settings: Settings, hop: int) -> int:
    """Return the samples before a block that `scores` needs of windows `hop` samples apart."""
    return settings.clip_samples + hop


def scores(model, audio: RecentAudio, starts: np.ndarray, labels: list[str]) -> np.ndarray:
    """Return the verifier's score of each of `labels` in the window that begins with each of `starts`.

    `model` is the verifier; starts are samples since the start of the stream. float32 [windows].
    """
    if not len(starts):
        return np.zeros(0, np.float32)
    front_end = model.settings.front_end
    # [windows, clip_samples]
    samples = np.stack([audio.between(start, start + front_end.clip_samples) for start in starts])
    # the verifier may have other labels
    columns = [model.settings.labels.index(label) for label in labels]
    return model.predict(mfcc(samples, front_end))[np.arange(len(starts)), columns]


def ask_every(hop_s: float) -> int:
    """Return the hops from one question to the next, at least 1."""
    return max(1, round(ASK_EVERY_MS / 1000 / hop_s))


class Questions:
    """The questions to a verifier about a word, as in c/kws_detect.c; a hop takes `hop_s` seconds."""

    def __init__(self, hop_s: float):
        self._every = ask_every(hop_s)
        self._window, self._label = None, None
        self._wait, self._asked, self._answers = 0, 0, []

    def follow(self, window: int, label: int):
        """Take the number of a window in which `label` reaches the gate; after a pause begin anew."""
        if (self._window, self._label) != (window - 1, label):
            self._wait, self._asked, self._answers = 0, 0, []
        self._window, self._label = window, label

    def mean(self, answer: float) -> float:
        """Return the mean of the latest answers, with `answer` if it is time to ask; else -1."""
        if self._asked == ASK_MOST:
            return -1.0
        if self._wait:
            self._wait -= 1
            return -1.0
        self._wait, self._asked = self._every - 1, self._asked + 1
        self._answers = [*self._answers, answer][-ASK_MEAN:]
        return sum(self._answers) / ASK_MEAN if len(self._answers) == ASK_MEAN else -1.0

    def stop(self):
        """Ask no more about this word: it was detected."""
        self._asked = ASK_MOST
