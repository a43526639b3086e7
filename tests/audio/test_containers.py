"""Files of audio as recorders and pipes leave them: headers with wrong sizes, streams without an end."""

import io
import os
import struct
import threading

import numpy as np
import pytest
import soundfile

from conftest import RATE, SAMPLE_DATA
from kws.audio.containers import is_container
from kws.audio.recordings import BadAudio, open_audio, read_audio

pytestmark = pytest.mark.fast

TONE = 0.3 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)
FORMATS = [
    *[("WAV", subtype) for subtype in ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "ULAW")],
    *[("WAV", subtype) for subtype in ("GSM610", "G721_32", "IMA_ADPCM", "MS_ADPCM")],
    *[("AU", "PCM_16"), ("AU", "G721_32"), ("AU", "G723_24"), ("AIFF", "PCM_16"), ("AIFF", "GSM610")],
    *[("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("W64", "GSM610"), ("RF64", "PCM_16")],
    *[("WAVEX", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
]
SIZE_FIELDS = {  # identifier of the samples' chunk, format of its size, bytes from one to the other
    "WAV": (b"data", "<I", 4),
    "AU": (b".snd", ">I", 8),
    "AIFF": (b"SSND", ">I", 4),
    "CAF": (b"data", ">q", 4),
    "W64": (b"data\xf3\xac", "<q", 16),
}


def audio_file(container, subtype, samples=TONE):
    """The bytes of a file."""
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, subtype, format=container)
    return bytearray(content.getvalue())


def with_sizes(container, content, samples=None, whole=None):
    """A file's bytes with other sizes in its header: of the samples, and of a RIFF file as a whole."""
    identifier, layout, distance = SIZE_FIELDS[container]
    content, place = bytearray(content), content.find(identifier) + distance
    if samples is not None:
        struct.pack_into(layout, content, place, samples)
    if whole is not None:
        struct.pack_into("<I", content, 4, whole)
    return content


def read(path, content):
    path.write_bytes(content)
    return read_audio(path, RATE)[0]


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_every_format_is_read_whole_from_files_and_pipes(tmp_path, container, subtype):
    content = audio_file(container, subtype)
    samples = read(tmp_path / "x", content)
    assert RATE <= len(samples) < RATE + 1000
    np.testing.assert_allclose(samples[RATE // 4 : RATE // 2] / 32768, TONE[RATE // 4 : RATE // 2], atol=0.1)
    assert is_container(bytes(content[:16]))
    np.testing.assert_array_equal(read_audio(io.BytesIO(content), RATE)[0], samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "GSM610", "G721_32", "IMA_ADPCM"])
@pytest.mark.parametrize("samples", [None, 0, 1, 64, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, "+8", "+44", "-2"])
def test_sizes_in_a_wav_header_are_hints(tmp_path, subtype, samples):
    content = audio_file("WAV", subtype, TONE[: RATE // 4])
    expected = read(tmp_path / "x.wav", content)
    samples = off_by(samples, len(content) - content.find(b"data") - 8)
    short = 320 if samples == len(content) - content.find(b"data") - 10 else 0  # two bytes may be padding
    for whole in (None, 0, 36, 0xFFFFFFFF, "+8", "-7"):
        whole = off_by(whole, len(content) - 8)
        found = read(tmp_path / "x.wav", with_sizes("WAV", content, samples, whole))
        assert len(expected) - short <= len(found) < len(expected) + 1000
        np.testing.assert_array_equal(found[: RATE // 4 - 320], expected[: RATE // 4 - 320])


def off_by(size, right):
    """`size`, or where it is text such as "+8", `right` changed by so much."""
    return right + int(size) if isinstance(size, str) else size


@pytest.mark.parametrize("container", ["AU", "AIFF", "CAF", "W64"])
@pytest.mark.parametrize("size", [0, -1, "+30"])
def test_sizes_in_other_headers_are_hints_too(tmp_path, container, size):
    content = audio_file(container, "PCM_16")
    _, layout, distance = SIZE_FIELDS[container]
    present = struct.unpack_from(layout, content, content.find(SIZE_FIELDS[container][0]) + distance)[0]
    size = off_by(size, present)
    if layout == ">I":
        size %= 2**32
    assert len(read(tmp_path / "x", with_sizes(container, content, size))) == RATE


def test_a_flac_stream_without_a_length_is_read_whole(tmp_path):
    content = audio_file("FLAC", "PCM_16")
    content[21] &= 0xF0  # the 36 bits of the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(content)
    with open_audio(tmp_path / "x.flac") as file:
        assert file.frames == RATE
    assert len(read_audio(tmp_path / "x.flac", RATE)[0]) == RATE


@pytest.mark.parametrize("container", ["WAV", "AU", "AIFF", "W64", "RF64", "FLAC"])
def test_half_a_file_is_truncated(tmp_path, container):
    content = audio_file(container, "PCM_16")
    with pytest.raises(BadAudio, match="is truncated|is not audio that can be read"):
        read(tmp_path / "x", content[: len(content) // 2])


@pytest.mark.parametrize("tail", [b"LIST\x04\0\0\0abcd", b"TAG" + bytes(125), b"\0"])
def test_what_follows_the_samples_is_no_sound(tmp_path, tail):
    content = audio_file("WAV", "PCM_16")
    assert len(read(tmp_path / "x.wav", content + tail)) == RATE
    empty = with_sizes("WAV", content[:44], 0) + b"LIST\x04\0\0\0abcd"
    with pytest.raises(BadAudio, match="holds no samples"):
        read(tmp_path / "x.wav", empty)


# ---- pipes ----


def fed(path, content):
    thread = threading.Thread(target=path.write_bytes, args=(content,))
    thread.start()
    return thread


def test_a_recording_is_read_from_a_named_pipe_and_from_an_open_one(tmp_path):
    content = next((SAMPLE_DATA / "yes").glob("*.flac")).read_bytes()
    expected = read(tmp_path / "x.flac", content)
    os.mkfifo(tmp_path / "pipe")
    thread = fed(tmp_path / "pipe", content)
    np.testing.assert_array_equal(read_audio(tmp_path / "pipe", RATE)[0], expected)
    thread.join()
    reading, writing = os.pipe()
    thread = fed(tmp_path.__class__(f"/dev/fd/{writing}"), content)
    thread.join()
    os.close(writing)
    np.testing.assert_array_equal(read_audio(f"/dev/fd/{reading}", RATE)[0], expected)
    os.close(reading)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"hello" * 9, "no audio file"), (b"RIFFxxxxWAVE", "not audio")],
)
def test_a_pipe_with_something_else_is_a_clear_error(content, reason):
    with pytest.raises(BadAudio, match=reason):
        read_audio(io.BytesIO(content), RATE)


def test_raw_samples_are_no_container():
    rng = np.random.default_rng(0)
    for scale in (1, 30, 3000):
        for _ in range(200):
            assert not is_container(rng.normal(scale=scale, size=2048).astype("<i2").tobytes())
    assert not any(map(is_container, (b"", b"R", b"\xff\xff\xff\xff" * 4, bytes(16))))
