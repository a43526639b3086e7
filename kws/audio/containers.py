"""Files of audio before they are decoded: known by their first bytes, saved from pipes, and with sizes in
their headers that a recorder got wrong, for example as it was interrupted.
"""

import contextlib
import io
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = (  # first bytes of what libsndfile reads
    *(
        b"RIFF",
        b"RIFX",
        b"RF64",
        b"BW64",
        b"riff\x2e\x91\xcf\x11",
        b"fLaC",
        b"OggS",
        b"FORM",
        b"caff",
        b"ID3",
    ),
    *(b".snd", b"dns.", b"Creative Voice File", b"NIST_1A", b"2BIT", b" paf", b"fap ", b"PVF1", b"MATLAB 5"),
)
TAGS = b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN"  # that are put after everything else
STREAMED = 0x7FFF0000  # sizes from here on are what programs that write to a pipe put in place of one


class _Chunks(NamedTuple):
    """How a container that consists of chunks (identifier, size, content) is written."""

    start: int  # of the first chunk
    id_bytes: int
    size: str  # of a chunk, for struct
    data: bytes  # how the identifier of the samples' chunk begins
    counted: int = 0  # bytes of identifier and size that are part of the size
    alignment: int = 1


CHUNKS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data", alignment=2),
    b"RIFX": _Chunks(12, 4, ">I", b"data", alignment=2),
    b"RF64": _Chunks(12, 4, "<I", b"data", alignment=2),
    b"BW64": _Chunks(12, 4, "<I", b"data", alignment=2),
    b"FORM": _Chunks(12, 4, ">I", b"SSND", alignment=2),
    b"caff": _Chunks(8, 4, ">q", b"data"),
    b"riff": _Chunks(40, 16, "<q", b"data", counted=24, alignment=8),  # W64: identifiers are GUIDs
}
RF64_DATA_SIZE = 28, "<q"  # where RF64 files have the size that does not fit into their data chunk


def is_container(first_bytes: bytes) -> bool:
    """Whether a file that begins like this says what is in it, other than raw samples.

    16 bytes are enough; of an MP3 file without a tag, a kilobyte or more makes it surer.
    """
    return first_bytes.startswith(MAGIC) or _is_mpeg(first_bytes)


def _is_mpeg(first):
    """Whether an MPEG audio frame begins here, and after it another, where `first` reaches so far."""
    length = _mpeg_frame_bytes(first)
    return bool(length) and (len(first) < length + 4 or bool(_mpeg_frame_bytes(first[length:])))


def _mpeg_frame_bytes(header):
    """The length of the MPEG audio frame, layer II or III, with this header (ISO 11172-3, 2.4.2.3), or 0."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer, rate, bit_rate = (
        header[1] >> 3 & 3,
        header[1] >> 1 & 3,
        header[2] >> 2 & 3,
        header[2] >> 4,
    )
    if version == 1 or layer not in (1, 2) or rate == 3 or not 0 < bit_rate < 15:
        return 0
    of_version_1 = version == 3
    hertz = (44100, 48000, 32000)[rate] // (1 if of_version_1 else 2 if version == 2 else 4)
    if of_version_1 and layer == 2:
        table = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
    elif of_version_1:
        table = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    else:
        table = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    samples = 576 if layer == 1 and not of_version_1 else 1152
    return samples // 8 * 1000 * table[bit_rate - 1] // hertz + (header[2] >> 1 & 1)


@contextlib.contextmanager
def as_file(source) -> Iterator[str | os.PathLike | None]:
    """The path of a file with what `source`, a path or an open binary file, holds; None if no container.

    A regular file is itself. What comes from a pipe (a FIFO, /dev/fd/N, standard input) is written to a
    temporary file until it ends, as the formats need seeking.
    """
    is_open = hasattr(source, "read")
    mode = 0 if is_open else os.stat(source).st_mode
    if not is_open and not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        yield source
        return
    with contextlib.ExitStack() as stack:
        stream = source if is_open else stack.enter_context(open(source, "rb"))
        first = stream.read(4096)
        if first and not is_container(first):
            yield None
            return
        spooled = stack.enter_context(tempfile.NamedTemporaryFile(prefix="keyword_spotting-"))
        spooled.write(first)
        shutil.copyfileobj(stream, spooled, 2**20)
        spooled.flush()
        yield spooled.name


class DataChunk(NamedTuple):
    """Where the samples of a file are, and how long its header says that they are."""

    start: int
    size: int  # bytes, as in the header
    field: int  # where that size is in the header
    format: str  # and how, for struct
    kind: _Chunks | None = None

    def field_content(self, size: int) -> bytes:
        """The header's field for another size; struct.error where that does not fit."""
        return struct.pack(self.format, size + (self.kind.counted if self.kind else 0))


