"""Recordings of any format as int16 samples of one rate."""

import contextlib
import io
import os
import shutil
import tempfile
import wave
from collections.abc import Iterator

import numpy as np

from kws.audio.decoders import BadAudio, Recording, open_file
from kws.audio.folders import RAW_SUFFIXES, UNREADABLE
from kws.base.errors import UserError

SILENT_RANGE = 2  # between the lowest and highest sample: dither
LOWEST_RATE = 1000  # Hz; lower ones come from damaged headers
LOUDEST_FLOAT = 8  # 18 dB above full scale: what mixing and resampling may reach, and clipping mends
QUIETEST_INTEGER = 256  # as a peak: quieter recordings at the scale of int16 cannot be told from damage
TRIMMED = 3 / 8  # of a clip: no recording of Speech Commands is as short
SPEECH_COMMANDS_CLIP = 16000  # samples: longer clips are for streams, in which a word is at the window's end
AFTER_WORD = 0.1  # of a clip for streams, behind the word
ENERGY_OF_WORD = 0.995  # before its end
WORD_OF_CLIP = 0.3  # least share of a clip that a word's loud part fills


@contextlib.contextmanager
def open_audio(source) -> Iterator[Recording]:
    """Open a recording: a path, also of a pipe, or an open binary file such as `sys.stdin.buffer`.

    Raises BadAudio with the reason, on opening or while reading. UserError if PyAV is needed and missing.
    """
    with contextlib.ExitStack() as stack:
        if hasattr(source, "read"):
            source = stack.enter_context(spooled(source))
        elif os.path.isdir(source):
            raise BadAudio("is a folder")
        elif os.path.exists(source) and not os.path.isfile(source):
            source = stack.enter_context(spooled(stack.enter_context(open(source, "rb"))))
        try:
            with open(source, "rb"):
                is_empty = os.path.getsize(source) == 0
        except OSError as error:
            raise BadAudio(f"{UNREADABLE}: {error.strerror}") from None
        if is_empty:
            raise BadAudio("is empty")
        if str(source).lower().endswith(RAW_SUFFIXES):
            raise BadAudio("does not say its rate; label_wav.py takes raw samples on standard input")
        recording = stack.enter_context(open_file(source))
        if recording.channels > 1 or recording.has_floats:
            # not all formats can be rewound
            with open_file(source) as again:
                recording.gain, recording.channel = survey(again.blocks, again.channels, again.has_floats)
        yield recording


