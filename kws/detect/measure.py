"""How often a detector fires where nobody says its words, and what it misses: thresholds chosen for both.

Recordings without the words are the negatives; a made stream of words shows what is missed. A window's
highest smoothed score is all that is kept of it, so that hundreds of hours fit into memory.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.base.errors import UserError
from kws.base.settings import SENSITIVITIES, UNKNOWN_INDEX, DetectorSettings, Sensitivity, Settings
from kws.data.negatives import recordings_below
from kws.detect.labelled_streams import Recording, matches
from kws.detect.streaming import Detector, DetectorOptions, Smoothed, padded, smoothed_scores

# Finer towards 1, where the scores of a confident model lie. SHOWN are printed, and tried in long searches.
SHOWN = np.round(np.concatenate([np.arange(0.15, 0.9, 0.05), 1 - np.geomspace(0.1, 1e-3, 27)]), 4)
THRESHOLDS = np.union1d(SHOWN, np.round(np.arange(0.15, 0.9, 0.01), 4))
GATES = [round(gate / 20, 2) for gate in range(3, 19)]
# What each sensitivity may have of the accepted false alarms per hour: of the usual 5 it is 1, 5 and 20.
SENSITIVITY_RATES = {"low": 0.2, "normal": 1.0, "high": 4.0}


class Track(NamedTuple):
    """What a detector needs of a recording."""

    name: str
    smoothed: Smoothed  # labels int16, the others float32
    hours: float

    def detections(self, options: DetectorOptions, settings: Settings) -> list:
        return Detector(options, settings).detections(self.smoothed)


class Point(NamedTuple):
    """A detector at one threshold."""

    threshold: float
    false_alarms_per_hour: float
    miss_rate: float


@dataclass(frozen=True)
class Measured:
    """False alarms in `negatives`, misses in `words`."""

    negatives: list[Track]
    stream: Track
    recording: Recording  # what the stream is of
    settings: Settings
    options: DetectorOptions

    @property
    def hours(self) -> float:
        return sum(track.hours for track in self.negatives)

    def false_alarms(self, thresholds) -> np.ndarray:
        """Detections in each of the negatives of each label, int [negatives, labels]."""
        options = replace(self.options, threshold=thresholds)
        counts = np.zeros((len(self.negatives), len(self.settings.labels)), int)
        for row, track in zip(counts, self.negatives, strict=True):
            np.add.at(row, [found.label for found in track.detections(options, self.settings)], 1)
        return counts

    def misses(self, thresholds) -> float:
        """The share of the stream's words that are not detected, 0 to 1."""
        options = replace(self.options, threshold=thresholds)
        found = self.stream.detections(options, self.settings)
        return 1 - matches(found, self.recording.words) / len(self.recording.words)

    def point(self, threshold) -> Point:
        return Point(threshold, self.false_alarms(threshold).sum() / self.hours, self.misses(threshold))


def track(name: str, blocks, model, options: DetectorOptions, verifier=None) -> Track:
    """Run a model, and a verifier, over audio in blocks, int16 [samples]; less than a clip is followed by
    silence.
    """
    settings, parts, samples = model.settings, [], 0

    def counted():
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    # the verifier is asked wherever one of GATES may have it asked
    detector = Detector(replace(options, gate=GATES[0]) if verifier else options, settings)
    audio = padded(counted(), settings.clip_samples)
    for labels, *others in smoothed_scores(audio, detector, model, verifier):
        others = (values if values is None else values.astype(np.float32) for values in others)
        parts.append(Smoothed(labels.astype(np.int16), *others))
    return Track(name, Smoothed.joined(parts), samples / settings.sample_rate / 3600)