def find_data(file) -> DataChunk | None:
    """The chunk with the samples of an open file; None in formats without, or where chunks are damaged."""
    first = file.read(12)
    if first[:4] == b".snd" and len(first) == 12:
        start, size = struct.unpack(">II", first[4:])
        return DataChunk(start, size, 8, ">I")
    kind = CHUNKS.get(first[:4])
    place = kind.start if kind else None
    while place:
        header = _chunk_header(file, place, kind)
        if header is None:
            return None
        identifier, size, start = header
        if identifier.startswith(kind.data):
            if first[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
                field, layout = RF64_DATA_SIZE
                file.seek(field)
                (size,) = struct.unpack(layout, file.read(8).ljust(8, b"\0"))
                return DataChunk(start, size, field, layout, kind)
            return DataChunk(start, size, place + kind.id_bytes, kind.size, kind)
        place = _aligned(start + size, kind) if size >= 0 else None
    return None


def _chunk_header(file, place, kind):
    """(identifier, size of the content, where that starts) of the chunk at `place`; None where none fits."""
    if place >= file.seek(0, os.SEEK_END):  # in a damaged file too far even to seek there
        return None
    file.seek(place)
    header = file.read(kind.id_bytes + struct.calcsize(kind.size))
    if len(header) < kind.id_bytes + struct.calcsize(kind.size):
        return None
    (size,) = struct.unpack(kind.size, header[kind.id_bytes :])
    return header[: kind.id_bytes], size - kind.counted, place + len(header)


def _aligned(place, kind):
    return place + -(place - kind.start) % kind.alignment


def real_size(data: DataChunk, file) -> int | None:
    """How many bytes of samples are in the file; None where more than the size of a header is missing."""
    end = file.seek(0, os.SEEK_END)
    present, of_header = end - data.start, max(data.start, 128)
    if data.size > present:
        return present if data.size >= STREAMED or data.size - present <= of_header else None
    if data.size > 0 and present - data.size <= of_header or _something_else(data, file, end):
        return data.size
    return present  # samples that were written after the header


def _something_else(data, file, end):
    """Whether another chunk or a tag, or nothing, follows where the header says that samples end."""
    if data.size < 0 or data.kind is None:
        return False
    place = _aligned(data.start + data.size, data.kind)
    if place >= end:
        return True
    file.seek(place)
    if file.read(16).startswith(TAGS):
        return True
    header = _chunk_header(file, place, data.kind)
    if header is None:
        return False
    identifier, size, start = header
    return identifier[:4].isascii() and identifier[:4].decode().isprintable() and 0 <= size <= end - start


class Patched(io.RawIOBase):
    """A file with the bytes from `place` on replaced by `content`, for reading."""

    def __init__(self, file, place: int, content: bytes):
        self._file, self._place, self._content = file, place, content

    def readinto(self, buffer):
        start = self._file.tell()
        count = self._file.readinto(buffer)
        first = max(start, self._place)
        last = min(start + count, self._place + len(self._content))
        if first < last:
            replaced = self._content[first - self._place : last - self._place]
            memoryview(buffer).cast("B")[first - start : last - start] = replaced
        return count

    def seek(self, offset, whence=os.SEEK_SET):
        with contextlib.suppress(OSError):  # before the beginning, by a damaged header: libsndfile sees it
            self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self):
        return self._file.tell()

    def readable(self):
        return True

    def seekable(self):
        return True
