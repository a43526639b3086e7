"""Flags become settings, settings survive a round trip, and contradictions are errors."""

import json

import pytest

import input_data
import models
from conftest import assert_one_clear_line, call
from kws.cli import UserError, new_parser
from kws.settings import Settings, SettingsFlags

SCRIPTS = ("train.py", "optimisations.py", "convert_to_tflite.py", "evaluation.py", "input_data.py")


@pytest.mark.parametrize("script", ["benchmarks/run.py", "model_archive/build.py"])
def test_the_makers_scripts_start_from_anywhere(script, tmp_path):
    assert "--data_dir" in call(script, "--help", cwd=tmp_path).stdout


def parse(*flags):
    parser = new_parser("")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return SettingsFlags.from_arguments(parser.parse_args(flags))


@pytest.mark.fast
def test_without_flags_the_settings_are_the_defaults():
    assert parse().resolve() == Settings()


@pytest.mark.fast
def test_flags_become_settings():
    flags = ("--wanted_words", "on, off", "--model_size_info", "7", "8", "--window_size_ms", "40")
    settings = parse(*flags).resolve()
    assert settings.labels == ("_silence_", "_unknown_", "on", "off")
    assert settings.model_size_info == (7, 8)
    assert settings.window_size_ms == 40


@pytest.mark.fast
def test_a_flag_that_agrees_with_the_model_is_fine_and_one_that_contradicts_names_both_values():
    stored = Settings(window_size_ms=40)
    assert parse("--window_size_ms", "40").resolve(stored, "file") == stored
    with pytest.raises(UserError, match="--window_size_ms 30 contradicts 40, stored in file"):
        parse("--window_size_ms", "30").resolve(stored, "file")


@pytest.mark.fast
def test_frames_and_features_of_dnn_small(dnn_small):
    assert (dnn_small.frame_count, dnn_small.feature_count) == (25, 250)


@pytest.mark.fast
def test_json_round_trip(dnn_small):
    assert Settings.from_json(dnn_small.to_json(), "") == dnn_small


def damaged():
    good = json.loads(Settings().to_json())
    yield "not JSON", b"\xff{"
    yield "a list", "[]"
    yield "a missing key", json.dumps({"sample_rate": 16000})
    yield "an unknown key", json.dumps(good | {"colour": 1})
    yield "a word for a number", json.dumps(good | {"sample_rate": "fast"})
    yield "a number for words", json.dumps(good | {"wanted_words": [1]})
    yield "an impossible value", json.dumps(good | {"dct_coefficient_count": 41})
    yield "not a number", json.dumps(good | {"window_size_ms": float("nan")})
    yield "a truth value", json.dumps(good | {"sample_rate": True})


@pytest.mark.fast
@pytest.mark.parametrize("text", [text for _, text in damaged()], ids=[name for name, _ in damaged()])
def test_damaged_settings_name_their_source(text):
    with pytest.raises(UserError, match=r"x\.json: the settings in it are damaged"):
        Settings.from_json(text, "x.json")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_rate": 4000}, "sample_rate"),
        ({"window_size_ms": 1001}, "does not fit into"),
        ({"window_stride_ms": 0}, "at least one sample"),
        ({"dct_coefficient_count": 0}, "1 to 40"),
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_and_needs_no_tensorflow(script):
    result = call(script, "--help", env={"PATH": "", "PYTHONPROFILEIMPORTTIME": "1"})
    assert "--wanted_words" in result.stdout
    assert "tensorflow" not in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["--wanted_word", "--data-dir", "--nonsense"])
def test_unknown_and_shortened_flags_are_errors(script, flag):
    result = call(script, "--checkpoint", "x", flag, "yes", check=False)
    assert_one_clear_line(result, flag)


@pytest.mark.parametrize(
    "flags",
    [
        ("--background_volume", "2"),
        ("--silence_percentage", "-1"),
        ("--learning_rate", "0"),
        ("--learning_rate", "0.1,x"),
        ("--batch_size", "0"),
        ("--how_many_training_steps", "100,100,100"),
        ("--model_architecture", "transformer"),
    ],
)
def test_impossible_training_flags_are_errors(flags):
    assert_one_clear_line(call("train.py", *flags, check=False), flags[0])
