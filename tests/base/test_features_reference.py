"""MFCCs are those of TensorFlow's audio ops."""

import numpy as np
import pytest
import soundfile

import plain
from conftest import RATE, SAMPLE_DATA
from kws.base.features import mfcc
from kws.base.settings import Settings


def tensorflow_mfcc(audio, settings):
    """The same features by TensorFlow's own ops, clip by clip."""
    return np.array([plain.mfcc(samples, settings.front_end).numpy() for samples in audio])


def sample_speech():
    files = sorted(SAMPLE_DATA.glob("[a-z]*/*.opus"))[::45]
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
