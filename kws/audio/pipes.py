"""Recordings that come through a pipe: raw samples, and formats that can be decoded as they come."""

import contextlib
import io
import math
import sys
import wave
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from kws.audio.decoders import (
    BadAudio,
    PipeForFFmpeg,
    Recording,
    begins_with_frames,
    is_placeholder,
    open_by_ffmpeg,
)
from kws.audio.raw import RawFormat, guess
from kws.audio.recordings import SILENT_RANGE, open_audio, spooled, survey

HEAD_BYTES = 4096  # enough for three frames of an MP3 file, and a WAV file's header
# first bytes of formats that are decoded as they come, WebM's last but one
AS_THEY_COME = b"RIFF", b"RF64", b"BW64", b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3", b"#!AMR"
# and of those that need seeking, WMA's and MPEG video's last
WHEN_ENDED = (
    *(b"RIFX", b"riff\x2e\x91\xcf\x11", b"FORM", b"caff", b".snd", b"dns.", b"Creative Voice File"),
    *(b"NIST_1A", b"2BIT", b" paf", b"fap ", b"PVF1", b"MATLAB 5", b"\x30\x26\xb2\x75", b"\0\0\x01\xba"),
)
PIPE = "a pipe of this format"  # in messages
SILENT_S = 3  # of zeros, after which a microphone seems to be off


class Pipe:
    """A file that can only be read on, with a look ahead."""

    def __init__(self, file: BinaryIO):
        # the unbuffered file, which gives what is there without waiting for more
        self._file = getattr(file, "raw", file)
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end; they stay."""
        while len(self._ahead) < count and (part := self._file.read(count - len(self._ahead))):
            self._ahead += part
        return self._ahead[:count]

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        content = self.peek(count)
        self._ahead = self._ahead[count:]
        return content

    def read(self, count: int) -> bytes:
        """Return some of the next bytes as soon as there are any; none at the end."""
        return self.take(min(count, len(self._ahead))) or self._file.read(count) or b""


@contextlib.contextmanager
def open_pipe(
    file: BinaryIO, raw_rate: int, block_ms: float, raw_format: RawFormat | None = None
) -> Iterator[tuple[Recording, bool]]:
    """Open what comes through a pipe; yield it and whether it is raw.

    What has no header is raw: samples at `raw_rate` Hz of `raw_format`. Without one, the first second says
    the format if it is unmistakable, and else they are taken for 16-bit little-endian mono samples. Raw and
    16-bit samples come in blocks of at most `block_ms`. Raises BadAudio with the reason. UserError if PyAV is
    needed and missing.
    """
    pipe = Pipe(file)
    head = pipe.peek(HEAD_BYTES)
    if not head:
        raise BadAudio("is empty")
    if head.startswith(AS_THEY_COME) or begins_with_frames(head, PIPE):
        wav = _wav_recording(pipe, head, block_ms)
        opened = contextlib.nullcontext(wav)
        if not wav:
            # FFmpeg need not look ahead for what the first frame says
            opened = open_by_ffmpeg(PipeForFFmpeg(pipe), PIPE, probesize="32")
        with opened as recording:
            yield _surveyed(recording), False
    elif head.startswith(WHEN_ENDED) or head[4:8] == b"ftyp":
        as_they_come = "only raw samples, WAV, FLAC, Ogg, MP3, AAC and WebM as they come"
        print(f"{PIPE} is decoded when it ends: {as_they_come}", file=sys.stderr)
        with spooled(pipe) as path, open_audio(path) as recording:
            yield recording, False
    elif _is_text(head):
        raise BadAudio("is text, not audio")
    else:
        raw_format = raw_format or _guessed(pipe.peek(2 * raw_rate), raw_rate)
        recording = _pcm_recording(pipe, raw_rate, raw_format, block_ms)
        recording.blocks = _heard(recording.blocks, raw_rate)
        yield _surveyed(recording), True


def _guessed(content, raw_rate) -> RawFormat:
    """Return the format to read raw samples in, and say if it is, or may be, another than 16-bit mono."""
    found, is_unmistakable = guess(content)
    if not is_unmistakable:
        taken = RawFormat(found.type)
        print(
            f"raw samples are taken for {taken}, but look like {found.channels} channels: "
            f"--raw_format {found} if they are",
            file=sys.stderr,
        )
        return taken
    if found != RawFormat():
        print(
            f"raw samples look like the format {found}, and are taken for it, at {raw_rate} Hz: "
            "--raw_format and --raw_rate if that is wrong",
            file=sys.stderr,
        )
    return found


def _heard(blocks, rate):
    """Yield the blocks, and say if all samples of the first seconds are 0."""
    zeros = 0
    for block in blocks:
        if zeros is not None:
            zeros = None if block.any() else zeros + len(block)
        if zeros is not None and zeros >= SILENT_S * rate:
            print(f"only zeros in the first {SILENT_S} s: is the microphone on?", file=sys.stderr)
            zeros = None
        yield block


def _is_text(head):
    """Return whether this is text: samples whose bytes are letters would be louder than audio is for long."""
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:64])


def _wav_recording(pipe, head, block_ms) -> Recording | None:
    """Return the Recording of a WAV file of 16-bit samples; None if it is another file, which stays unread.

    FFmpeg would first look for other formats in 64 KiB of these samples.
    """
    content = io.BytesIO(head)
    try:
        with wave.open(content) as file:
            channels, width, rate, frames, *_ = file.getparams()
    except (wave.Error, EOFError):
        return None
    if width != 2:
        return None
    # it was read up to the first sample
    pipe.take(content.tell())
    frames = 0 if is_placeholder(2 * channels * frames) else frames
    return _pcm_recording(pipe, rate, RawFormat("s16le", channels), block_ms, frames)


def _pcm_recording(pipe, rate, raw_format, block_ms, frames=0) -> Recording:
    """Return the Recording of raw samples, which end after `frames`, or with the pipe if that is 0."""

    def blocks():
        left, step = frames or math.inf, max(1, int(rate * block_ms / 1000))
        while len(block := raw_format.samples(pipe.take(raw_format.frame_bytes * min(step, left)))):
            yield block
            left -= len(block)

    return Recording(rate, raw_format.channels, blocks(), frames, raw_format.type == "f32le")


def _surveyed(recording) -> Recording:
    """Return the Recording, whose blocks are looked at first if they have several channels or are floats."""
    if recording.channels > 1 or recording.has_floats:
        recording.blocks = _blocks_surveyed(recording, recording.blocks)
    return recording


def _blocks_surveyed(recording, blocks):
    """Yield the blocks after a look at a second of them, which says the gain and channel of the Recording.

    If that is silent, each further second is looked at until one is not.
    """
    settled = False
    for block in blocks:
        ahead = [block]
        if not settled:
            while sum(map(len, ahead)) < recording.rate and (block := next(blocks, None)) is not None:
                ahead.append(block)
            recording.gain, recording.channel = survey(ahead, recording.channels, recording.has_floats)
            settled = bool((np.ptp(np.concatenate(ahead), axis=0) > SILENT_RANGE / 32768).any())
        yield from ahead
