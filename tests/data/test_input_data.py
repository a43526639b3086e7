"""From folders of recordings to labelled clips: partitions, labels, mixture."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile

import input_data
from conftest import ON_OFF, RATE, RECORDINGS, SAMPLE_DATA, SPEAKERS, make_words, settings_flags, write_wav
from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.data.clips import speaker_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("partition", ["validation", "testing"])
def test_partitions_are_those_of_the_official_lists(partition):
    lists = {name: RECORDINGS / f"{name}_list.txt" for name in ("validation", "testing")}
    if not lists[partition].exists():
        pytest.skip(f"no official lists in {RECORDINGS}")
    names = lists[partition].read_text().split()
    assert len(names) > 9000
    assert [name for name in names if input_data.which_partition(name, 10, 10) != partition] == []


def test_all_clips_of_a_speaker_are_in_one_partition():
    for speaker in SPEAKERS:
        names = (f"{speaker}_nohash_0.wav", f"{speaker}_nohash_17.wav", f"word/{speaker}_nohash_1.flac")
        assert len({input_data.which_partition(name, 10, 10) for name in names}) == 1


def test_larger_partitions_take_from_training_only():
    names = [f"{number:08x}_nohash_0.wav" for number in range(2000)]
    for name in names:
        if input_data.which_partition(name, 10, 10) == "validation":
            assert input_data.which_partition(name, 20, 10) == "validation"
    shares = [input_data.which_partition(name, 20, 30) for name in names]
    assert abs(shares.count("validation") / 2000 - 0.2) < 0.04
    assert abs(shares.count("testing") / 2000 - 0.3) < 0.04


def test_a_data_set_has_all_wanted_clips_and_ten_percent_each_of_silence_and_unknown(sample, dnn_small):
    labels = dnn_small.labels
    assert sample.unknown_per_epoch == 100
    for partition, speakers, unknown in (("training", 100, 320), ("validation", 20, 20), ("testing", 40, 40)):
        clips = getattr(sample, partition)
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
            expected, _ = soundfile.read(SAMPLE_DATA / name, dtype="float32")
            np.testing.assert_array_equal(clips.samples(clip), np.rint(32768 * expected))


def test_the_percentages_of_silence_and_unknown_words_are_flags(data_options, dnn_small):
    data = input_data.open_data(data_options(silence_percentage=25, unknown_percentage=0), dnn_small)
    assert (data.testing.label == 0).sum() == 100
    assert (data.testing.label == 1).sum() == 0
    data = input_data.open_data(data_options(silence_percentage=150), dnn_small)
    assert (data.testing.label == 0).sum() == 600


def test_training_may_have_unknown_words_where_validation_has_none(data_options, dnn_small):
    options = data_options(unknown_percentage=0, training_unknown_percentage=120)
    data = input_data.open_data(options, dnn_small)
    assert (data.validation.label == 1).sum() == 0
    assert data.unknown_per_epoch == 320  # all that there are


def test_the_unknown_words_drawn_are_always_the_same_and_of_several_kinds(data_options, dnn_small):
    first, second = (input_data.open_data(data_options(), dnn_small).testing.names for _ in range(2))
    assert first == second
    unknown = {name.split("/")[0] for name in first if name and name.split("/")[0] not in dnn_small.labels}
    assert len(unknown) > 2


def test_unknown_words_of_an_epoch_have_a_flag_of_their_own(data_options, dnn_small):
    few, many = (
        input_data.open_data(data_options(**flag), dnn_small)
        for flag in ({}, {"training_unknown_percentage": 25})
    )
    assert (few.unknown_per_epoch, many.unknown_per_epoch) == (100, 250)
    assert len(few.validation) == len(many.validation)


def test_a_wanted_word_without_recordings_is_an_error_that_lists_what_there_is(data_options):
    with pytest.raises(UserError, match=r"no recordings of banana.*there are: bird, cat, down"):
        input_data.open_data(data_options(), Settings(wanted_words=("yes", "banana")))


@pytest.mark.parametrize(
    "make", [lambda folder: None, lambda folder: folder.mkdir()], ids=["missing", "empty"]
)
def test_a_missing_or_empty_folder_without_a_url_is_an_error(tmp_path, data_options, make):
    make(tmp_path / "data")
    with pytest.raises(UserError, match="has no recordings"):
        input_data.open_data(data_options(data_dir=tmp_path / "data", data_url=""), ON_OFF)


def test_a_folder_with_other_things_is_never_filled_with_a_download(tmp_path, data_options):
    make_words(tmp_path / "inner", speakers=SPEAKERS[:1])
    with pytest.raises(UserError, match=r"has no recordings: expected .*did you mean --data_dir .*inner"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


# ---- folders with a meaning ----


def labels_of(data, folder):
    """Return the labels of the clips of a folder, in all partitions."""
    parts = [getattr(data, partition) for partition in input_data.PARTITIONS]
    named = [zip(clips.names, clips.label, strict=True) for clips in parts]
    return [label for part in named for name, label in part if name.startswith(f"{folder}/")]


def test_folders_named_like_labels_hold_clips_of_these_labels(tmp_path, data_options):
    make_words(tmp_path, words=("on", "off", "_unknown_", "_silence_"))
    data = input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    assert labels_of(data, "_silence_") == [0] * 40
    unknown = labels_of(data, "_unknown_")
    assert set(unknown) == {1} and data.unknown_per_epoch
    for partition in input_data.PARTITIONS:
        clips = getattr(data, partition)
        generated = clips.names.count("")
        assert generated == -(-sum(clips.label > 1) // 10)
        assert sum(clips.label == 0) == generated + sum(clips.label == 2)  # as many speakers as of a word
        for name in filter(None, clips.names):
            assert input_data.which_partition(name.split("/")[1], 10, 10) == partition
    without = input_data.open_data(data_options(data_dir=tmp_path, unknown_percentage=0), ON_OFF)
    assert not labels_of(without, "_unknown_") and len(labels_of(without, "_silence_")) == 40


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("silence", "_silence_"),
        ("Unknown", "_unknown_"),
        ("__unknown__", "_unknown_"),
        ("background_noise", "_background_noise_"),
        ("_background_noise", "_background_noise_"),
        ("_Background-Noise_", "_background_noise_"),
        ("noise", "_background_noise_"),
    ],
)
def test_a_folder_named_almost_like_one_with_a_meaning_gets_a_hint(
    tmp_path, data_options, capfd, name, meant
):
    make_words(tmp_path, words=("on", "off", name), speakers=SPEAKERS[:5])
    input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    what = "is not used" if name[0] == "_" else "is taken for a word of that name"
    line = f"{tmp_path / name} {what}; rename it to {meant} if it is meant as that"
    assert line in capfd.readouterr().err.splitlines()
    with pytest.raises(UserError, match="did you mean" if "noise" not in name.lower() else "like no label"):
        input_data.open_test_dir(tmp_path, ON_OFF)


def test_a_folder_spelled_unlike_its_word_gets_a_hint(tmp_path, data_options, capfd):
    make_words(tmp_path, words=("hey_robot", "Hey robot", "off"), speakers=SPEAKERS[:5])
    input_data.open_data(data_options(data_dir=tmp_path), Settings(wanted_words=("hey_robot", "off")))
    meant = "is taken for a word of that name; rename it to hey_robot if it is meant as that"
    assert f"{tmp_path / 'Hey robot'} {meant}" in capfd.readouterr().err.splitlines()


def test_folders_that_mean_what_they_say_get_no_hint(tmp_path, data_options, capfd):
    make_words(tmp_path, words=("noise", "off", "_unknown_", "_background_noise_", ".hidden"))
    input_data.open_data(data_options(data_dir=tmp_path), Settings(wanted_words=("noise", "off")))
    assert capfd.readouterr().err == ""


# ---- folders that are no words ----


def copy_sample(folder, words=("yes", "no"), which=slice(24)):
    """Copy some of the sample data's recordings; words may have other words' recordings: {to: from}."""
    for to, word in (words if isinstance(words, dict) else dict(zip(words, words, strict=True))).items():
        (folder / to).mkdir(parents=True, exist_ok=True)
        for file in sorted((SAMPLE_DATA / word).iterdir())[which]:
            shutil.copy(file, folder / to)


def opened(folder, data_options, wanted=("yes", "no"), **changes):
    """Open a data folder; {label: clips in all partitions}."""
    options = data_options(data_dir=folder, data_url="", training_unknown_percentage=200, **changes)
    data = input_data.open_data(options, Settings(wanted_words=wanted))
    return sum(
        np.bincount(getattr(data, partition).label, minlength=4) for partition in input_data.PARTITIONS
    ).tolist()


@pytest.mark.parametrize("other", ["backup/yes", "test/old/No", "augmented/bird", "bird/YES"])
def test_folders_around_words_are_no_words_and_a_line_says_so(tmp_path, data_options, capfd, other):
    copy_sample(tmp_path, {"yes": "yes", "no": "no", "bird": "bird", other: "yes"})
    data = input_data.open_data(
        data_options(data_dir=tmp_path, unknown_percentage=200), Settings(wanted_words=("yes", "no"))
    )
    outer, inner = other.split("/")[0], other.split("/")[-1]
    assert labels_of(data, outer) == []
    assert len(labels_of(data, "yes")) == len(labels_of(data, "no")) == 24
    assert f"left out in {tmp_path}: {outer} (around words: {inner})" in capfd.readouterr().err.splitlines()


def test_a_wanted_word_with_another_below_it_is_used_without_it(tmp_path, data_options, capfd):
    copy_sample(tmp_path, {"yes": "yes", "no": "no", "yes/no": "no", "yes/anna": "bird", "no/no": "up"})
    assert opened(tmp_path, data_options)[2:] == [48, 48]
    assert f"left out in {tmp_path}: yes/no (named like another word)" in capfd.readouterr().err.splitlines()


BINS = "#recycle $RECYCLE.BIN @eaDir .Trash-1000 lost+found __MACOSX ~snapshot".split()


@pytest.mark.parametrize("bin", [*BINS, "System Volume Information"])
@pytest.mark.parametrize("inside", ["", "yes/"])
def test_what_the_system_keeps_is_not_learnt(tmp_path, data_options, capfd, bin, inside):
    copy_sample(tmp_path, {"yes": "yes", "no": "no", f"{inside}{bin}/S-1": "bird", f"{inside}{bin}": "yes"})
    labels = opened(tmp_path, data_options)
    assert labels[1:] == [0, 24, 24]
    line = f"left out in {tmp_path}: {inside}{bin} (the system's)"
    assert (line in capfd.readouterr().err.splitlines()) == (bin[0] != ".")


def test_the_hint_is_at_the_folder_with_most_recordings(tmp_path, data_options):
    copy_sample(tmp_path / "train", which=slice(0, 18))
    copy_sample(tmp_path / "test", ("yes", "no", "bird", "up"), which=slice(18, 24))
    copy_sample(tmp_path / "#recycle")
    with pytest.raises(UserError, match=r"no recordings of yes, no.* \(did you mean --data_dir .*/train\?\)"):
        opened(tmp_path, data_options)


@pytest.fixture
def refuse(monkeypatch):
    """A function that forbids to read a path, also to root."""
    forbidden, opening, listing, access = set(), open, os.scandir, os.access

    def checked(way):
        def call(path=".", *args, **options):
            if str(path) in forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return way(path, *args, **options)

        return call

    monkeypatch.setattr("builtins.open", checked(opening))
    monkeypatch.setattr(os, "scandir", checked(listing))
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in forbidden and access(path, mode))

    def refuse(path, yes=True):
        (forbidden.add if yes else forbidden.discard)(str(path))

    return refuse


@pytest.mark.parametrize("place", ["lost+found", "private", "yes/private"])
def test_a_folder_that_cannot_be_read_is_left_out_and_named(tmp_path, data_options, capfd, refuse, place):
    copy_sample(tmp_path, {"yes": "yes", "no": "no", place: "bird"})
    refuse(tmp_path / place)
    assert opened(tmp_path, data_options)[1:] == [0, 24, 24]
    assert f"left out in {tmp_path}: {place} (cannot be read)" in capfd.readouterr().err.splitlines()


def test_a_recording_that_cannot_be_read_is_left_out_and_named_until_it_can_be(
    tmp_path, data_options, capfd, refuse
):
    copy_sample(tmp_path)
    file = min((tmp_path / "yes").iterdir())
    refuse(file)
    for _ in range(2):
        assert opened(tmp_path, data_options)[1:] == [0, 23, 24]
        assert f"  {file} cannot be read: Permission denied" in capfd.readouterr().err.splitlines()
    refuse(file, False)
    assert opened(tmp_path, data_options)[1:] == [0, 24, 24]


# ---- copies of a recording ----


def partitions_of(folder, data_options):
    """Return {samples of a recording: the partitions that it is in}."""
    options = data_options(data_dir=folder, data_url="", training_unknown_percentage=200)
    data, places = input_data.open_data(options, Settings(wanted_words=("yes", "no"))), {}
    for partition in input_data.PARTITIONS:
        clips = getattr(data, partition)
        for clip in filter(lambda clip: clips.names[clip], range(len(clips))):
            places.setdefault(clips.samples(clip).tobytes(), set()).add(partition)
    return places


@pytest.fixture
def copies(tmp_path):
    """A folder with copies of recordings under other speakers' names, and of some in another word."""
    copy_sample(tmp_path)
    files = sorted((tmp_path / "yes").iterdir())
    for number, file in enumerate(files):
        shutil.copy(file, file.with_name(f"copy{number}-{file.name}"))
        shutil.copy(file, file.with_name(f"{number:08x}_nohash_0.opus"))
    for file in files[:3]:
        shutil.copy(file, tmp_path / "no" / f"x{file.name}")
    return tmp_path


