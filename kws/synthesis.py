"""Speech synthesisers that are installed, and what each says: espeak-ng, flite, festival, piper."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.cli import UserError

WORDS_PER_MINUTE = 175  # espeak-ng's normal speed
NO_PEOPLE = re.compile(  # variants of espeak-ng's voices that nobody would speak with
    "robosoft|.*robot|demonic|croak|whisper|storm|tweaky|ricishay|anxious|fast|kaukovalta", re.IGNORECASE
)
# festvox voices for one task alone cannot say other things, and kal is kal16 at half its rate
UNSUITABLE = re.compile(".*_time$|kal$")
TIMEOUT = 120  # s, of one call: something hangs


class Voice(NamedTuple):
    """A voice of a synthesiser: what a file name has as its speaker."""

    engine: str
    name: str
    speaker: int | None = None  # of a voice that has several

    def __str__(self):
        name = f"{self.engine}-{Path(self.name).stem}" + ("" if self.speaker is None else f"-s{self.speaker}")
        return re.sub("[^A-Za-z0-9_.+-]+", "-", name)


class Utterance(NamedTuple):
    """What to say and how: speed and pitch are factors, 1 being the voice's own."""

    text: str
    voice: Voice
    speed: float = 1
    pitch: float = 1


class Engine(NamedTuple):
    """A synthesiser. `speak` yields the samples of utterances, of any of its voices, and their rate.

    Where a synthesiser cannot change the pitch it speaks slower, and its samples are said to be of a higher
    rate, or the other way round.
    """

    name: str
    install: str
    voices: object  # (language, piper_voices) -> list[Voice], empty where it is not installed
    speak: object  # list[Utterance] -> Iterator of (float32 [samples], Hz)
    at_once: int  # utterances of a call


def _run(command, text=None) -> bytes:
    """The standard output of a synthesiser; UserError with its last line where it fails."""
    # in a session of its own, so that Ctrl-C is for us alone, and what is running ends in order
    result = subprocess.run(
        command,
        input=None if text is None else text.encode(),
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        timeout=TIMEOUT,
        start_new_session=True,
    )
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UserError(f"{command[0]} failed (exit code {result.returncode}): {lines[-1]}")
    return result.stdout


def _decoded(source):
    import soundfile

    return soundfile.read(source, dtype="float32")


# ---- espeak-ng ----


def _espeak_voices(language, _):
    if not shutil.which("espeak-ng"):
        return []
    names = []
    for line in _run(["espeak-ng", f"--voices={language.split('-')[0]}"]).decode().splitlines()[1:]:
        code, file = line.split()[1], line.split()[4]
        if not file.startswith(("mb/", "!v")) and (code == language or code.startswith(f"{language}-")):
            names.append(code)
    if names == [] and _run(["espeak-ng", "--voices"]).decode().find(f" {language} ") < 0:
        raise UserError(f"espeak-ng has no --language {language} (espeak-ng --voices lists them)")
    listed = _run(["espeak-ng", "--voices=variant"]).decode()
    variants = sorted(name for name in re.findall(r"!v/(\S+)\s*\n", listed) if not NO_PEOPLE.match(name))
    return [
        Voice("espeak-ng", name)
        for name in [f"{name}{variant}" for name in names for variant in ("", *(f"+{v}" for v in variants))]
    ]


def _espeak(utterances) -> Iterator:
    for text, voice, speed, pitch in utterances:
        # its 100 steps of pitch are two octaves
        steps = str(min(99, max(0, round(50 + 50 * math.log2(pitch)))))
        rate = str(max(80, round(WORDS_PER_MINUTE * speed)))
        command = ["espeak-ng", "-v", voice.name, "-s", rate, "-p", steps, "--stdin", "--stdout"]
        yield _decoded(io.BytesIO(_run(command, text)))


# ---- flite and festival, which speak English ----


def _speaks_english(program, language):
    return shutil.which(program) and language.split("-")[0] == "en"


