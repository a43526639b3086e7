"""A data set of synthetic speech: which recordings of which voices, made in parallel, each once."""

import itertools
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.folders import NEGATIVES_FOLDER, NOISE_FOLDER
from kws.audio.recordings import read_audio, wav_bytes
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
# factors of a voice's own speed and pitch: lowest and highest
SPEEDS, PITCHES = (0.6, 1.2), (0.8, 1.25)
NOISES = 0.4, 1.4  # factors of piper's noises
NATURAL_SHARE = 0.5  # of the recordings, if there are natural voices and others
PARTS = "first", "last"  # a phrase that is cut is no word, but sounds like the phrase for a while
PART_FRACTION = 0.35, 0.6  # the shortest and the longest part
CLIP_STEP_MS, SHORTEST_CLIP_MS = 100, 1000
PROBES = 24  # recordings of a phrase that say how long it is
NOISE_SECONDS, PEAK_OF_NOISE = 20, 0.7


@dataclass(frozen=True)
class SynthesisOptions:
    """The flags of synthesize.py, whose help says what each is."""

    output: str = ""
    count: int = 1000
    confusables: int = 0
    sentences: int = 300
    language: str = "en"
    engines: tuple[str, ...] = ()  # all that are installed if empty
    piper_voices: str | None = None
    clip_duration_ms: int | None = None  # fitted if None
    word_list: str | None = None
    seed: int = 0


class Job(NamedTuple):
    """One recording to make."""

    path: str  # in the data folder
    utterance: Utterance
    part: str = ""  # one of PARTS; all of it if empty
    fraction: float = 1
    is_clip: bool = True  # a long recording if not


def folder_name(text: str) -> str:
    """Return the name of a phrase's folder, which is the label: without spaces, as in `hey_robot`."""
    words = words_in(composed(_plain(text).casefold()), others="_'-")
    name = "_".join(word for word in words if any(map(str.isalnum, word))).strip("_")
    if not name:
        raise UserError(f"{text!r} has no letters")
    return name


def _plain(text):
    """Return a text with the apostrophe that every synthesiser reads; to some she’ll is shell."""
    return text.replace("’", "'")


def folders_of(phrases) -> dict[str, str]:
    """Return {folder: phrase}. Raise UserError if two phrases would have the same folder."""
    found = {}
    for phrase in phrases:
        name = folder_name(phrase)
        if name in found:
            raise UserError(f"{found[name]!r} and {phrase!r} are the same word, {name}")
        found[name] = " ".join(_plain(phrase).split())
    return found


# ---- which recordings ----


class Draw:
    """Draws how texts are said. A recording depends on its text and number alone, not on the others."""

    def __init__(self, voices: dict[str, list[Voice]], options: SynthesisOptions):
        self._voices = list(voices.values())
        self._seed = options.seed
        # an engine with few voices is used too, one with many more often
        shares = [ENGINES[name].weight * len(of_engine) ** 0.5 for name, of_engine in voices.items()]
        self._shares = np.divide(shares, sum(shares))
        is_natural = np.array([ENGINES[name].is_natural for name in voices])
        if is_natural.any() and not is_natural.all():
            for kind, share in (is_natural, NATURAL_SHARE), (~is_natural, 1 - NATURAL_SHARE):
                self._shares[kind] *= share / self._shares[kind].sum()

    def job(self, folder: str, text: str, number: int, part: str = "", is_clip=True) -> Job:
        """Return the recording `number` of a text."""
        rng = np.random.default_rng([self._seed, DRAWS, zlib.crc32(folder.encode()), number])
        of_engine = self._voices[rng.choice(len(self._shares), p=self._shares)]
        voice = of_engine[rng.integers(len(of_engine))]
        speed, pitch = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (SPEEDS, PITCHES))
        fraction = float(rng.uniform(*PART_FRACTION))
        noises = rng.uniform(*NOISES, 2).tolist()
        path = f"{folder}/{voice}_nohash_{number}.wav"
        return Job(path, Utterance(text, voice, speed, pitch, *noises), part, fraction, is_clip)

    def jobs(self, folder, text, count, part="") -> list[Job]:
        """Return the first `count` recordings of a text."""
        return [self.job(folder, text, number, part) for number in range(count)]


