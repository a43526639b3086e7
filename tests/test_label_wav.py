"""label_wav.py as a user calls it: on files, on pipes, on clips."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

import input_data
from conftest import RATE, ROOT, SAMPLE_DATA, SHIPPED_INT8, assert_one_clear_line, call
from kws import checkpoints, streaming


def test_the_words_of_a_long_recording_are_told_as_text_json_and_from_a_pipe(trained, long_recording):
    path, _, recording = long_recording
    flags = ["--threshold", "0.25", "--hop_ms", "100", "--smoothing_ms", "200"]
    text = call("label_wav.py", trained / "best", path, *flags).stdout.splitlines()
    objects = [
        json.loads(line)
        for line in call("label_wav.py", trained / "best", path, *flags, "--json").stdout.splitlines()
    ]
    settings = checkpoints.read_settings(trained / "best")
    assert len(text) == len(objects)
    assert text[0] == (
        f"{path}: {objects[0]['seconds']:.1f} s  {objects[0]['label']} {objects[0]['score']:.2f}"
    )
    found = [
        streaming.Detection(one["seconds"], settings.labels.index(one["label"]), one["score"])
        for one in objects
    ]
    assert streaming.matches(found, recording.words) >= len(recording.words) / 3
    with subprocess.Popen(
        [sys.executable, ROOT / "label_wav.py", trained / "best", "-", *flags, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        piped = process.communicate(recording.samples.tobytes())[0].decode().splitlines()
    for line, expected in zip(piped, objects, strict=True):
        assert json.loads(line) == pytest.approx(expected | {"file": "-"}, abs=1e-3)


def test_a_detection_in_a_pipe_is_told_while_more_is_to_come(trained, long_recording):
    _, _, recording = long_recording
    command = [sys.executable, ROOT / "label_wav.py", trained / "best", "-", "--threshold", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        silent_for_too_long = threading.Timer(60, process.kill)
        silent_for_too_long.start()
        try:
            process.stdin.write(recording.samples.tobytes())
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"-: ")
        finally:
            silent_for_too_long.cancel()
            process.stdin.close()


def test_short_recordings_get_the_label_that_evaluation_gives_them(tmp_path, trained, data_options):
    settings = checkpoints.read_settings(trained / "best")
    data = input_data.open_data(data_options(), settings)
    model = checkpoints.load(trained / "best")
    real = [number for number, name in enumerate(data.testing.names) if name][:10]
    files = [SAMPLE_DATA / data.testing.names[number] for number in real]
    expected = model.predict(input_data.features(data.testing.take(real), settings.front_end))
    lines = call("label_wav.py", trained / "best", *files).stdout.splitlines()
    assert lines == [
        f"{file}: {settings.labels[row.argmax()]} {row.max():.2f}"
        for file, row in zip(files, expected, strict=True)
    ]


def test_a_recording_without_words_says_so(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(3 * RATE), RATE)
    assert call("label_wav.py", SHIPPED_INT8, tmp_path / "silence.wav").stdout == (
        f"{tmp_path / 'silence.wav'}: nothing detected\n"
    )


def test_a_file_that_is_no_recording_is_a_clear_error(tmp_path):
    (tmp_path / "x.wav").write_text("hello")
    assert_one_clear_line(
        call("label_wav.py", SHIPPED_INT8, tmp_path / "x.wav", check=False), tmp_path / "x.wav"
    )
    assert_one_clear_line(
        call("label_wav.py", SHIPPED_INT8, tmp_path / "y.wav", check=False), tmp_path / "y.wav"
    )
