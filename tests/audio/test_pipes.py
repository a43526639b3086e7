"""Recordings that come through a pipe are the samples that the file holds."""

import io
import threading

import numpy as np
import pytest
import soundfile
import soxr

from conftest import RATE, spoken
from kws.audio.pipes import HEAD_BYTES, open_pipe
from kws.audio.raw import TYPES, RawFormat, guess
from kws.audio.recordings import BadAudio, audio_blocks, read_audio

pytestmark = pytest.mark.fast

BLOCK_MS = 40


class OneWay(io.RawIOBase):
    """Bytes that can only be read on, and how many have been; after the first `until` more come when told."""

    def __init__(self, content, until=None):
        self.content, self.position, self.until = content, 0, until
        self.more = threading.Event()

    def read(self, count):
        if self.until is not None and self.position + count > self.until:
            if self.position == self.until:
                assert self.more.wait(60)
                self.until = None
                return self.read(count)
            count = self.until - self.position
        part = self.content[self.position : self.position + count]
        self.position += len(part)
        return part


def piped(content, raw_rate=RATE):
    with open_pipe(OneWay(content), raw_rate, BLOCK_MS) as (recording, is_raw):
        return np.concatenate([*audio_blocks(recording, RATE)]), is_raw


def noise(seconds=1.0, channels=2):
    return 0.1 * np.random.default_rng(0).normal(size=(int(seconds * RATE), channels))


def wav(size=None, before=b"", subtype="PCM_16", samples=None):
    """A WAV file, as bytes; with `size` in the header, and chunks before the samples."""
    file = io.BytesIO()
    soundfile.write(file, noise() if samples is None else samples, RATE, subtype, format="WAV")
    content = file.getvalue()
    start = content.index(b"data")
    size = content[start + 4 : start + 8] if size is None else size.to_bytes(4, "little")
    return content[:start] + before + b"data" + size + content[start + 8 :]


def flac():
    file = io.BytesIO()
    soundfile.write(file, noise(), RATE, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *[("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
        *[("WAV", subtype) for subtype in ("ULAW", "ALAW", "MS_ADPCM", "IMA_ADPCM")],
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("FLAC", "PCM_16"),
    ],
)
def test_every_format_is_read_as_from_a_file(tmp_path, kind, subtype):
    path = tmp_path / "x"
    soundfile.write(path, noise(), RATE, subtype, format=kind)
    samples, is_raw = piped(path.read_bytes())
    expected, _ = read_audio(path, RATE)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=20 if subtype == "MS_ADPCM" else 0)
    assert not is_raw and len(samples) >= RATE


LOSSY = {"VORBIS": 1e-4, "MPEG_LAYER_III": 1e-4, "OPUS": 0.02}  # how far the decoders differ


def assert_alike(samples, expected, subtype):
    difference = samples[: len(expected)] - expected.astype(float)
    assert len(expected) <= len(samples) < len(expected) + 1152
    assert difference.std() <= LOSSY.get(subtype, 0) * expected.std()


