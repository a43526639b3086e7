"""A frozen trunk: its outputs in a file, the head that learns from them, and thresholds chosen on them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import models
from conftest import ROOT
from kws.base.errors import UserError
from kws.base.quiet_tf import keras
from kws.base.settings import NO_WORD, UNKNOWN_INDEX
from kws.data.batches import Batch
from kws.detect.streaming import DEFAULTS, Detector
from kws.model import checkpoints
from kws.model.checkpoints import KerasModel, keras_predictor
from kws.model.transfer import load_start, trunk_layers
from kws.train.runs import TrainingOptions
from kws.trunk.head import HARD, AddedNegatives
from kws.trunk.outputs import LEVELS, StoredOutputs, fingerprint_of, levels_of, predictor, split
from kws.trunk.thresholds import chosen_detector

PRETRAINED = ROOT / "model_archive/model_source/pretrained_stream"
FILE = PRETRAINED / "negatives.npz"
WORDS = ("Marvin", "pumpkins")


@pytest.fixture(scope="module")
def network():
    """The network of recipes/own_words.txt with the pretrained trunk: (network, settings, frozen layers)."""
    size = (*checkpoints.read_settings(PRETRAINED).model_size_info, 96, 3, 1, 1, 1)
    settings = replace(
        checkpoints.read_settings(PRETRAINED),
        model_size_info=(7, *size[1:]),
        clip_duration_ms=1560,
        wanted_words=WORDS,
    )
    keras.utils.set_random_seed(0)
    network = models.build_model(settings)
    load_start(network, settings, PRETRAINED)
    return network, settings, trunk_layers(checkpoints.read_settings(PRETRAINED), settings)


@pytest.fixture(scope="module")
def stored(network):
    built, _, frozen = network
    return StoredOutputs.read(FILE, split(built, frozen)[0])


def test_trunk_and_head_together_compute_what_the_network_does(network):
    built, settings, frozen = network
    features = np.random.default_rng(0).normal(-5, 3, (4, settings.feature_count)).astype(np.float32)
    trunk, head = split(built, frozen)
    outputs = keras_predictor(trunk)(features)
    assert outputs.shape[1:] == (21, 1, 64)
    of_network = keras_predictor(built)(features)
    np.testing.assert_allclose(keras_predictor(head)(outputs), of_network, atol=1e-6)


def test_outputs_survive_the_file_in_steps(network, tmp_path):
    built, _, frozen = network
    trunk = split(built, frozen)[0]
    rng = np.random.default_rng(1)
    step = rng.uniform(0.1, 0.3, 64).astype(np.float32)
    outputs = rng.uniform(0, 2, (3, 42, 64)).astype(np.float32)
    levels = levels_of(outputs, step)
    written = StoredOutputs(
        fingerprint_of(trunk),
        step,
        levels,
        np.array(["", "yes", "Marvin"]),
        [levels[0], levels[1, :5]],
        ["a", "b"],
        ["", "dark large roast"],
    )
    written.write(tmp_path / "x.npz")
    read = StoredOutputs.read(tmp_path / "x.npz", trunk)
    np.testing.assert_array_equal(read.windows, levels)
    assert [stream.tolist() for stream in read.streams] == [levels[0].tolist(), levels[1, :5].tolist()]
    assert read.names == ["a", "b"] and read.said == ["", "dark large roast"]
    assert read.without(("marvin",)).words.tolist() == ["", "yes"]
    within = outputs < LEVELS * step
    assert np.abs(read.values(levels) - outputs)[within].max() <= step.max() / 2 + 1e-6


def test_a_file_of_another_trunk_or_a_damaged_one_is_refused(network, tmp_path):
    other = models.build_model(network[1])
    with pytest.raises(UserError, match="another trunk"):
        StoredOutputs.read(FILE, split(other, network[2])[0])
    for content in (b"", FILE.read_bytes()[:5000], b"no zip"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match="bad.npz"):
            StoredOutputs.read(tmp_path / "bad.npz", split(network[0], network[2])[0])


def test_the_shipped_negatives_hold_words_by_people_and_hours_to_choose_thresholds_on(stored):
    assert len(stored.windows) == 26000 and np.count_nonzero(stored.words != "") == 8000
    assert "marvin" in stored.words and "marvin" not in stored.without(WORDS).words
    assert sum(map(len, stored.streams)) * 0.04 / 3600 > 2.5
    assert FILE.stat().st_size < 14e6


@pytest.mark.parametrize(("word", "is_said"), [("House", True), ("dark_roast", True), ("dark_knight", False)])
def test_thresholds_are_not_chosen_on_recordings_in_which_the_word_is_often_said(stored, word, is_said):
    others = stored.without(("marvin", word))
    assert set(stored.names) - set(others.names) == ({"orders_en"} if is_said else set())
    assert len(others.streams) == len(others.names) == len(others.said)


def few(stored):
    """The first windows of long recordings and of words, so that a test is quick."""
    chosen = [*range(150), *range(len(stored.words) - 150, len(stored.words))]
    return replace(stored, windows=stored.windows[chosen], words=stored.words[chosen])


def options(tmp_path, steps=10):
    return TrainingOptions((steps,), (0.001,), str(tmp_path), batch_size=60)


def batch_of(rows, length):
    return Batch(np.zeros((rows, length, 1, 64), np.float32), np.full(rows, 2, np.int32))


def test_negatives_are_added_to_each_batch_and_hard_ones_half_way(network, stored, tmp_path):
    built, _, frozen = network
    head, some = split(built, frozen)[1], few(stored)
    added = AddedNegatives(some, head, options(tmp_path))
    batches = [added.to(batch_of(60, 21), step) for step in (0, 4, 5, 9)]
    for batch in batches:
        assert batch.features.shape == (120, 21, 1, 64) and (batch.labels[:60] == 2).all()
        assert (batch.labels[60:] == NO_WORD).all()

    def mean_score(batch):
        count = int(HARD * 60)
        return keras_predictor(head)(batch.features[60 : 60 + count])[:, UNKNOWN_INDEX + 1 :].max(1).mean()

    assert min(map(mean_score, batches[2:])) > max(map(mean_score, batches[:2]))


def test_a_resumed_training_adds_the_same_negatives(network, stored, tmp_path):
    built, _, frozen = network
    head, some = split(built, frozen)[1], few(stored)
    whole = AddedNegatives(some, head, options(tmp_path))
    expected = [whole.to(batch_of(60, 21), step).features for step in range(10)]
    assert len(list(tmp_path.glob("*.npy"))) == 2
    # what it resumes with has other weights than those that found the hard negatives
    head.layers[-2].bias.assign_add([5.0, 0, -5, 0])
    # found half-way, and after three quarters
    for step in 6, 8:
        resumed = AddedNegatives(some, head, options(tmp_path))
        np.testing.assert_array_equal(resumed.to(batch_of(60, 21), step).features, expected[step])
    head.layers[-2].bias.assign_sub([5.0, 0, -5, 0])


def test_thresholds_keep_the_allowed_false_alarms_in_the_stored_recordings(network, stored, sample):
    built, settings, frozen = network
    head = split(built, frozen)[1]
    minutes = [stream[: 5 * 60 * 25] for stream in stored.streams if len(stream) > 5 * 60 * 25]
    some = replace(stored, streams=minutes, names=stored.names[: len(minutes)])
    output = built.layers[-2]
    model, kernel = KerasModel(built, settings), output.kernel.numpy()
    output.kernel.assign(40 * kernel)  # random weights hardly tell windows apart
    clips = replace(sample.validation, label=np.minimum(sample.validation.label, 3))
    data = SimpleNamespace(validation=long_clips(clips, settings), noise=sample.noise)
    detector = chosen_detector(model, frozen, some, data, 30)
    assert detector.smoothing_ms == 240 and detector.hop_ms == 40
    assert detector.high.threshold < detector.normal.threshold < detector.low.threshold

    # counted once more, window by window
    parameters = replace(DEFAULTS, smoothing_ms=240, threshold=detector.normal.threshold)
    found = 0
    for levels in minutes:
        windows = np.lib.stride_tricks.sliding_window_view(levels, 21, axis=0).transpose(0, 2, 1)
        found += len(
            Detector(parameters, settings).detect(keras_predictor(head)(some.values(windows)[:, :, None]))
        )
    assert 0 < found <= 30 * len(minutes) * 5 / 60
    output.kernel.assign(kernel)


def long_clips(clips, settings):
    """The clips, as long as the network takes them."""
    pcm = [np.pad(clips.audio(range(len(clips))), ((0, 0), (settings.clip_samples - 16000, 0)))]
    order = np.arange(len(clips), dtype=np.int32)
    return replace(clips, pcm=tuple(pcm), source=np.zeros_like(order), row=order)


def test_outputs_of_a_stream_are_those_of_its_windows(network):
    built, settings, frozen = network
    longer = replace(settings, clip_duration_ms=2400)
    wide = models.build_model(longer)
    load_start(wide, longer, PRETRAINED)
    features = np.random.default_rng(2).normal(-5, 3, (1, longer.feature_count)).astype(np.float32)
    of_long = predictor(split(wide, frozen)[0])(features)
    per_output = 2 * settings.front_end.frame_features  # two frames an output
    window = features[:, 4 * per_output : 4 * per_output + settings.feature_count]
    np.testing.assert_allclose(predictor(split(built, frozen)[0])(window)[0], of_long[0, 4:25], atol=1e-5)
