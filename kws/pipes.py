"""Recordings that come through a pipe, where nothing can be read twice: WAV and raw samples as they come,
other formats when they have ended.
"""

import contextlib
import io
import shutil
import struct
import tempfile
from typing import BinaryIO, NamedTuple

import numpy as np

from kws.containers import is_container
from kws.recordings import BadAudio, Recording, open_audio

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


class Pipe:
    """A file that can only be read on, with a look ahead."""

    def __init__(self, file: BinaryIO):
        self._file, self._ahead = file, b""

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer only where it ends; they stay."""
        self._ahead += self._file.read(max(0, count - len(self._ahead)))
        return self._ahead[:count]

    def read(self, count: int) -> bytes:
        content = self.peek(count)
        self._ahead = self._ahead[count:]
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


@contextlib.contextmanager
def open_pipe(file: BinaryIO, raw_rate: int, block_ms: float):
    """What comes through a pipe, for `audio_blocks`, and whether it is raw, which is what has no header:
    16-bit little-endian mono samples at `raw_rate` Hz. Raises BadAudio with the reason.
    """
    pipe = Pipe(file)
    head = pipe.peek(HEAD_BYTES)
    if not head:
        raise BadAudio("is empty")
    if not is_container(head) and not is_other_media(head):
        if is_text(head):
            raise BadAudio("is text, not audio")
        stream = PcmStream(pipe, Header(raw_rate, 1, "PCM_16", 0, None), block_ms)
        yield Recording(stream, stream.frames), True
    elif header := wav_header(pipe):
        pipe.read(header.start)
        stream = PcmStream(pipe, header, block_ms)
        yield Recording(stream, stream.frames), False
    else:
        with tempfile.NamedTemporaryFile(prefix="recording") as spooled:
            shutil.copyfileobj(pipe, spooled)
            spooled.flush()
            with open_audio(spooled.name) as recording:
                yield recording, False


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