def tracks(folders: list[str], model, options: DetectorOptions, verifier=None) -> Iterator[Track]:
    """The Track of each recording in the folders, and in the folders below them; progress is shown.

    Each file once, even where one of the folders is in another. Damaged ones are left out and named on
    standard error; UserError where a folder has no recordings, or none can be read.
    """
    from tqdm import tqdm

    files, any_read = {}, False
    for folder in map(Path, folders):
        found = recordings_below(folder)
        if not found:
            raise UserError(f"{folder} {'has no recordings' if folder.is_dir() else 'is not a folder'}")
        files |= {file.resolve(): file for file in found}
    with tqdm(files.values(), "listening", unit=" files", disable=None) as progress:
        for file in progress:
            try:
                with open_audio(file) as audio:
                    blocks = audio_blocks(audio, model.settings.sample_rate)
                    yield track(str(file), blocks, model, options, verifier)
                any_read = True
            except BadAudio as error:
                progress.write(f"left out {file}: it {error}", file=sys.stderr)
    if not any_read:
        raise UserError(f"{', '.join(map(str, folders))}: no recordings that can be read")


def measure(
    folders: list[str], recording: Recording, model, options: DetectorOptions, verifier=None
) -> Measured:
    """Run the model, and a verifier, over recordings without words, and over the stream of words."""
    options = options.for_model(model.settings, verifier and verifier.settings)
    return Measured(
        list(tracks(folders, model, options, verifier)),
        track(recording.name, [recording.samples], model, options, verifier),
        recording,
        model.settings,
        options,
    )


def sweep(measured: Measured, thresholds=THRESHOLDS) -> list[Point]:
    """A detector at each of `thresholds`: its DET curve."""
    return [measured.point(float(threshold)) for threshold in thresholds]


def with_best_gate(measured: Measured, false_alarms_per_hour: float) -> Measured:
    """With the one of GATES at which least is missed at so many false alarms; of a verifier."""

    def misses(gate):
        with_gate = replace(measured, options=replace(measured.options, gate=gate))
        return operating_point(sweep(with_gate, SHOWN), false_alarms_per_hour).miss_rate

    # of equal ones the highest, which asks the verifier least
    best = min(reversed(GATES), key=misses)
    return replace(measured, options=replace(measured.options, gate=best))


def operating_point(points: list[Point], false_alarms_per_hour: float) -> Point:
    """The point that misses least of those with at most so many false alarms; a threshold of 1, which detects
    nothing, where there is none.
    """
    allowed = [point for point in points if point.false_alarms_per_hour <= false_alarms_per_hour]
    return min(allowed, key=lambda point: point[::-1], default=Point(1.0, 0.0, 1.0))


def thresholds_per_word(measured: Measured, false_alarms_per_hour: float) -> tuple[float, ...]:
    """A threshold for each word, so that misses are few at a number of false alarms.

    From the best common one on, the threshold of one word after the other is moved to where it saves most
    misses, as long as the false alarms stay allowed, until none saves any.
    """
    words = len(measured.settings.wanted_words)
    start = operating_point(sweep(measured), false_alarms_per_hour).threshold
    chosen = [start] * words

    def cost(thresholds):
        alarms = measured.false_alarms(tuple(thresholds)).sum() / measured.hours
        return (alarms > false_alarms_per_hour, measured.misses(tuple(thresholds)), alarms)

    best, improved = cost(chosen), True
    while improved:
        improved = False
        for word in range(words):
            for threshold in SHOWN:  # fewer, as every word's are tried again and again
                tried = [*chosen[:word], float(threshold), *chosen[word + 1 :]]
                if (found := cost(tried)) < best:
                    best, chosen, improved = found, tried, True
    return tuple(chosen)


def poisson_interval(count: int) -> tuple[float, float]:
    """95 % interval of the expectation of which `count` was seen (Byar's approximation, in Breslow and Day,
    Statistical Methods in Cancer Research II, IARC 1987).
    """
    upper = count + 1
    low = count * (1 - 1 / (9 * count) - 1.96 / (3 * np.sqrt(count))) ** 3 if count else 0.0
    return float(low), float(upper * (1 - 1 / (9 * upper) + 1.96 / (3 * np.sqrt(upper))) ** 3)


