"""A data set of synthetic speech: which recordings of which voices, made in parallel, each once."""

import io
import json
import os
import sys
import wave
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.folders import NEGATIVES_FOLDER, NOISE_FOLDER
from kws.audio.recordings import read_audio
from kws.base.errors import UserError
from kws.base.files import delete_leftovers, write_bytes, write_text
from kws.base.settings import UNKNOWN_LABEL
from kws.base.text import composed, words_in
from kws.data.clips import is_synthetic
from kws.synth import confusables
from kws.synth.engines import ENGINES, Utterance, Voice, centred, finished, part_of

SAMPLE_RATE = 16000
PLAN_FILE = "synthesis.json"
DRAWS, SENTENCES, NOISE = 0, 1, 2  # independent streams of random numbers of --seed
PARTS = "first", "last"  # of a phrase that is cut: no word, but it sounds like the phrase for a while
PART_FRACTION = 0.35, 0.6  # of its length
CLIP_STEP_MS, SHORTEST_CLIP_MS = 100, 1000
PROBES = 24  # recordings of a phrase that say how long it is
NOISE_SECONDS, PEAK_OF_NOISE = 20, 0.7


@dataclass(frozen=True)
class SynthesisOptions:
    """What is made: the flags of synthesize.py."""

    output: str = ""
    count: int = 500
    confusables: int = 40
    sentences: int = 300
    language: str = "en"
    engines: tuple[str, ...] = ()  # all that are installed where empty
    piper_voices: str | None = None
    speeds: tuple[float, ...] = (0.75, 1.3)
    pitches: tuple[float, ...] = (0.8, 1.25)
    clip_duration_ms: int | None = None  # fitted where None
    word_list: str | None = None
    text: str | None = None
    seed: int = 0

    def __post_init__(self):
        for name in ("speeds", "pitches"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"--{name} {low:g} {high:g}: the lowest comes first")


class Job(NamedTuple):
    """One recording to make."""

    path: str  # in the data folder
    utterance: Utterance
    part: str = ""  # one of PARTS, or all of it
    fraction: float = 1
    is_clip: bool = True  # or a long recording


def folder_name(text: str) -> str:
    """The name of a phrase's folder, which is the label: without spaces, as in `hey_robot`."""
    words = words_in(composed(_plain(text).casefold()), others="_'-")
    name = "_".join(word for word in words if any(map(str.isalnum, word))).strip("_")
    if not name:
        raise UserError(f"{text!r} has no letters")
    return name


def _plain(text):
    """With the apostrophe that synthesisers know: some leave out the other, and read she’ll as shell."""
    return text.replace("’", "'")


def folders_of(phrases) -> dict[str, str]:
    """{folder: phrase}; UserError where two phrases would have the same."""
    found = {}
    for phrase in phrases:
        name = folder_name(phrase)
        if name in found:
            raise UserError(f"{found[name]!r} and {phrase!r} are the same word, {name}")
        found[name] = " ".join(_plain(phrase).split())
    return found


# ---- which recordings ----


class Draw:
    """Draws how texts are said. The recording of a number depends on the text, not on how many there are."""

    def __init__(self, voices: dict[str, list[Voice]], options: SynthesisOptions):
        self._voices, self._options = voices, options
        # an engine with few voices is used too, one with many more often
        shares = [ENGINES[name].weight * len(of_engine) ** 0.5 for name, of_engine in voices.items()]
        self._shares = np.divide(shares, sum(shares))

    def job(self, folder: str, text: str, number: int, part: str = "", is_clip=True) -> Job:
        options = self._options
        rng = np.random.default_rng([options.seed, DRAWS, zlib.crc32(folder.encode()), number])
        of_engine = list(self._voices.values())[rng.choice(len(self._shares), p=self._shares)]
        voice = of_engine[rng.integers(len(of_engine))]
        speed, pitch = (float(np.exp(rng.uniform(*np.log(r)))) for r in (options.speeds, options.pitches))
        fraction = float(rng.uniform(*PART_FRACTION))
        path = f"{folder}/{voice}_nohash_{number}.wav"
        return Job(path, Utterance(text, voice, speed, pitch), part, fraction, is_clip)

    def jobs(self, folder, text, count, part="") -> list[Job]:
        return [self.job(folder, text, number, part) for number in range(count)]


