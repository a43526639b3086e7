"""How often a detector fires where nobody says its words, and what it misses: thresholds chosen for both.

False alarms are counted in negatives, recordings without the words; misses in a stream with known words. Only
the highest smoothed score of each window is kept, so that hundreds of hours fit into memory.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX, Settings
from kws.data.negatives import recordings_below
from kws.detect import streaming
from kws.detect.labelled_streams import RATIOS_DB, Condition, LabelledStream, matches
from kws.detect.streaming import Detection, Detector, DetectorOptions, DetectorParameters, Smoothed

# The thresholds that are printed, and tried in long searches; finer towards 1, where confident scores lie.
SHOWN = np.round(np.concatenate([np.arange(0.15, 0.9, 0.05), 1 - np.geomspace(0.1, 1e-3, 27)]), 4)
THRESHOLDS = np.union1d(SHOWN, np.round(np.arange(0.15, 0.9, 0.01), 4))
# Gates to try, 0.15 to 0.9: the lower, the more often the verifier runs and the fewer words it can miss.
GATES = [round(gate / 20, 2) for gate in range(3, 19)]

# ---- running a detector over recordings ----


class Track(NamedTuple):
    """The kept part of a recording, enough to detect in it at any threshold."""

    name: str
    smoothed: Smoothed  # labels int16, seconds float64, the others float32
    hours: float
    kind: str = ""  # what is held out together: see kws/detect/held_out.py

    def detections(self, parameters: DetectorParameters, settings: Settings) -> list[Detection]:
        return Detector(parameters, settings).detections(self.smoothed)


class Point(NamedTuple):
    """A detector's false alarms and misses at one threshold."""

    threshold: float
    false_alarms_per_hour: float
    miss_rate: float  # 0 to 1


class MissesInNoise(NamedTuple):
    """The misses in a stream that is mixed with noise at one ratio."""

    noise: str | None  # its name; None without noise
    ratio_db: float | None  # signal to noise
    words: int
    miss_rate: float  # 0 to 1


@dataclass(frozen=True)
class Measured:
    """A detector's tracks of the negatives, and of a stream of words.

    Without negatives, the detections in the stream that match no word are the false alarms.
    """

    negatives: list[Track]
    track: Track  # of the stream
    stream: LabelledStream
    settings: Settings
    parameters: DetectorParameters

    @property
    def hours(self) -> float:
        """Return the hours in which false alarms are counted."""
        return sum(track.hours for track in self.negatives or [self.track])

    def false_alarms(self, threshold: float) -> np.ndarray:
        """Return the false alarms by recording and label: int [recordings, labels]."""
        if self.negatives:
            found = [self._detections(track, threshold) for track in self.negatives]
        else:
            all_found = self._detections(self.track, threshold)
            matched = matches(all_found, self.stream.words)
            found = [[one for one, of_word in zip(all_found, matched, strict=True) if not of_word]]
        # [recordings, labels]
        counts = np.zeros((len(found), len(self.settings.labels)), int)
        for row, detections in zip(counts, found, strict=True):
            np.add.at(row, [one.label for one in detections], 1)
        return counts

    def misses(self, threshold: float) -> float:
        """Return the share of the stream's words that are not detected, 0 to 1."""
        matched = matches(self._detections(self.track, threshold), self.stream.words)
        return 1 - sum(matched) / len(self.stream.words)

    def point(self, threshold: float) -> Point:
        return Point(threshold, self.false_alarms(threshold).sum() / self.hours, self.misses(threshold))

    def _detections(self, track, threshold):
        return track.detections(replace(self.parameters, threshold=threshold), self.settings)


def track(name: str, blocks, model, parameters: DetectorParameters, verifier=None) -> Track:
    """Run a model, and a verifier, over audio in blocks, int16 [samples]; less than a clip is followed by
    silence.
    """
    settings, parts, samples = model.settings, [], 0

    # hours are those of the recording, without the silence that fills up a clip
    def counted():
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    # the verifier is asked wherever one of GATES may have it asked
    detector = Detector(replace(parameters, gate=GATES[0]) if verifier else parameters, settings)
    audio = streaming.padded(counted(), settings.clip_samples)
    for labels, scores, seconds, verified in streaming.smoothed_scores(audio, detector, model, verifier):
        parts.append(Smoothed(labels.astype(np.int16), scores.astype(np.float32), seconds, verified))
    return Track(name, Smoothed.joined(parts), samples / settings.sample_rate / 3600)


def tracks(folders: list[str], model, parameters: DetectorParameters, verifier=None) -> Iterator[Track]:
    """Yield the Track of each recording in the folders, and in the folders below them; progress is shown.

    A file is read once, even if one of the folders is in another. Damaged files are left out and named on
    standard error. UserError if a folder has no recordings, or none can be read.
    """
    from tqdm import tqdm

    files, kinds, any_read = {}, {}, False
    for folder in map(Path, folders):
        found = recordings_below(folder)
        if not found:
            raise UserError(f"{folder} {'has no recordings' if folder.is_dir() else 'is not a folder'}")
        # a kind is a recording directly in a folder, or all recordings of a folder directly in it
        kinds |= {file.resolve(): folder / file.relative_to(folder).parts[0] for file in found}
        files |= {file.resolve(): file for file in found}
    # a damaged file among thousands must not end a run of hours
    with tqdm(files.items(), "listening", unit=" files", disable=None) as progress:
        for resolved, file in progress:
            try:
                with open_audio(file) as audio:
                    blocks = audio_blocks(audio, model.settings.sample_rate)
                    one = track(str(file), blocks, model, parameters, verifier)
                    yield one._replace(kind=str(kinds[resolved]))
                any_read = True
            except BadAudio as error:
                progress.write(f"left out {file}: it {error}", file=sys.stderr)
    if not any_read:
        raise UserError(f"{', '.join(map(str, folders))}: no recordings that can be read")