def test_copies_of_a_recording_are_in_one_partition_and_a_line_says_so(copies, data_options, capfd):
    places = partitions_of(copies, data_options)
    assert len(places) == 48 and {len(found) for found in places.values()} == {1}
    assert set.union(*places.values()) == {*input_data.PARTITIONS}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "copies" in line]
    assert line.startswith(f"51 recordings of {copies} are copies under other speakers' names")
    assert "(3 recordings are in several words)" in line and "kept in one partition" in line


def test_published_partitions_stay_and_copies_of_one_speaker_are_not_mentioned(copies, data_options, capfd):
    for partition in ("validation", "testing"):
        (copies / f"{partition}_list.txt").write_text("")
    assert max(map(len, partitions_of(copies, data_options).values())) > 1
    assert "they stay in the published partitions" in capfd.readouterr().err
    for file in [*copies.rglob("copy*.opus"), *copies.rglob("x*.opus"), *copies.rglob("000*_0.opus")]:
        file.unlink()
    for file in list((copies / "yes").iterdir()):
        shutil.copy(file, file.with_name(file.name.replace("_0.", "_1.")))
    partitions_of(copies, data_options)
    assert "copies" not in capfd.readouterr().err


# ---- accents ----

KOREA = {
    form: unicodedata.normalize(form, "\N{HANGUL SYLLABLE HAN}\N{HANGUL SYLLABLE GUG}")
    for form in ("NFC", "NFD")
}


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_a_word_is_found_however_its_accents_are_encoded(tmp_path, data_options, on_disk, typed):
    make_words(tmp_path, words=(KOREA[on_disk], "on", "cat"))
    settings = settings_flags("--wanted_words", f"{KOREA[typed]},on").resolve()
    assert settings.wanted_words == (KOREA["NFC"], "on")
    assert Settings(wanted_words=(KOREA[typed], "on")) == settings
    assert Settings.from_json(settings.to_json(), "") == settings
    data = input_data.open_data(data_options(data_dir=tmp_path), settings)
    assert labels_of(data, KOREA["NFC"]) == [2] * 40
    (tmp_path / "on").rename(tmp_path / "_silence_")
    (tmp_path / "cat").rename(tmp_path / "_unknown_")
    assert set(input_data.open_test_dir(tmp_path, settings).label) == {0, 1, 2}