def word_jobs(draw: Draw, words: dict[str, str], count: int) -> list[Job]:
    return [job for folder, text in words.items() for job in draw.jobs(folder, text, count)]


def unknown_jobs(draw: Draw, words: dict[str, str], near: dict[str, list[str]], count: int) -> list[Job]:
    """What sounds like the words: for each about `count` recordings, of its parts and of what is near."""
    found = {}
    for folder, text in words.items():
        each = max(1, count // 10)
        others = [other for other in words.values() if other != text]
        cut = () if confusables.holds_any(text, others) else PARTS  # half of "kitchen lights" may be "lights"
        for part in cut:
            name = f"{UNKNOWN_LABEL}/{folder}.{part}_part"
            found[name] = draw.jobs(name, text, each, part)
        parts = [part for part in text.split() if part != text and any(map(str.isalnum, part))]
        parts = [part for part in parts if folder_name(part) not in words]
        alike = near.get(text, [])
        left = max(0, count - each * (len(cut) + len(parts)))
        amounts = [(part, each) for part in parts] + [(one, -(-left // len(alike))) for one in alike]
        for one, amount in amounts:
            name = f"{UNKNOWN_LABEL}/{folder_name(one)}"
            if len(found.get(name, ())) < amount:
                found[name] = draw.jobs(name, one, amount)
    return [job for jobs in found.values() for job in jobs]


def sentence_jobs(draw: Draw, texts: list[str]) -> list[Job]:
    return [draw.job(NEGATIVES_FOLDER, text, number, is_clip=False) for number, text in enumerate(texts)]


def sentence_texts(options: SynthesisOptions, words: list[str], forbidden) -> list[str]:
    """The running text: --text, again and again, or else made up."""
    if options.text:
        texts = confusables.text_sentences(options.text, forbidden)
        return [texts[number % len(texts)] for number in range(options.sentences)]
    english = options.language.split("-")[0] == "en"
    rng = np.random.default_rng([options.seed, SENTENCES])
    endless = confusables.sentences(words, english, forbidden, rng)
    return [text for _, text in zip(range(options.sentences), endless, strict=False)]


# ---- how long they are ----


def fitting_clip_ms(jobs: list[Job]) -> int:
    """The length of clip, in ms, that these recordings fit into: a multiple of CLIP_STEP_MS."""
    lengths = [len(samples) for _, samples in spoken(jobs) if samples is not None]
    if not lengths:
        raise UserError(f"{jobs[0].utterance.text!r}: no voice says anything")
    milliseconds = 1000 * max(lengths) / SAMPLE_RATE
    return max(SHORTEST_CLIP_MS, CLIP_STEP_MS * int(np.ceil(milliseconds / CLIP_STEP_MS)))


# ---- the plan of a folder ----


def read_plan(folder: Path) -> dict:
    """What the recordings in a folder are made by, and of; empty where there are none."""
    note = folder / PLAN_FILE
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        if not isinstance(stored["words"], dict) or not isinstance(stored["--clip_duration_ms"], int):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{note} is damaged: delete {folder} to make the recordings again") from None
    return stored


def claim(folder: Path, plan: dict, words: dict[str, str]) -> None:
    """Note in `folder` what its recordings are made by, and of; UserError where others are there.

    More words, and more of everything, are the same plan. Where words are added, running text, which may
    hold them, is deleted and made again.
    """
    stored = read_plan(folder)
    for name, value in plan.items() if stored else ():
        if stored.get(name) != value:
            raise UserError(
                f"{folder} holds recordings with {name} {_shown(stored.get(name))}, not {_shown(value)}: "
                "give another --output, or delete it"
            )
    added = words.keys() - stored["words"].keys() if stored else ()
    for name in words:
        for other in sorted((folder / UNKNOWN_LABEL).glob("*")):
            if other.name == name or name in added and f"_{name}_" in f"_{other.name.replace('.', '_')}_":
                raise UserError(f"{other} holds {name} as an unknown word: delete that folder")
    if added:
        _delete_running_text(folder)
    write_text(folder / PLAN_FILE, json.dumps(plan | {"words": words}, indent=1, ensure_ascii=False))


def _delete_running_text(folder):
    """And the noise that is mixed of it; recordings by people stay."""
    for file in (folder / NEGATIVES_FOLDER).glob("*"):
        if is_synthetic(file.name):
            file.unlink()
    (folder / NOISE_FOLDER / "talk.wav").unlink(missing_ok=True)


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value


# ---- making them ----


def make(folder: Path, jobs: list[Job], clip_ms: int) -> tuple[int, int]:
    """Make the recordings that are not there yet; how many were made, and how many are silent."""
    from tqdm import tqdm

    missing = [job for job in jobs if not (folder / job.path).exists()]
    for place in sorted({(folder / job.path).parent for job in missing}):
        place.mkdir(parents=True, exist_ok=True)
        delete_leftovers(place / "*.wav")
    made = silent = 0
    with tqdm(total=len(missing), desc="speaking", unit=" recordings", disable=None) as progress:
        for job, samples in spoken(missing):
            if samples is None:
                silent += 1
            else:
                if job.is_clip:
                    samples = centred(samples, SAMPLE_RATE * clip_ms // 1000)
                write_wav(folder / job.path, samples)
                made += 1
            progress.update()
    return made, silent


def spoken(jobs: list[Job]):
    """(job, float32 [samples] or None where it is silent) of each, in any order, on all cores."""
    by_engine = {}
    for job in jobs:
        by_engine.setdefault(job.utterance.voice.engine, []).append(job)
    calls = []
    for name, of_engine in by_engine.items():
        engine = ENGINES[name]
        if name == "piper":  # loading a voice takes seconds
            of_engine = sorted(of_engine, key=lambda job: job.utterance.voice.name)
        calls += [
            (engine, of_engine[start : start + engine.at_once])
            for start in range(0, len(of_engine), engine.at_once)
        ]

    def call(engine, some):
        found = []
        for job, (samples, rate) in zip(some, engine.speak([job.utterance for job in some]), strict=True):
            samples = finished(samples, rate, SAMPLE_RATE)
            if job.part and samples is not None:
                samples = part_of(samples, job.part, job.fraction)
            found.append((job, samples))
        return found

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for future in as_completed([pool.submit(call, *one) for one in calls]):
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def write_wav(path: Path, samples: np.ndarray):
    """Write a recording of 16 bits; it appears when it is complete.

    Not by soundfile: its errors do not say that a disk is full, and Ctrl-C is lost in its callbacks.
    """
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.clip(np.rint(32768 * samples), -32768, 32767).astype("<i2").tobytes())
    write_bytes(path, content.getbuffer(), sweep=False)


def write_noise(folder: Path, seed: int):
    """Noises of a room, those that are not there: of four spectra, a humming machine, and people who talk.

    NOISE_SECONDS each. Recordings of real places are better.
    """
    place = folder / NOISE_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    delete_leftovers(place / "*.wav")
    rng = np.random.default_rng([seed, NOISE])
    sentences = sorted((folder / NEGATIVES_FOLDER).glob("*_nohash_*.wav"))
    for name, samples in _noises([file for file in sentences if is_synthetic(file.name)], rng):
        if not (place / f"{name}.wav").exists():
            write_wav(place / f"{name}.wav", PEAK_OF_NOISE * samples / np.abs(samples).max())


def _noises(sentences, rng):
    count = NOISE_SECONDS * SAMPLE_RATE
    for name, slope in {"white": 0, "pink": -0.5, "brown": -1, "blue": 0.5}.items():
        spectrum = np.fft.rfft(rng.normal(size=count))
        yield name, np.fft.irfft(spectrum * np.arange(1.0, len(spectrum) + 1) ** slope)
    time = np.arange(count) / SAMPLE_RATE
    yield "hum", sum(np.sin(2 * np.pi * 50 * n * time + rng.uniform(0, 7)) / n for n in range(1, 12))
    if not sentences:
        return
    talk = np.zeros(count)
    for number in rng.integers(len(sentences), size=60):
        samples = read_audio(sentences[number], SAMPLE_RATE)[0].astype(np.float64)[:count]
        start = rng.integers(count - len(samples) + 1)
        talk[start : start + len(samples)] += rng.uniform(0.2, 1) * samples
    yield "talk", talk


def report_silent(silent: int):
    if silent:
        print(f"{silent} recordings are left out: their voices say nothing", file=sys.stderr)
