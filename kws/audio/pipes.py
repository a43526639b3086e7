"""Recordings that come through a pipe, where nothing can be read twice: raw samples, WAV, FLAC and Ogg as
they come, other formats when they have ended.
"""

import contextlib
import io
import os
import queue
import shutil
import struct
import sys
import tempfile
import threading
from typing import BinaryIO, NamedTuple

import numpy as np

from kws.audio.containers import is_container
from kws.audio.recordings import (
    FLOATS,
    SILENT_RANGE,
    UNKNOWN_FRAMES,
    BadAudio,
    Recording,
    open_audio,
    sequential,
    survey,
    unreadable,
)

HEAD_BYTES = 2048  # that tell what comes; two frames of any usual MP3 file
OTHER_MEDIA = b"\x1aE\xdf\xa3", b"#!AMR", b"\0\0\x01\xba"  # WebM, AMR, MPEG video, which cannot be read
SUBTYPES = {  # of soundfile, by a WAV file's format tag and bits per sample
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
FRAME_BYTES = {subtype: bits // 8 for (_, bits), subtype in SUBTYPES.items()}  # of one channel
EXTENSIBLE = 0xFFFE  # format tag of headers that have the tag further on
SIZE_UNKNOWN = 0x7FFF0000  # and more: programs that write to a pipe cannot know the size; others write 0
LARGEST_HEADER = 2**26  # bytes; titles and cover pictures may precede the samples
PROGRESSIVE = b"fLaC", b"OggS"  # what libsndfile decodes without its end (where MP3 may have tags)
READ_BYTES = 4096  # of a pipe at a time, by decoders
KEPT_BYTES = 2**16  # for libsndfile to go back to, which it does to the beginning of a FLAC file
FAR_AWAY = 2**62  # bytes, for the size of what has no end
BLOCKS_AHEAD = 4  # decoded before they are asked for


class Pipe:
    """A file that can only be read on, with a look ahead; nothing of `file` must have been read before."""

    def __init__(self, file: BinaryIO):
        self._file = getattr(file, "raw", file)  # which gives what is there, without waiting for more
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer only where it ends; they stay."""
        parts, missing = [self._ahead], count - len(self._ahead)
        while missing > 0 and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        self._ahead = b"".join(parts)
        return self._ahead[:count]

    def read(self, count: int) -> bytes:
        content = self.peek(count)
        self._ahead = self._ahead[count:]
        return content

    def read_some(self, count: int) -> bytes:
        """Some of the next bytes as soon as there are any; none where it ends."""
        if not self._ahead:
            return self._file.read(count) or b""
        content, self._ahead = self._ahead[:count], self._ahead[count:]
        return content


class Header(NamedTuple):
    """Of a WAV file with plain samples."""

    rate: int
    channels: int
    subtype: str  # as soundfile names it
    start: int  # of the samples, in bytes
    size: int | None  # of the samples, in bytes; None where they end when the pipe does


class PcmStream:
    """Samples from a pipe, with what `audio_blocks` uses of a soundfile.SoundFile; `read` waits for no more
    than `block_ms` of audio.
    """

    def __init__(self, pipe: Pipe, header: Header, block_ms: float):
        self.samplerate, self.channels, self.subtype = header.rate, header.channels, header.subtype
        self._pipe, self._frame = pipe, header.channels * FRAME_BYTES[header.subtype]
        self._block = max(1, int(header.rate * block_ms / 1000))
        self._length = None if header.size is None else header.size // self._frame
        self._position = 0

    @property
    def frames(self) -> int:
        return self._position if self._length is None else self._length

    def tell(self) -> int:
        return self._position

    def read(self, frames: int, dtype: str, always_2d=True) -> np.ndarray:
        """The next samples [n, channels], n at most `frames`; 0 at the end."""
        import soundfile

        frames = min(frames, self._block)
        if self._length is not None:
            frames = min(frames, self._length - self._position)
        content = self._pipe.read(frames * self._frame)
        count = len(content) // self._frame
        self._position += count
        if not count:
            return np.zeros((0, self.channels), dtype)
        file = io.BytesIO(content[: count * self._frame])
        kind = {"samplerate": self.samplerate, "channels": self.channels, "subtype": self.subtype}
        options = {"format": "RAW", "endian": "LITTLE", "always_2d": True}
        return soundfile.read(file, dtype=dtype, **kind, **options)[0]


# ---- formats that libsndfile decodes ----


class _Onward:
    """A pipe as libsndfile wants a file: with a size, and some bytes back."""

    def __init__(self, pipe: Pipe):
        self._pipe, self._kept, self._start, self._position = pipe, b"", 0, 0

    def readinto(self, buffer) -> int:
        known = self._kept[self._position - self._start :][: len(buffer)]
        content = known or self._pipe.read_some(len(buffer))
        if not known:
            self._kept += content
            excess = max(0, len(self._kept) - KEPT_BYTES)
            self._kept, self._start = self._kept[excess:], self._start + excess
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: FAR_AWAY}[whence]
        if self._start <= place <= self._start + len(self._kept) or place == FAR_AWAY:
            self._position = place
        return self._position

    def tell(self) -> int:
        return self._position

    read = write = None  # soundfile wants to see them


class DecodedStream:
    """A FLAC or Ogg file from a pipe, decoded as it comes, with what `audio_blocks` uses of a
    soundfile.SoundFile. Raises BadAudio where it is none.

    A thread decodes, since libsndfile would not let go of the process (Ctrl-C) while it waits for more.
    """

    def __init__(self, pipe: Pipe, block_ms: float):
        self._decoded, self._closed = queue.Queue(BLOCKS_AHEAD), threading.Event()
        self._rest, self._ended = (), False
        threading.Thread(target=self._decode, args=(pipe, block_ms), daemon=True).start()
        kind = self._next()
        self.samplerate, self.channels, self.subtype, frames = kind
        self.frames = 0 if frames >= UNKNOWN_FRAMES else frames  # 0: as many as there are

    def read(self, frames: int, dtype: str, always_2d=True) -> np.ndarray:
        """The next samples [n, channels], n at most `frames`; 0 at the end."""
        if not len(self._rest) and not self._ended:
            self._rest = self._next()
            self._ended = not len(self._rest)
        block, self._rest = self._rest[:frames], self._rest[frames:]
        if dtype != block.dtype:  # it is int16
            return block.astype(np.float32) / np.float32(32768)
        return block

    def close(self):
        """Let the thread end, once what it waits for comes."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._decoded.get_nowait()

    def _next(self):
        item = self._decoded.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _decode(self, pipe, block_ms):
        import soundfile

        try:
            with _open_progressive(pipe) as file:
                self._decoded.put((file.samplerate, file.channels, file.subtype, file.frames))
                as_it_is = file.subtype == "PCM_16" and file.channels == 1
                dtype = "int16" if as_it_is else "float32"
                size = max(1, int(file.samplerate * block_ms / 1000))
                count = 1
                while count and not self._closed.is_set():
                    block = file.read(size, dtype, always_2d=True)
                    count = len(block)
                    self._decoded.put(block)
        except soundfile.LibsndfileError as error:
            self._decoded.put(unreadable(error))
        except Exception as error:
            self._decoded.put(error)


@contextlib.contextmanager
def _open_progressive(pipe):
    """A soundfile.SoundFile that reads from a pipe what PROGRESSIVE has."""
    if pipe.peek(4) == b"fLaC":
        with sequential()(_Onward(pipe)) as file:
            yield file
        return
    # of a file with a size libsndfile looks for the last page of Ogg, but not of a descriptor that is a pipe
    reader, writer = os.pipe()

    def pump():
        with contextlib.suppress(OSError), open(writer, "wb", buffering=0) as out:  # until nobody reads it
            while content := pipe.read_some(READ_BYTES):
                out.write(content)

    threading.Thread(target=pump, daemon=True).start()
    with sequential()(reader, closefd=True) as file:
        yield file


# ---- opening ----


class Surveyed:
    """A stream, the first second of which is looked at before any of it is passed on; and where that is
    silent, each further one until one is not.
    """

    def __init__(self, stream):
        self.samplerate, self.channels, self.subtype = stream.samplerate, stream.channels, stream.subtype
        self.recording = Recording(self, stream.frames)  # with the gain and channel that were found last
        self._stream, self._ahead, self._settled = stream, [], False

    def read(self, frames: int, dtype: str, always_2d=True) -> np.ndarray:
        if not self._ahead and not self._settled:
            self._look_ahead(dtype)
        return self._ahead.pop(0) if self._ahead else self._stream.read(frames, dtype)

    def _look_ahead(self, dtype):
        missing = self.samplerate
        while missing > 0 and len(block := self._stream.read(missing, dtype)):
            self._ahead.append(block)
            missing -= len(block)
        self._settled = missing > 0  # it has ended
        if self._ahead:
            _, gain, channel = survey(self._ahead, self.channels, self.subtype)
            self.recording.gain, self.recording.channel = gain, channel
            samples = np.concatenate(self._ahead)
            self._settled |= bool((np.ptp(samples, axis=0) > SILENT_RANGE / 32768).any())


@contextlib.contextmanager
def open_pipe(file: BinaryIO, raw_rate: int, block_ms: float):
    """What comes through a pipe, for `audio_blocks`, and whether it is raw, which is what has no header:
    16-bit little-endian mono samples at `raw_rate` Hz. Raises BadAudio with the reason.
    """
    pipe = Pipe(file)
    head = pipe.peek(HEAD_BYTES)
    if not head:
        raise BadAudio("is empty")
    if is_other_media(head):
        raise BadAudio("is not audio that can be read (Format not recognised)")
    if not is_container(head):
        if is_text(head):
            raise BadAudio("is text, not audio")
        stream = PcmStream(pipe, Header(raw_rate, 1, "PCM_16", 0, None), block_ms)
        yield Recording(stream, stream.frames), True
    elif header := wav_header(pipe):
        pipe.read(header.start)
        yield _surveyed(PcmStream(pipe, header, block_ms)), False
    elif head.startswith(PROGRESSIVE) and os.name == "posix":
        with contextlib.closing(DecodedStream(pipe, block_ms)) as stream:
            yield _surveyed(stream), False
    else:
        print(
            "a pipe of this format is decoded when it ends: only raw samples, WAV, FLAC and Ogg as they come",
            file=sys.stderr,
        )
        with tempfile.NamedTemporaryFile(prefix="recording") as spooled:
            shutil.copyfileobj(pipe, spooled)
            spooled.flush()
            with open_audio(spooled.name) as recording:
                yield recording, False


def _surveyed(stream) -> Recording:
    if stream.channels > 1 or stream.subtype in FLOATS:
        return Surveyed(stream).recording
    return Recording(stream, stream.frames)


def is_other_media(head: bytes) -> bool:
    """Whether this is what phones and browsers record and soundfile cannot read: it is not raw either."""
    return head.startswith(OTHER_MEDIA) or head[4:8] == b"ftyp"  # the latter in MP4, M4A and 3GP


def is_text(head: bytes) -> bool:
    """Whether this is text: samples whose bytes are letters would be louder than any audio is for long."""
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:64])


