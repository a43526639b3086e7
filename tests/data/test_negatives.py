"""Windows of long recordings among the clips that training draws, and those that a model takes for words."""

import resource
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import input_data
from conftest import RATE
from kws.base.errors import UserError
from kws.base.settings import NO_WORD, SILENCE_INDEX
from kws.data import negatives
from kws.data.augmentation import Augmentation
from kws.data.batches import Batching, EpochOrder
from kws.train import mining

pytestmark = pytest.mark.fast

CLIP = RATE  # samples


@pytest.fixture
def ramps(tmp_path):
    """Make a folder of two recordings, one in a folder below, whose samples tell their place."""
    (tmp_path / "below").mkdir()
    soundfile.write(tmp_path / "a.wav", np.arange(3 * CLIP // 2, dtype=np.int16), RATE)
    soundfile.write(tmp_path / "below" / "b.flac", -np.arange(2 * CLIP, dtype=np.int16), RATE)
    return tmp_path


def test_a_window_is_where_its_number_says(ramps, dnn_small):
    recordings = negatives.open_long_recordings((str(ramps),), dnn_small.front_end)
    assert recordings.windows == CLIP + CLIP + 1
    out = np.empty(CLIP, np.int16)
    for window, first, step in (
        (0, 0, 1),
        (CLIP // 2, CLIP // 2, 1),
        (CLIP // 2 + 1, 0, 1),  # the shorter recording's windows once more
        (CLIP, 0, -1),
        (3 * CLIP // 2, -CLIP // 2, -1),
    ):
        np.testing.assert_array_equal(recordings.read(window, out), first + step * np.arange(CLIP))


def test_recordings_are_decoded_once_and_again_when_they_change(ramps, dnn_small):
    def decoded():
        negatives.open_long_recordings((str(ramps),), dnn_small.front_end)
        return {file.name: file.stat().st_mtime_ns for file in ramps.rglob("*.pcm")}

    first = decoded()
    assert len(first) == 2 and decoded() == first
    soundfile.write(ramps / "a.wav", np.arange(3 * CLIP, dtype=np.int16), RATE)
    assert len(decoded().keys() - first.keys()) == 1


def test_a_folder_without_recordings_is_an_error(tmp_path, dnn_small):
    with pytest.raises(UserError, match="no recordings that can be read"):
        negatives.open_long_recordings((str(tmp_path),), dnn_small.front_end)
    with pytest.raises(UserError, match="is not a folder"):
        negatives.open_long_recordings((str(tmp_path / "none"),), dnn_small.front_end)


def test_a_recording_shorter_than_a_clip_is_followed_by_zeros_and_drawn_as_often_as_a_clip(
    tmp_path, dnn_small
):
    ramp = np.arange(1, CLIP + 1, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", ramp[: CLIP // 2], RATE)
    soundfile.write(tmp_path / "b.wav", ramp, RATE)
    recordings = negatives.open_long_recordings((str(tmp_path),), dnn_small.front_end)
    assert recordings.windows == 2 * CLIP
    out = np.full(CLIP, 7, np.int16)
    np.testing.assert_array_equal(recordings.read(CLIP - 1, out)[: CLIP // 2], ramp[: CLIP // 2])
    assert not out[CLIP // 2 :].any()
    np.testing.assert_array_equal(recordings.read(CLIP, out), ramp)


def test_there_may_be_more_recordings_than_files_that_a_process_may_open(tmp_path, dnn_small):
    with open(tmp_path / "lowest.txt", "w") as lowest:
        count, limits = lowest.fileno() + 20, resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(count):
        soundfile.write(tmp_path / f"{number}.wav", np.full(CLIP // 100, number, np.int16), RATE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
    try:
        recordings = negatives.open_long_recordings((str(tmp_path),), dnn_small.front_end)
        out = np.empty(CLIP, np.int16)
        first = {recordings.read(number * CLIP, out)[0] for number in range(count)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert first == {*range(count)}


def test_a_folder_of_few_false_detections_is_drawn_as_often_as_one_of_hours(tmp_path, dnn_small, sample):
    for name, seconds in (("hours", 40), ("false", 1)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", np.zeros(seconds * CLIP, np.int16), RATE)
    folders = str(tmp_path / "hours"), str(tmp_path / "false")
    audio = negatives.TrainingAudio(
        sample.training, negatives.open_long_recordings(folders, dnn_small.front_end)
    )
    (hours, many), (few, as_many) = audio.windows_to_draw(101)
    assert (many, as_many) == (51, 50)
    assert (hours.start, hours.stop) == (len(sample.training), few.start)
    assert len(few) == CLIP and len(hours) == 39 * CLIP + 1


def test_an_epoch_has_as_many_negatives_as_asked_for_and_each_draws_others():
    order = EpochOrder(
        np.arange(10),
        np.array([], int),
        0,
        seed=0,
        others=[(range(100, 10_000), 7), (range(10_000, 20_000), 3)],
    )
    assert len(order) == 20
    epochs = [set(order.clips(range(20 * n, 20 * (n + 1)))) for n in range(2)]
    for epoch in epochs:
        assert (
            len([i for i in epoch if 100 <= i < 10_000]) == 7 and len([i for i in epoch if i >= 10_000]) == 3
        )
        assert set(range(10)) <= epoch
    assert epochs[0] & epochs[1] == set(range(10))


def test_training_sees_negatives_as_no_word(data_options, dnn_small, ramps):
    def labels(**options):
        data = input_data.open_data(data_options(**options), dnn_small)
        batching = Batching(batch_size=100, seed=0, steps=range(10))
        batches = input_data.training_batches(data, Augmentation(), dnn_small.front_end, batching)
        return np.concatenate([batch.labels for batch in batches])

    none = labels()
    many = labels(negatives_dir=(str(ramps),), negatives_percentage=300)
    assert (many == NO_WORD).mean() > 0.7 and not (none == NO_WORD).any()
    assert (many == SILENCE_INDEX).any()


def knocks(at_seconds, seconds=4):
    """Return silence with loud noise at these times, for 0.2 s each; float [samples]."""
    samples = np.zeros(seconds * RATE)
    for start in at_seconds:
        samples[int(start * RATE) : int((start + 0.2) * RATE)] = 0.5
    return samples * np.random.default_rng(0).normal(size=len(samples))


def taken_for_words(settings):
    """Return a model that takes windows with loud frames for the word `yes`."""

    def predict(features):
        loud = (features.reshape(len(features), settings.frame_count, -1)[:, :, 0] > 0).mean(1)
        scores = np.zeros((len(features), len(settings.labels)), np.float32)
        scores[:, 2], scores[:, SILENCE_INDEX] = loud, 1 - loud
        return scores

    return SimpleNamespace(predict=predict, settings=settings)


def test_hard_negatives_are_windows_that_the_model_takes_for_words(tmp_path, dnn_small):
    soundfile.write(tmp_path / "a.flac", knocks([]), RATE)
    soundfile.write(tmp_path / "b.flac", knocks([2]), RATE)
    recordings = negatives.open_long_recordings((str(tmp_path),), dnn_small.front_end)
    numbers, scores = mining.hard_windows(recordings, taken_for_words(dnn_small))
    second = 3 * RATE + 1  # the first window of the second recording
    assert numbers.min() >= second + RATE - RATE // 10 and numbers.max() <= second + 2.3 * RATE
    assert len(numbers) > 10 and (scores >= mining.LOWEST_SCORE).all()
    out = np.empty(CLIP, np.int16)
    assert all(np.abs(recordings.read(number, out)).max() > 1000 for number in numbers)


def test_recordings_shorter_than_a_clip_have_no_hard_negatives(tmp_path, dnn_small):
    soundfile.write(tmp_path / "a.flac", knocks([0], seconds=1)[: CLIP // 2], RATE)
    recordings = negatives.open_long_recordings((str(tmp_path),), dnn_small.front_end)
    numbers, scores = mining.hard_windows(recordings, taken_for_words(dnn_small))
    assert len(numbers) == len(scores) == 0 < recordings.windows


def test_an_epoch_draws_hard_negatives_by_their_scores(data_options, dnn_small, tmp_path):
    soundfile.write(tmp_path / "a.flac", knocks([2], seconds=60), RATE)
    wanted = {"negatives_dir": (str(tmp_path),), "negatives_percentage": 0, "hard_negatives_percentage": 400}
    data = input_data.open_data(data_options(**wanted), dnn_small)
    words = int(np.sum(data.training.label > 1))
    assert data.hard_negatives_per_epoch == 4 * words

    def share_with_a_knock(data):
        size = words + data.hard_negatives_per_epoch
        one = Batching(batch_size=size, seed=0, steps=range(1))
        (batch,) = input_data.training_batches(data, Augmentation(), dnn_small.front_end, one)
        windows = batch.features[batch.labels == NO_WORD].reshape(-1, dnn_small.frame_count, 10)
        assert len(windows) > 3 * words
        return (windows[:, :, 0] > 0).any(1).mean()

    found = mining.hard_windows(data.negatives, taken_for_words(dnn_small))
    assert share_with_a_knock(mining.drawn_by_score(data, *found)) > 0.9  # 59 s of 60 hold nothing
    assert 0 < share_with_a_knock(data) < 0.1  # before any are found: windows of all kinds
    assert 0 < share_with_a_knock(mining.drawn_by_score(data, found[0][:0], found[1][:0])) < 0.1
    with pytest.raises(UserError, match="--negatives_dir"):
        input_data.open_data(data_options(hard_negatives_percentage=10), dnn_small)


def test_hard_negatives_are_found_once_and_read_when_a_run_is_resumed(data_options, dnn_small, tmp_path):
    soundfile.write(tmp_path / "a.flac", knocks([2], seconds=60), RATE)
    wanted = {"negatives_dir": (str(tmp_path),), "hard_negatives_percentage": 100}
    data = input_data.open_data(data_options(**wanted), dnn_small)
    searches = []

    def model():
        searches.append(None)
        return taken_for_words(dnn_small)

    first = mining.with_hard_negatives(data, model, tmp_path, resumed=False)
    assert len(first.hard_negatives[0]) and len(searches) == 1
    resumed = mining.with_hard_negatives(data, model, tmp_path, resumed=True)
    assert len(searches) == 1
    for a, b in zip(first.hard_negatives, resumed.hard_negatives, strict=True):
        np.testing.assert_array_equal(a, b)
    mining.with_hard_negatives(data, model, tmp_path, resumed=False)
    assert len(searches) == 2  # another run in the folder
