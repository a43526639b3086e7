"""Flags become settings, settings survive a round trip, and contradictions are errors."""

import json

import pytest

from conftest import settings_flags
from kws.base.errors import UserError
from kws.base.settings import Sensitivity, Settings

pytestmark = pytest.mark.fast


def test_without_flags_the_settings_are_the_defaults():
    assert settings_flags().resolve() == Settings()


def test_flags_become_settings():
    flags = ("--wanted_words", "on, off", "--model_size_info", "7", "8", "--window_size_ms", "40")
    settings = settings_flags(*flags).resolve()
    assert settings.labels == ("_silence_", "_unknown_", "on", "off")
    assert settings.model_size_info == (7, 8)
    assert settings.window_size_ms == 40


def test_a_flag_that_agrees_with_the_model_is_fine_and_one_that_contradicts_names_both_values():
    stored = Settings(window_size_ms=40)
    assert settings_flags("--window_size_ms", "40").resolve(stored, "file") == stored
    with pytest.raises(UserError, match="--window_size_ms 30 contradicts 40, stored in file"):
        settings_flags("--window_size_ms", "30").resolve(stored, "file")


def test_frames_and_features_of_dnn_small(dnn_small):
    assert (dnn_small.frame_count, dnn_small.feature_count) == (25, 250)


def test_json_round_trip(dnn_small):
    assert Settings.from_json(dnn_small.to_json(), "") == dnn_small


def with_detector(**values):
    """The JSON of settings with a detector that has a normal sensitivity of these `values`."""
    settings = json.loads(Settings().to_json())
    one = {"threshold": 0.5, "false_alarms_per_hour": 1, "miss_rate": 0.1}
    normal = {name: value for name, value in (one | values).items() if value is not None}
    times = {"hop_ms": 40, "smoothing_ms": 600, "refractory_ms": 1000}
    return json.dumps(settings | {"detector": times | {"low": one, "normal": normal, "high": one}})


def test_a_detector_is_read_as_it_was_written():
    settings = Settings.from_json(with_detector(threshold=0.7), "x")
    assert settings.detector.normal == Sensitivity(0.7, 1, 0.1)
    assert Settings.from_json(settings.to_json(), "x") == settings


@pytest.mark.parametrize(("of_words", "one"), [([0.7] * 10, 0.7), ([0.3, 0.6, 0.4], 0.6)])
def test_a_threshold_for_each_word_as_earlier_files_have_is_read_as_the_largest(of_words, one):
    settings = Settings.from_json(with_detector(thresholds=of_words, threshold=None), "x")
    assert settings.detector.normal == Sensitivity(one, 1, 0.1)
    assert '"thresholds"' not in settings.to_json()


def damaged():
    good = json.loads(Settings().to_json())
    yield "a threshold out of range", with_detector(threshold=1.1)
    yield "no threshold", with_detector(threshold=None)
    yield "no thresholds in a list", with_detector(thresholds=[], threshold=None)
    yield "a word for thresholds", with_detector(thresholds="half", threshold=None)
    yield "not JSON", b"\xff{"
    yield "a list", "[]"
    yield "a missing key", json.dumps({"sample_rate": 16000})
    yield "an unknown key", json.dumps(good | {"colour": 1})
    yield "a word for a number", json.dumps(good | {"sample_rate": "fast"})
    yield "a number for words", json.dumps(good | {"wanted_words": [1]})
    yield "an impossible value", json.dumps(good | {"dct_coefficient_count": 41})
    yield "not a number", json.dumps(good | {"window_size_ms": float("nan")})
    yield "a truth value", json.dumps(good | {"sample_rate": True})


@pytest.mark.parametrize("text", [text for _, text in damaged()], ids=[name for name, _ in damaged()])
def test_damaged_settings_name_their_source(text):
    with pytest.raises(UserError, match=r"x\.json: the settings in it are damaged"):
        Settings.from_json(text, "x.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_rate": 4000}, "sample_rate"),
        ({"window_size_ms": 1001}, "does not fit into"),
        ({"window_stride_ms": 0}, "at least one sample"),
        ({"dct_coefficient_count": -1}, "1 to 40"),
        ({"wanted_words": ("yes", "yes")}, "twice"),
        ({"wanted_words": ("_yes",)}, "must not begin"),
        ({"wanted_words": ("../yes",)}, "must not begin"),
        ({"wanted_words": ("",)}, "empty word"),
        ({"validation_percentage": 60, "testing_percentage": 60}, "leave something"),
    ],
)
def test_impossible_settings_are_errors(values, message):
    with pytest.raises(UserError, match=message):
        Settings(**values)
