"""Files of audio as recorders and pipes leave them: headers with wrong sizes, streams without an end."""

import io
import itertools
import os
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import soundfile

from conftest import ON_OFF, RATE, SPEAKERS, encode_audio, make_words, spoken
from kws.audio.pipes import open_pipe
from kws.audio.recordings import BadAudio, audio_blocks, read_audio
from kws.audio.shards import decode_folders
from kws.base.errors import UserError

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
SIZES = [None, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 2**30, 10**9 + 36, 2**30 - 44, "+8", "+44", "-2"]


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


def is_raw(content):
    """Whether a pipe with these bytes is taken for raw samples."""
    with open_pipe(io.BytesIO(content), RATE, 40) as (_, raw):
        return raw


def read(path, content):
    path.write_bytes(content)
    return read_audio(path, RATE)[0]


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_every_format_is_read_whole_from_files_and_pipes(tmp_path, container, subtype):
    content = audio_file(container, subtype)
    samples = read(tmp_path / "x", content)
    assert RATE <= len(samples) < RATE + 1000
    np.testing.assert_allclose(samples[RATE // 4 : RATE // 2] / 32768, TONE[RATE // 4 : RATE // 2], atol=0.1)
    assert not is_raw(content)
    np.testing.assert_array_equal(read_audio(io.BytesIO(content), RATE)[0], samples)


@pytest.mark.parametrize(
    ("subtype", "samples"),
    [
        *itertools.product(("PCM_16", "PCM_24", "FLOAT", "GSM610", "G721_32", "IMA_ADPCM"), SIZES),
        *itertools.product(("PCM_16", "PCM_24", "FLOAT"), [0]),
    ],
)
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


@pytest.mark.parametrize(
    ("container", "size"),
    [
        *[("AIFF", size) for size in (0, -1, "+30")],
        *[("W64", size) for size in (0, -1, "+30")],
        *[("AU", -1), ("AU", "+30"), ("CAF", 0), ("CAF", -1)],
    ],
)
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
    assert len(read(tmp_path / "x.flac", content)) == RATE


@pytest.mark.parametrize("container", ["WAV", "AU", "AIFF", "W64", "RF64", "FLAC"])
def test_half_a_file_is_truncated(tmp_path, container):
    content = audio_file(container, "PCM_16")
    with pytest.raises(BadAudio, match="is truncated|is not audio that can be read"):
        read(tmp_path / "x", content[: len(content) // 2])


def test_a_copy_of_a_long_recording_that_ends_early_is_truncated(tmp_path):
    with pytest.raises(BadAudio, match="is truncated"):
        read(tmp_path / "x.wav", with_sizes("WAV", audio_file("WAV", "PCM_16"), 2 * 16000 * 3601))


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
    content = spoken("yes").read_bytes()
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
    [(b"", "is empty"), (b"hello" * 9, "not audio"), (b"RIFFxxxxWAVE", "not audio")],
)
def test_a_pipe_with_something_else_is_a_clear_error(content, reason):
    with pytest.raises(BadAudio, match=reason):
        read_audio(io.BytesIO(content), RATE)


def test_raw_samples_are_no_container():
    rng = np.random.default_rng(0)
    for scale in (1, 30, 3000):
        for _ in range(200):
            assert is_raw(rng.normal(scale=scale, size=2048).astype("<i2").tobytes())
    for sample in (b"\xff\xfb", b"\xff\xf1"):  # as MP3 and AAC begin
        assert is_raw(sample + rng.normal(scale=100, size=2047).astype("<i2").tobytes())
    assert all(map(is_raw, (b"\1\2\3", b"\xff\xff\xff\xff" * 4, bytes(16), b"\xff")))


# ---- what FFmpeg reads ----

OTHERS = [  # suffix, codec, rate; the samples that its encoder may add
    *[("m4a", "aac", 48000), ("mp4", "aac", 44100), ("mov", "aac", 48000), ("3gp", "aac", 16000)],
    *[("aac", "aac", 48000), ("webm", "libopus", 48000), ("mka", "libopus", 48000), ("wma", "wmav2", 48000)],
    ("amr", "libopencore_amrnb", 8000),
]
AS_IT_COMES = "aac", "webm", "mka", "amr"


def assert_tone(samples, seconds=2):
    assert abs(len(samples) - seconds * RATE) <= 0.125 * RATE  # the frames of AAC are of 0.064 s
    middle = samples[RATE // 2 : RATE] / 32768
    assert 0.2 < np.sqrt(2 * np.mean(np.square(middle))) < 0.32
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 300 * len(middle) // RATE


@pytest.mark.parametrize(("suffix", "codec", "rate"), OTHERS)
def test_what_phones_and_browsers_record_is_read(tmp_path, capfd, suffix, codec, rate):
    path = encode_audio(tmp_path / f"x.{suffix}", codec, rate)
    samples, changes = read_audio(path, RATE)
    assert_tone(samples)
    assert changes == ((f"from {rate} Hz",) if rate != RATE else ())
    with open(path, "rb") as file, open_pipe(file, RATE, 40) as (recording, raw):
        np.testing.assert_array_equal(np.concatenate([*audio_blocks(recording, RATE)]), samples)
    assert not raw
    output = "".join(capfd.readouterr())
    assert ("decoded when it ends" in output) == (suffix not in AS_IT_COMES)
    assert len(output.splitlines()) == (suffix not in AS_IT_COMES)


@pytest.mark.parametrize("suffix", ["m4a", "webm"])
def test_channels_of_other_formats_are_averaged(tmp_path, suffix):
    path = encode_audio(tmp_path / f"x.{suffix}", "aac" if suffix == "m4a" else "libopus", 48000, "stereo")
    samples, changes = read_audio(path, RATE)
    assert_tone(samples)
    assert changes == ("from 48000 Hz", "from 2 channels")


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("aac", "aac"), ("webm", "libopus")])
def test_half_of_another_format_is_damaged(tmp_path, capfd, suffix, codec):
    content = encode_audio(tmp_path / f"x.{suffix}", codec, 48000).read_bytes()
    for part in (content[: len(content) // 2], content[:100], b"x" * 1000):
        with pytest.raises(BadAudio, match="is truncated|is not audio that can be read"):
            read(tmp_path / f"x.{suffix}", part)
    assert capfd.readouterr() == ("", "")


def test_a_film_without_sound_says_so(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for part in (av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)), None):
            file.mux(stream.encode(part))
    with pytest.raises(BadAudio, match="holds no sound"):
        read_audio(tmp_path / "x.mp4", RATE)


def test_many_are_decoded_at_once(tmp_path):
    paths = [
        encode_audio(tmp_path / f"{kind[0]}", *kind[1:])
        for kind in (("a.m4a", "aac", 48000), ("b.webm", "libopus", 48000))
    ]
    expected = [read_audio(path, RATE)[0] for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for number, (samples, _) in enumerate(pool.map(lambda path: read_audio(path, RATE), 20 * paths)):
            np.testing.assert_array_equal(samples, expected[number % 2])


def test_they_are_words_in_a_data_folder(tmp_path):
    make_words(tmp_path, words=("on",), speakers=SPEAKERS[:2])
    encode_audio(tmp_path / "on" / "a.m4a", "aac", 48000)
    encode_audio(tmp_path / "on" / "b.WEBM", "libopus", 48000)
    shard = decode_folders(tmp_path, ["on"], ON_OFF.front_end)["on"]
    assert shard.names[-1] == "b.WEBM" and "a.m4a" in shard.names and len(shard.names) == 4
    assert all(shard.pcm[row].any() for row in range(4))


def test_a_data_folder_is_not_decoded_without_them_if_pyav_is_missing(tmp_path, monkeypatch):
    make_words(tmp_path, words=("on",), speakers=SPEAKERS[:2])
    encode_audio(tmp_path / "on" / "a.m4a", "aac", 48000)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(UserError, match="a.m4a is read by PyAV, which is missing"):
            decode_folders(tmp_path, ["on"], ON_OFF.front_end)
    assert len(decode_folders(tmp_path, ["on"], ON_OFF.front_end)["on"].names) == 3


def test_without_pyav_the_rest_is_read_and_a_line_says_what_to_install(tmp_path, monkeypatch):
    content = audio_file("WAV", "PCM_16")
    path = encode_audio(tmp_path / "x.m4a", "aac", 48000)
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(read(tmp_path / "x.wav", content)) == RATE
    with pytest.raises(
        UserError, match=rf"{path} is read by PyAV, which is missing: python -m pip install av"
    ):
        read_audio(path, RATE)
    with pytest.raises(UserError, match="pip install av"):
        is_raw(audio_file("FLAC", "PCM_16"))
    assert is_raw(bytes(9)) and not is_raw(content)
    with pytest.raises(BadAudio, match="is not audio that can be read"):
        read(tmp_path / "damaged.wav", b"x" * 1000)


def test_pyav_is_imported_for_what_needs_it_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "av")
    read(tmp_path / "x.wav", audio_file("WAV", "PCM_16"))
    read_audio(spoken("yes"), RATE)
    assert is_raw(bytes(9)) and not is_raw(audio_file("WAV", "PCM_16"))
    assert "av" not in sys.modules
