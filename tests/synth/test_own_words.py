"""One's own words, from recordings to detections: what the recipes make of synthetic speech."""

import re
import subprocess

import numpy as np
import pytest
import soundfile

from conftest import RATE, SAMPLE_DATA, call, call_here
from kws.audio import recordings

WORDS = ("yes", "stop", "left")
SPOKEN = 15


@pytest.fixture(scope="module")
def own_words(tmp_path_factory):
    """The int8 model of three words of the sample data, the others being unknown."""
    folder = tmp_path_factory.mktemp("own_words")
    data = "@recipes/recorded_words.txt", "--data_dir", SAMPLE_DATA
    short = "--eval_step_interval 500 --how_many_training_steps".split()
    words = "--wanted_words", ",".join(WORDS)
    call_here(
        "train.py", "@recipes/dnn_small.txt", *data, *words, *short, 3000, "--train_dir", folder / "train"
    )
    start = "--checkpoint", folder / "train" / "best", "--teacher", folder / "train" / "best"
    quantize = "optimisations.py", "@recipes/quantize.txt", *data, *start, *short, 1000
    call_here(*quantize, "--learning_rate", "0.0003", "--train_dir", folder / "quantized")
    convert = "convert_to_tflite.py", "--checkpoint", folder / "quantized" / "best", *data[1:]
    call_here(*convert, "--inference_type", "int8", "--output", folder / "words.tflite")
    return folder


@pytest.fixture(params=[0, 10], ids=["digital silence", "faint noise"])
def talk(own_words, request):
    """A recording in which each of SPOKEN words is said after a pause: its path, and [(seconds, word)].

    The pauses hold white noise of a standard deviation of so many steps of int16.
    """
    rng = np.random.default_rng(0)
    parts, words, samples = [], [], 0

    def pause(seconds):
        return np.rint(request.param * rng.normal(size=int(RATE * seconds))).astype(np.int16)

    for number in range(SPOKEN):
        word = WORDS[number % len(WORDS)]
        files = sorted((SAMPLE_DATA / word).glob("*.opus"))
        clip, _ = recordings.read_audio(files[rng.integers(len(files))], RATE)
        before = pause(rng.uniform(1, 2.5))
        parts += [before, clip]
        words.append(((samples + len(before) + len(clip) / 2) / RATE, word))
        samples += len(before) + len(clip)
    path = own_words / "talk.wav"
    soundfile.write(path, np.concatenate([*parts, pause(2)]), RATE)
    return path, words


def found_words(lines, words):
    """How many of the words were detected at their time, and how many other detections there were."""
    found = [re.search(r"([\d.]+) s +(\S+) [\d.]+$", line) for line in lines if "nothing" not in line]
    found = [(float(match[1]), match[2]) for match in found]
    hits = sum(any(abs(at - when) < 0.75 and said == word for at, said in found) for when, word in words)
    return hits, len(found) - hits


def test_own_words_are_detected_in_a_long_recording_on_the_pc(own_words, talk):
    path, words = talk
    lines = call("label_wav.py", own_words / "words.tflite", path).stdout.splitlines()
    hits, others = found_words(lines, words)
    assert hits >= SPOKEN - 1 and others <= 3


@pytest.fixture(scope="module")
def program(own_words):
    """The command that detects the words in samples on standard input, in C."""
    call_here(
        "export_c.py", own_words / "words.tflite", "--output", own_words / "c", "--data_dir", SAMPLE_DATA
    )
    subprocess.run(["make", "-C", own_words / "c", "kws"], check=True, capture_output=True)
    return [own_words / "c" / "kws", "-"]


def test_own_words_are_detected_by_the_c_module_as_on_the_pc(program, talk):
    path, words = talk
    samples, _ = soundfile.read(path, dtype="int16")
    output = subprocess.run(program, input=samples.tobytes(), capture_output=True, check=True).stdout.decode()
    hits, others = found_words(output.splitlines(), words)
    assert hits >= SPOKEN - 1 and others <= 3