def _ascii(text):
    """Without accents, which they do not read."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _flite_voices(language, _):
    if not _speaks_english("flite", language):
        return []
    names = _run(["flite", "-lv"]).decode().partition(":")[2].split()
    return [Voice("flite", name) for name in sorted(names) if not UNSUITABLE.match(name)]


def _flite(utterances) -> Iterator:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "said.wav")
        for text, voice, speed, pitch in utterances:
            stretch = f"duration_stretch={pitch / speed:.4f}"
            _run(
                ["flite", "-voice", voice.name, "--setf", stretch, "-t", f" {_ascii(text)}", "-o", str(path)]
            )
            samples, rate = _decoded(path)
            yield samples, rate * pitch


def _festival_voices(language, _):
    if not _speaks_english("festival", language):
        return []
    names = _run(["festival", "-b", "(print (voice.list))"]).decode().strip("()\n ").split()
    return [Voice("festival", name) for name in sorted(names) if not UNSUITABLE.match(name)]


def _festival(utterances) -> Iterator:
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for number, (text, voice, speed, pitch) in enumerate(utterances):
            quoted = re.sub(r'["\\]', " ", _ascii(text))
            lines += [
                f"(voice_{voice.name})",  # which sets the stretch to its own
                f"(Parameter.set 'Duration_Stretch {pitch / speed:.4f})",
                f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{folder}/{number}.wav" \'riff)',
            ]
        script = Path(folder, "script.scm")
        script.write_text("\n".join(lines))
        _run(["festival", "-b", str(script)])
        for number, utterance in enumerate(utterances):
            samples, rate = _decoded(Path(folder, f"{number}.wav"))
            yield samples, rate * utterance.pitch


# ---- piper: voices that the user has downloaded ----


def _piper_voices(language, folder):
    if not folder:
        return []
    try:
        import piper  # noqa: F401
    except ImportError:
        raise UserError("--piper_voices: piper is not installed (pip install piper-tts)") from None
    voices = []
    for path in sorted(Path(folder).rglob("*.onnx")):
        try:
            config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} needs its {path.name}.json, which is downloaded with it") from None
        code = config.get("language", {}).get("code") or config.get("espeak", {}).get("voice", "")
        code = code.replace("_", "-").lower()
        if code != language.lower() and not code.startswith(f"{language.lower()}-"):
            continue
        speakers = config.get("num_speakers", 1)
        voices += [Voice("piper", str(path), s) for s in (range(speakers) if speakers > 1 else [None])]
    if not voices:
        raise UserError(f"--piper_voices {folder} has no voices of --language {language}")
    return voices


_PIPER_LOCK = threading.Lock()  # it uses all cores for one utterance, and loads a voice in seconds


@functools.lru_cache(maxsize=2)
def _piper_voice(path):
    from piper import PiperVoice

    return PiperVoice.load(path)


def _piper(utterances) -> Iterator:
    from piper import SynthesisConfig

    for text, voice, speed, pitch in utterances:
        with _PIPER_LOCK:
            chunks = list(
                _piper_voice(voice.name).synthesize(
                    text, SynthesisConfig(speaker_id=voice.speaker, length_scale=pitch / speed)
                )
            )
        parts = [chunk.audio_float_array for chunk in chunks] or [np.zeros(0, np.float32)]
        yield np.concatenate(parts).astype(np.float32), (chunks[0].sample_rate if chunks else 16000) * pitch


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("espeak-ng", "apt-get install espeak-ng", _espeak_voices, _espeak, 8),
        Engine("flite", "apt-get install flite", _flite_voices, _flite, 8),
        Engine(
            "festival", "apt-get install festival festvox-us-slt-hts", _festival_voices, _festival, 16
        ),  # starting it takes as long as some words
        Engine("piper", "pip install piper-tts, and --piper_voices", _piper_voices, _piper, 64),
    )
}


def installed_voices(names: tuple[str, ...], language: str, piper_voices=None) -> dict[str, list[Voice]]:
    """The voices of each synthesiser that has any, of those `names` (all where empty).

    UserError where there are none, or one that was asked for has none.
    """
    found = {name: ENGINES[name].voices(language, piper_voices) for name in names or ENGINES}
    missing = [name for name, voices in found.items() if not voices]
    if missing and (names or len(missing) == len(found)):
        commands = "; ".join(f"{name}: {ENGINES[name].install}" for name in missing)
        raise UserError(f"no synthesiser with voices of --language {language}: {commands}")
    return {name: voices for name, voices in found.items() if voices}


# ---- from what was said to a recording ----

QUIET = 0.01  # of the peak: what is quieter at the ends is cut
MARGIN_SECONDS = 0.02
PEAK = 0.7  # of full scale


def finished(samples: np.ndarray, rate: float, sample_rate: int) -> np.ndarray | None:
    """What was said at `sample_rate`, its silent ends cut, its peak at PEAK; None where all is silent."""
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
    """With zeros on both sides where there are fewer than `length`."""
    room = max(0, length - len(samples))
    return np.pad(samples, (room // 2, room - room // 2))


def part_of(samples: np.ndarray, part: str, fraction: float) -> np.ndarray:
    """The first or the last `fraction` of samples, faded over a tenth of it where it is cut."""
    count = max(1, int(fraction * len(samples)))
    fade = np.linspace(0, 1, max(1, count // 10), dtype=np.float32)
    if part == "first":
        cut = samples[:count].copy()
        cut[len(cut) - len(fade) :] *= fade[::-1]
    else:
        cut = samples[len(samples) - count :].copy()
        cut[: len(fade)] *= fade
    return cut
