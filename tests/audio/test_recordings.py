"""Recordings of all kinds decoded, once: real files, whole and damaged."""

import numpy as np
import pytest
import soundfile

import input_data
from conftest import ON_OFF, RATE, SPEAKERS, make_words, write_wav
from kws.audio.recordings import BadAudio, clip_start, one_clip, read_audio
from kws.audio.shards import CACHE_FOLDER, decode_folders
from kws.base.errors import UserError

pytestmark = pytest.mark.fast


def test_short_clips_are_padded_and_long_ones_cut(tmp_path, data_options):
    make_words(tmp_path)
    write_wav(tmp_path / "on" / "00000000_nohash_1.wav", seconds=0.5)
    write_wav(tmp_path / "on" / "00000000_nohash_2.wav", seconds=1.5)
    shard = decode_folders(tmp_path, ["on"], ON_OFF.front_end)["on"]
    rows = {name: shard.pcm[row] for row, name in enumerate(shard.names)}
    short, long = rows["00000000_nohash_1.wav"], rows["00000000_nohash_2.wav"]
    assert short[:8000].any() and not short[8000:].any()
    expected, _ = soundfile.read(tmp_path / "on" / "00000000_nohash_2.wav", dtype="int16")
    np.testing.assert_array_equal(long, expected[:RATE])


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels", "tolerance"),
    [
        ("wav", "PCM_U8", RATE, 1, 0.01),
        ("wav", "PCM_24", 44100, 2, 0.001),
        ("wav", "PCM_16", RATE, 2, 0.001),
        ("wav", "FLOAT", 8000, 1, 0.001),
        ("wav", "FLOAT", RATE, 1, 0.0001),
        ("wav", "PCM_24", RATE, 1, 0.0001),
        ("flac", "PCM_16", 48000, 2, 0.001),
        ("ogg", "VORBIS", 22050, 1, 0.05),
        ("mp3", "MPEG_LAYER_III", 44100, 2, 0.05),
    ],
)
def test_recordings_of_other_rates_channels_and_formats_sound_the_same(
    tmp_path, suffix, subtype, rate, channels, tolerance
):
    def tone(rate):
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, np.repeat(tone(rate)[:, None], channels, 1), rate, subtype)
    samples, changes = read_audio(path, RATE)
    assert samples.dtype == np.int16
    assert (f"from {rate} Hz" in changes) == (rate != RATE)
    assert (f"from {channels} channels" in changes) == (channels > 1)
    middle = slice(RATE // 4, RATE // 2)
    np.testing.assert_allclose(samples[middle] / 32768, tone(RATE)[middle], atol=tolerance)


def test_of_a_long_recording_the_part_around_the_word_is_used():
    word = np.random.default_rng(0).normal(scale=3000, size=RATE // 2).astype(np.int16)
    recording = np.zeros(5 * RATE, np.int16)
    recording[3 * RATE : 3 * RATE + len(word)] = word
    part = one_clip(recording, RATE)
    start = np.flatnonzero(part)[0]
    assert len(part) == RATE and abs(start - RATE // 4) <= RATE // 50
    np.testing.assert_array_equal(part[start : start + len(word)], word[np.flatnonzero(word)[0] :])
    np.testing.assert_array_equal(one_clip(word, RATE), np.pad(word, (0, RATE - len(word))))
    for length in (RATE, 22_050 - 7):
        for count in (length, length + 1, length + 300, 3 * length + 1):
            assert len(one_clip(np.arange(count, dtype=np.int16), length)) == length


TIME = np.arange(3 * RATE) / RATE  # seconds
HISS = np.random.default_rng(1).normal(size=3 * RATE)
TRANSIENTS = {
    "a decaying offset": 20_000 * np.exp(-TIME / 0.3),
    "a click": 30_000.0 * (abs(TIME - 0.1) < 0.001),
    "a knock": 20_000 * HISS * np.exp(-TIME / 0.03),
    "a thump": 25_000 * np.exp(-TIME / 0.15) * np.sin(2 * np.pi * 60 * TIME),
    "a quarter of a second of noise": 9_000 * HISS * (TIME < 0.25),
    "a knock at the end": 20_000 * HISS * np.exp(-TIME[::-1] / 0.03),
}


@pytest.mark.parametrize("kind", TRANSIENTS)
def test_a_transient_of_the_microphone_is_no_word(kind):
    word = (TIME >= 1.8) & (TIME < 2.2)
    tone = 3000 * np.sin(2 * np.pi * 400 * TIME) * word
    sound = np.clip(tone + 20 * HISS[::-1] + TRANSIENTS[kind], -32768, 32767).astype(np.int16)
    assert clip_start(sound, RATE) == pytest.approx(1.5 * RATE, abs=0.05 * RATE)


@pytest.mark.parametrize("hiss", [0, 20])
def test_a_short_word_is_found_in_silence_too(hiss):
    word = 3000 * np.sin(2 * np.pi * 400 * TIME) * ((TIME >= 1.9) & (TIME < 2.1))
    sound = (word + hiss * HISS).astype(np.int16)
    assert clip_start(sound, RATE) == pytest.approx(1.5 * RATE, abs=0.1 * RATE)
    assert clip_start(np.zeros(3 * RATE, np.int16), RATE) == 0


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.3749])
def test_a_recording_trimmed_to_a_word_is_in_the_middle_of_its_clip(seconds):
    word = HISS[: int(seconds * RATE)]
    before = (RATE - len(word) + 1) // 2
    expected = np.pad(word, (before, RATE - len(word) - before))
    np.testing.assert_array_equal(one_clip(word, RATE), expected)


def test_conversion_happens_once_and_is_told(tmp_path, data_options, capfd):
    make_words(tmp_path)
    soundfile.write(tmp_path / "on" / "x.mp3", np.random.default_rng(0).normal(size=(44100, 2)) / 9, 44100)
    write_wav(tmp_path / "off" / "y.wav", seconds=3)
    for told in (True, False):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
        line = "converted: 1 cut to their loudest 1000 ms, 1 from 2 channels, 1 from 44100 Hz"
        assert (line in capfd.readouterr().err) == told


# ---- channels and scales ----

NOISE = 0.1 * np.random.default_rng(0).normal(size=(3 * RATE, 3))


def written(path, samples, rate=RATE, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype)
    return path


@pytest.mark.parametrize(
    "gains", [(1, -1), (-1, 1), (0.5, -1), (1, -1, 0), (1, -1, 1, -1)], ids=lambda gains: str(gains)
)
@pytest.mark.parametrize("offset", [0, 0.1])
def test_of_channels_that_cancel_out_the_loudest_is_taken(tmp_path, gains, offset):
    sound, channels = NOISE[:, 0], np.array(gains)
    path = written(tmp_path / "x.wav", sound[:, None] * channels + offset)
    samples, changes = read_audio(path, RATE)
    loudest = channels[np.argmax(np.abs(channels))]
    np.testing.assert_allclose(samples / 32768, sound * loudest + offset, atol=1e-4)
    assert "from the loudest channel, as their mean cancels out" in changes


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_opposite_phase_is_found_in_the_whole_recording_and_at_every_rate(tmp_path, rate):
    sound = np.concatenate([np.zeros(10 * RATE), NOISE[:, 0]])  # silence for longer than a block
    path = written(tmp_path / "x.wav", np.stack([sound, -sound], 1), rate)
    expected, _ = read_audio(written(tmp_path / "mono.wav", sound, rate), RATE)
    np.testing.assert_array_equal(read_audio(path, RATE)[0], expected)


@pytest.mark.parametrize("mix", [np.eye(2), [[1, 1], [0, 0.5]], [[1, 0], [0, 0]]])
def test_other_channels_are_averaged(tmp_path, mix):
    channels = (NOISE[:, :2] @ np.array(mix)).astype(np.float32)
    samples, changes = read_audio(written(tmp_path / "x.wav", channels), RATE)
    np.testing.assert_array_equal(samples, np.round(32768 * channels.mean(1)).astype(np.int16))
    assert changes == ("from 2 channels",)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("sound", [30000 * NOISE[:, 0], np.round(30 * NOISE[:, 0])], ids=["loud", "quiet"])
def test_float_samples_at_the_scale_of_integers_are_recognised(tmp_path, subtype, sound):
    samples, changes = read_audio(written(tmp_path / "x.wav", sound, subtype=subtype), RATE)
    np.testing.assert_allclose(samples, sound, atol=0.51)
    assert changes == ("from float samples at the scale of 16-bit integers",)


def test_float_samples_of_no_known_scale_are_refused(tmp_path):
    for scale in (50, 1e6):
        path = written(tmp_path / "x.wav", scale * NOISE[:, 0] / np.abs(NOISE[:, 0]).max())
        with pytest.raises(
            BadAudio, match="has float samples up to .*, where 1 or 32768 should be the largest"
        ):
            read_audio(path, RATE)


def test_float_samples_a_little_beyond_full_scale_are_clipped(tmp_path):
    sound = 20 * NOISE[:, 0] / 10
    samples, changes = read_audio(written(tmp_path / "x.wav", sound / np.abs(sound).max() * 2), RATE)
    assert samples.max() > 32000 and not changes


def test_silent_recordings_are_named_in_one_line_again_and_again(tmp_path, data_options, capfd):
    make_words(tmp_path, speakers=SPEAKERS[:20])
    soundfile.write(tmp_path / "on" / "x_nohash_0.wav", np.zeros(RATE), RATE)
    for path in (tmp_path / "cat").iterdir():
        soundfile.write(path, np.tile([0, 1 / 32768], RATE // 2), RATE)
    for _ in range(2):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "silent" in line]
        assert line.startswith(f"silent recordings in {tmp_path}: 21, all of cat; such as cat/")


# ---- damaged files ----


def cut_short(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def make_flac(path):
    soundfile.write(path.with_suffix(".flac"), np.random.default_rng(0).normal(size=RATE) / 9, RATE)
    path.unlink()
    return path.with_suffix(".flac")


BAD_FILES = {
    "is empty": lambda path: path.write_bytes(b""),
    "is truncated": cut_short,
    "is not audio": lambda path: path.write_text("hello" * 1000),
    "is not audio that can be read": lambda path: cut_short(make_flac(path), 0.0005),
    "holds no samples": lambda path: write_wav(path, seconds=0),
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_a_bad_file_among_many_is_named_and_left_out_again_and_again(tmp_path, data_options, capfd, reason):
    make_words(tmp_path)
    BAD_FILES[reason](tmp_path / "on" / "00000003_nohash_0.wav")
    for _ in range(2):
        data = input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
        errors = capfd.readouterr().err
        assert "left out 1 of 120 files" in errors
        assert f"{tmp_path}/on/00000003_nohash_0" in errors and reason in errors
        names = [name for part in input_data.PARTITIONS for name in getattr(data, part).names]
        assert sum(name.startswith("on/") for name in names) == 39


def test_a_truncated_flac_file_is_left_out(tmp_path, data_options, capfd):
    make_words(tmp_path)
    write_wav(tmp_path / "on" / "x.wav")
    cut_short(make_flac(tmp_path / "on" / "x.wav"))
    input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    assert "on/x.flac" in capfd.readouterr().err


def test_a_wav_file_written_into_a_pipe_is_no_bad_file(tmp_path):
    write_wav(tmp_path / "x.wav")
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(content)
    samples, changes = read_audio(tmp_path / "x.wav", RATE)
    assert len(samples) == RATE and not changes


def test_too_many_bad_files_are_an_error(tmp_path, data_options):
    make_words(tmp_path, words=("on",))
    make_words(tmp_path, words=("off",), speakers=[])
    for speaker in SPEAKERS:
        write_wav(tmp_path / "off" / f"{speaker}_nohash_0.wav", seconds=0)
    with pytest.raises(UserError, match="40 of 80 files .* cannot be used; the first: .*holds no samples"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


# ---- the cache ----


def cache_files(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / CACHE_FOLDER).iterdir()}


def test_recordings_are_decoded_once_and_a_changed_folder_alone_again(tmp_path, data_options):
    make_words(tmp_path)
    args = data_options(data_dir=tmp_path)
    input_data.open_data(args, ON_OFF)
    first = cache_files(tmp_path)
    input_data.open_data(args, ON_OFF)
    assert cache_files(tmp_path) == first
    write_wav(tmp_path / "on" / "00000000_nohash_9.wav")
    data = input_data.open_data(args, ON_OFF)
    changed = cache_files(tmp_path).items() ^ first.items()
    assert {path.name.split("-")[0] for path, _ in changed} == {"on"}
    assert len(cache_files(tmp_path)) == len(first)
    assert "on/00000000_nohash_9.wav" in (*data.training.names, *data.validation.names, *data.testing.names)


def test_without_a_writable_folder_and_a_home_the_cache_is_in_the_temporary_folder(
    tmp_path, data_options, monkeypatch
):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    make_words(tmp_path / "data")
    for name in ("temporary", "used"):
        (tmp_path / name).mkdir()
    # a file in its place, as root may write to any folder
    (tmp_path / "data" / CACHE_FOLDER).write_text("")
    monkeypatch.setattr("pooch.os_cache", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert len(input_data.open_data(data_options(data_dir=tmp_path / "data"), ON_OFF).training)
    assert list((tmp_path / "temporary").rglob("on-*.pcm"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "data" / CACHE_FOLDER))
    with pytest.raises(UserError, match="no place for the decoded recordings of .*: set XDG_CACHE_HOME to a"):
        input_data.open_data(data_options(data_dir=tmp_path / "data"), ON_OFF)


@pytest.mark.parametrize("suffix", [".pcm", ".json"])
def test_a_damaged_cache_is_made_again(tmp_path, data_options, suffix):
    make_words(tmp_path)
    before = input_data.features(
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF).training, ON_OFF.front_end
    )
    for path in (tmp_path / CACHE_FOLDER).glob(f"*{suffix}"):
        cut_short(path)
    after = input_data.features(
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF).training, ON_OFF.front_end
    )
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "names",
    [
        ("what?", "whats"),
        ("a*", "a-16000-16000-b", "a"),
        ("[x]", "x", "x-16000-16000-0123456789abcdef"),
        ("-on", "--off", "on-"),
        ("\N{HANGUL SYLLABLE HAN}" * 80, "\N{HANGUL SYLLABLE HAN}" * 79),
        ("a b", "a_b", "a.b"),
        ("on~0", "lock"),
    ],
    ids=lambda names: names[0][:9],
)
def test_the_cache_of_a_word_is_its_own_whatever_it_is_called(tmp_path, names):
    make_words(tmp_path, words=names, speakers=SPEAKERS[:2])
    decode_folders(tmp_path, list(names), ON_OFF.front_end)
    before = cache_files(tmp_path)
    assert len(before) == 2 * len(names) + 1
    for name in names:
        write_wav(tmp_path / name / "new_nohash_0.wav")
        shards = decode_folders(tmp_path, list(names), ON_OFF.front_end)
        assert len(shards[name].names) == 3
        after = cache_files(tmp_path)
        assert len(after) == len(before) and len(before.items() - after.items()) == 2
        before = after


@pytest.mark.parametrize("before, after", [(0, 0), (8000, 4000), (30000, 20000), (100, 50000)])
def test_a_clip_for_streams_has_the_word_at_its_end(before, after):
    word = np.random.default_rng(0).integers(-9000, 9000, 8000, dtype=np.int16)
    recording = np.pad(word, (before, after))
    clip = one_clip(recording, 24960)
    assert len(clip) == 24960
    end = np.flatnonzero(clip)[-1]
    assert end == pytest.approx(0.9 * 24960, abs=60)
    assert np.count_nonzero(clip) == np.count_nonzero(word)
