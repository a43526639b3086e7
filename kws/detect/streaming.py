"""Words in a long recording: windows slide over it, their scores are smoothed over time, a word is detected
where its score reaches a threshold; false alarms and misses of that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.base.errors import UserError
from kws.base.features import FrontEnd, mfcc
from kws.base.flags import bounded, flag_adder
from kws.base.settings import SENSITIVITIES, UNKNOWN_INDEX, DetectorSettings, Settings
from kws.base.text import folded
from kws.detect.verifier import RecentAudio, Verifier, check_fits

WINDOWS_AT_ONCE = 500
# Hop: a multiple of the stride of frames, so that a board computes each frame once. Smoothing: 16 windows
# missed least at 1, 5 and 20 false alarms an hour (of 5 to 25 windows; validation audio, docs/results.md).
DEFAULTS = {"hop_ms": 40.0, "smoothing_ms": 600.0, "refractory_ms": 1000.0, "threshold": 0.7}
DEFAULT_GATE = 0.5  # of a verifier that was not tuned to the first stage


def tuned_detector(settings: Settings, verifier: Settings | None = None) -> DetectorSettings | None:
    """The detector chosen for a model alone, or with a verifier, in whose settings it is; or None."""
    chosen = (verifier or settings).detector
    # one of a verifier has a gate, and is none for that model alone, nor the other way round
    return chosen if chosen and (chosen.gate is None) == (verifier is None) else None


@dataclass(frozen=True)
class DetectorOptions:
    """How words are detected: the flags of `add_arguments`, and --threshold."""

    hop_ms: float | None = None  # None: what the model's settings say, or else DEFAULTS
    smoothing_ms: float | None = None
    refractory_ms: float | None = None
    threshold: float | tuple[float, ...] | None = None  # of all words, or of each
    sensitivity: str | None = None  # of the model's settings, "normal" where None
    wake_word: str | None = None  # the other words are detected only for listen_ms after it
    listen_ms: float = 3000
    gate: float | None = None  # smoothed score from which on a verifier is asked; None without one

    def for_model(self, settings: Settings, verifier: Settings | None = None) -> "DetectorOptions":
        """These options with a value in place of each None; what was tuned for the model is in its settings,
        what was tuned for two stages in those of the verifier.

        UserError where the two do not fit each other, or nothing was tuned to the sensitivity asked for.
        """
        if verifier:
            check_fits(verifier, settings)
        chosen, values = tuned_detector(settings, verifier), {}
        if verifier and self.gate is None:
            values["gate"] = chosen.gate if chosen else DEFAULT_GATE
        for name in ("hop_ms", "smoothing_ms", "refractory_ms"):
            if getattr(self, name) is None:
                values[name] = getattr(chosen, name) if chosen else DEFAULTS[name]
        if self.threshold is None:
            values["threshold"] = DEFAULTS["threshold"]
            if chosen:
                thresholds = getattr(chosen, self.sensitivity or "normal").thresholds
                words = (verifier or settings).wanted_words  # a verifier may know more
                of_word = dict(zip(words, thresholds, strict=True))
                values["threshold"] = tuple(of_word[word] for word in settings.wanted_words)
            elif self.sensitivity:
                raise UserError(
                    f"--sensitivity {self.sensitivity}: no thresholds were chosen for "
                    f"{'these two models' if verifier else 'this model'} yet; evaluation.py --ambient DIR "
                    "--write_detector does, or give --threshold"
                )
        return replace(self, **values)

    def hop_samples(self, settings: Settings) -> int:
        """From one window to the next, in samples."""
        return max(1, int(self.for_model(settings).hop_ms * settings.sample_rate / 1000))


def add_arguments(parser):
    """Add the flags that say how words are detected in a long recording, and return their group."""
    group = parser.add_argument_group("long recordings")
    add = flag_adder(group, DetectorOptions)
    duration = bounded(float, 0)
    otherwise = "; what the model was tuned for, or {:g}".format
    hop, smoothing, refractory = (
        otherwise(DEFAULTS[name]) for name in ("hop_ms", "smoothing_ms", "refractory_ms")
    )
    add("hop_ms", f"from one window to the next{hop}", type=bounded(float, 1), metavar="MS")
    add(
        "smoothing_ms",
        f"scores are means over the windows that begin within this time{smoothing}",
        type=duration,
        metavar="MS",
    )
    add(
        "refractory_ms",
        f"nothing is detected for this long after a detection{refractory}",
        type=duration,
        metavar="MS",
    )
    add("wake_word", "detect the other words only for --listen_ms after this one", metavar="WORD")
    add("listen_ms", "for so long", type=duration, metavar="MS")
    group.add_argument(
        "--verifier",
        metavar="MODEL",
        help="a larger model, which is asked only about what the first detected, and decides",
    )
    return group


def add_threshold(parser):
    add = flag_adder(parser.add_mutually_exclusive_group(), DetectorOptions)
    add(
        "threshold",
        "lowest smoothed score of a detection in a long recording; that of --sensitivity, or "
        f"{DEFAULTS['threshold']:g}",
        type=bounded(float, 0, 1),
        metavar="S",
    )
    add(
        "sensitivity",
        "which of the thresholds that the model was tuned to, normal if not given: high misses least, low "
        "has fewest false alarms",
        choices=SENSITIVITIES,
    )


class Detection(NamedTuple):
    seconds: float  # the middle of the windows that were averaged
    label: int  # index into Settings.labels
    score: float  # smoothed


class Smoothed(NamedTuple):
    """What detections follow from: for each window, over the windows averaged at it."""

    labels: np.ndarray  # int [windows]: with the highest mean score
    scores: np.ndarray  # float [windows]: that score
    seconds: np.ndarray  # float [windows]: the middle of the windows averaged, since the start
    verified: np.ndarray | None = None  # float [windows]: a verifier's mean score of the label, or 0

    @staticmethod
    def joined(parts: list["Smoothed"]) -> "Smoothed":
        """Windows that came in several parts as one."""
        columns = zip(*parts, strict=True)
        return Smoothed(*(None if column[0] is None else np.concatenate(column) for column in columns))


class Detector:
    """Finds words in the scores of windows that come one after the other.

    A word is detected where its score, smoothed, is the highest of all and reaches the threshold, unless
    something was detected less than the refractory time ago (as in Warden, arXiv:1804.03209, section 7).
    """

    def __init__(self, options: DetectorOptions, settings: Settings):
        options = options.for_model(settings)
        self.hop = options.hop_samples(settings)  # samples
        self._hop_s = self.hop / settings.sample_rate
        self.thresholds = np.full(len(settings.labels), np.inf)  # of each label
        self.thresholds[UNKNOWN_INDEX + 1 :] = options.threshold
        # windows averaged
        self.count = 1 + int(options.smoothing_ms * settings.sample_rate / 1000) // self.hop
        self.gate = options.gate
        self._wake_label = self._wake_word(options, settings)
        self._listen, self._awake_until = options.listen_ms / 1000, -np.inf
        self._refractory = options.refractory_ms / 1000
        self._middle = settings.clip_duration_ms / 2000
        self._recent = np.zeros((0, len(settings.labels)), np.float32)
        self._windows, self._last = 0, -np.inf
        self.best = None  # Detection of the highest smoothed score of a word so far, whether detected or not
        self.latest = np.zeros(len(settings.labels))  # smoothed scores

    @property
    def scored_s(self) -> float:
        """Seconds of audio that a smoothed score is of, from its first window's start to its last's end."""
        return 2 * self._middle + (self.count - 1) * self._hop_s

    @staticmethod
    def _wake_word(options, settings):
        if options.wake_word is None:
            return None
        known = {folded(word): settings.labels.index(word) for word in settings.wanted_words}
        if folded(options.wake_word) not in known:
            raise UserError(
                f"--wake_word {options.wake_word} is none of the model's words, "
                f"{', '.join(settings.wanted_words)}"
            )
        return known[folded(options.wake_word)]

    def detect(self, scores: np.ndarray) -> list[Detection]:
        """The detections in the next windows' scores, float [windows, labels]."""
        return self.detections(self.smoothed(scores))

    def smoothed(self, scores: np.ndarray) -> Smoothed:
        """What follows from the next windows' scores, float [windows, labels]."""
        known = np.concatenate([self._recent, scores])
        sums = np.cumsum(np.concatenate([np.zeros((1, known.shape[1])), known]), axis=0, dtype=np.float64)
        ends = np.arange(len(self._recent) + 1, len(known) + 1)
        begins = np.maximum(0, ends - self.count)
        means = (sums[ends] - sums[begins]) / (ends - begins)[:, None]
        delay = (ends - begins - 1) * self._hop_s / 2  # of a mean over windows
        seconds = (self._windows + np.arange(len(scores))) * self._hop_s + self._middle - delay
        self._keep_best(seconds, means[:, UNKNOWN_INDEX + 1 :])
        self.latest = means[-1] if len(means) else self.latest
        self._windows += len(scores)
        self._recent = known[max(0, len(known) - self.count + 1) :]
        return Smoothed(means.argmax(1), means.max(1), seconds)

    def detections(self, smoothed: Smoothed) -> list[Detection]:
        """The detections among the next windows."""
        labels, scores, seconds, verified = smoothed
        if verified is not None:
            scores = np.where(scores >= self.gate, verified, 0)
        found = []
        for window in np.flatnonzero(scores >= self.thresholds[labels]):
            now, label = float(seconds[window]), int(labels[window])
            if now - self._last >= self._refractory and self._listens_to(label, now):
                self._last = now
                found.append(Detection(now, label, float(scores[window])))
        return found

    def _listens_to(self, label, now):
        if label == self._wake_label:
            self._awake_until = now + self._listen
        return self._wake_label is None or now <= self._awake_until

    def _keep_best(self, seconds, scores_of_words):
        if not scores_of_words.size:
            return
        window, word = np.unravel_index(scores_of_words.argmax(), scores_of_words.shape)
        score = float(scores_of_words[window, word])
        if self.best is None or score > self.best.score:
            self.best = Detection(float(seconds[window]), int(word) + UNKNOWN_INDEX + 1, score)


