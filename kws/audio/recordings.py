"""Recordings of any format as int16 samples of one rate."""

import contextlib
import functools
import io
import os
import struct
import wave
from collections.abc import Iterator

import numpy as np

from kws.audio.containers import Patched, as_file, find_data, real_size
from kws.audio.containers import is_container as is_container  # for those who open recordings

SILENT_RANGE = 2  # between the lowest and highest sample: dither
LOWEST_RATE = 1000  # Hz; lower ones come from damaged headers
BLOCK_SAMPLES = 2**16  # of a recording that are decoded at a time, which bounds memory
UNKNOWN_FRAMES = 2**62  # what libsndfile says of a stream that does not say its length is SF_COUNT_MAX
FLOATS = "FLOAT", "DOUBLE"
LOUDEST_FLOAT = 8  # 18 dB above full scale: what mixing and resampling may reach, and clipping mends
QUIETEST_INTEGER = 256  # as a peak: quieter recordings at the scale of int16 cannot be told from damage
# of these, libsndfile may count frames that the last block does not have: at most two of MPEG's
IN_BLOCKS, FRAMES_OF_A_BLOCK = ("GSM", "G72", "IMA_", "MS_", "NMS_", "VOX_", "MPEG"), 2 * 1152


class BadAudio(Exception):
    """Why a file cannot be used."""


class Recording:
    """An open recording, and how its samples become those of one channel at full scale 1."""

    def __init__(self, file, frames: int, gain: float = 1, channel: int | None = None):
        self.file, self.frames, self.gain = file, frames, gain
        self.channel = channel  # the one to take where the mean of all would be nothing
        self.samplerate, self.channels, self.subtype = file.samplerate, file.channels, file.subtype


@contextlib.contextmanager
def open_audio(source) -> Iterator[Recording]:
    """A recording: a path, also of a pipe, or an open binary file such as `sys.stdin.buffer`.

    Raises BadAudio with the reason, on opening or while reading.
    """
    import soundfile

    with as_file(source) as path:
        if path is None:
            raise BadAudio(
                "is a pipe that holds no audio file; label_wav.py takes raw samples on standard input"
            )
        if os.path.isdir(path):
            raise BadAudio("is a folder")
        if os.path.getsize(path) == 0:
            raise BadAudio("is empty")
        if str(path).lower().endswith(".raw"):  # soundfile would ask for its rate
            raise BadAudio("does not say its rate; label_wav.py takes raw samples on standard input")
        patch = _patch(path)
        try:
            with _open_file(path, patch) as file:
                recording = Recording(file, file.frames)
                if file.channels > 1 or file.subtype in FLOATS or file.frames >= UNKNOWN_FRAMES:
                    with _open_file(path, patch) as again:  # not all formats can be rewound
                        recording = Recording(file, *survey(_blocks(again), file.channels, file.subtype))
                yield recording
        except soundfile.LibsndfileError as error:
            raise unreadable(error) from None


def unreadable(error) -> BadAudio:
    """What a soundfile.LibsndfileError says."""
    return BadAudio(f"is not audio that can be read ({str(error.error_string).strip().rstrip('.')})")


def _patch(path):
    """(place, bytes) that the header should have instead, or None. BadAudio where samples are missing."""
    with open(path, "rb") as file:
        data = find_data(file)
        if data is None:
            return None
        size = real_size(data, file)
    if size is None:
        raise BadAudio("is truncated")
    if size == data.size:
        return None
    try:
        return data.field, data.field_content(size)
    except struct.error:
        raise BadAudio("is larger than its format can say: split it, or convert it to FLAC") from None


@functools.cache
def sequential():
    """soundfile.SoundFile, imported when it is needed, but for its seeking after every block that is read.

    Not all formats can be sought in, nor streams that do not say their length.
    """
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self):
            return False

    return Sequential


@contextlib.contextmanager
def _open_file(path, patch):
    """An open soundfile.SoundFile that is read from its beginning to its end."""
    with contextlib.ExitStack() as stack:
        if patch:
            path = Patched(stack.enter_context(open(path, "rb", buffering=0)), *patch)
        elif os.name == "posix":
            path = os.fsencode(path)  # soundfile cannot encode names that are no text
        yield stack.enter_context(sequential()(path))


def _blocks(file):
    while len(block := file.read(BLOCK_SAMPLES, "float32", always_2d=True)):
        yield block


