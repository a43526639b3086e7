"""From archive to features: real archives over HTTP, real files, and TensorFlow's ops as the reference."""

import dataclasses
import hashlib
import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import input_data
import plain
from conftest import RATE, RECORDINGS, SAMPLE_DATA, web_server
from kws import batches, download
from kws.augmentation import Augmentation, Variations, augment, draw_variations
from kws.cli import UserError
from kws.features import mfcc
from kws.recordings import CACHE_FOLDER, decode_folders, one_clip, read_audio
from kws.settings import Settings

SPEAKERS = [f"{number:08x}" for number in range(40)]


def write_wav(path, seconds=1.0, rate=RATE, channels=1, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * np.random.default_rng(0).normal(size=(int(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")


def make_words(folder, words=("on", "off", "cat"), speakers=SPEAKERS):
    """A small data set of noise."""
    for word in words:
        for speaker in speakers:
            write_wav(folder / word / f"{speaker}_nohash_0.wav")
    return folder


ON_OFF = Settings(wanted_words=("on", "off"))


# ---- features ----


def tensorflow_mfcc(audio, settings):
    """The same features by TensorFlow's own ops, clip by clip."""
    return np.array([plain.mfcc(samples, settings).numpy() for samples in audio])


def sample_speech():
    files = sorted(SAMPLE_DATA.glob("[a-z]*/*.flac"))[::7]
    return np.stack([np.resize(soundfile.read(file, dtype="float32")[0], RATE) for file in files])


def sine(hz):
    return np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)[None].astype(np.float32)


AUDIO = {
    "speech": sample_speech,
    "quiet speech": lambda: sample_speech() / 1000,
    "silence": lambda: np.zeros((2, RATE), np.float32),
    "full-scale noise": lambda: np.random.default_rng(0).uniform(-1, 1, (50, RATE)).astype(np.float32),
    "one bit of noise": lambda: (np.random.default_rng(0).integers(0, 2, (5, RATE)) / 32768).astype(
        np.float32
    ),
    "a full-scale square wave": lambda: np.sign(sine(100.5)),
}


@pytest.mark.parametrize("kind", AUDIO)
@pytest.mark.parametrize(
    "settings",
    [
        Settings(window_size_ms=40, window_stride_ms=40, dct_coefficient_count=10),
        Settings(),
        Settings(window_size_ms=32, window_stride_ms=16, dct_coefficient_count=13),
    ],
    ids=["dnn small", "defaults", "window of a power of two"],
)
def test_mfcc_is_that_of_tensorflows_ops(kind, settings):
    audio = AUDIO[kind]()
    expected = tensorflow_mfcc(audio, settings)
    found = mfcc(audio, settings.front_end)
    assert found.shape == (len(audio), settings.feature_count)
    assert np.abs(found - expected).max() < 2e-4


def test_mfcc_of_another_rate_is_that_of_tensorflows_ops():
    settings = Settings(sample_rate=8000, window_size_ms=40, window_stride_ms=20)
    audio = np.random.default_rng(0).uniform(-1, 1, (5, 8000)).astype(np.float32)
    assert np.abs(mfcc(audio, settings.front_end) - tensorflow_mfcc(audio, settings)).max() < 2e-4


@pytest.mark.fast
def test_features_of_clips_are_the_mfcc_of_their_samples(data_options, dnn_small):
    clips = input_data.open_data(data_options(), dnn_small).validation
    audio = np.stack([clips.samples(clip) for clip in range(len(clips))]) / np.float32(32768)
    expected = mfcc(audio, dnn_small.front_end)
    np.testing.assert_allclose(input_data.features(clips, dnn_small.front_end), expected, rtol=0, atol=2e-5)


# ---- partitions and labels ----


@pytest.mark.fast
@pytest.mark.parametrize("partition", ["validation", "testing"])
def test_partitions_are_those_of_the_official_lists(partition):
    lists = {name: RECORDINGS / f"{name}_list.txt" for name in ("validation", "testing")}
    if not lists[partition].exists():
        pytest.skip(f"no official lists in {RECORDINGS}")
    names = lists[partition].read_text().split()
    assert len(names) > 9000
    assert [name for name in names if input_data.which_partition(name, 10, 10) != partition] == []


@pytest.mark.fast
def test_all_clips_of_a_speaker_are_in_one_partition():
    for speaker in SPEAKERS:
        names = (f"{speaker}_nohash_0.wav", f"{speaker}_nohash_17.wav", f"word/{speaker}_nohash_1.flac")
        assert len({input_data.which_partition(name, 10, 10) for name in names}) == 1


@pytest.mark.fast
def test_larger_partitions_take_from_training_only():
    names = [f"{number:08x}_nohash_0.wav" for number in range(2000)]
    for name in names:
        if input_data.which_partition(name, 10, 10) == "validation":
            assert input_data.which_partition(name, 20, 10) == "validation"
    shares = [input_data.which_partition(name, 20, 30) for name in names]
    assert abs(shares.count("validation") / 2000 - 0.2) < 0.04
    assert abs(shares.count("testing") / 2000 - 0.3) < 0.04


@pytest.mark.fast
def test_a_data_set_has_all_wanted_clips_and_ten_percent_each_of_silence_and_unknown(data_options, dnn_small):
    data = input_data.open_data(data_options(), dnn_small)
    labels = dnn_small.labels
    assert data.unknown_per_epoch == 16
    for partition, speakers, unknown in (("training", 16, 64), ("validation", 4, 4), ("testing", 4, 4)):
        clips = getattr(data, partition)
        counts = dict(zip(labels, np.bincount(clips.label, minlength=len(labels)), strict=True))
        assert all(counts[word] == speakers for word in dnn_small.wanted_words)
        assert (counts["_silence_"], counts["_unknown_"]) == (speakers, unknown)
        for clip, (name, label) in enumerate(zip(clips.names, clips.label, strict=True)):
            if labels[label] == "_silence_":
                assert name == "" and not clips.samples(clip).any()
                continue
            folder, file = name.split("/")
            assert labels[label] == (folder if folder in labels else "_unknown_")
            assert input_data.which_partition(file, 10, 10) == partition
            expected, _ = soundfile.read(SAMPLE_DATA / name, dtype="int16")
            np.testing.assert_array_equal(clips.samples(clip), expected)


@pytest.mark.fast
def test_the_percentages_of_silence_and_unknown_words_are_flags(data_options, dnn_small):
    data = input_data.open_data(data_options(silence_percentage=25, unknown_percentage=0), dnn_small)
    assert (data.testing.label == 0).sum() == 10
    assert (data.testing.label == 1).sum() == 0


@pytest.mark.fast
def test_the_unknown_words_drawn_are_always_the_same_and_of_several_kinds(data_options, dnn_small):
    first, second = (input_data.open_data(data_options(), dnn_small).testing.names for _ in range(2))
    assert first == second
    unknown = {name.split("/")[0] for name in first if name and name.split("/")[0] not in dnn_small.labels}
    assert len(unknown) > 2


@pytest.mark.fast
def test_a_wanted_word_without_recordings_is_an_error_that_lists_what_there_is(data_options):
    with pytest.raises(UserError, match=r"no recordings of banana.*there are: bird, down"):
        input_data.open_data(data_options(), Settings(wanted_words=("yes", "banana")))


@pytest.mark.fast
@pytest.mark.parametrize(
    "make", [lambda folder: None, lambda folder: folder.mkdir()], ids=["missing", "empty"]
)
def test_a_missing_or_empty_folder_without_a_url_is_an_error(tmp_path, data_options, make):
    make(tmp_path / "data")
    with pytest.raises(UserError, match="has no recordings"):
        input_data.open_data(data_options(data_dir=tmp_path / "data", data_url=""), ON_OFF)


@pytest.mark.fast
def test_a_folder_with_other_things_is_never_filled_with_a_download(tmp_path, data_options):
    make_words(tmp_path / "inner", speakers=SPEAKERS[:1])
    with pytest.raises(UserError, match=r"has no recordings: expected .*did you mean --data_dir .*inner"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


# ---- decoding ----


@pytest.mark.fast
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


@pytest.mark.fast
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


@pytest.mark.fast
def test_a_truncated_flac_file_is_left_out(tmp_path, data_options, capfd):
    make_words(tmp_path)
    write_wav(tmp_path / "on" / "x.wav")
    cut_short(make_flac(tmp_path / "on" / "x.wav"))
    input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    assert "on/x.flac" in capfd.readouterr().err


@pytest.mark.fast
def test_a_wav_file_written_into_a_pipe_is_no_bad_file(tmp_path):
    write_wav(tmp_path / "x.wav")
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(content)
    samples, changes = read_audio(tmp_path / "x.wav", RATE)
    assert len(samples) == RATE and not changes


@pytest.mark.fast
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


@pytest.mark.fast
def test_conversion_happens_once_and_is_told(tmp_path, data_options, capfd):
    make_words(tmp_path)
    soundfile.write(tmp_path / "on" / "x.mp3", np.random.default_rng(0).normal(size=(44100, 2)) / 9, 44100)
    write_wav(tmp_path / "off" / "y.wav", seconds=3)
    for told in (True, False):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
        line = "converted: 1 cut to their loudest 1000 ms, 1 from 2 channels, 1 from 44100 Hz"
        assert (line in capfd.readouterr().err) == told


@pytest.mark.fast
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


@pytest.mark.fast
def test_too_many_bad_files_are_an_error(tmp_path, data_options):
    make_words(tmp_path, words=("on",))
    make_words(tmp_path, words=("off",), speakers=[])
    for speaker in SPEAKERS:
        write_wav(tmp_path / "off" / f"{speaker}_nohash_0.wav", seconds=0)
    with pytest.raises(UserError, match="40 of 80 files .* cannot be used; the first: .*holds no samples"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


def cache_files(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / CACHE_FOLDER).iterdir()}


@pytest.mark.fast
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


@pytest.mark.fast
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


# ---- the canonical layout ----


@pytest.mark.fast
def test_a_test_folder_is_labelled_by_its_folders(tmp_path):
    make_words(tmp_path, words=("_silence_", "_unknown_", "on", "off"), speakers=SPEAKERS[:3])
    clips = input_data.open_test_dir(tmp_path, ON_OFF)
    assert sorted(zip(clips.names, clips.label, strict=True))[::3] == [
        ("_silence_/00000000_nohash_0.wav", 0),
        ("_unknown_/00000000_nohash_0.wav", 1),
        ("off/00000000_nohash_0.wav", 3),
        ("on/00000000_nohash_0.wav", 2),
    ]


@pytest.mark.fast
def test_a_test_folder_with_a_strange_label_is_an_error(tmp_path):
    make_words(tmp_path, words=("on", "of"), speakers=SPEAKERS[:1])
    with pytest.raises(UserError, match=r"/of is named like no label of the model; its labels are _silence_"):
        input_data.open_test_dir(tmp_path, ON_OFF)


# ---- download and extraction ----


@pytest.fixture
def server(tmp_path):
    """A web server for the folder tmp_path/www."""
    (tmp_path / "www").mkdir()
    with web_server(tmp_path / "www") as address:
        yield address


def pack(tmp_path, name="words.tar.gz", members=()):
    """An archive of a small data set, with more members for mischief."""
    make_words(tmp_path / "source")
    with tarfile.open(tmp_path / "www" / name, "w:gz") as tar:
        tar.add(tmp_path / "source", arcname=".")
        for member in members:
            tar.addfile(member, io.BytesIO(b"mischief"[: member.size]))
    return tmp_path / "www" / name


@pytest.mark.fast
def test_an_archive_is_downloaded_extracted_and_not_needed_again(tmp_path, server, data_options):
    archive = pack(tmp_path)
    args = data_options(data_dir=tmp_path / "data", data_url=f"{server}/words.tar.gz")
    first = input_data.open_data(args, ON_OFF)
    archive.unlink()
    assert not (tmp_path / "data" / download.DOWNLOADS_FOLDER).exists()
    assert input_data.open_data(args, ON_OFF).training.names == first.training.names


@pytest.mark.fast
def test_an_archive_that_lies_there_already_is_used(tmp_path, server, data_options):
    archive = pack(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.move(archive, tmp_path / "data")
    args = data_options(data_dir=tmp_path / "data", data_url=f"{server}/words.tar.gz")
    assert len(input_data.open_data(args, ON_OFF).training)


@pytest.mark.fast
def test_a_wrong_hash_leaves_nothing_behind(tmp_path, server, monkeypatch):
    pack(tmp_path)
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(UserError, match="cannot download .*hash"):
        download.prepare_recordings(tmp_path / "data", url)
    assert os.listdir(tmp_path / "data") == [".lock"]


@pytest.mark.fast
def test_a_wrong_archive_that_lies_there_already_is_an_error_and_stays(tmp_path, server, monkeypatch):
    (tmp_path / "data").mkdir()
    shutil.copy(pack(tmp_path), tmp_path / "data")
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(UserError, match="is not the published archive"):
        download.prepare_recordings(tmp_path / "data", url)
    assert (tmp_path / "data" / "words.tar.gz").exists()


@pytest.mark.fast
def test_what_a_killed_download_left_is_in_nobodys_way(tmp_path, server):
    pack(tmp_path)
    (tmp_path / "data" / download.DOWNLOADS_FOLDER).mkdir(parents=True)
    (tmp_path / "data" / download.DOWNLOADS_FOLDER / "tmpabc").write_bytes(b"half")
    folder = download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "cat", "off", "on"]


@pytest.mark.fast
def test_an_archive_with_one_folder_around_the_words_says_where_they_are(tmp_path, server):
    make_words(tmp_path / "source" / "outer", speakers=SPEAKERS[:1])
    with tarfile.open(tmp_path / "www" / "words.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "source", arcname=".")
    with pytest.raises(UserError, match="did you mean --data_dir .*outer"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")


@pytest.mark.fast
def test_the_canonical_test_set_is_downloaded_where_its_folder_is_missing(tmp_path, server, monkeypatch):
    url = f"{server}/speech_commands_test_set_v0.02.tar.gz"
    monkeypatch.setattr(input_data, "TEST_SET_URL", url)
    archive = pack(tmp_path, "speech_commands_test_set_v0.02.tar.gz")
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(archive.read_bytes()).hexdigest())
    words = Settings(wanted_words=("on", "off", "cat"))
    clips = input_data.open_test_dir(tmp_path / "speech_commands_test_set_v0.02", words)
    assert len(clips) == 120
    with pytest.raises(UserError, match="--test_dir .*my_tests is not a folder"):
        input_data.open_test_dir(tmp_path / "my_tests", words)


@pytest.mark.fast
def test_a_right_hash_is_accepted(tmp_path, server, monkeypatch):
    archive = pack(tmp_path)
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(archive.read_bytes()).hexdigest())
    assert download.word_folders(download.prepare_recordings(tmp_path / "data", url)) == ["cat", "off", "on"]


@pytest.mark.fast
def test_a_broken_archive_leaves_nothing_behind_and_the_next_run_downloads_again(tmp_path, server):
    archive = pack(tmp_path)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be extracted"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert os.listdir(tmp_path / "data") == [".lock"]
    archive.write_bytes(whole)
    download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")


@pytest.mark.fast
def test_an_interrupted_extraction_is_done_again(tmp_path, server):
    pack(tmp_path)
    folder = download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    shutil.rmtree(folder / "cat")
    (folder / download.UNFINISHED_FOLDER).mkdir()
    download.prepare_recordings(folder, f"{server}/words.tar.gz")
    assert download.word_folders(folder) == ["cat", "off", "on"]


@pytest.mark.fast
def test_no_server_and_no_page_are_one_clear_line(tmp_path, server):
    for url in (f"{server}/nothing.tar.gz", "http://127.0.0.1:9/words.tar.gz"):
        with pytest.raises(UserError, match="cannot download"):
            download.prepare_recordings(tmp_path / "data", url)
        assert os.listdir(tmp_path / "data") == [".lock"]


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 8 if kind == tarfile.REGTYPE else 0
    return info


MISCHIEF = {
    "a path upwards": member("../outside.wav"),
    "a path upwards from inside": member("on/../../outside.wav"),
    "an absolute path": member("/tmp/outside.wav"),
    "a symbolic link": member("on/link.wav", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member("on/link.wav", tarfile.LNKTYPE, "off/00000000_nohash_0.wav"),
    "a device": member("on/device.wav", tarfile.CHRTYPE),
    "a fifo": member("on/fifo.wav", tarfile.FIFOTYPE),
}


@pytest.mark.fast
@pytest.mark.parametrize("kind", MISCHIEF)
def test_an_archive_with_mischief_is_refused(tmp_path, server, kind):
    pack(tmp_path, members=[MISCHIEF[kind]])
    with pytest.raises(UserError, match="outside the target folder|is a link or a device"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert os.listdir(tmp_path / "data") == [".lock"]
    assert not (tmp_path / "outside.wav").exists() and not Path("/tmp/outside.wav").exists()


# ---- augmentation and batches ----


def open_sample(data_options, settings, **changes):
    """The sample data, and the Augmentation with these flags."""
    fields = {field.name for field in dataclasses.fields(Augmentation)}
    options = {name: value for name, value in changes.items() if name not in fields}
    variation = Augmentation(**{name: value for name, value in changes.items() if name in fields})
    return input_data.open_data(data_options(**options), settings), variation


def augmented(data, chosen, variation, front_end):
    """The clips `chosen`, augmented, float32 [chosen, clip_samples]."""
    silence = data.training.label[chosen] == 0
    drawn = draw_variations(variation, silence, front_end, np.random.default_rng(0))
    return augment(data.training.audio(chosen), drawn, data.noise)


@pytest.mark.fast
def test_without_augmentation_the_audio_is_the_clip(data_options, dnn_small):
    data, variation = open_sample(data_options, dnn_small, time_shift_ms=0, background_frequency=0)
    audio = augmented(data, np.array([3, 5]), variation, dnn_small.front_end)
    expected = np.stack([data.training.samples(clip) for clip in (3, 5)]) / np.float32(32768)
    np.testing.assert_array_equal(audio, expected)


FRONT_END = ON_OFF.front_end


def varied(clip, count=200, noise=(), is_silence=False, **flags):
    """`clip`, [clip_samples], augmented `count` times; without noise and shifts where `flags` say nothing."""
    variation = Augmentation(**({"time_shift_ms": 0, "background_frequency": 0} | flags))
    drawn = draw_variations(variation, np.full(count, is_silence), FRONT_END, np.random.default_rng(0))
    return augment(np.tile(np.int16(clip), (count, 1)), drawn, list(noise))


@pytest.mark.fast
def test_shifts_go_both_ways_up_to_the_flag_and_fill_with_zeros():
    clip = np.arange(1, RATE + 1, dtype=np.int16)
    audio = varied(clip, 3000, time_shift_ms=100) * 32768
    shifts = []
    for moved in np.rint(audio).astype(int):
        start = np.flatnonzero(moved)[0]
        shift = start if start else 1 - moved[0]
        expected = np.zeros(RATE, int)
        expected[max(0, shift) : RATE + min(0, shift)] = clip[max(0, -shift) : RATE - max(0, shift)]
        np.testing.assert_array_equal(moved, expected)
        shifts.append(shift)
    assert min(shifts) in range(-1600, -1580) and max(shifts) in range(1580, 1601)
    assert abs(np.mean(shifts)) < 60


@pytest.mark.fast
def test_noise_comes_as_often_and_as_loud_as_the_flags_say(data_options, dnn_small):
    data, variation = open_sample(
        data_options, dnn_small, time_shift_ms=0, background_frequency=0.6, background_volume=0.2
    )
    silence = np.flatnonzero(data.training.label == 0)
    audio = augmented(data, np.resize(silence, 2000), variation, dnn_small.front_end)
    noisy = audio.any(1)
    assert abs(noisy.mean() - 0.6) < 0.04
    loudest = max(np.abs(recording).max() for recording in data.noise)
    assert 0.9 * 0.2 * loudest < np.abs(audio).max() <= 0.2 * loudest


@pytest.mark.fast
def test_the_sum_of_clip_and_noise_is_clipped():
    noise = [np.ones(2 * RATE, np.float32)]
    audio = varied(np.full(RATE, 32767), 1, noise, background_volume=1.0, background_frequency=1.0)
    assert audio.max() == 1


@pytest.mark.fast
def test_speed_changes_pitch_and_length_by_up_to_the_flag():
    time = np.arange(RATE) / RATE - 0.5
    tone = 10000 * np.sin(2 * np.pi * 400 * time) * (abs(time) < 0.2)
    audio = varied(tone, speed_change=10)
    hertz = np.abs(np.fft.rfft(audio)).argmax(1)  # 1 Hz a bin
    lengths = np.array([np.ptp(np.flatnonzero(clip)) for clip in audio]) / (0.4 * RATE)
    assert 358 <= hertz.min() <= 366 and 434 <= hertz.max() <= 442
    np.testing.assert_allclose(lengths * hertz / 400, 1, atol=0.02)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (0.5, np.arange(-25, 25.5, 0.5)),
        (2, [0] * 25 + list(range(-50, 51, 2)) + [0] * 25),
    ],
)
def test_speed_keeps_the_middle_and_fills_the_ends_with_zeros(speed, expected):
    ramp = 100 * np.arange(-50, 51, dtype=np.int16)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    drawn = Variations(np.zeros(1, int), speed * one, one, zero, np.zeros((1, 2)))
    audio = augment(ramp[None], drawn, [])[0]
    np.testing.assert_allclose(audio * 32768 / 100, expected, atol=1e-5)


@pytest.mark.fast
def test_volume_changes_by_up_to_the_flag():
    audio = varied(np.full(RATE, 1000), volume_change_db=6)
    decibels = 20 * np.log10(audio[:, 0] / (1000 / 32768))
    assert -6 < decibels.min() < -5.7 and 5.7 < decibels.max() < 6 and abs(decibels.mean()) < 0.6


@pytest.mark.fast
def test_silence_has_a_volume_of_its_own(data_options, dnn_small):
    data, variation = open_sample(
        data_options, dnn_small, silence_volume=0.9, background_volume=0, time_shift_ms=0
    )
    chosen = np.arange(len(data.training))
    audio = augmented(data, chosen, variation, dnn_small.front_end) * 32768
    loud = [
        (np.abs(now - data.training.samples(clip)) > 1).any() for clip, now in zip(chosen, audio, strict=True)
    ]
    assert np.mean(np.array(loud)[data.training.label == 0]) > 0.5
    assert not np.any(np.array(loud)[data.training.label > 0])


@pytest.mark.fast
def test_unknown_words_of_an_epoch_have_a_flag_of_their_own(data_options, dnn_small):
    few, many = (
        input_data.open_data(data_options(**flag), dnn_small)
        for flag in ({}, {"training_unknown_percentage": 25})
    )
    assert (few.unknown_per_epoch, many.unknown_per_epoch) == (16, 40)
    assert len(few.validation) == len(many.validation)


@pytest.mark.fast
@pytest.mark.parametrize("echo", [1, 2])
@pytest.mark.parametrize("same_front_end", [True, False])
def test_a_teacher_gets_the_same_augmented_clips(data_options, dnn_small, echo, same_front_end):
    finer = dnn_small if same_front_end else replace(dnn_small, window_stride_ms=20, dct_coefficient_count=12)

    def first_three_of_every_other_frame(features):
        frames = features.reshape(len(features), finer.frame_count, -1)
        return frames[:, :: 1 if same_front_end else 2, :3].reshape(len(features), -1)

    teacher = SimpleNamespace(predict=first_three_of_every_other_frame, settings=finer)
    data, variation = open_sample(data_options, dnn_small)
    for features, labels, scores in input_data.training_batches(
        data,
        variation,
        dnn_small.front_end,
        batch_size=30,
        seed=0,
        steps=range(12),
        echo=echo,
        teacher=teacher,
    ):
        expected = features.reshape(30, 25, 10)[:, :, :3].reshape(30, -1)
        np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-3)
        assert labels.shape == (30,)


def take_batches(data_options, settings, seed, steps):
    data, variation = open_sample(data_options, settings)
    front_end = settings.front_end
    return list(
        input_data.training_batches(data, variation, front_end, batch_size=30, seed=seed, steps=steps)
    )


@pytest.mark.fast
def test_batches_depend_on_seed_and_step_alone(data_options, dnn_small):
    whole = take_batches(data_options, dnn_small, 1, range(20))
    rest = take_batches(data_options, dnn_small, 1, range(12, 20))
    for (features, labels, _), (again, labels_again, _) in zip(whole[12:], rest, strict=True):
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(labels, labels_again)
    other = take_batches(data_options, dnn_small, 2, range(1))
    assert (other[0][0] != whole[0][0]).any()


def echoed_batches(data_options, settings, steps, **options):
    data, variation = open_sample(data_options, settings)
    front_end = settings.front_end
    return list(
        input_data.training_batches(data, variation, front_end, batch_size=4, seed=1, steps=steps, **options)
    )


@pytest.mark.fast
def test_echoed_batches_hold_the_same_features_regrouped(data_options, dnn_small, monkeypatch):
    period = 30
    monkeypatch.setattr(batches, "ECHO_BYTES", period * 4 * 250 * 2)
    fresh = echoed_batches(data_options, dnn_small, range(2 * period))
    echoed = echoed_batches(data_options, dnn_small, range(4 * period), echo=2)

    def rows(batches):
        table = [(*features, label) for batch in batches for features, label in zip(*batch[:2], strict=True)]
        return np.array(sorted(table))

    def parts(batches):
        return [batches[i : i + period] for i in range(0, len(batches), period)]

    first, again, second, second_again = parts(echoed)
    for ours, theirs in zip((*first, *second), fresh, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(ours[1], theirs[1])
    for ours, theirs in ((first, again), (second, second_again)):
        np.testing.assert_array_equal(rows(ours), rows(theirs))
        assert (ours[7][0] != theirs[7][0]).any()


@pytest.mark.fast
def test_echoing_lasts_the_whole_run_where_memory_allows(data_options, dnn_small):
    echoed = echoed_batches(data_options, dnn_small, range(20), echo=3)
    fresh = {features.tobytes() for batch in echoed[:7] for features in batch[0]}
    assert len(fresh) == 7 * 4
    assert all(features.tobytes() in fresh for batch in echoed for features in batch[0])


@pytest.mark.fast
@pytest.mark.parametrize("start", [20, 45, 70])
def test_echoed_batches_from_the_middle_are_those_of_an_unbroken_run(
    start, data_options, dnn_small, monkeypatch
):
    monkeypatch.setattr(batches, "ECHO_BYTES", 30 * 4 * 250 * 2)
    whole = echoed_batches(data_options, dnn_small, range(100), echo=2)[start:]
    rest = echoed_batches(data_options, dnn_small, range(start, 100), echo=2)
    for (features, labels, _), (again, labels_again, _) in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.fast
def test_the_shares_of_workers_make_up_the_batch_of_one(data_options, dnn_small):
    steps = range(30)
    whole = echoed_batches(data_options, dnn_small, steps, echo=2)
    shares = [
        echoed_batches(data_options, dnn_small, steps, echo=2, worker_rows=slice(i, None, 2)) for i in (0, 1)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for number, (features, labels, _) in enumerate(parts):
            np.testing.assert_allclose(features, batch[0][number::2], rtol=2e-3, atol=1e-3)
            np.testing.assert_array_equal(labels, batch[1][number::2])


def epoch_order(data, seed):
    unknown = data.training.label == 1
    always, pool = np.flatnonzero(~unknown), np.flatnonzero(unknown)
    return batches.EpochOrder(always, pool, data.unknown_per_epoch, seed)


@pytest.mark.fast
def test_each_epoch_has_every_wanted_clip_once_and_its_own_draw_of_unknown_words(data_options, dnn_small):
    data, _ = open_sample(data_options, dnn_small)
    order = epoch_order(data, seed=5)
    assert len(order) == 12 * 16
    parts = [order.clips(range(start, start + 24)) for start in range(0, 3 * len(order), 24)]
    always, draws = set(np.flatnonzero(data.training.label != 1)), []
    for one in np.concatenate(parts).reshape(3, -1):
        drawn = set(one) - always
        assert len(set(one)) == len(one) and always <= set(one) and len(drawn) == 16
        draws.append(drawn)
    assert draws[0] != draws[1] != draws[2]


@pytest.mark.fast
def test_augmentation_is_fresh_in_each_epoch(data_options, dnn_small):
    data, variation = open_sample(data_options, dnn_small)
    order = epoch_order(data, seed=0)
    count = len(order)
    epochs = input_data.training_batches(
        data, variation, dnn_small.front_end, batch_size=count, seed=0, steps=range(2)
    )
    features = [
        dict(zip(order.clips(range(step * count, (step + 1) * count)), epoch.features, strict=True))
        for step, epoch in enumerate(epochs)
    ]
    both = features[0].keys() & features[1].keys()
    differs = [(features[0][clip] != features[1][clip]).any() for clip in both]
    assert len(both) > 150 and np.mean(differs) > 0.9