def window_scores(blocks: Iterable[np.ndarray], model, hop: int) -> Iterator[np.ndarray]:
    """Scores [windows, labels] of the windows that each of `blocks`, int16 [samples], completes.

    `model` is a loaded one. Windows are a clip long and begin every `hop` samples. Less than a clip and a
    block is kept.
    """
    front_end = model.settings.front_end
    length = front_end.clip_samples
    kept = np.zeros(0, np.int16)  # from the start of the next window on
    skip = 0  # samples still to come before the next window starts; not 0 only where a hop exceeds a clip
    for block in blocks:
        samples = np.concatenate([kept, block[skip:]])
        skip = max(0, skip - len(block))
        count = max(0, (len(samples) - length) // hop + 1)
        for first in range(0, count, WINDOWS_AT_ONCE):
            windows = range(first, min(first + WINDOWS_AT_ONCE, count))
            yield model.predict(_window_features(samples, windows, hop, front_end))
        skip += max(0, count * hop - len(samples))
        kept = samples[count * hop :]


def _window_features(samples, windows: range, hop: int, front_end: FrontEnd) -> np.ndarray:
    """Features of windows that begin at multiples of `hop`: float32 [windows, feature_count]."""
    start, stride = windows.start * hop, front_end.stride_samples
    end = (windows.stop - 1) * hop + front_end.clip_samples
    if hop % stride:
        audio = sliding_window_view(samples[start:end], front_end.clip_samples)[::hop]
        return mfcc(np.ascontiguousarray(audio), front_end)
    # windows share frames, and each frame is computed once
    frames = sliding_window_view(samples[start:end], front_end.window_samples)[::stride]
    coefficients = mfcc(
        np.ascontiguousarray(frames), replace(front_end, clip_samples=front_end.window_samples)
    )
    shared = sliding_window_view(coefficients, front_end.frame_count, axis=0)[:: hop // stride]
    return np.ascontiguousarray(shared.transpose(0, 2, 1)).reshape(len(windows), -1)


def padded(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Blocks of samples, followed by zeros where they are fewer than `length`."""
    for block in blocks:
        length -= len(block)
        yield block
    if length > 0:
        yield np.zeros(length, np.int16)


def smoothed_scores(
    blocks: Iterable[np.ndarray], detector: Detector, model, verifier=None
) -> Iterator[Smoothed]:
    """What follows from the windows that each of `blocks`, int16 [samples], completes; of loaded models."""
    if verifier is None:
        yield from map(detector.smoothed, window_scores(blocks, model, detector.hop))
        return
    second, first = Verifier(verifier, model.settings, detector.hop, detector.count), 0
    audio = RecentAudio(blocks, second.history)
    for scores in window_scores(audio, model, detector.hop):
        smoothed = detector.smoothed(scores)
        (asked,) = np.nonzero((smoothed.labels > UNKNOWN_INDEX) & (smoothed.scores >= detector.gate))
        verified = np.zeros(len(scores), np.float32)
        verified[asked] = second.means(audio, first + asked, smoothed.labels[asked])
        first += len(scores)
        yield smoothed._replace(verified=verified)


def detections_in(
    blocks: Iterable[np.ndarray], model, options: DetectorOptions, verifier=None
) -> Iterator[Detection]:
    """The detections in audio that comes in blocks, int16 [samples], as they are made."""
    detector = Detector(options.for_model(model.settings, verifier and verifier.settings), model.settings)
    for smoothed in smoothed_scores(blocks, detector, model, verifier):
        yield from detector.detections(smoothed)


def detect(
    path,
    model,
    options: DetectorOptions = DetectorOptions(),  # noqa: B008  (frozen)
    verifier=None,
) -> Iterator[Detection]:
    """The detections in a recording of any length, rate and format; of loaded models.

    A recording shorter than the model's clip is followed by silence. UserError where it cannot be read.
    """
    front_end = model.settings.front_end
    try:
        with open_audio(path) as file:
            blocks = audio_blocks(file, front_end.sample_rate)
            yield from detections_in(padded(blocks, front_end.clip_samples), model, options, verifier)
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None
