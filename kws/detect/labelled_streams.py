"""Long recordings with known words, made of clips or read, and the detections that match those words."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import BadAudio, audio_blocks, open_audio
from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX, Settings
from kws.base.text import folded
from kws.data.clips import Clips
from kws.detect.streaming import Detection

TOLERANCE_S = 0.75  # most between a detection and the middle of the word
GAPS_S = 0.5, 3.0  # shortest and longest pause between the words of a stream that is made
LOUDEST_BACKGROUND = 0.1
RATIOS_DB = 20, 10, 5, 0  # signal-to-noise ratios at which misses are counted
LEAST_ENERGY = 0.1  # of noise under a word, in shares of its mean: a pause in speech is no noise
STEP_S = 0.1  # between places that noise may be taken from
SHORTEST_PART_S = 15  # taken from one recording
SECONDS = r"(\d+\.?\d*|\.\d+)"
# the second time is the end, in a label track
WORD_LINE = re.compile(rf"\s*{SECONDS}(?:\t{SECONDS}\t|\s*[,;\t])\s*([^,;\t]*[^,;\t\s])\s*")


@dataclass(frozen=True)
class LabelledStream:
    """A long recording with known words."""

    name: str
    samples: np.ndarray | None  # int16 [samples]; None for those in the file `name`
    words: list[tuple[float, int]]  # seconds of the middle of each word, its label; in order

    def blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Yield the samples, int16, of a file in blocks at `sample_rate` Hz; UserError if it is damaged."""
        if self.samples is not None:
            yield self.samples
            return
        try:
            with open_audio(self.name) as file:
                yield from audio_blocks(file, sample_rate)
        except BadAudio as error:
            raise UserError(f"{self.name} {error}") from None


# ---- made of clips ----


def make_stream(name, clips: Clips, noise, minutes: float, seed, settings: Settings) -> LabelledStream:
    """Return a stream of clips drawn from `clips` in background noise.

    Wanted and unknown words are drawn equally often, with pauses between them. UserError if there are no
    clips, or none of the words is drawn.
    """
    # Two pools, of wanted and of unknown words: an equal chance for both, however many clips each has.
    rng = np.random.default_rng(seed)
    length, clip_samples = int(minutes * 60 * settings.sample_rate), settings.clip_samples
    pools = [np.flatnonzero(clips.label > UNKNOWN_INDEX), np.flatnonzero(clips.label == UNKNOWN_INDEX)]
    pools = [pool for pool in pools if len(pool)]
    if not pools or length < 2 * clip_samples:
        raise UserError(f"{name}: no clips, or too few minutes, to make a stream of")

    # Clips are added to the noise, float32 [length] with full scale 1, and do not overlap.
    audio, words = _background(rng, noise, length), []
    start = 0
    while (start := start + int(rng.uniform(*GAPS_S) * settings.sample_rate)) + clip_samples <= length:
        clip = rng.choice(pools[rng.integers(len(pools))])
        audio[start : start + clip_samples] += clips.samples(clip) / np.float32(32768)
        if clips.label[clip] > UNKNOWN_INDEX:
            words.append(((start + clip_samples / 2) / settings.sample_rate, int(clips.label[clip])))
        start += clip_samples
    if not words:
        raise UserError(f"{name}: {minutes:g} minutes hold none of the words: give more --stream_minutes")
    # sums beyond full scale are clipped, as a recorder does
    return LabelledStream(name, (np.clip(audio, -1, 32767 / 32768) * 32768).astype(np.int16), words)


def _background(rng, noise, length):
    """Return parts of `noise`, each at a volume of its own, one after the other: float32 [length]."""
    audio, start = np.zeros(length, np.float32), 0
    while noise and start < length:
        part = noise[rng.integers(len(noise))][: length - start]
        audio[start : start + len(part)] = part * np.float32(LOUDEST_BACKGROUND * rng.random())
        start += len(part)
    return audio


# ---- mixed with noise at known ratios ----


class Condition(NamedTuple):
    """The noise that the words of a stream are mixed with."""

    noise: str | None  # its name; None without noise
    ratio_db: float | None  # signal to noise: energy of a word's clip to that of the noise under this clip


def mixed_streams(
    clips: Clips, noises: dict[str, np.ndarray], minutes: float, seed: list[int], settings: Settings
) -> Iterator[tuple[Condition, LabelledStream]]:
    """Yield a stream without noise, and one for each of RATIOS_DB and of `noises`, float32 [samples] by name.

    All hold the same wanted words of `clips` with the same pauses, and those of one noise the same parts of
    it. Noises without a sound are left out. At least one word is drawn.
    """
    rng = np.random.default_rng(seed)
    wanted, drawn, left = np.flatnonzero(clips.label > UNKNOWN_INDEX), [], minutes * 60 * settings.sample_rate
    while left > 0:
        # (clip, samples of half a pause, before and after it)
        drawn.append((int(rng.choice(wanted)), int(rng.uniform(*GAPS_S) * settings.sample_rate / 2)))
        left -= settings.clip_samples + 2 * drawn[-1][1]
    yield Condition(None, None), _mixed(clips, drawn, settings)
    for number, (name, noise) in enumerate(noises.items()):
        if noise.any():
            parts = _parts(noise, [around for _, around in drawn], [*seed, number], settings)
            for ratio in RATIOS_DB:
                yield Condition(name, ratio), _mixed(clips, drawn, settings, parts, ratio)