def low_noise(seconds, channels):
    """Noise without what is near the highest frequency, which decoders of Opus filter differently."""
    return soxr.resample(noise(seconds, channels)[::4], RATE // 4, RATE)


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")])
def test_lossy_formats_are_decoded_as_from_a_file_but_for_rounding(tmp_path, kind, subtype):
    path = tmp_path / "x"
    soundfile.write(path, low_noise(4, 2), RATE, subtype, format=kind)
    samples, is_raw = piped(path.read_bytes())
    assert_alike(samples, read_audio(path, RATE)[0], subtype)
    assert not is_raw


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("OGG", "VORBIS", 44100),
        ("OGG", "OPUS", 48000),
        ("MP3", "MPEG_LAYER_III", 44100),
        ("FLAC", "PCM_16", 44100),
        ("WAV", "PCM_16", 44100),
    ],
)
def test_neither_decoders_nor_resampling_move_a_sound(tmp_path, kind, subtype, rate):
    sound = np.zeros(5 * rate)
    sound[2 * rate :][: rate // 50] = np.hanning(rate // 50) * np.sin(0.1 * np.arange(rate // 50))
    soundfile.write(tmp_path / "x", 0.5 * sound, rate, subtype, format=kind)
    for samples in (read_audio(tmp_path / "x", RATE)[0], piped((tmp_path / "x").read_bytes())[0]):
        energy = np.square(samples.astype(float))
        middle = (energy * np.arange(len(samples))).sum() / energy.sum() / RATE
        assert abs(middle - 2.01) < 0.001


def test_an_mp3_file_without_a_title_is_no_raw_audio(tmp_path):
    soundfile.write(tmp_path / "x.mp3", noise(), RATE, format="MP3")
    content = (tmp_path / "x.mp3").read_bytes()
    frames = content[content.index(b"\xff", 1) :] if content.startswith(b"ID3") else content
    assert frames[0] == 0xFF and not piped(frames)[1]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 2**30, 10**9 - 44])
@pytest.mark.parametrize("before", [b"", b"LIST\x05\0\0\0title\0"], ids=["", "with a title"])
def test_a_wav_file_that_does_not_know_its_size_ends_with_the_pipe(size, before):
    np.testing.assert_array_equal(piped(wav(size, before))[0], piped(wav())[0])


def test_what_follows_the_samples_is_no_audio():
    np.testing.assert_array_equal(piped(wav() + b"LIST\x04\0\0\0more")[0], piped(wav())[0])