def unknown_jobs(draw: Draw, words: dict[str, str], near: dict[str, list[str]], count: int) -> list[Job]:
    """Return at most about `count` recordings for each word: of its parts, and of what sounds near."""
    found = {}
    for folder, text in words.items():
        each = max(1, count // 10)
        # halves of its sound, but half of "kitchen lights" may be the other word "lights"
        others = [other for other in words.values() if other != text]
        halves = () if confusables.holds_any(text, others) else PARTS
        for half in halves:
            name = f"{UNKNOWN_LABEL}/{folder}.{half}_part"
            found[name] = draw.jobs(name, text, each, half)
        # words of a phrase, which are no wanted words
        parts = [part for part in text.split() if part != text and any(map(str.isalnum, part))]
        parts = [part for part in parts if folder_name(part) not in words]
        # what sounds near shares the rest
        alike = near.get(text, [])
        left = max(0, count - each * (len(halves) + len(parts)))
        amounts = [(part, each) for part in parts] + [(one, -(-left // len(alike))) for one in alike]
        for one, amount in amounts:
            name = f"{UNKNOWN_LABEL}/{folder_name(one)}"
            if len(found.get(name, ())) < amount:
                found[name] = draw.jobs(name, one, amount)
    return [job for jobs in found.values() for job in jobs]


def sentence_texts(options: SynthesisOptions, words: list[str], forbidden) -> list[str]:
    """Return the running text, made up of `words` and without the phrases `forbidden`."""
    english = options.language.split("-")[0] == "en"
    rng = np.random.default_rng([options.seed, SENTENCES])
    endless = confusables.sentences(words, english, forbidden, rng)
    return list(itertools.islice(endless, options.sentences))


# ---- how long they are ----


def fitting_clip_ms(jobs: list[Job]) -> int:
    """Return the length of clip, in ms, that these recordings fit into: a multiple of CLIP_STEP_MS."""
    lengths = [len(samples) for _, samples in spoken(jobs) if samples is not None]
    if not lengths:
        raise UserError(f"{jobs[0].utterance.text!r}: no voice says anything")
    milliseconds = 1000 * max(lengths) / SAMPLE_RATE
    return max(SHORTEST_CLIP_MS, CLIP_STEP_MS * int(np.ceil(milliseconds / CLIP_STEP_MS)))


# ---- the plan of a folder ----


def read_plan(folder: Path) -> dict:
    """Return how the recordings in a folder are made, and of which words; nothing if there are none.

    Raise UserError if the file that says so is damaged.
    """
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
    """Note in `folder` how its recordings are made, and of which words.

    More words, and more of everything, are the same plan. If words are added, running text, which may hold
    them, is deleted and made again. Raise UserError if the folder has recordings of another plan, or an added
    word among the unknown ones.
    """
    stored = read_plan(folder)
    for name, value in plan.items() if stored else ():
        if stored.get(name) != value:
            kept = f"{name} {_shown(stored.get(name))}, not {_shown(value)}"
            raise UserError(f"{folder} holds recordings with {kept}: give another --output, or delete it")
    # a word that is taught as unknown elsewhere in the folder would be unlearnt
    added = words.keys() - stored["words"].keys() if stored else ()
    for name in words:
        for other in sorted((folder / UNKNOWN_LABEL).glob("*")):
            if other.name == name or name in added and f"_{name}_" in f"_{other.name.replace('.', '_')}_":
                raise UserError(f"{other} holds {name} as an unknown word: delete that folder")
    if added:
        _delete_running_text(folder)
    write_text(folder / PLAN_FILE, json.dumps(plan | {"words": words}, indent=1, ensure_ascii=False))


def _delete_running_text(folder):
    """Delete running text and the noise that is mixed of it; recordings by people stay."""
    for file in (folder / NEGATIVES_FOLDER).glob("*"):
        if is_synthetic(file.name):
            file.unlink()
    (folder / NOISE_FOLDER / "talk.wav").unlink(missing_ok=True)


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value


# ---- making them ----


def make(folder: Path, jobs: list[Job], clip_ms: int) -> tuple[int, int]:
    """Make the recordings that are not there yet. Return how many were made, and how many are silent."""
    from tqdm import tqdm

    missing = [job for job in jobs if not (folder / job.path).exists()]
    for place in sorted({(folder / job.path).parent for job in missing}):
        place.mkdir(parents=True, exist_ok=True)
        delete_leftovers(place / "*.wav")
    silent = 0
    progress = {"total": len(missing), "desc": "speaking", "unit": " recordings", "disable": None}
    for job, samples in tqdm(spoken(missing), **progress):
        if samples is None:
            silent += 1
            continue
        if job.is_clip:
            samples = centred(samples, SAMPLE_RATE * clip_ms // 1000)
        _write(folder / job.path, samples)
    return len(missing) - silent, silent


def _write(path, samples):
    # leftovers of killed processes were deleted once for the folder
    write_bytes(path, wav_bytes(samples, SAMPLE_RATE), sweep=False)


def spoken(jobs: list[Job]) -> Iterator[tuple[Job, np.ndarray | None]]:
    """Yield (job, float32 [samples] or None if it is silent) of each job, in any order, on all cores."""
    # a voice's jobs in a row, as loading a voice may take seconds
    in_order = sorted(jobs, key=lambda job: job.utterance.voice)
    calls = []
    for name, of_engine in itertools.groupby(in_order, key=lambda job: job.utterance.voice.engine):
        left, size = list(of_engine), ENGINES[name].at_once
        calls += [left[start : start + size] for start in range(0, len(left), size)]
    # threads, as the work is in other processes or in libraries that release the lock
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for future in as_completed([pool.submit(_say, call) for call in calls]):
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _say(jobs):
    """Return [(job, samples)] of jobs for one engine, by one call of it."""
    engine = ENGINES[jobs[0].utterance.voice.engine]
    found = []
    for job, (samples, rate) in zip(jobs, engine.speak([job.utterance for job in jobs]), strict=True):
        samples = finished(samples, rate, SAMPLE_RATE)
        if job.part and samples is not None:
            samples = part_of(samples, job.part, job.fraction)
        found.append((job, samples))
    return found


def write_noise(folder: Path, seed: int):
    """Write the noises that are not there yet, NOISE_SECONDS each.

    They have four spectra, a humming machine, and people who talk. Recordings of real places are better.
    """
    place = folder / NOISE_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    delete_leftovers(place / "*.wav")
    rng = np.random.default_rng([seed, NOISE])
    sentences = sorted((folder / NEGATIVES_FOLDER).glob("*_nohash_*.wav"))
    for name, samples in _noises([file for file in sentences if is_synthetic(file.name)], rng):
        if not (place / f"{name}.wav").exists():
            _write(place / f"{name}.wav", PEAK_OF_NOISE * samples / np.abs(samples).max())


def _noises(sentences, rng):
    """Yield (name, float [samples]) of each noise; the talk is mixed of the files `sentences`."""
    count = NOISE_SECONDS * SAMPLE_RATE
    for name, slope in {"white": 0, "pink": -0.5, "brown": -1, "blue": 0.5}.items():
        spectrum = np.fft.rfft(rng.normal(size=count))
        yield name, np.fft.irfft(spectrum * np.arange(1.0, len(spectrum) + 1) ** slope)
    # mains at 50 Hz with harmonics
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