def _parts(noise, arounds, seed, settings):
    """Return a part of the noise for each clip and what is around it: float32 [samples] each."""
    rng, length = np.random.default_rng(seed), settings.clip_samples
    # the energy under a clip at each place; noise begins anew after its end
    places = np.arange(0, len(noise), int(STEP_S * settings.sample_rate))
    longer = np.resize(noise, len(noise) + length)
    until = np.concatenate([[0], np.cumsum(np.square(longer, dtype=np.float64))])
    under = until[places + length] - until[places]
    loud = places[under >= LEAST_ENERGY * under.mean()]
    starts = rng.choice(loud, len(arounds)) - arounds
    return [
        noise.take(np.arange(start, start + length + 2 * around), mode="wrap")
        for start, around in zip(starts, arounds, strict=True)
    ]


def _mixed(clips, drawn, settings, parts=None, ratio=None) -> LabelledStream:
    """Return a stream of the drawn clips, mixed with parts of noise at a ratio in dB."""
    pieces, words, start = [], [], 0
    for number, (clip, around) in enumerate(drawn):
        piece = np.pad(clips.samples(clip) / np.float32(32768), around)
        if parts:
            # one gain for a word and its pauses, so that the ratio is exact for each word
            part = parts[number]
            under = part[around : len(part) - around]
            piece += part * np.float32(np.sqrt(_energy(piece) / _energy(under) * 10 ** (-ratio / 10)))
        # what exceeds full scale is turned down with its noise: clipping would change the ratio
        piece /= max(1, np.abs(piece).max())
        pieces.append(np.clip(np.rint(piece * 32768), -32768, 32767).astype(np.int16))
        words.append(((start + len(piece) / 2) / settings.sample_rate, int(clips.label[clip])))
        start += len(piece)
    return LabelledStream("words in noise", np.concatenate(pieces), words)


def _energy(samples):
    return np.square(samples, dtype=np.float64).sum()


def recorded_noise(paths: list[str], minutes: float, seed, sample_rate: int) -> np.ndarray:
    """Return the beginnings of recordings, as long as each other, in random order: float32 [samples].

    They are about `minutes` long, if the recordings are.
    """
    wanted, parts = int(minutes * 60 * sample_rate), []
    each = max(wanted // len(paths), int(SHORTEST_PART_S * sample_rate))
    for path in np.random.default_rng(seed).permutation(paths):
        if sum(map(len, parts)) >= wanted:
            break
        with open_audio(str(path)) as file:
            blocks, missing = [], each
            for block in audio_blocks(file, sample_rate):
                blocks.append(block[:missing])
                missing -= len(blocks[-1])
                if not missing:
                    break
        parts.append(np.concatenate(blocks))
    return np.concatenate(parts) / np.float32(32768)


# ---- read ----


def read_stream(path, words_path, settings: Settings) -> LabelledStream:
    """Return a recording and the words in it, from a list that `read_words` reads.

    A file stays on disk, to be read block by block.
    Words that the model does not know are named on standard error. UserError if a file cannot be read, or if
    the list has none of the model's words.
    """
    stream = LabelledStream(str(path), None, [])
    if not os.path.isfile(path):
        # a pipe can be read once
        stream = replace(stream, samples=np.concatenate([*stream.blocks(settings.sample_rate)]))
    end = sum(map(len, stream.blocks(settings.sample_rate))) / settings.sample_rate
    wanted = {folded(word): settings.labels.index(word) for word in settings.wanted_words}
    words, unknown = [], Counter()
    for number, seconds, word in read_words(words_path):
        line = f"{words_path}, line {number}"
        # most likely the list of another recording
        if seconds > end:
            raise UserError(f"{line}: {seconds:g} s is after the end of {path}, {end:g} s")
        if folded(word) in wanted:
            words.append((seconds, wanted[folded(word)]))
        elif word not in settings.labels:  # a list may say _unknown_
            unknown[word] += 1
    counts = ", ".join(f"{word} ({count})" for word, count in sorted(unknown.items()))
    if not words:
        found = f"; it has {counts}" if counts else ""
        raise UserError(f"{words_path} has none of the words {', '.join(settings.wanted_words)}{found}")
    if unknown:
        print(f"{words_path}: words that the model does not know are left out: {counts}", file=sys.stderr)
    return replace(stream, words=sorted(words))


def read_words(path) -> Iterator[tuple[int, float, str]]:
    """Yield the number of each line of a word list, the seconds of the word's middle, and the word.

    The list is text in UTF-8 with lines `seconds,word`; a semicolon or a tab separates too. An Audacity label
    track has the word's start, end and name instead, separated by tabs. Empty lines are skipped. UserError
    names the first line that is anything else.
    """
    content = Path(path).read_bytes()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        number = 1 + content.count(b"\n", 0, error.start)
        raise UserError(f"{path}, line {number}: not text in UTF-8; save the list as CSV in UTF-8") from None
    for number, line in enumerate(lines, 1):
        # a label's lowest and highest frequency follow it
        if not line.strip() or line.startswith("\\\t"):
            continue
        entry = WORD_LINE.fullmatch(line)
        # zero bytes: text in UTF-16 without a mark of its order is valid UTF-8
        if not entry or "\0" in line:
            found = f"such as 2.5,yes, not {line[:60]!r}"
            raise UserError(f"{path}, line {number}: expected 'seconds,word', {found}")
        start, end, word = entry.groups()
        yield number, (float(start) + float(end or start)) / 2, word


# ---- compared with what was detected ----


def matches(detections: list[Detection], words: list[tuple[float, int]]) -> list[bool]:
    """Return for each detection whether it is of a word at that time, within TOLERANCE_S.

    A word is matched once, by the first detection that is near it.
    """
    unmatched, found = list(words), []
    for detection in detections:
        # (seconds apart, word) of the word's mentions that are near, nearest first
        same = [word for word in unmatched if word[1] == detection.label]
        near = sorted((abs(word[0] - detection.seconds), word) for word in same)
        found.append(bool(near) and near[0][0] <= TOLERANCE_S)
        if found[-1]:
            unmatched.remove(near[0][1])
    return found