def wav_header(pipe: Pipe) -> Header | None:
    """The header of a WAV file of plain samples; None where it is another file, which stays unread."""
    if pipe.peek(4) not in (b"RIFF", b"RF64", b"BW64") or pipe.peek(12)[8:] != b"WAVE":
        return None
    kind, long_size, start = None, None, 12
    while len(chunk := pipe.peek(start + 8)[start:]) == 8:
        name, size = struct.unpack("<4sI", chunk)
        start += 8
        if name == b"data":
            size = long_size if long_size and size == 0xFFFFFFFF else size
            known = 0 < size < SIZE_UNKNOWN or size == long_size
            return kind and Header(*kind, start, size if known else None)
        if start + size > LARGEST_HEADER:
            return None
        content = pipe.peek(start + size)[start:]
        if name == b"fmt " and len(content) >= 16:
            kind = _kind(content)
        elif name == b"ds64" and len(content) >= 16:  # of RF64, for more than 4 GiB
            long_size = int.from_bytes(content[8:16], "little")
        start += size + size % 2
    return None


def _kind(content):
    """(rate, channels, subtype) of a WAV file's `fmt ` chunk; None where its samples are not plain."""
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", content)
    if tag == EXTENSIBLE and len(content) >= 26:
        tag = int.from_bytes(content[24:26], "little")
    subtype = SUBTYPES.get((tag, bits))
    if not subtype or not channels or not rate or frame != channels * FRAME_BYTES[subtype]:
        return None
    return rate, channels, subtype
