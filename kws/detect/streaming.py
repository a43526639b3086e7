"""Words in a long recording: windows slide over it, and their scores are smoothed over time.

A word is detected if its smoothed score is the highest of all labels and reaches a threshold.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.flags import bounded, flag_adder
from kws.base.settings import SENSITIVITIES, UNKNOWN_INDEX, DetectorSettings, Settings
from kws.base.text import folded
from kws.detect import verifier as second_stage
from kws.detect.recent_audio import RecentAudio
from kws.detect.verifier import Questions, check_fits

# Windows scored in one call; this bounds memory.
WINDOWS_AT_ONCE = 500

# ---- what the user asks for, and what follows from it ----


@dataclass(frozen=True)
class DetectorOptions:
    """The user's wishes for a detector; None stands for what the model's settings say."""

    threshold: float | None = None
    sensitivity: str | None = None  # one of SENSITIVITIES
    gate: float | None = None  # smoothed score at which a verifier is asked
    smoothing_ms: float | None = None
    wake_word: str | None = None  # other words are detected only for listen_ms after it
    listen_ms: float = 3000


@dataclass(frozen=True)
class DetectorParameters:
    """A detector for one model; the defaults are for a model that nothing was chosen for."""

    # A multiple of usual strides of frames, so that a board computes each frame once.
    hop_ms: float = 40.0
    # 16 windows missed least, of 5 to 25.
    smoothing_ms: float = 600.0
    refractory_ms: float = 1000.0
    threshold: float = 0.7
    gate: float | None = None  # None without a verifier
    wake_label: int | None = None  # None without a wake word
    listen_ms: float = 3000

    def hop_samples(self, settings: Settings) -> int:
        """Return the number of samples from one window to the next."""
        return max(1, int(self.hop_ms * settings.sample_rate / 1000))


DEFAULTS = DetectorParameters()
# of a verifier that was not tuned to the first stage
DEFAULT_GATE = 0.5
# Smoothing of an architecture in place of the default, and what evaluation.py tries beside it: the scores of
# some words are high for a moment alone.
SMOOTHING_MS = {"stream_cnn": (400.0, 240.0, 800.0)}


def tuned_detector(settings: Settings, verifier: Settings | None = None) -> DetectorSettings | None:
    """Return the detector chosen for a model alone, or together with a verifier; None if there is none.

    What was chosen for two models together is in the verifier's settings, and has a gate.
    """
    chosen = (verifier or settings).detector
    return chosen if chosen and (chosen.gate is None) == (verifier is None) else None


def detector_parameters(
    options: DetectorOptions, settings: Settings, verifier: Settings | None = None
) -> DetectorParameters:
    """Return the detector that `options` ask for, of a model with `settings`, alone or with a verifier.

    UserError if the two models do not fit each other, if nothing was tuned to the sensitivity asked for, or
    if the wake word is none of the model's words.
    """
    if verifier:
        check_fits(verifier, settings)
    chosen = tuned_detector(settings, verifier)
    if options.sensitivity and options.threshold is None and not chosen:
        raise UserError(
            f"--sensitivity {options.sensitivity}: no threshold was chosen for "
            f"{'these two models' if verifier else 'this model'} yet; evaluation.py --ambient DIR "
            "--write_detector does, or give --threshold"
        )
    given = {"wake_label": _wake_label(options.wake_word, settings), "listen_ms": options.listen_ms}
    if settings.model_architecture in SMOOTHING_MS:
        given["smoothing_ms"] = SMOOTHING_MS[settings.model_architecture][0]
    if chosen:
        given |= {name: getattr(chosen, name) for name in ("hop_ms", "smoothing_ms", "refractory_ms", "gate")}
        given["threshold"] = getattr(chosen, options.sensitivity or "normal").threshold
    elif verifier:
        given["gate"] = DEFAULT_GATE
    for name in ("threshold", "gate", "smoothing_ms"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    return DetectorParameters(**given)


def _wake_label(word, settings):
    """Return the label of a wake word, however it is spelled; None without one."""
    if word is None:
        return None
    known = {folded(word): settings.labels.index(word) for word in settings.wanted_words}
    if folded(word) not in known:
        words = ", ".join(settings.wanted_words)
        raise UserError(f"--wake_word {word} is none of the model's words, {words}")
    return known[folded(word)]


def add_arguments(parser):
    """Add the flags that say how words are detected in a long recording."""
    group = parser.add_argument_group("long recordings")
    add = flag_adder(group, DetectorOptions)
    add("wake_word", "detect the other words only for --listen_ms after this one", metavar="WORD")
    add("listen_ms", "how long they are detected", type=bounded(float, 0), metavar="MS")
    second = "a larger model that decides, and is asked only about what the first detected"
    group.add_argument("--verifier", metavar="MODEL", help=second)


def add_threshold(parser):
    """Add the flags that choose a threshold."""
    add = flag_adder(parser.add_mutually_exclusive_group(), DetectorOptions)
    lowest = f"lowest smoothed score of a detection; if not given, --sensitivity's or {DEFAULTS.threshold:g}"
    add("threshold", lowest, type=bounded(float, 0, 1), metavar="S")
    tuned = "a threshold tuned for the model, else normal; high: fewest misses, low: fewest false alarms"
    add("sensitivity", tuned, choices=SENSITIVITIES)


# ---- detections ----


class Detection(NamedTuple):
    """A word that was detected."""

    seconds: float  # the middle of the windows that were averaged
    label: int  # index into Settings.labels
    score: float  # smoothed


class Smoothed(NamedTuple):
    """The values that detections follow from: for each window, means over the windows averaged at it."""

    labels: np.ndarray  # int [windows]: the label with the highest mean score
    scores: np.ndarray  # float [windows]: that score
    seconds: np.ndarray  # float [windows]: the middle of the windows averaged, since the start
    verified: np.ndarray | None = None  # float [windows]: a verifier's score of the label, or 0

    @staticmethod
    def joined(parts: list["Smoothed"]) -> "Smoothed":
        """Return the windows of all `parts`, in order."""
        columns = zip(*parts, strict=True)
        return Smoothed(*(None if column[0] is None else np.concatenate(column) for column in columns))


class Detector:
    """Find words in the scores of windows that come one after the other.

    A word is detected if its smoothed score is the highest of all and reaches the threshold, unless something
    was detected less than the refractory time ago (as in Warden, arXiv:1804.03209, section 7).
    """

    def __init__(self, parameters: DetectorParameters, settings: Settings):
        self.hop = parameters.hop_samples(settings)  # samples
        self.gate = parameters.gate
        # windows that are averaged
        self.count = 1 + int(parameters.smoothing_ms * settings.sample_rate / 1000) // self.hop
        self._hop_s = self.hop / settings.sample_rate
        self._threshold = parameters.threshold
        self._wake_label = parameters.wake_label
        self._listen, self._awake_until = parameters.listen_ms / 1000, -np.inf
        self._refractory = parameters.refractory_ms / 1000
        self._middle = settings.clip_duration_ms / 2000
        # scores of the latest windows, [windows, labels]
        self._recent = np.zeros((0, len(settings.labels)), np.float32)
        self._windows, self._last = 0, -np.inf
        # times are whole halves of samples: this much is rounding, which boards do not have
        self._rounding = 0.25 / settings.sample_rate
        # windows that detections were looked for in, and what a verifier is asked about them
        self._searched, self._questions = 0, Questions(self._hop_s)
        self.best = None  # Detection of the highest smoothed score of a word so far, even below the threshold
        self.latest = np.zeros(len(settings.labels))  # smoothed scores

    @property
    def scored_s(self) -> float:
        """Return the seconds from the start of the first window averaged to the end of the last one."""
        return 2 * self._middle + (self.count - 1) * self._hop_s

    def detect(self, scores: np.ndarray) -> list[Detection]:
        """Return the detections in the next windows' scores, float [windows, labels]."""
        return self.detections(self.smoothed(scores))

    def smoothed(self, scores: np.ndarray) -> Smoothed:
        """Return the means at each of the next windows, from their scores, float [windows, labels]."""
        # differences of running sums, in float64
        known = np.concatenate([self._recent, scores])
        sums = np.cumsum(np.concatenate([np.zeros((1, known.shape[1])), known]), axis=0, dtype=np.float64)
        ends = np.arange(len(self._recent) + 1, len(known) + 1)
        begins = np.maximum(0, ends - self.count)
        # [windows, labels]
        means = (sums[ends] - sums[begins]) / (ends - begins)[:, None]
        # the middle of windows averaged is before the middle of the last one
        delay = (ends - begins - 1) * self._hop_s / 2
        seconds = (self._windows + np.arange(len(scores))) * self._hop_s + self._middle - delay
        self._keep_best(seconds, means[:, UNKNOWN_INDEX + 1 :])
        self.latest = means[-1] if len(means) else self.latest
        self._windows += len(scores)
        self._recent = known[max(0, len(known) - self.count + 1) :]
        return Smoothed(means.argmax(1), means.max(1), seconds)

    def detections(self, smoothed: Smoothed) -> list[Detection]:
        """Return the detections among the next windows."""
        labels, scores, seconds, verified = smoothed
        # in float64: beside float32 scores the threshold would be rounded to float32
        reached = np.asarray(scores, np.float64) >= (self._threshold if verified is None else self.gate)
        found = []
        for window in np.flatnonzero((labels > UNKNOWN_INDEX) & reached):
            now, label, score = float(seconds[window]), int(labels[window]), float(scores[window])
            self._questions.follow(self._searched + window, label)
            is_awake = self._wake_label in (None, label) or now <= self._awake_until + self._rounding
            if now - self._last < self._refractory - self._rounding or not is_awake:
                continue
            if verified is not None:
                score = self._questions.mean(float(verified[window]))
            if score >= self._threshold:
                self._last = now
                self._questions.stop()
                if label == self._wake_label:
                    self._awake_until = now + self._listen
                found.append(Detection(now, label, score))
        self._searched += len(labels)
        return found

    def _keep_best(self, seconds, scores_of_words):
        if not scores_of_words.size:
            return
        window, word = np.unravel_index(scores_of_words.argmax(), scores_of_words.shape)
        score = float(scores_of_words[window, word])
        if self.best is None or score > self.best.score:
            self.best = Detection(float(seconds[window]), int(word) + UNKNOWN_INDEX + 1, score)


