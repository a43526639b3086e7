"""Validation of a network in training, and which checkpoint is kept."""

import math

import numpy as np
import pytest
import soundfile

import models
from conftest import DATA, RATE, ROOT, call_here
from kws.train.runs import read_history
from kws.train.validation import Validated, validation

WEIGHTS = ROOT / "model_archive" / "model_source" / "weights"


@pytest.fixture(scope="module")
def radio(tmp_path_factory):
    """Make a folder of recordings without the words."""
    folder = tmp_path_factory.mktemp("radio")
    noise = 0.1 * np.random.default_rng(0).normal(size=30 * RATE)
    soundfile.write(folder / "noise.flac", noise, RATE)
    return folder


@pytest.mark.fast
def test_the_best_checkpoint_is_the_one_that_is_good_on_clips_and_on_an_open_microphone():
    clips_alone = Validated(0.9, 0.3, math.nan)
    assert clips_alone.merit == 0.9
    assert clips_alone.is_better(0.89, 0.1) and clips_alone.is_better(0.9, 0.4)
    assert not clips_alone.is_better(0.9, 0.3) and not clips_alone.is_better(0.91, 0.4)
    quiet, accurate = Validated(0.88, 0.4, 0.3), Validated(0.9, 0.3, 0.5)
    assert quiet.is_better(accurate.merit, accurate.loss)


def test_misses_are_those_of_the_network_as_it_is_when_validated(radio, sample, dnn_small):
    network, _ = models.load_checkpoint(WEIGHTS)
    validate = validation(network, sample, dnn_small, (str(radio),), 5.0)
    trained = validate()
    network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    assert validate().accuracy < trained.accuracy and validate().miss_rate == 1 > trained.miss_rate
    assert math.isnan(validation(network, sample, dnn_small, (), 5.0)().miss_rate)


def test_training_is_validated_on_an_open_microphone(tmp_path, radio):
    steps = (
        "--how_many_training_steps",
        "2",
        "--learning_rate",
        "0.0001",
        "--eval_step_interval",
        "1",
        "--train_dir",
        tmp_path,
    )
    result = call_here(
        "train.py", *DATA, "--start_checkpoint", WEIGHTS, "--ambient", radio, *steps, "--plots", tmp_path
    )
    history = read_history(tmp_path)
    assert history.shape == (2, 7) and np.isfinite(history).all() and (history[:, 6] < 1).all()
    assert result.stdout.count("% misses at 5 false alarms/h") == 2
    assert (tmp_path / "learning_curves.png").exists()