@pytest.mark.parametrize(("channels", "looked_at"), [(1, BLOCK_MS), (2, 1000)])
def test_a_wav_file_is_read_while_it_comes(channels, looked_at):
    pipe = OneWay(wav(0xFFFFFFFF, samples=noise(3, channels)))
    with open_pipe(pipe, RATE, BLOCK_MS) as (recording, _):
        block = next(audio_blocks(recording, RATE))
    assert len(block) == RATE * BLOCK_MS // 1000
    assert pipe.position < HEAD_BYTES + 2 * channels * RATE * looked_at // 1000 + 100


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("kind", "subtype", "seconds"),  # FFmpeg waits for ten frames of FLAC
    [("FLAC", "PCM_16", 1.5), ("OGG", "VORBIS", 2), ("OGG", "OPUS", 2), ("MP3", "MPEG_LAYER_III", 2)],
)
def test_flac_ogg_and_mp3_are_decoded_while_they_come(tmp_path, kind, subtype, seconds, channels):
    path, file = tmp_path / "x", io.BytesIO()
    sound = low_noise(8, channels) if subtype == "OPUS" else noise(8, channels)
    soundfile.write(file, sound, RATE, subtype, format=kind)
    path.write_bytes(content := file.getvalue())
    pipe = OneWay(content, until=len(content) // 2)
    with open_pipe(pipe, RATE, BLOCK_MS) as (recording, is_raw):
        blocks = audio_blocks(recording, RATE)
        found = []
        while sum(map(len, found)) < seconds * RATE:  # at half of the file, so much of its 8 s is there
            found.append(next(blocks))
        assert not pipe.more.is_set()
        pipe.more.set()
        found += blocks
    assert_alike(np.concatenate(found), read_audio(path, RATE)[0], subtype)
    assert not is_raw


def test_a_flac_file_that_does_not_know_its_length_ends_with_the_pipe():
    content = bytearray(flac())
    content[21] &= 0xF0  # STREAMINFO's count of samples, 36 bits; 0 is "unknown"
    content[22:26] = bytes(4)
    np.testing.assert_array_equal(piped(bytes(content))[0], piped(flac())[0])


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("silence", [0, 2.5])
def test_of_channels_that_cancel_out_one_is_taken_once_there_is_something_to_hear(kind, silence):
    sound = (3000 * noise(2, 1)).astype(np.int16)
    sound = np.concatenate([np.zeros((int(silence * RATE), 1), np.int16), sound])
    file = io.BytesIO()
    soundfile.write(file, np.hstack([sound, -sound]), RATE, "PCM_16", format=kind)
    np.testing.assert_array_equal(piped(file.getvalue())[0], sound[:, 0])


def test_float_samples_at_the_scale_of_integers_are_recognised():
    sound = np.round(100_000 * noise(2, 1)).clip(-32767, 32767).astype(np.float32)
    found, _ = piped(wav(subtype="FLOAT", samples=sound))
    np.testing.assert_array_equal(found, sound[:, 0].astype(np.int16))


def test_a_format_that_has_to_end_first_is_said(tmp_path, capsys):
    soundfile.write(tmp_path / "x", noise(), RATE, format="AIFF")
    piped((tmp_path / "x").read_bytes())
    assert "decoded when it ends" in capsys.readouterr().err
    piped(wav())
    assert not capsys.readouterr().err


def test_samples_without_a_header_are_raw_at_the_rate_said():
    samples = (3000 * noise(channels=1)[:, 0]).astype("<i2")
    found, is_raw = piped(samples.tobytes() + b"x")
    np.testing.assert_array_equal(found, samples)
    assert is_raw and len(piped(samples.tobytes(), raw_rate=2 * RATE)[0]) == len(samples) // 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>", "is text"),
        (wav()[: RATE // 2], "is truncated"),
        (wav()[:30], "is truncated|is not audio that can be read"),
        (flac()[:-1000], "is truncated"),
        (b"fLaC" + bytes(3000), "is not audio that can be read"),
        (b"OggS" + bytes(3000), "is not audio that can be read"),
        (b"\x1aE\xdf\xa3" + bytes(3000), "is not audio that can be read"),
        (b"\0\0\0\x20ftypM4A " + bytes(3000), "is not audio that can be read"),
    ],
    ids=[
        "nothing",
        "text",
        "half a WAV file",
        "half a header",
        "half a FLAC file",
        "no FLAC",
        "no Ogg",
        "WebM",
        "M4A",
    ],
)
def test_what_is_no_audio_says_so(content, reason):
    with pytest.raises(BadAudio, match=reason):
        piped(content)


@pytest.mark.parametrize("content", [flac(), flac()[:50], wav(0), wav(subtype="FLOAT"), b""], ids=range(5))
def test_ctrl_c_while_a_pipe_is_waited_for_is_no_end_of_it(content):
    class Waiting(OneWay):
        def read(self, count):
            part = super().read(count)
            if not part:
                raise KeyboardInterrupt
            return part

    pipe = Waiting(content)
    with pytest.raises(KeyboardInterrupt), open_pipe(pipe, RATE, BLOCK_MS) as (recording, _):
        list(audio_blocks(recording, RATE))


# ---- raw samples of other formats ----

SPEECH = [spoken("yes"), spoken("go")]


def speech(word=0, hiss=15, gain=1.0):
    """A second with a word in the noise of a microphone, as float at full scale 1."""
    samples = soundfile.read(SPEECH[word])[0]
    noise = np.random.default_rng(word).normal(0, hiss / 32768, RATE)
    return (gain * (noise + np.pad(samples, (0, RATE - len(samples)))))[:RATE]


def raw(samples, sample_type):
    """Samples at full scale 1, [frames] or [frames, channels], as the bytes of a type."""
    if sample_type == "f32le":
        return samples.astype("<f4").tobytes()
    scale, dtype = {"s16le": (2**15, "<i2"), "s32le": (2**31, "<i4"), "u8": (2**7, "u1")}[sample_type]
    whole = np.clip(np.round(samples * scale), -scale, scale - 1) + (scale if sample_type == "u8" else 0)
    return whole.astype(dtype).tobytes()


@pytest.mark.parametrize("gain", [0.02, 0.3, 1])
@pytest.mark.parametrize("channels", ["one", "equal", "left", "right", "opposite"])
@pytest.mark.parametrize("sample_type", TYPES)
def test_the_format_of_raw_samples_is_guessed(sample_type, channels, gain, capsys):
    sound = speech(gain=gain, hiss=60)
    gains = {"one": [1], "equal": [1, 1], "left": [1, 0], "right": [0, 1], "opposite": [1, -1]}[channels]
    content = raw(np.outer(sound, gains), sample_type)
    found, unmistakable = guess(content)
    if sample_type == "u8" and gain == 0.02:
        assert found.type == "u8"
        return
    # the second of two channels, the first of which is silent, is a 32-bit sample as well
    if (sample_type, channels) == ("s16le", "right"):
        assert found == RawFormat("s32le")
    else:
        assert (found, unmistakable) == (RawFormat(sample_type, len(gains)), True)


@pytest.mark.parametrize("name", ["silence", "white", "speech", "loud", "tone", "music", "jump", "late"])
def test_what_is_16_bit_mono_is_not_taken_for_anything_else(name):
    rng, time = np.random.default_rng(0), np.arange(RATE) / RATE
    sound = {
        "silence": np.zeros(RATE),
        "white": 0.3 * rng.normal(size=RATE),
        "speech": speech(1),
        "loud": np.clip(20 * speech(), -1, 1),
        "tone": 0.9 * np.sin(2 * np.pi * 5000 * time),
        "jump": np.where(time < 0.5, -0.2, 0.3),
        "late": np.where(time < 0.99, 0, 0.1 * rng.normal(size=RATE)),
        "music": 0.2 * sum(np.sin(2 * np.pi * tone * time) for tone in (50, 440, 3000)) + 0.001,
    }[name]
    for quiet in (1, 0.01, 0.0005):
        assert guess(raw(quiet * sound, "s16le")) == (RawFormat(), True)


@pytest.mark.parametrize("sample_type", TYPES)
@pytest.mark.parametrize("gains", [(1,), (1, 1), (1, -1)])
def test_raw_samples_of_other_formats_are_what_16_bit_samples_are(sample_type, gains, capsys):
    sound = np.round(32768 * speech()) / 32768
    content = raw(np.outer(sound, gains), sample_type)
    said = RawFormat(sample_type, len(gains))
    content += b"x" if said.frame_bytes > 1 else b""
    for asked in (None, said):
        with open_pipe(OneWay(content), RATE, BLOCK_MS, asked) as (recording, is_raw):
            found = np.concatenate([*audio_blocks(recording, RATE)])
        np.testing.assert_allclose(found / 32768, sound, atol=1 / 128 if sample_type == "u8" else 1 / 32767)
        assert is_raw and (f"the format {said}" in capsys.readouterr().err) == (
            not asked and said != ("s16le", 1)
        )


def test_what_may_be_two_channels_is_said_with_the_flag(capsys):
    left, right = (np.random.default_rng(seed).normal(0, 0.01, RATE) for seed in (0, 1))
    both = np.random.default_rng(2).normal(0, 0.01, RATE)
    content = raw(np.column_stack([left + both, right + both]), "s16le")
    assert len(piped(content)[0]) == 2 * RATE
    assert "--raw_format s16le:2" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "said"), [(2.9, False), (3.1, True)])
def test_a_microphone_that_is_off_is_said_once(seconds, said, capsys):
    zeros = np.zeros(int(seconds * RATE))
    piped(raw(np.concatenate([zeros, speech(), zeros, zeros]), "s16le"))
    assert capsys.readouterr().err.count("only zeros in the first 3 s") == said


def test_formats_have_the_names_that_arecord_gives_them():
    for name, expected in (("S16_LE", "s16le"), ("s32_le:2", "s32le:2"), ("FLOAT_LE", "f32le"), ("U8", "u8")):
        assert str(RawFormat.parse(name)) == expected
    for name in ("s16", "s16le:0", "s16le:x", "s16le:2:2", "", ":2"):
        with pytest.raises(ValueError):
            RawFormat.parse(name)
