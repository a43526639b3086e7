"""Files decoded block by block: by libsndfile (soundfile), or by FFmpeg (PyAV) if libsndfile cannot."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kws.audio.folders import FFMPEG_SUFFIXES
from kws.base.errors import UserError

BLOCK_FRAMES = 2**16  # decoded at a time, which bounds memory
# programs that write a header into a pipe put a size in place of the real one: the largest, or a round one
STREAMED_BYTES, ROUND_BYTES = 0x7FFF0000, (2**28, 10**8)
UNKNOWN_FRAMES = 2**62  # libsndfile's count, or a larger one, for a stream that does not say its length
# libsndfile may count frames of these that the last block does not have: at most two of MPEG's
IN_BLOCKS, FRAMES_OF_A_BLOCK = ("GSM", "G72", "IMA_", "MS_", "NMS_", "VOX_", "MPEG"), 2 * 1152
# libsndfile's log of a size in the header, and of the size that the file has room for
WRONG_SIZE = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.M)
HEADER_BYTES = 128  # at most, as a rule; some programs count them as samples
EMPTY_BYTES = 512  # of a file without samples, at most: header and titles
# not those that consist of the addresses of other files
FFMPEG_FORMATS = "aac,aiff,amr,asf,au,avi,caf,flac,matroska,mov,mp3,ogg,w64,wav"
# formats whose headers, not FFmpeg's estimates, say how long they are, and by how much too long that may be
TIMED_S = {"flac": 0, "matroska,webm": 0.25}


class BadAudio(Exception):
    """The reason why a file cannot be used, to follow its name."""


@dataclass
class Recording:
    """An open recording, and how its samples become one channel at full scale 1."""

    rate: int  # Hz
    channels: int
    blocks: Iterator[np.ndarray]  # [frames, channels]: int16 if it is one channel of 16 bits, else float32
    frames: int = 0  # with fewer it is truncated
    has_floats: bool = False  # their full scale may be an integer's
    gain: float = 1
    channel: int | None = None  # the channel to take if the mean of all cancels out


@contextlib.contextmanager
def open_file(path) -> Iterator[Recording]:
    """Open a file, to be read once from its beginning to its end.

    Raises BadAudio with the reason, on opening or while reading. UserError if PyAV is missing.
    """
    import soundfile

    # soundfile cannot encode names that are no text
    name = os.fsencode(path) if os.name == "posix" else path
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_sequential()(name))
        except soundfile.LibsndfileError as error:
            recording = stack.enter_context(_open_other(path, _unreadable(error.error_string)))
        else:
            recording = _decoded_by_libsndfile(file)
            # the size in the header may be 0, as an interrupted recorder leaves it
            is_plain = not file.subtype.startswith(IN_BLOCKS)
            if is_plain and not file.frames and os.path.getsize(path) > EMPTY_BYTES:
                with contextlib.suppress(BadAudio, UserError):
                    recording = stack.enter_context(_open_other(path, BadAudio("holds no samples")))
        yield recording


def _unreadable(why):
    return BadAudio(f"is not audio that can be read ({str(why).strip().rstrip('.')})")


@functools.cache
def _sequential():
    """Return soundfile.SoundFile, imported when it is needed, without its seeking after every block.

    Not all formats can be sought in, nor can streams that do not say their length.
    """
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self):
            return False

    return Sequential


def _decoded_by_libsndfile(file):
    """Return the Recording of an open soundfile.SoundFile; BadAudio if its samples are not all there."""
    for said, there in WRONG_SIZE.findall(file.extra_info):
        if int(there) + HEADER_BYTES < int(said) and not is_placeholder(int(said)):
            raise BadAudio("is truncated")
    is_plain = file.subtype == "PCM_16" and file.channels == 1
    frames = 0 if file.frames >= UNKNOWN_FRAMES else file.frames
    if file.subtype.startswith(IN_BLOCKS):
        frames -= FRAMES_OF_A_BLOCK
    blocks = _libsndfile_blocks(file, "int16" if is_plain else "float32")
    return Recording(file.samplerate, file.channels, blocks, frames, file.subtype in ("FLOAT", "DOUBLE"))


def is_placeholder(size: int) -> bool:
    """Return whether a size in a header, in bytes, is no real one: it is very large, or large and round."""
    is_round = any((size + HEADER_BYTES) % unit <= 2 * HEADER_BYTES for unit in ROUND_BYTES)
    return size >= STREAMED_BYTES or size > 2 * HEADER_BYTES and is_round


def _libsndfile_blocks(file, dtype):
    import soundfile

    try:
        while len(block := file.read(BLOCK_FRAMES, dtype, always_2d=True)):
            yield block
    except soundfile.LibsndfileError as error:
        raise _unreadable(error.error_string) from None


# ---- FFmpeg ----


def _import_av(name):
    """Import and return PyAV; raise UserError, with the `name` of what needs it, if it is missing."""
    try:
        import av
    except ImportError:
        raise UserError(f"{name} is read by PyAV, which is missing: python -m pip install av") from None
    return av


def begins_with_frames(head: bytes, name: str) -> bool:
    """Return whether this is MP3 or AAC without a title: frames of one kind follow each other.

    UserError, with `name`, if this looks like one frame and PyAV is missing.
    """
    # bits 1 and 2 are the layer; both are set in the bytes of sample -1, and in no MP3 or AAC
    if len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0 or head[1] & 6 == 6:
        return False
    codec = _import_av(name).CodecContext.create("mp3" if head[1] & 6 else "aac", "r")
    frames = codec.parse(head)
    return len(frames) > 1 and all(bytes(frame)[:2] == head[:2] for frame in frames[:3])


@contextlib.contextmanager
def _open_other(path, problem: BadAudio):
    """Open by FFmpeg what libsndfile cannot read; raise libsndfile's `problem` if FFmpeg is not for it."""
    with contextlib.ExitStack() as stack:
        try:
            recording = stack.enter_context(open_by_ffmpeg(f"file:{path}", path))
        except (BadAudio, UserError):
            # a damaged WAV file is no reason to install PyAV
            if str(path).lower().endswith(FFMPEG_SUFFIXES):
                raise
            raise problem from None
        yield recording


