"""The figures of a report, against values worked out by hand."""

import json
import math

import numpy as np
import pytest

import input_data
from conftest import ON_OFF, make_words
from kws.base.files import write_json
from kws.data.clips import Clips
from kws.data.dataset import DataOptions
from kws.model.tflite import Cost
from kws.report.reports import Evaluation, Report, mcnemar, paired_tests, protocol_of

pytestmark = pytest.mark.fast

LABELS = ("_silence_", "_unknown_", "on", "off")
TRUE = np.array([0, 0, 1, 2, 2, 2, 2, 3])
PREDICTED = np.array([0, 0, 2, 2, 2, 2, 3, 3])


def report():
    return Report.from_scores("testing, by hand", LABELS, TRUE, np.eye(4)[PREDICTED])


def test_confusion_rows_are_true_labels_and_columns_predicted_ones():
    expected = [[2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 3, 1], [0, 0, 0, 1]]
    assert report().confusion.tolist() == expected


def test_accuracy_precision_and_recall():
    assert (report().count, report().correct, report().accuracy) == (8, 6, 0.75)
    np.testing.assert_allclose(report().recall, [1, 0, 0.75, 1])
    np.testing.assert_allclose(report().precision, [1, math.nan, 0.75, 0.5])


def test_the_interval_is_wilsons():
    confusion = np.diag([81, 0])
    confusion[0, 1] = 263 - 81
    low, high = Report("", ("a", "b"), confusion).interval
    # 81 of 263, R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_text_names_labels_and_n():
    text = report().text()
    assert "accuracy 75.00 %" in text and "N = 8" in text
    assert [line.split()[0] for line in text.splitlines()[-4:]] == list(LABELS)


def test_the_summary_says_what_the_clips_are():
    assert report().summary().endswith("N = 8: 5 wanted words, 2 silence, 1 unknown words")


@pytest.mark.parametrize(
    ("words", "asked", "expected"),
    [
        (("on", "off", "cat"), {}, "paper protocol (10 % silence of zeros, 10 % unknown words)"),
        (("on", "off"), {}, "10 % silence of zeros, no unknown words"),
        (("on", "off"), {"silence_percentage": 0}, "no silence of zeros, no unknown words"),
        (("on", "off", "cat"), {"unknown_percentage": 0}, "10 % silence of zeros, no unknown words"),
        (("on", "off", "cat"), {"unknown_percentage": 300}, "10 % silence of zeros, 50 % unknown words"),
        (("on", "off", "cat"), {"silence_percentage": 150}, "150 % silence of zeros, 10 % unknown words"),
    ],
)
def test_the_protocol_is_what_the_clips_are(tmp_path, words, asked, expected):
    options = DataOptions(data_dir=str(make_words(tmp_path, words)), **asked)
    assert protocol_of(input_data.open_data(options, ON_OFF).validation, options) == expected


def test_a_set_without_clips_has_no_accuracy_and_is_valid_json(tmp_path):
    empty = Report.from_scores("nothing", LABELS, np.zeros(0, int), np.zeros((0, 4)))
    assert "nothing: no clips" in empty.text()
    write_json(tmp_path / "x.json", empty.as_dict())
    assert json.loads((tmp_path / "x.json").read_text())["accuracy"] is None


def test_mcnemars_test_by_hand():
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1
    assert mcnemar(0, 5) == mcnemar(5, 0) == 2 / 2**5
    assert mcnemar(1, 7) == 2 * (1 + 8) / 2**8
    assert 0.05 < mcnemar(520, 460) < 0.06  # by the normal distribution 0.055


def test_models_are_compared_clip_by_clip():
    names, nothing = tuple(f"on/{number}.wav" for number in TRUE), np.zeros(len(TRUE), np.int32)
    evaluations = {}
    for path, predicted in {"a": PREDICTED, "b": TRUE, "c": np.zeros_like(TRUE)}.items():
        clips = Clips((), nothing, nothing, TRUE, names if path != "c" else names[::-1])
        evaluations[path] = Evaluation(Cost(1, 1, 1, 1))
        evaluations[path].add("testing", report(), clips, np.eye(4)[predicted])
    heading, b, c = paired_tests(evaluations).splitlines()
    assert heading == "clips on which only the model is right, and only a (McNemar's exact test):"
    assert b == "  b: testing 2 and 0, p = 0.5" and c == "  c: other clips"


def test_a_set_of_silence_alone_has_a_protocol(tmp_path):
    silence = Clips((), *3 * [np.zeros(3, np.int32)], ("_silence_/1.wav",) * 3)
    assert protocol_of(silence, DataOptions(data_dir="")) == "10 % silence of zeros, no unknown words"
