"""From folders of recordings to labelled clips: partitions, labels, mixture."""

import numpy as np
import pytest
import soundfile

import input_data
from conftest import ON_OFF, RECORDINGS, SAMPLE_DATA, SPEAKERS, make_words
from kws.cli import UserError
from kws.settings import Settings

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
    assert sample.unknown_per_epoch == 16
    for partition, speakers, unknown in (("training", 16, 64), ("validation", 4, 4), ("testing", 4, 4)):
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
            expected, _ = soundfile.read(SAMPLE_DATA / name, dtype="int16")
            np.testing.assert_array_equal(clips.samples(clip), expected)


def test_the_percentages_of_silence_and_unknown_words_are_flags(data_options, dnn_small):
    data = input_data.open_data(data_options(silence_percentage=25, unknown_percentage=0), dnn_small)
    assert (data.testing.label == 0).sum() == 10
    assert (data.testing.label == 1).sum() == 0
    data = input_data.open_data(data_options(silence_percentage=150), dnn_small)
    assert (data.testing.label == 0).sum() == 60


def test_training_may_have_unknown_words_where_validation_has_none(data_options, dnn_small):
    options = data_options(unknown_percentage=0, training_unknown_percentage=120)
    data = input_data.open_data(options, dnn_small)
    assert (data.validation.label == 1).sum() == 0
    assert data.unknown_per_epoch == 64  # all that there are


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
    assert (few.unknown_per_epoch, many.unknown_per_epoch) == (16, 40)
    assert len(few.validation) == len(many.validation)


def test_a_wanted_word_without_recordings_is_an_error_that_lists_what_there_is(data_options):
    with pytest.raises(UserError, match=r"no recordings of banana.*there are: bird, down"):
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
