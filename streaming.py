"""Words in a long recording: windows that slide over it, scores smoothed over time, detections, and how many
of them are right.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import input_data
from models import Scores
from settings import UNKNOWN_INDEX, Settings, UserError, bounded

WINDOWS_AT_ONCE = 500
TOLERANCE_S = 0.75  # between a detection and the middle of the word
GAPS_S = 0.5, 3.0  # shortest and longest between the words of a recording made for measuring
LOUDEST_BACKGROUND = 0.1
THRESHOLDS = np.arange(20, 100) / 100


def add_arguments(parser):
    """Add the flags that say how words are detected in a long recording."""
    group = parser.add_argument_group("long recordings")
    group.add_argument(
        "--hop_ms", type=bounded(float, 1), default=100, metavar="MS", help="from one window to the next"
    )
    group.add_argument(
        "--smoothing_ms",
        type=bounded(float, 0),
        default=500,
        metavar="MS",
        help="scores are means over the windows that begin within this time",
    )
    group.add_argument(
        "--refractory_ms",
        type=bounded(float, 0),
        default=1000,
        metavar="MS",
        help="nothing is detected for this long after a detection",
    )


class Detection(NamedTuple):
    seconds: float  # the middle of the windows it was heard in
    label: int  # index into Settings.labels
    score: float  # smoothed


class Detector:
    """Finds words in the scores of windows that come one after the other.

    A word is detected where its score, smoothed, is the highest of all and reaches the threshold, unless
    something was detected less than the refractory time ago (as in Warden, arXiv:1804.03209, section 7).
    """

    def __init__(self, args, settings: Settings, threshold: float):
        hop = hop_samples(args, settings)
        self._hop, self._threshold = hop / settings.sample_rate, threshold
        self._count = 1 + int(args.smoothing_ms * settings.sample_rate / 1000) // hop  # windows averaged
        self._refractory = args.refractory_ms / 1000
        self._middle = settings.clip_duration_ms / 2000
        self._recent = np.zeros((0, len(settings.labels)), np.float32)
        self._windows, self._last = 0, -np.inf

    def __call__(self, scores: np.ndarray) -> list[Detection]:
        """The detections in the next windows' scores, float [windows, labels]."""
        known = np.concatenate([self._recent, scores])
        sums = np.cumsum(np.concatenate([np.zeros((1, known.shape[1])), known]), axis=0, dtype=np.float64)
        ends = np.arange(len(self._recent) + 1, len(known) + 1)
        begins = np.maximum(0, ends - self._count)
        smoothed = (sums[ends] - sums[begins]) / (ends - begins)[:, None]
        best = smoothed.argmax(1)
        reached = (smoothed.max(1) >= self._threshold) & (best > UNKNOWN_INDEX)
        found = []
        for window in np.flatnonzero(reached):
            delay = (ends[window] - begins[window] - 1) * self._hop / 2
            seconds = (self._windows + window) * self._hop + self._middle - delay
            if seconds - self._last >= self._refractory:
                found.append(Detection(float(seconds), int(best[window]), float(smoothed[window].max())))
                self._last = seconds
        self._windows += len(scores)
        self._recent = known[max(0, len(known) - self._count + 1) :]
        return found


def hop_samples(args, settings: Settings) -> int:
    return max(1, int(args.hop_ms * settings.sample_rate / 1000))


def window_scores(
    blocks: Iterable[np.ndarray], scores: Scores, settings: Settings, hop: int
) -> Iterator[np.ndarray]:
    """Scores [windows, labels] of the windows that each of `blocks`, int16 [samples], completes.

    Windows are a clip long and begin every `hop` samples. What is kept is less than a clip and a block.
    """
    left, skip = np.zeros(0, np.int16), 0  # samples from the next window on, or still before it
    for block in blocks:
        samples = np.concatenate([left, block[skip:]])
        skip = max(0, skip - len(block))
        count = max(0, (len(samples) - settings.clip_samples) // hop + 1)
        for first in range(0, count, WINDOWS_AT_ONCE):
            starts = hop * np.arange(first, min(first + WINDOWS_AT_ONCE, count))
            audio = np.stack([samples[start : start + settings.clip_samples] for start in starts])
            yield scores(input_data.mfcc(audio.astype(np.float32), settings, full_scale=32768))
        skip += max(0, count * hop - len(samples))
        left = samples[count * hop :]


# ---- how good ----


@dataclass(frozen=True)
class Recording:
    """A long recording with known words."""

    name: str
    samples: np.ndarray  # int16 [samples]
    words: list[tuple[float, int]]  # seconds of the middle of each word, its label; in order

    def hours(self, settings: Settings) -> float:
        return len(self.samples) / settings.sample_rate / 3600


class Outcome(NamedTuple):
    """What a detector made of a recording at one threshold."""

    threshold: float
    false_rejects: float  # share of the words that were not detected, 0 to 1
    false_alarms: float  # detections per hour that match no word


def make_recording(
    name: str, clips: input_data.Clips, noise, minutes: float, seed: list[int], settings: Settings
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


def read_recording(path, labels_path, settings: Settings) -> Recording:
    """A recording and the words in it, from a file with a line `seconds,word` for the middle of each."""
    try:
        samples, _ = input_data.read_audio(path, settings.sample_rate)
        lines = Path(labels_path).read_text(encoding="utf-8").splitlines()
    except input_data.BadAudio as error:
        raise UserError(f"{path} {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{labels_path} is not text") from None
    words, of_model = [], settings.labels[UNKNOWN_INDEX + 1 :]
    for number, line in enumerate(lines, 1):
        seconds, _, word = (part.strip() for part in line.partition(","))
        if not line.strip():
            continue
        try:
            seconds = float(seconds)
        except ValueError:
            seconds = np.nan
        if not 0 <= seconds <= len(samples) / settings.sample_rate:
            raise UserError(f"{labels_path}, line {number}: expected 'seconds,word' within the recording")
        if word in of_model:
            words.append((seconds, settings.labels.index(word)))
    if not words:
        raise UserError(f"{labels_path} has none of the words {', '.join(of_model)}")
    return Recording(str(path), samples, sorted(words))


def outcomes(recording: Recording, scores: Scores, settings: Settings, args) -> list[Outcome]:
    """What is detected in the recording, right and wrong, at each of THRESHOLDS."""
    hop = hop_samples(args, settings)
    parts = list(window_scores([recording.samples], scores, settings, hop))
    if not parts:
        raise UserError(f"{recording.name} is shorter than a clip of {settings.clip_duration_ms} ms")
    heard = np.concatenate(parts)
    result = []
    for threshold in THRESHOLDS:
        found = Detector(args, settings, threshold)(heard)
        hits = matches(found, recording.words)
        missed = 1 - hits / len(recording.words)
        result.append(Outcome(float(threshold), missed, (len(found) - hits) / recording.hours(settings)))
    return result


def matches(found: list[Detection], words: list[tuple[float, int]]) -> int:
    """How many detections are of a word that was said at that time; each word counts once."""
    left, hits = list(words), 0
    for detection in found:
        near = [
            word
            for word in left
            if word[1] == detection.label and abs(word[0] - detection.seconds) <= TOLERANCE_S
        ]
        if near:
            left.remove(min(near, key=lambda word: abs(word[0] - detection.seconds)))
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
