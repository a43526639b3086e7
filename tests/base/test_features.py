"""MFCCs of a clip: the same bits whatever the other clips, and however the clips are divided."""

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import input_data
from kws.base import features
from kws.base.features import LOG_FLOOR, FrontEnd, mfcc, mfcc_tables

pytestmark = pytest.mark.fast

FRONT_ENDS = {
    "dnn small": FrontEnd(16000, 16000, 640, 640, 10),
    "defaults": FrontEnd(16000, 16000, 480, 160, 40),
    "window of a power of two": FrontEnd(16000, 16000, 512, 256, 13),
    "8 kHz": FrontEnd(8000, 8000, 320, 160, 40),
    "one frame": FrontEnd(16000, 16000, 16000, 16000, 10),
    "three frames": FrontEnd(16000, 8000, 2000, 2500, 1),
}


def clips_of(front_end, count=23):
    noise = np.random.default_rng(0).normal(scale=3000, size=(count, front_end.clip_samples))
    return noise.astype(np.int16)


@pytest.fixture(params=FRONT_ENDS)
def front_end(request):
    return FRONT_ENDS[request.param]


@pytest.mark.parametrize("part", [1, 2, 3, 5, 8, 22])
def test_bits_do_not_depend_on_the_division_into_calls(front_end, part):
    audio = clips_of(front_end)
    parts = [mfcc(audio[first : first + part], front_end) for first in range(0, len(audio), part)]
    np.testing.assert_array_equal(np.concatenate(parts), mfcc(audio, front_end))


@pytest.mark.parametrize("at_once", [1, 25, 80, 10_000])
def test_bits_do_not_depend_on_the_division_within_a_call(front_end, at_once, monkeypatch):
    audio = clips_of(front_end)
    expected = mfcc(audio, front_end)
    monkeypatch.setattr(features, "FRAMES_AT_ONCE", at_once)
    np.testing.assert_array_equal(mfcc(audio, front_end), expected)


@pytest.mark.parametrize(
    "name", sorted(FRONT_ENDS.keys() - {"one frame"})
)  # BLAS shares a frame as long as that
def test_bits_do_not_depend_on_the_threads_of_blas(name):
    audio = clips_of(FRONT_ENDS[name])
    with threadpool_limits(1):
        expected = mfcc(audio, FRONT_ENDS[name])
    np.testing.assert_array_equal(mfcc(audio, FRONT_ENDS[name]), expected)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 9, 100, 1000])
def test_a_window_of_any_length_has_the_features_of_the_definition(window):
    front_end = FrontEnd(16000, 8000, window, window, 10)
    audio = clips_of(front_end, 3) / np.float32(32768)
    hann, fft_length, filters, dct = mfcc_tables(front_end)
    frames = audio[:, : front_end.frame_count * window].reshape(-1, window).astype(float)
    magnitudes = np.abs(np.fft.rfft(hann * frames, fft_length))[:, 1 : 1 + len(filters)]
    expected = np.log(np.maximum(magnitudes @ filters.astype(float), LOG_FLOOR)) @ dct.astype(float)
    np.testing.assert_allclose(mfcc(audio, front_end), expected.reshape(3, -1), atol=2e-4)


def test_log_mel_energies_are_the_features_before_the_dct():
    front_end = FrontEnd(16000, 16000, 640, 320, 40)
    energies = replace(front_end, dct_coefficient_count=0)
    audio = clips_of(front_end, 3)
    found = mfcc(audio, energies)
    assert found.shape == (3, energies.feature_count) == (3, 49 * 40)
    expected = found.reshape(3, 49, 40) @ mfcc_tables(front_end)[3]
    np.testing.assert_allclose(expected.reshape(3, -1), mfcc(audio, front_end), atol=1e-4)


def test_bits_do_not_depend_on_order_or_on_where_the_samples_lie(front_end):
    audio = clips_of(front_end)
    expected = mfcc(audio, front_end)
    np.testing.assert_array_equal(mfcc(audio[::-1], front_end)[::-1], expected)
    shifted = np.empty(audio.size + 1, np.int16)[1:].reshape(audio.shape)
    shifted[:] = audio
    np.testing.assert_array_equal(mfcc(shifted, front_end), expected)


def test_int16_and_float_of_full_scale_one_have_the_same_bits(front_end):
    audio = clips_of(front_end)
    np.testing.assert_array_equal(mfcc(audio / np.float32(32768), front_end), mfcc(audio, front_end))


def test_features_go_where_they_are_asked_to(front_end):
    audio = clips_of(front_end)
    target = np.full((25, front_end.feature_count), np.nan, np.float32)
    assert mfcc(audio, front_end, target[1:-1]).base is target
    np.testing.assert_array_equal(target[1:-1], mfcc(audio, front_end))
    assert np.isnan(target[[0, -1]]).all()


def test_no_clips_have_no_features(front_end):
    assert mfcc(clips_of(front_end, 0), front_end).shape == (0, front_end.feature_count)


def test_features_of_clips_are_the_mfcc_of_their_samples(sample, dnn_small):
    clips = sample.validation
    audio = np.stack([clips.samples(clip) for clip in range(len(clips))]) / np.float32(32768)
    expected = mfcc(audio, dnn_small.front_end)
    np.testing.assert_allclose(input_data.features(clips, dnn_small.front_end), expected, rtol=0, atol=2e-5)