class _Interrupted(Exception):
    """Ctrl-C on its way through FFmpeg, which would drop a KeyboardInterrupt."""


class PipeForFFmpeg:
    """A file that cannot seek, as FFmpeg reads it."""

    def __init__(self, file):
        self._file = file

    def read(self, count: int) -> bytes:
        """Return some of the next bytes; none at the end."""
        try:
            return self._file.read(count)
        except KeyboardInterrupt:
            raise _Interrupted from None


@contextlib.contextmanager
def open_by_ffmpeg(source: str | PipeForFFmpeg, name: str, **options) -> Iterator[Recording]:
    """Open a URL or pipe, with options of FFmpeg's demuxers.

    Raises BadAudio with the reason, on opening or while reading. UserError, with `name`, if PyAV is missing.
    """
    av = _import_av(name)
    options["format_whitelist"] = FFMPEG_FORMATS
    try:
        with av.open(source, options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise BadAudio("holds no sound")
            # the first frame knows rate and channels better than the header: AAC's may double both
            frames = container.decode(audio=0)
            first = next(frames, None)
            if first is None:
                raise BadAudio("holds no samples")
            yield Recording(
                first.sample_rate,
                first.layout.nb_channels,
                _ffmpeg_blocks(first, frames, av.FFmpegError),
                _least_frames(container, first.sample_rate),
                has_floats=container.streams.audio[0].codec_context.name.startswith("pcm_f"),
            )
    except _Interrupted:
        raise KeyboardInterrupt from None
    except av.FFmpegError as error:
        raise _unreadable(error.strerror) from None


def _least_frames(container, rate):
    """Return how many frames there are at least if the file is not truncated; 0 if nothing says so."""
    surplus = TIMED_S.get(container.format.name)
    # a picture or film beside the sound may be longer
    if surplus is None or len(container.streams) > 1:
        return 0
    return max(0, int(rate * ((container.duration or 0) / 1_000_000 - surplus)))


def _ffmpeg_blocks(first, frames, FFmpegError):
    """Yield the samples of the first frame and of those that follow it."""
    yield _samples(first)
    try:
        for frame in frames:
            if (frame.sample_rate, frame.layout.nb_channels) != (first.sample_rate, first.layout.nb_channels):
                raise BadAudio("changes its sample rate or channels")
            yield _samples(frame)
    except FFmpegError:
        raise BadAudio("is truncated or damaged") from None


def _samples(frame):
    """Return the samples of a frame as a block of a Recording."""
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    # [frames, channels]
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if samples.dtype == np.int16 and channels == 1:
        return samples
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        samples = (samples ^ 0x80).view(np.int8)
    return samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