@contextlib.contextmanager
def spooled(stream) -> Iterator[str]:
    """Write what comes through a pipe into a temporary file until it ends; yield the file's path."""
    with tempfile.NamedTemporaryFile(prefix="recording-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        yield file.name


def survey(blocks, channels: int, has_floats: bool) -> tuple[float, int | None]:
    """Return gain and channel of a Recording, from all its blocks, float32 [frames, channels].

    Raises BadAudio if its float samples are of no known scale.
    """
    count, peak, whole = 0, 0.0, True
    # of each channel and of their mean
    sums, squares = np.zeros((2, channels + 1))
    for block in blocks:
        block = np.nan_to_num(block, posinf=0, neginf=0)
        peak = max(peak, float(np.abs(block).max()))
        whole = whole and bool((block == np.round(block)).all())
        block = np.column_stack([block, block.mean(axis=1)]).astype(np.float64)
        sums, squares, count = sums + block.sum(0), squares + np.square(block).sum(0), count + len(block)
    gain = _float_gain(peak, whole) if has_floats else 1
    *each, of_mean = squares / max(1, count) - np.square(sums / max(1, count))
    # the mean of channels that have nothing in common has 1 / channels of their power
    cancels = channels > 1 and of_mean < np.mean(each) / channels / 4
    return gain, int(np.argmax(each >= 0.999 * max(each))) if cancels else None


def _float_gain(peak, whole):
    """Return what to multiply float samples with, by the largest and by whether all are whole numbers."""
    if peak <= LOUDEST_FLOAT and not (whole and peak > 1):
        return 1
    if peak <= 2 * 32768 and (whole or peak >= QUIETEST_INTEGER):
        return 1 / 32768
    raise BadAudio(f"has float samples up to {peak:.3g}, where 1 or 32768 should be the largest")


def audio_blocks(recording: Recording, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield an open recording piece by piece, int16 [samples] at `sample_rate` Hz.

    Other rates are resampled (soxr, high quality), other sample formats rounded. Channels are averaged; if
    they cancel out, the loudest is taken. Raises BadAudio if the recording ends too early.
    """
    if recording.rate < LOWEST_RATE:
        raise BadAudio(f"has {recording.rate} Hz")
    resampler = None
    if recording.rate != sample_rate:
        try:
            import soxr
        except ImportError:
            raise UserError(
                f"a recording has {recording.rate} Hz, and soxr, which resamples it, is missing: "
                "python -m pip install soxr"
            ) from None
        resampler = soxr.ResampleStream(recording.rate, sample_rate, 1, quality="HQ")
    count = 0
    for block in recording.blocks:
        count += len(block)
        if block.dtype == np.int16 and not resampler:
            yield block[:, 0]
            continue
        mono = _one_channel(block, recording)
        yield _rounded(resampler.resample_chunk(mono) if resampler else mono)
    if count == 0:
        raise BadAudio("holds no samples")
    if count < recording.frames:
        raise BadAudio("is truncated")
    if resampler:
        yield _rounded(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _one_channel(block, recording):
    """Return the samples of a block, [frames, channels], as float32 [frames] at full scale 1."""
    if block.dtype == np.int16:
        return block[:, 0] / np.float32(32768)
    mono = block.mean(axis=1) if recording.channel is None else block[:, recording.channel]
    return mono * np.float32(recording.gain)


def _rounded(samples):
    """Return float [samples] from -1 to 1 as int16."""
    return np.clip(np.round(32768 * np.nan_to_num(samples)), -32768, 32767).astype(np.int16)


def read_audio(source, sample_rate: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a recording as int16 [samples], and in words what was changed, such as "from 44100 Hz".

    Raises BadAudio with the reason.
    """
    with open_audio(source) as recording:
        samples = np.concatenate([*audio_blocks(recording, sample_rate)])
        # a few samples at a rate far higher
        if not len(samples):
            raise BadAudio("is too short")
        changes = {
            f"from {recording.rate} Hz": recording.rate != sample_rate,
            f"from {recording.channels} channels": recording.channels != 1,
            "from the loudest channel, as their mean cancels out": recording.channel is not None,
            "from float samples at the scale of 16-bit integers": recording.gain != 1,
        }
    return samples, tuple(change for change, made in changes.items() if made)


def wav_bytes(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return a WAV file of 16 bits and one channel with `samples`, int16 or float from -1 to 1.

    It is not written by soundfile, whose callbacks lose a Ctrl-C.
    """
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        whole = samples if samples.dtype == np.int16 else _rounded(samples)
        file.writeframes(whole.astype("<i2").tobytes())
    return content.getvalue()


def one_clip(samples: np.ndarray, length: int) -> np.ndarray:
    """Return `length` of the samples, with the word in their middle, to 1/100 of the length.

    Zeros follow a recording that is shorter. Half of them precede one of less than TRIMMED of the length,
    which was cut to a word. A clip longer than SPEECH_COMMANDS_CLIP has the word at its end, AFTER_WORD.
    """
    start = clip_start(samples, length)
    clip, before = samples[max(0, start) : start + length], max(0, -start)
    return np.pad(clip, (before, length - before - len(clip)))


def clip_start(samples: np.ndarray, length: int) -> int:
    """Return the index of the first sample that `one_clip` takes; below 0 if zeros precede the samples."""
    start = _loudest_start(samples, length)
    if length <= SPEECH_COMMANDS_CLIP:
        return start
    start = max(0, start)
    return start + word_end(samples[start : start + length]) - int((1 - AFTER_WORD) * length)


def word_end(samples: np.ndarray) -> int:
    """Return the number of samples, int16 or of any scale, in which nearly all of their energy lies."""
    energy = np.cumsum(np.square(samples, dtype=np.float32), dtype=np.float64)
    return int(np.searchsorted(energy, ENERGY_OF_WORD * energy[-1])) if energy.any() else len(samples)


def _loudest_start(samples, length):
    # sliding by single samples would take 100 times as long
    step = max(1, length // 100)
    if len(samples) < length + step:
        return (len(samples) - length) // 2 if len(samples) < TRIMMED * length else 0
    # differences leave out offsets and thumps
    differences = np.diff(samples, prepend=samples[:1].astype(np.float64))
    energy = np.square(differences[: len(samples) // step * step].reshape(-1, step)).sum(1)
    energy = np.maximum(0, energy - np.median(energy))
    # a word is longer than a click or a knock, which count no more than the word does
    loudest = np.sort(energy[energy > 0])[-int(WORD_OF_CLIP * length / step) :]
    energy = np.minimum(energy, loudest[0]) if len(loudest) else energy
    middle = np.convolve(energy, np.hanning(length // step + 2)[1:-1], "valid")
    return min(step * int(middle.argmax()), len(samples) - length)