# ---- windows ----


def window_scores(blocks: Iterable[np.ndarray], model, hop: int) -> Iterator[np.ndarray]:
    """Yield scores [windows, labels] of the windows that each of `blocks`, int16 [samples], completes.

    `model` is loaded. Windows are a clip long and begin every `hop` samples. Less than a clip and a block is
    kept in memory.
    """
    front_end = model.settings.front_end
    length = front_end.clip_samples
    # from the start of the next window on
    kept = np.zeros(0, np.int16)
    # samples still to come before the next window starts; above 0 only if a hop exceeds a clip
    skip = 0
    for block in blocks:
        samples = np.concatenate([kept, block[skip:]])
        skip = max(0, skip - len(block))
        count = max(0, (len(samples) - length) // hop + 1)
        for first in range(0, count, WINDOWS_AT_ONCE):
            windows = range(first, min(first + WINDOWS_AT_ONCE, count))
            yield _scores(samples, windows, hop, model)
        skip += max(0, count * hop - len(samples))
        kept = samples[count * hop :]


def _scores(samples, windows: range, hop: int, model) -> np.ndarray:
    """Return the scores of windows that begin at multiples of `hop`: float32 [windows, labels]."""
    front_end = model.settings.front_end
    stride = front_end.stride_samples
    audio = samples[windows.start * hop : (windows.stop - 1) * hop + front_end.clip_samples]
    if hop % stride:
        clips = sliding_window_view(audio, front_end.clip_samples)[::hop]
        return model.predict(mfcc(np.ascontiguousarray(clips), front_end))
    # windows share frames, and each frame is computed once
    frames = sliding_window_view(audio, front_end.window_samples)[::stride]
    one_frame = replace(front_end, clip_samples=front_end.window_samples)
    features = mfcc(np.ascontiguousarray(frames), one_frame)  # [frames, features of a frame]
    # only TFLite files have it
    between = getattr(model, "frames_between", None)
    if between and hop % (between * stride) == 0:
        # each layer computes a frame once, too
        return model.predict_stretch(features)[:: hop // (between * stride)]
    # [windows, features of a frame, frames]
    shared = sliding_window_view(features, front_end.frame_count, axis=0)[:: hop // stride]
    return model.predict(np.ascontiguousarray(shared.transpose(0, 2, 1)).reshape(len(windows), -1))


def padded(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Yield the blocks of samples, and then zeros if they are fewer than `length`."""
    for block in blocks:
        length -= len(block)
        yield block
    if length > 0:
        yield np.zeros(length, np.int16)


def followed_by_silence(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Yield the blocks, and then silence in which a word at their end is detected; `length` is a clip's."""
    # a shorter silence misses more words, a longer one only adds false alarms
    return padded(itertools.chain(blocks, [np.zeros(3 * length // 4, np.int16)]), length)


def smoothed_scores(blocks, detector: Detector, model, verifier=None) -> Iterator[Smoothed]:
    """Yield the means at the windows that each of `blocks`, int16 [samples], completes; models are loaded."""
    if verifier is None:
        yield from map(detector.smoothed, window_scores(blocks, model, detector.hop))
        return
    first = 0
    audio = RecentAudio(blocks, second_stage.history(model.settings, detector.hop))
    for scores in window_scores(audio, model, detector.hop):
        smoothed = detector.smoothed(scores)
        # the verifier may be asked about words that reach the gate
        (asked,) = np.nonzero((smoothed.labels > UNKNOWN_INDEX) & (smoothed.scores >= detector.gate))
        labels = [model.settings.labels[label] for label in smoothed.labels[asked]]
        verified = np.zeros(len(scores), np.float32)
        verified[asked] = second_stage.scores(verifier, audio, (first + asked) * detector.hop, labels)
        first += len(scores)
        yield smoothed._replace(verified=verified)


def detections_in(blocks, model, options: DetectorOptions, verifier=None) -> Iterator[Detection]:
    """Yield the detections in audio that comes in blocks, int16 [samples], as they are made."""
    parameters = detector_parameters(options, model.settings, verifier and verifier.settings)
    detector = Detector(parameters, model.settings)
    for smoothed in smoothed_scores(blocks, detector, model, verifier):
        yield from detector.detections(smoothed)


def detect(path, model, options: DetectorOptions | None = None, verifier=None) -> Iterator[Detection]:
    """Yield the detections in a recording of any length, rate and format; models are loaded.

    The recording is followed by silence, so that a word at its end is found. UserError if it cannot be read.
    """
    front_end, options = model.settings.front_end, options or DetectorOptions()
    try:
        with open_audio(path) as file:
            blocks = audio_blocks(file, front_end.sample_rate)
            audio = followed_by_silence(blocks, front_end.clip_samples)
            yield from detections_in(audio, model, options, verifier)
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None