def detector_settings(
    measured: Measured, points: list[Point], false_alarms_per_hour: float, words: int
) -> DetectorSettings:
    """The detector with thresholds for SENSITIVITY_RATES of so many false alarms, and what it was measured to
    give at `points`; for a model of so many `words`: a verifier may know more than were measured.

    One threshold for all words: with one for each, chosen on an hour for 5 false alarms an hour, the shipped
    model had 13.7 an hour in 4.5 hours of other audio, and 5.1 with a common one (docs/results.md).
    """
    chosen = {}
    for name, rate in SENSITIVITY_RATES.items():
        point = operating_point(points, rate * false_alarms_per_hour)
        chosen[name] = Sensitivity(
            (point.threshold,) * words, round(point.false_alarms_per_hour, 2), round(point.miss_rate, 4)
        )
    options = measured.options
    times = options.hop_ms, options.smoothing_ms, options.refractory_ms
    return DetectorSettings(*times, **chosen, gate=options.gate)


def sensitivities_text(detector: DetectorSettings) -> str:
    """A line for each sensitivity: its threshold, and what it was measured to give."""
    lines = []
    for name in SENSITIVITIES:
        one = getattr(detector, name)
        lines.append(
            f"--sensitivity {name}: threshold {one.thresholds[0]:g}, {one.false_alarms_per_hour:g} false "
            f"alarms an hour, {100 * one.miss_rate:.1f} % of the words missed"
        )
        if one.miss_rate == 1:
            lines[-1] += ": no threshold has so few and finds any"
    return "\n  ".join(lines)


def outcome_text(measured: Measured, thresholds) -> str:
    """False alarms, with their interval, and misses at a threshold, or one for each word."""
    count, hours = int(measured.false_alarms(thresholds).sum()), measured.hours
    low, high = (bound / hours for bound in poisson_interval(count))
    shown = thresholds if isinstance(thresholds, float) else ", ".join(map(str, thresholds))
    alarms = f"{count / hours:.1f} false alarms an hour (95 % interval {low:.1f} to {high:.1f})"
    missed = f"{100 * measured.misses(thresholds):.1f} % of {len(measured.recording.words)} words missed"
    return f"{alarms} in {hours:.2f} hours, {missed}, at {shown}"


def text(measured: Measured, points: list[Point], false_alarms_per_hour: float) -> str:
    """The sweep, and at the operating point the false alarms of each recording and word."""
    lines = [
        f"{measured.hours:.2f} hours without the words in {len(measured.negatives)} recordings; "
        f"{len(measured.recording.words)} words in {measured.recording.name}",
        f"{'threshold':>10}{'false alarms/h':>16}{'95 % interval':>17}{'misses':>9}",
    ]
    chosen = operating_point(points, false_alarms_per_hour)
    for point in points:
        if point.threshold not in SHOWN and point != chosen:
            continue
        low, high = poisson_interval(round(point.false_alarms_per_hour * measured.hours))
        interval = f"{low / measured.hours:.1f} to {high / measured.hours:.1f}"
        mark = f"  <- for {false_alarms_per_hour:g} an hour" if point == chosen else ""
        lines.append(
            f"{point.threshold:10.4f}{point.false_alarms_per_hour:16.1f}{interval:>17}"
            f"{100 * point.miss_rate:8.1f} %{mark}"
        )
    counts = measured.false_alarms(chosen.threshold)
    for one, row in zip(measured.negatives, counts, strict=True):
        lines.append(f"{one.name}: {row.sum()} false alarms in {60 * one.hours:.1f} minutes")
    of_words = counts.sum(0)[UNKNOWN_INDEX + 1 :]
    named = zip(measured.settings.wanted_words, of_words, strict=True)
    lines.append("by word: " + ", ".join(f"{word} {count}" for word, count in named))
    return "\n  ".join(lines)
