"""Long recordings with known words, made or read, and what a detector misses and wrongly detects in them."""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import BadAudio, read_audio
from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX, Settings
from kws.base.text import folded
from kws.data.clips import Clips
from kws.detect.streaming import Detection, Detector, DetectorOptions, Smoothed, smoothed_scores
from kws.detect.word_lists import read_words

TOLERANCE_S = 0.75  # between a detection and the middle of the word
GAPS_S = 0.5, 3.0  # shortest and longest between the words of a recording made for measuring
LOUDEST_BACKGROUND = 0.1
THRESHOLDS = np.arange(20, 100) / 100


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


def outcomes(recording: Recording, model, options: DetectorOptions, verifier=None) -> list[Outcome]:
    """What is detected in the recording, right and wrong, at each of THRESHOLDS."""
    settings = model.settings
    options = options.for_model(settings, verifier and verifier.settings)
    detector = Detector(options, settings)
    parts = list(smoothed_scores([recording.samples], detector, model, verifier))
    if not parts:
        raise UserError(f"{recording.name} is shorter than a clip of {settings.clip_duration_ms} ms")
    smoothed = Smoothed.joined(parts)
    result = []
    for threshold in THRESHOLDS:
        detections = Detector(replace(options, threshold=threshold), settings).detections(smoothed)
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
