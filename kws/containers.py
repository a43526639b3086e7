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
    counted: int = 0  # bytes before `start` that the size includes
    alignment: int = 1  # of what follows


def find_data(file) -> DataChunk | None:
    """The chunk with the samples of an open file; None in formats without, or where chunks are damaged."""
    first = file.read(12)
    if first[:4] == b".snd" and len(first) == 12:
        start, size = struct.unpack(">II", first[4:])
        return DataChunk(start, size, 8, ">I")
    kind, place = CHUNKS.get(first[:4]), 0
    while kind and place < 2**40:  # sizes are positive, so this ends
        place = place or kind.start
        file.seek(place)
        header = file.read(kind.id_bytes + struct.calcsize(kind.size))
        if len(header) < kind.id_bytes + struct.calcsize(kind.size):
            return None
        (size,) = struct.unpack(kind.size, header[kind.id_bytes :])
        start = place + len(header)
        if header.startswith(kind.data):
            if first[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
                field, layout = RF64_DATA_SIZE
                file.seek(field)
                return DataChunk(start, *struct.unpack(layout, file.read(8)), field, layout)
            field = place + kind.id_bytes
            return DataChunk(start, size - kind.counted, field, kind.size, kind.counted, kind.alignment)
        if size < kind.counted:
            return None
        place = start + -(-(size - kind.counted) // kind.alignment) * kind.alignment
    return None


def real_size(data: DataChunk, file) -> int | None:
    """How many bytes of samples are in the file; None where more than the size of a header is missing."""
    present = file.seek(0, os.SEEK_END) - data.start
    if data.size > present:
        streamed = data.size >= STREAMED
        return present if streamed or data.size - present <= data.start else None
    if data.size < 0:
        return present
    file.seek(data.start + data.size + -data.size % data.alignment)
    follows = file.read(4)
    if data.size and present - data.size <= data.start:
        return data.size
    # another chunk or a tag, or samples that were written after the header
    return data.size if follows.isascii() and follows.decode().isprintable() else present


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