def test_two_folders_of_one_word_are_an_error(tmp_path, data_options):
    make_words(tmp_path, words=(*KOREA.values(), "on"), speakers=SPEAKERS[:1])
    with pytest.raises(UserError, match="has two folders named .* put the recordings into one of them"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


def test_names_that_are_no_text_do_no_harm(tmp_path, data_options):
    make_words(tmp_path, words=("on", "off", os.fsdecode(b"caf\xe9")), speakers=SPEAKERS[:10])
    write_wav(tmp_path / "off" / "x.wav")
    (tmp_path / "off" / "x.wav").rename(tmp_path / "off" / os.fsdecode(b"\xe9.wav"))
    data = input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    assert len(labels_of(data, "off")) == 11


# ---- folders of speakers ----


def test_recordings_in_folders_below_a_word_are_used_and_the_folder_is_the_speaker(tmp_path, data_options):
    for word in ("on", "off"):
        for speaker in SPEAKERS[:20]:
            make_words(tmp_path / word, words=(speaker, f"{speaker}/monday"), speakers=SPEAKERS[:1])
            for file in (tmp_path / word / speaker).rglob("*.wav"):
                file.rename(file.with_name("1.wav"))
    data = input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    assert len(labels_of(data, "on")) == len(labels_of(data, "off")) == 40
    for partition in input_data.PARTITIONS:
        names = filter(None, getattr(data, partition).names)
        places = {
            speaker: input_data.which_partition(f"{speaker}_nohash_0.wav", 10, 10) for speaker in SPEAKERS
        }
        assert {places[name.split("/")[1]] for name in names} <= {partition}


def test_a_name_with_nohash_says_more_than_the_folder():
    names = ("anna_nohash_1.wav", "batch 2/anna_nohash_2.wav", "anna/1.wav", "anna/monday/2.opus")
    assert len({input_data.which_partition(name, 40, 40) for name in names}) == 1
    assert {speaker_of(name) for name in names} == {"anna"}
    assert speaker_of("anna 1.wav") == "anna 1.wav"


@pytest.mark.parametrize(
    "suffix", ["opus", "oga", "ogg", "aiff", "AIF", "caf", "au", "w64", "wav", "flac", "mp3", "snd", "rf64"]
)
def test_recordings_of_all_suffixes_that_libsndfile_reads_are_used(tmp_path, data_options, suffix):
    make_words(tmp_path, speakers=SPEAKERS[:20])
    containers = {"opus": "OGG", "oga": "OGG", "AIF": "AIFF", "snd": "AU"}
    kind = {"format": containers.get(suffix, suffix.upper()), "subtype": "OPUS" if suffix == "opus" else None}
    soundfile.write(
        tmp_path / "on" / f"x.{suffix}", np.random.default_rng(0).normal(size=RATE) / 9, RATE, **kind
    )
    assert len(labels_of(input_data.open_data(data_options(data_dir=tmp_path), ON_OFF), "on")) == 21


def test_files_that_are_not_used_are_counted_in_one_line(tmp_path, data_options, capfd):
    make_words(tmp_path, speakers=SPEAKERS[:20])
    (tmp_path / "on" / "anna").mkdir()
    others = ["1.raw", "anna/2.RAW", "anna/list.txt", "x"]
    unmentioned = ["Thumbs.db", ".DS_Store", "anna/._1.wav", "desktop.ini", "README.md"]
    for name in (*others, *unmentioned):
        (tmp_path / "on" / name).write_text("x")
    (tmp_path / "off" / "gone.wav").symlink_to("nowhere")
    for folder, names in (("away", ["1.raw", "2.txt"]), ("_background_noise_", ["README.md", "x.txt"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("x")
    input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "not used" in line]
    counts = (
        "3 .raw, 2 .txt, 1 without a suffix, 1 links to nothing, or devices, such as _background_noise_/x.txt"
    )
    assert sorted(line.split(": ", 1)[1].split(" (")[0].split(", ")) == sorted(counts.split(", "))


def test_a_word_with_files_of_other_kinds_alone_says_so(tmp_path, data_options):
    make_words(tmp_path, words=("off",), speakers=SPEAKERS[:3])
    (tmp_path / "on").mkdir()
    (tmp_path / "on" / "1.raw").write_text("x")
    with pytest.raises(UserError, match=r"no recordings of on in .*; not used: 1 \.raw, such as on/1\.raw"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    for file in (tmp_path / "off").iterdir():
        file.rename(file.with_suffix(".raw"))
    with pytest.raises(UserError, match=r"has no recordings: expected .*; it has 4 \.raw, such as o"):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)


def test_links_that_lead_round_are_followed_once(tmp_path, data_options):
    make_words(tmp_path / "data", words=("on", "off"), speakers=SPEAKERS[:4])
    make_words(tmp_path / "elsewhere", words=("anna",), speakers=SPEAKERS[4:6])
    data = tmp_path / "data"
    links = {
        "on/itself": "itself",
        "on/here": ".",
        "on/up": "..",
        "on/root": "/",
        "loop": ".",
        "nothing": "nothing",
        "on/anna": tmp_path / "elsewhere" / "anna",
        "on/anna_again": tmp_path / "elsewhere" / "anna",
        "off/file.wav": tmp_path / "elsewhere" / "anna" / f"{SPEAKERS[4]}_nohash_0.wav",
        "on/itself.wav": "itself.wav",
    }
    for link, target in links.items():
        (data / link).symlink_to(target)
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    opened = input_data.open_data(data_options(data_dir=data, unknown_percentage=100), ON_OFF)
    counts = {word: len(labels_of(opened, word)) for word in ("on", "off", "loop", "linked")}
    assert counts["on"] == 6 and counts["off"] == 5 and counts["loop"] == 0


def test_a_folder_around_the_words_or_of_one_of_them_says_which_is_meant(tmp_path, data_options):
    make_words(tmp_path / "train", speakers=SPEAKERS[:1])
    make_words(tmp_path / "test" / "inner", speakers=SPEAKERS[:1])
    make_words(tmp_path / "some", words=("on", "off"), speakers=SPEAKERS[:1])
    with pytest.raises(
        UserError, match=r"there are: some, test, train \(did you mean --data_dir .*/train\?\)"
    ):
        input_data.open_data(data_options(data_dir=tmp_path), ON_OFF)
    (tmp_path / "train" / "on" / "anna").mkdir()
    write_wav(tmp_path / "train" / "on" / "anna" / "1.wav")
    with pytest.raises(UserError, match=r"did you mean --data_dir .*/train\?\)"):
        input_data.open_data(data_options(data_dir=tmp_path / "train" / "on"), ON_OFF)


def test_a_single_word_with_folders_of_speakers_is_a_data_set(tmp_path, data_options):
    for speaker in ("anna", "ben", "cleo"):
        (tmp_path / "meow" / speaker).mkdir(parents=True)
        write_wav(tmp_path / "meow" / speaker / "1.wav")
    data = input_data.open_data(data_options(data_dir=tmp_path), Settings(wanted_words=("meow",)))
    assert len(labels_of(data, "meow")) == 3


# ---- the canonical layout ----


def test_a_test_folder_is_labelled_by_its_folders(tmp_path):
    make_words(tmp_path, words=("_silence_", "_unknown_", "on", "off"), speakers=SPEAKERS[:3])
    clips = input_data.open_test_dir(tmp_path, ON_OFF)
    assert sorted(zip(clips.names, clips.label, strict=True))[::3] == [
        ("_silence_/00000000_nohash_0.wav", 0),
        ("_unknown_/00000000_nohash_0.wav", 1),
        ("off/00000000_nohash_0.wav", 3),
        ("on/00000000_nohash_0.wav", 2),
    ]


def test_a_test_folder_with_a_strange_label_is_an_error(tmp_path):
    make_words(tmp_path, words=("on", "of"), speakers=SPEAKERS[:1])
    with pytest.raises(UserError, match=r"/of is named like no label of the model; its labels are _silence_"):
        input_data.open_test_dir(tmp_path, ON_OFF)
