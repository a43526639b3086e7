"""The comparison of a model with other wake-word engines; the other engines are not needed here."""

import sys

import numpy as np
import pytest

import wake_words
from conftest import SAMPLE_DATA, SHIPPED_INT8, assert_one_clear_line, call_here

NOISE = SAMPLE_DATA / "_background_noise_"


def compare(phrase, *more, **options):
    folders = "--phrase", SAMPLE_DATA / phrase, "--ambient", NOISE
    return call_here("benchmarks/wake_words.py", SHIPPED_INT8, *folders, *more, **options)


@pytest.mark.fast
def test_a_model_is_measured_without_the_other_engines():
    heard, _, line = compare("yes").stdout.splitlines()
    count = len([*(SAMPLE_DATA / "yes").iterdir()])
    assert heard == f"{count} recordings of the phrase, 0.00 hours without it"
    # 79,200 multiply-accumulates in each of 25 windows a second
    size = f"{SHIPPED_INT8.stat().st_size:,}"
    name, *costs, at_5, _, at_1, _, at_half, percent = line.split()
    assert [name, *costs, percent] == [SHIPPED_INT8.name, size, "1,980,000", "%"]
    assert 0 <= float(at_5) <= float(at_1) <= float(at_half) < 10


@pytest.mark.fast
def test_misses_and_false_alarms_are_counted_at_each_score_of_a_phrase():
    scores = {5: [0.1, 0.5, 0.2], 6: [0.7, 0.1], 7: [0.9]}
    # 0.95 twice within the refractory time, 0.8 after it, 0.6 in another recording
    scores |= {8: [0.95, 0.95, 0.0, 0.0, 0.8], 9: [0.6]}
    engine = wake_words.Engine(0, 0, 0.5, lambda samples: np.array(scores[int(samples[0])]))
    recordings = [np.full(1, number, np.int16) for number in scores]
    points = wake_words.sweep(engine, recordings[:3], recordings[3:], 2)
    assert [tuple(point) for point in points] == [(0.5, 1.5, 0), (0.7, 1, 1 / 3), (0.9, 0.5, 2 / 3)]


@pytest.mark.fast
def test_a_missing_package_or_an_unknown_word_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openwakeword", None)
    result = compare("yes", "--engines", "openwakeword:alexa", check=False)
    assert_one_clear_line(result, "openwakeword:alexa", "pip install -r benchmarks/requirements.txt")
    assert_one_clear_line(compare("yes", "--engines", "other:alexa", check=False), "other:alexa")
    assert_one_clear_line(compare("bird", check=False), "does not know bird")
