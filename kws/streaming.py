"""Words in a long recording: windows slide over it, their scores are smoothed over time, a word is detected
where its score reaches a threshold; false alarms and misses of that.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from input_data import Clips
from kws.cli import UserError, bounded, flag_adder
from kws.features import FrontEnd, mfcc
from kws.recordings import BadAudio, audio_blocks, open_audio, read_audio
from kws.settings import SENSITIVITIES, UNKNOWN_INDEX, Settings
from kws.word_lists import folded, read_words

WINDOWS_AT_ONCE = 500
TOLERANCE_S = 0.75  # between a detection and the middle of the word
GAPS_S = 0.5, 3.0  # shortest and longest between the words of a recording made for measuring
LOUDEST_BACKGROUND = 0.1
THRESHOLDS = np.arange(20, 100) / 100
# Hop: a multiple of the stride of frames, so that a board computes each frame once. Smoothing: 16 windows
# missed least at 1, 5 and 20 false alarms an hour (of 5 to 25 windows; validation audio, docs/results.md).
DEFAULTS = {"hop_ms": 40.0, "smoothing_ms": 600.0, "refractory_ms": 1000.0, "threshold": 0.7}


@dataclass(frozen=True)
class DetectorOptions:
    """How words are detected: the flags of `add_arguments`, and --threshold."""

    hop_ms: float | None = None  # None: what the model's settings say, or else DEFAULTS
    smoothing_ms: float | None = None
    refractory_ms: float | None = None
    threshold: float | tuple[float, ...] | None = None  # of all words, or of each
    sensitivity: str = "normal"  # of the model's settings

    def for_model(self, settings: Settings) -> "DetectorOptions":
        """These options with a value in place of each None."""
        chosen, values = settings.detector, {}
        for name in ("hop_ms", "smoothing_ms", "refractory_ms"):
            if getattr(self, name) is None:
                values[name] = getattr(chosen, name) if chosen else DEFAULTS[name]
        if self.threshold is None:
            values["threshold"] = (
                getattr(chosen, self.sensitivity).thresholds if chosen else DEFAULTS["threshold"]
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
    return group


def add_threshold(group):
    add = flag_adder(group, DetectorOptions)
    add(
        "threshold",
        "lowest smoothed score of a detection in a long recording; that of --sensitivity, or "
        f"{DEFAULTS['threshold']:g}",
        type=bounded(float, 0, 1),
        metavar="S",
    )
    add(
        "sensitivity",
        "which of the thresholds that the model was tuned to: high misses least, low has fewest false alarms",
        choices=SENSITIVITIES,
    )


class Detection(NamedTuple):
    seconds: float  # the middle of the windows that were averaged
    label: int  # index into Settings.labels
    score: float  # smoothed


class Detector:
    """Finds words in the scores of windows that come one after the other.

    A word is detected where its score, smoothed, is the highest of all and reaches the threshold, unless
    something was detected less than the refractory time ago (as in Warden, arXiv:1804.03209, section 7).
    """

    def __init__(self, options: DetectorOptions, settings: Settings):
        options = options.for_model(settings)
        hop = options.hop_samples(settings)
        self._hop = hop / settings.sample_rate
        self._thresholds = np.full(len(settings.labels), np.inf)
        self._thresholds[UNKNOWN_INDEX + 1 :] = options.threshold
        # windows averaged
        self._count = 1 + int(options.smoothing_ms * settings.sample_rate / 1000) // hop
        self._refractory = options.refractory_ms / 1000
        self._middle = settings.clip_duration_ms / 2000
        self._recent = np.zeros((0, len(settings.labels)), np.float32)
        self._windows, self._last = 0, -np.inf
        self.best = None  # Detection of the highest smoothed score of a word so far, whether detected or not

    def detect(self, scores: np.ndarray) -> list[Detection]:
        """The detections in the next windows' scores, float [windows, labels]."""
        return self.detections(*self.smoothed(scores))

    def smoothed(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of the next windows the label with the highest mean score, that score, and the seconds
        from the start of the recording to the middle of the windows averaged.
        """
        known = np.concatenate([self._recent, scores])
        sums = np.cumsum(np.concatenate([np.zeros((1, known.shape[1])), known]), axis=0, dtype=np.float64)
        ends = np.arange(len(self._recent) + 1, len(known) + 1)
        begins = np.maximum(0, ends - self._count)
        means = (sums[ends] - sums[begins]) / (ends - begins)[:, None]
        delay = (ends - begins - 1) * self._hop / 2  # of a mean over windows
        seconds = (self._windows + np.arange(len(scores))) * self._hop + self._middle - delay
        self._keep_best(seconds, means[:, UNKNOWN_INDEX + 1 :])
        self._windows += len(scores)
        self._recent = known[max(0, len(known) - self._count + 1) :]
        return means.argmax(1), means.max(1), seconds

    def detections(self, labels: np.ndarray, scores: np.ndarray, seconds: np.ndarray) -> list[Detection]:
        """The detections among what `smoothed` returned for the next windows."""
        found = []
        for window in np.flatnonzero(scores >= self._thresholds[labels]):
            if seconds[window] - self._last >= self._refractory:
                self._last = seconds[window]
                found.append(Detection(float(self._last), int(labels[window]), float(scores[window])))
        return found

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


def detections_in(blocks: Iterable[np.ndarray], model, options: DetectorOptions) -> Iterator[Detection]:
    """The detections in audio that comes in blocks, int16 [samples], as they are made."""
    detector = Detector(options, model.settings)
    for scores in window_scores(blocks, model, options.hop_samples(model.settings)):
        yield from detector.detect(scores)


def detect(path, model, options: DetectorOptions = DetectorOptions()) -> Iterator[Detection]:  # noqa: B008  (frozen)
    """The detections in a recording of any length, rate and format; `model` from kws.checkpoints.load.

    A recording shorter than the model's clip is followed by silence. UserError where it cannot be read.
    """
    front_end = model.settings.front_end
    try:
        with open_audio(path) as file:
            blocks = audio_blocks(file, front_end.sample_rate)
            yield from detections_in(padded(blocks, front_end.clip_samples), model, options)
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None


# ---- false alarms and misses ----


@dataclass(frozen=True)
class Recording:
    """A long recording with known words."""

    name: str
    samples: np.ndarray  # int16 [samples]
    words: list[tuple[float, int]]  # seconds of the middle of each word, its label; in order

    def hours(self, settings: Settings) -> float:
        return len(self.samples) / settings.sample_rate / 3600


class Outcome(NamedTuple):
    """How good a detector is on a recording at one threshold."""

    threshold: float
    false_rejects: float  # share of the words that were not detected, 0 to 1
    false_alarms: float  # detections per hour that match no word

    def __str__(self):
        missed = f"{100 * self.false_rejects:5.1f} % false rejects"
        return f"{missed}, {self.false_alarms:6.1f} false alarms an hour"


def make_recording(
    name: str, clips: Clips, noise, minutes: float, seed: list[int], settings: Settings
) -> Recording:
    """A recording of clips drawn from `clips` in background noise: wanted and unknown words in turn at
    random, with pauses between them.
    """
    rng = np.random.default_rng(seed)
    length, clip_samples = int(minutes * 60 * settings.sample_rate), settings.clip_samples
    pools = [np.flatnonzero(clips.label > UNKNOWN_INDEX), np.flatnonzero(clips.label == UNKNOWN_INDEX)]
    pools = [pool for pool in pools if len(pool)]
    if not pools or length < 2 * clip_samples:
        raise UserError(f"{name}: no clips, or too few minutes, to make a recording of")
    audio, words = np.zeros(length, np.float32), []
    start = 0
    while noise and start < length:
        part = noise[rng.integers(len(noise))][: length - start]
        audio[start : start + len(part)] = part * np.float32(LOUDEST_BACKGROUND * rng.random())
        start += len(part)
    start = 0
    while (start := start + int(rng.uniform(*GAPS_S) * settings.sample_rate)) + clip_samples <= length:
        clip = rng.choice(pools[rng.integers(len(pools))])
        audio[start : start + clip_samples] += clips.samples(clip) / np.float32(32768)
        if clips.label[clip] > UNKNOWN_INDEX:
            words.append(((start + clip_samples / 2) / settings.sample_rate, int(clips.label[clip])))
        start += clip_samples
    if not words:
        raise UserError(
            f"{name}: {minutes:g} minutes hold none of the words: more --stream_minutes are needed"
        )
    return Recording(name, (np.clip(audio, -1, 32767 / 32768) * 32768).astype(np.int16), words)


def read_recording(path, words_path, settings: Settings) -> Recording:
    """A recording and the words in it, from a file with a line `seconds,word` for the middle of each.

    Words that the model does not know are named on standard error.
    """
    try:
        samples, _ = read_audio(path, settings.sample_rate)
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None
    wanted = {folded(word): settings.labels.index(word) for word in settings.wanted_words}
    words, unknown = [], Counter()
    for number, seconds, word in read_words(words_path, wanted):
        end = len(samples) / settings.sample_rate
        if seconds > end:
            raise UserError(
                f"{words_path}, line {number}: {seconds:g} s is after the end of {path}, {end:g} s"
            )
        if folded(word) in wanted:
            words.append((seconds, wanted[folded(word)]))
        elif word not in settings.labels:  # which `_unknown_` is
            unknown[word] += 1
    counts = ", ".join(f"{word} ({count})" for word, count in sorted(unknown.items()))
    if not words:
        found = f"; it has {counts}" if counts else ""
        raise UserError(f"{words_path} has none of the words {', '.join(settings.wanted_words)}{found}")
    if unknown:
        print(f"{words_path}: words that the model does not know are left out: {counts}", file=sys.stderr)
    return Recording(str(path), samples, sorted(words))


def outcomes(recording: Recording, model, options: DetectorOptions) -> list[Outcome]:
    """What is detected in the recording, right and wrong, at each of THRESHOLDS."""
    settings = model.settings
    hop = options.hop_samples(settings)
    parts = list(window_scores([recording.samples], model, hop))
    if not parts:
        raise UserError(f"{recording.name} is shorter than a clip of {settings.clip_duration_ms} ms")
    scores = np.concatenate(parts)
    result = []
    for threshold in THRESHOLDS:
        detections = Detector(replace(options, threshold=threshold), settings).detect(scores)
        hits = matches(detections, recording.words)
        missed = 1 - hits / len(recording.words)
        false_alarms = (len(detections) - hits) / recording.hours(settings)
        result.append(Outcome(float(threshold), missed, false_alarms))
    return result


def matches(detections: list[Detection], words: list[tuple[float, int]]) -> int:
    """How many detections are of a word at that time (within TOLERANCE_S); each word counts once."""
    unmatched, hits = list(words), 0
    for detection in detections:
        near = [
            word
            for word in unmatched
            if word[1] == detection.label and abs(word[0] - detection.seconds) <= TOLERANCE_S
        ]
        if near:
            unmatched.remove(min(near, key=lambda word: abs(word[0] - detection.seconds)))
            hits += 1
    return hits


def operating_point(results: list[Outcome], false_alarms_per_hour: float) -> Outcome:
    """The outcome with fewest false rejects among those with at most so many false alarms; where there are
    none, the one with fewest false alarms.
    """
    allowed = [outcome for outcome in results if outcome.false_alarms <= false_alarms_per_hour]
    if allowed:
        return min(allowed, key=lambda outcome: (outcome.false_rejects, outcome.threshold))
    return min(results, key=lambda outcome: outcome.false_alarms)


def outcomes_text(recording: Recording, results: list[Outcome], settings: Settings) -> str:
    """Every tenth outcome, a line each, under the name of the recording."""
    minutes = 60 * recording.hours(settings)
    lines = [f"{recording.name}, {minutes:.1f} minutes with {len(recording.words)} words"]
    lines += [f"threshold {outcome.threshold:.2f}: {outcome}" for outcome in results[::10]]
    return "\n  ".join(lines)
