"""Training batches: their order, their repetition, and that they depend on seed and step alone."""

import functools
from dataclasses import replace

import numpy as np
import pytest

import input_data
from kws.base.features import mfcc
from kws.data import batches
from kws.data.augmentation import Augmentation

pytestmark = pytest.mark.fast


@pytest.fixture
def batches_of(sample, dnn_small):
    """Return a function of the fields of Batching, and a teacher, that gives the batches."""

    def take(teacher=None, **fields):
        batching, front_end = batches.Batching(**fields), dnn_small.front_end
        return list(input_data.training_batches(sample, Augmentation(), front_end, batching, teacher))

    return take


def test_batches_depend_on_seed_and_step_alone(batches_of):
    whole = batches_of(batch_size=30, seed=1, steps=range(20))
    rest = batches_of(batch_size=30, seed=1, steps=range(12, 20))
    for (features, labels, _), (again, labels_again, _) in zip(whole[12:], rest, strict=True):
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(labels, labels_again)
    other = batches_of(batch_size=30, seed=2, steps=range(1))
    assert (other[0][0] != whole[0][0]).any()


@pytest.mark.parametrize("echo", [1, 2])
@pytest.mark.parametrize("same_front_end", [True, False])
def test_a_teacher_gets_the_same_augmented_clips(batches_of, dnn_small, echo, same_front_end):
    finer = dnn_small if same_front_end else replace(dnn_small, window_stride_ms=20, dct_coefficient_count=12)

    def teacher(audio, features):
        frames = features if same_front_end else mfcc(audio, finer.front_end)
        frames = frames.reshape(len(features), finer.frame_count, -1)
        return frames[:, :: 1 if same_front_end else 2, :3].reshape(len(features), -1)

    for features, labels, scores in batches_of(
        batch_size=30,
        seed=0,
        steps=range(12),
        echo=echo,
        teacher=teacher,
    ):
        expected = features.reshape(30, 25, 10)[:, :, :3].reshape(30, -1)
        np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-3)
        assert labels.shape == (30,)


def epoch_order(data, seed):
    unknown = data.training.label == 1
    always, pool = np.flatnonzero(~unknown), np.flatnonzero(unknown)
    return batches.EpochOrder(always, pool, data.unknown_per_epoch, seed)


def test_each_epoch_has_every_wanted_clip_once_and_its_own_draw_of_unknown_words(sample):
    order = epoch_order(sample, seed=5)
    assert len(order) == 12 * 100
    parts = [order.clips(range(start, start + 24)) for start in range(0, 3 * len(order), 24)]
    always, draws = set(np.flatnonzero(sample.training.label != 1)), []
    for one in np.concatenate(parts).reshape(3, -1):
        drawn = set(one) - always
        assert len(set(one)) == len(one) and always <= set(one) and len(drawn) == 100
        draws.append(drawn)
    assert draws[0] != draws[1] != draws[2]


def test_augmentation_is_fresh_in_each_epoch(sample, dnn_small, batches_of):
    order = epoch_order(sample, seed=0)
    count = len(order)
    epochs = batches_of(batch_size=count, seed=0, steps=range(2))
    features = [
        dict(zip(order.clips(range(step * count, (step + 1) * count)), epoch.features, strict=True))
        for step, epoch in enumerate(epochs)
    ]
    both = features[0].keys() & features[1].keys()
    differs = [(features[0][clip] != features[1][clip]).any() for clip in both]
    assert len(both) > 150 and np.mean(differs) > 0.9


# ---- echoing ----


@pytest.fixture
def small_batches(batches_of):
    """Return a function that makes batches of four clips."""
    return functools.partial(batches_of, batch_size=4, seed=1)


def test_echoed_batches_hold_the_same_features_regrouped(small_batches, monkeypatch):
    period = 30
    monkeypatch.setattr(batches, "ECHO_BYTES", period * 4 * 250 * 2)
    fresh = small_batches(steps=range(2 * period))
    echoed = small_batches(steps=range(4 * period), echo=2)

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


def test_echoing_lasts_the_whole_run_where_memory_allows(small_batches):
    echoed = small_batches(steps=range(20), echo=3)
    fresh = {features.tobytes() for batch in echoed[:7] for features in batch[0]}
    assert len(fresh) == 7 * 4
    assert all(features.tobytes() in fresh for batch in echoed for features in batch[0])


@pytest.mark.parametrize("start", [20, 45, 70])
def test_echoed_batches_from_the_middle_are_those_of_an_unbroken_run(start, small_batches, monkeypatch):
    monkeypatch.setattr(batches, "ECHO_BYTES", 30 * 4 * 250 * 2)
    whole = small_batches(steps=range(100), echo=2)[start:]
    rest = small_batches(steps=range(start, 100), echo=2)
    for (features, labels, _), (again, labels_again, _) in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(labels, labels_again)


def test_the_shares_of_machines_make_up_the_batch_of_one(small_batches):
    steps = range(30)
    whole = small_batches(steps=steps, echo=2)
    shares = [small_batches(steps=steps, echo=2, rows=slice(i, None, 2)) for i in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for number, (features, labels, _) in enumerate(parts):
            np.testing.assert_allclose(features, batch[0][number::2], rtol=2e-3, atol=1e-3)
            np.testing.assert_array_equal(labels, batch[1][number::2])