def measure(folders, stream: LabelledStream, model, options: DetectorOptions, verifier=None) -> Measured:
    """Run the model, and a verifier, over any negatives in `folders`, and over the stream of words."""
    parameters = streaming.detector_parameters(options, model.settings, verifier and verifier.settings)
    return Measured(
        list(tracks(folders, model, parameters, verifier)) if folders else [],
        track(stream.name, stream.blocks(model.settings.sample_rate), model, parameters, verifier),
        stream,
        model.settings,
        parameters,
    )


def misses_in_noise(
    measured: Measured,
    streams: Iterator[tuple[Condition, LabelledStream]],
    threshold: float,
    model,
    verifier=None,
) -> list[MissesInNoise]:
    """Run the detector of `measured` over mixed streams, and count what it misses at a threshold."""
    found, rate = [], model.settings.sample_rate
    for condition, stream in streams:
        heard = track(stream.name, stream.blocks(rate), model, measured.parameters, verifier)
        misses = replace(measured, track=heard, stream=stream).misses(threshold)
        found.append(MissesInNoise(*condition, len(stream.words), misses))
    return found


# ---- choosing a threshold ----


def sweep(measured: Measured, thresholds=THRESHOLDS) -> list[Point]:
    """Return what the detector does at each of `thresholds`: its DET curve."""
    return [measured.point(float(threshold)) for threshold in thresholds]


def operating_point(points: list[Point], false_alarms_per_hour: float) -> Point:
    """Return the point with the fewest misses at the allowed false alarm rate; ties go to fewer false alarms,
    then to the lower threshold.

    If no point is allowed, return a threshold of 1, which detects nothing.
    """
    # a reversed point is (miss rate, false alarms, threshold), the order of preference
    allowed = [point for point in points if point.false_alarms_per_hour <= false_alarms_per_hour]
    return min(allowed, key=lambda point: point[::-1], default=Point(1.0, 0.0, 1.0))


# ---- as text ----


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the 95 % interval of the expectation behind a count.

    Byar's approximation, in Breslow and Day, Statistical Methods in Cancer Research II, IARC 1987.
    """
    upper = count + 1
    low = count * (1 - 1 / (9 * count) - 1.96 / (3 * np.sqrt(count))) ** 3 if count else 0.0
    return float(low), float(upper * (1 - 1 / (9 * upper) + 1.96 / (3 * np.sqrt(upper))) ** 3)


def rate_text(count: int, hours: float) -> str:
    """Return a count of false alarms as a rate, with its interval."""
    low, high = (bound / hours for bound in poisson_interval(int(count)))
    return f"{count / hours:.1f} false alarms an hour (95 % interval {low:.1f} to {high:.1f})"


def outcome_text(measured: Measured, threshold: float) -> str:
    """Return false alarms, with their interval, and misses at a threshold."""
    alarms = rate_text(measured.false_alarms(threshold).sum(), measured.hours)
    missed = f"{100 * measured.misses(threshold):.1f} % of {len(measured.stream.words)} words missed"
    return f"threshold {threshold:g}: {alarms} in {measured.hours:.2f} hours, {missed}"


def text(measured: Measured, points: list[Point], false_alarms_per_hour: float, threshold: float) -> str:
    """Return the sweep as a table, the chosen `threshold` marked, and the false alarms of each word there."""
    # what was heard: a rate without its hours and number of words says little
    words = f"{len(measured.stream.words)} words"
    if measured.negatives:
        heard = f"{measured.hours:.2f} hours without the words in {len(measured.negatives)} recordings"
        lines = [f"{heard}; {words} in {measured.stream.name}"]
    else:
        lines = [f"{measured.stream.name}, {60 * measured.hours:.1f} minutes with {words}"]
    # the table; the sweep is finer than what is worth a line
    lines.append(f"{'threshold':>10}{'false alarms/h':>16}{'95 % interval':>17}{'misses':>9}")
    for point in points:
        if point.threshold not in SHOWN and point.threshold != threshold:
            continue
        low, high = poisson_interval(round(point.false_alarms_per_hour * measured.hours))
        interval = f"{low / measured.hours:.1f} to {high / measured.hours:.1f}"
        mark = f"  <- for {false_alarms_per_hour:g} an hour" if point.threshold == threshold else ""
        figures = f"{point.threshold:10.4f}{point.false_alarms_per_hour:16.1f}{interval:>17}"
        lines.append(f"{figures}{100 * point.miss_rate:8.1f} %{mark}")
    if threshold not in [point.threshold for point in points]:
        lines.append(f"no threshold has at most {false_alarms_per_hour:g} false alarms an hour")
    of_words = measured.false_alarms(threshold).sum(0)[UNKNOWN_INDEX + 1 :]
    named = zip(measured.settings.wanted_words, of_words, strict=True)
    return "\n  ".join([*lines, "by word: " + ", ".join(f"{word} {count}" for word, count in named)])


def noise_text(found: list[MissesInNoise], threshold: float) -> str:
    """Return the misses by signal-to-noise ratio as a table with a line for each kind of noise."""
    clean, *mixed = found
    head = f"misses of {clean.words} words at threshold {threshold:g}, by signal-to-noise ratio:"
    columns = "".join(f"{ratio:>6} dB" for ratio in RATIOS_DB)
    lines = [head, f"  {'noise':<24}{'none':>9}{columns}"]
    for noise in dict.fromkeys(one.noise for one in mixed):
        rates = [clean.miss_rate, *(one.miss_rate for one in mixed if one.noise == noise)]
        lines.append(f"  {noise:<24}" + "".join(f"{100 * rate:7.1f} %" for rate in rates))
    return "\n  ".join(lines)