def survey(blocks, channels: int, subtype: str) -> tuple[int, float, int | None]:
    """(frames, gain, channel) of a Recording, from its samples block by block, float32 [frames, channels]."""
    count, peak, whole = 0, 0.0, True
    sums, squares = np.zeros((2, channels + 1))  # of each channel and of their mean
    for block in blocks:
        block = np.nan_to_num(block, posinf=0, neginf=0)
        peak = max(peak, float(np.abs(block).max()))
        whole = whole and bool((block == np.round(block)).all())
        block = np.column_stack([block, block.mean(axis=1)]).astype(np.float64)
        sums, squares, count = sums + block.sum(0), squares + np.square(block).sum(0), count + len(block)
    gain = _float_gain(peak, whole) if subtype in FLOATS else 1
    *each, of_mean = squares / max(1, count) - np.square(sums / max(1, count))
    # the mean of channels that have nothing in common has 1 / channels of their power
    cancels = channels > 1 and of_mean < np.mean(each) / channels / 4
    return count, gain, int(np.argmax(each >= 0.999 * max(each))) if cancels else None


def _float_gain(peak, whole):
    """What to multiply float samples with, by the largest and by whether all are whole numbers."""
    if peak <= LOUDEST_FLOAT and not (whole and peak > 1):
        return 1
    if peak <= 2 * 32768 and (whole or peak >= QUIETEST_INTEGER):
        return 1 / 32768
    raise BadAudio(f"has float samples up to {peak:.3g}, where 1 or 32768 should be the largest")


def audio_blocks(recording: Recording, sample_rate: int) -> Iterator[np.ndarray]:
    """An open recording piece by piece, int16 [samples]: other rates than `sample_rate` resampled (soxr, high
    quality), channels averaged (or, where they cancel out, the loudest taken), other sample formats rounded.
    Raises BadAudio where it ends too early.
    """
    file = recording.file
    if file.samplerate < LOWEST_RATE:
        raise BadAudio(f"has {file.samplerate} Hz")
    unchanged = file.subtype == "PCM_16" and file.samplerate == sample_rate and file.channels == 1
    resampler = None
    if file.samplerate != sample_rate:
        import soxr

        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, quality="HQ")
    count = 0
    while len(block := file.read(BLOCK_SAMPLES, "int16" if unchanged else "float32", always_2d=True)):
        count += len(block)
        if unchanged:
            yield block[:, 0]
        else:
            mono = block.mean(axis=1) if recording.channel is None else block[:, recording.channel].copy()
            mono *= np.float32(recording.gain)
            yield _rounded(resampler.resample_chunk(mono) if resampler else mono)
    if count == 0:
        raise BadAudio("holds no samples")
    if count < recording.frames - (FRAMES_OF_A_BLOCK if file.subtype.startswith(IN_BLOCKS) else 0):
        raise BadAudio("is truncated")
    if resampler:
        yield _rounded(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _rounded(samples):
    """float [samples] from -1 to 1 as int16."""
    return np.clip(np.round(32768 * np.nan_to_num(samples)), -32768, 32767).astype(np.int16)


def read_audio(source, sample_rate: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """A recording as int16 [samples], and what was changed for that, in words, such as "from 44100 Hz".

    Raises BadAudio with the reason.
    """
    with open_audio(source) as recording:
        samples = np.concatenate([*audio_blocks(recording, sample_rate)])
        if not len(samples):  # a few at a rate far higher
            raise BadAudio("is too short")
        changes = {
            f"from {recording.samplerate} Hz": recording.samplerate != sample_rate,
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
    """`length` of the samples: those that most of the energy is in the middle of, to 1/100 of the length.

    Where they are fewer, zeros follow.
    """
    start = clip_start(samples, length)
    clip = samples[start : start + length]
    return np.pad(clip, (0, length - len(clip)))


def clip_start(samples: np.ndarray, length: int) -> int:
    """The first of the samples that `one_clip` takes."""
    step = max(1, length // 100)  # sliding by single samples would take 100 times as long
    if len(samples) < length + step:
        return 0
    blocks = samples[: len(samples) // step * step].reshape(-1, step).astype(np.float64)
    middle = np.convolve(np.square(blocks).sum(1), np.hanning(length // step + 2)[1:-1], "valid")
    return min(step * int(middle.argmax()), len(samples) - length)
