"""Words in long recordings: streaming.py, label_wav.py and evaluation.py --stream."""

import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import input_data
from conftest import RATE, ROOT, SAMPLE_DATA, SHIPPED_INT8, assert_one_clear_line, call
from kws import checkpoints, streaming
from kws.cli import UserError
from kws.features import mfcc
from kws.streaming import DetectorOptions

YES, NO = 2, 3


def options(**changes):
    return DetectorOptions(**({"smoothing_ms": 0} | changes))


def predicted(*labels, score=0.9):
    """Scores of windows with these labels predicted."""
    scores = np.full((len(labels), 12), (1 - score) / 11, np.float32)
    scores[np.arange(len(labels)), labels] = score
    return scores


def detected(settings, scores, threshold=0.5, **changes):
    found = streaming.Detector(options(threshold=threshold, **changes), settings).detect(scores)
    return [(round(detection.seconds, 2), detection.label) for detection in found]


@pytest.mark.fast
def test_a_word_is_detected_in_the_middle_of_the_first_window_that_predicts_it(dnn_small):
    scores = predicted(0, 0, 0, YES, YES, 1, 1, NO)
    assert detected(dnn_small, scores, refractory_ms=0) == [(0.8, YES), (0.9, YES), (1.2, NO)]
    assert detected(dnn_small, scores, threshold=0.95) == []


@pytest.mark.fast
def test_silence_and_unknown_words_are_not_detected(dnn_small):
    assert detected(dnn_small, predicted(0, 1, 0, 1), refractory_ms=0) == []


@pytest.mark.fast
def test_nothing_is_detected_in_the_refractory_time(dnn_small):
    scores = predicted(*[YES] * 25)
    assert detected(dnn_small, scores) == [(0.5, YES), (1.5, YES), (2.5, YES)]


@pytest.mark.fast
def test_smoothed_scores_are_means_over_the_last_windows(dnn_small):
    scores = predicted(0, 0, 0, YES, YES, YES, 0, 0, 0, 0)
    assert detected(dnn_small, scores, threshold=0.6, smoothing_ms=300) == [(0.5 + 0.35, YES)]
    assert detected(dnn_small, scores, threshold=0.8, smoothing_ms=300) == []


@pytest.mark.fast
def test_scores_that_come_one_by_one_give_what_all_at_once_give(dnn_small):
    scores = np.random.default_rng(0).dirichlet(np.full(12, 0.1), 200).astype(np.float32)
    smoothed = options(smoothing_ms=300, threshold=0.4)
    at_once = streaming.Detector(smoothed, dnn_small).detect(scores)
    detector = streaming.Detector(smoothed, dnn_small)
    one_by_one = [detection for row in scores for detection in detector.detect(row[None])]
    assert len(at_once) == 5
    assert [detection[:2] for detection in one_by_one] == [detection[:2] for detection in at_once]


@pytest.mark.fast
@pytest.mark.parametrize("hop_ms", [40, 100, 1500])
def test_windows_are_the_same_however_the_recording_comes(dnn_small, hop_ms):
    samples = np.random.default_rng(0).integers(-9000, 9000, 5 * RATE + 77).astype(np.int16)
    hop = options(hop_ms=hop_ms).hop_samples(dnn_small.front_end)
    echo = SimpleNamespace(predict=lambda features: features, settings=dnn_small)

    def features(block_samples):
        blocks = [samples[start : start + block_samples] for start in range(0, len(samples), block_samples)]
        return np.concatenate([*streaming.window_scores(blocks, echo, hop)])

    starts = range(0, len(samples) - RATE + 1, hop)
    windows = np.stack([samples[start : start + RATE] for start in starts])
    expected = mfcc(windows / np.float32(32768), dnn_small.front_end)
    for block_samples in (hop, 1000, RATE, len(samples)):
        np.testing.assert_allclose(features(block_samples), expected, atol=1e-4)


@pytest.mark.fast
def test_each_word_is_matched_once_by_a_detection_of_it_near_by():
    words = [(1.0, YES), (3.0, NO), (9.0, YES)]
    found = [
        streaming.Detection(seconds, label, 1.0) for seconds, label in [(1.5, YES), (1.6, YES), (3.1, YES)]
    ]
    assert streaming.matches(found, words) == 1
    assert streaming.matches([streaming.Detection(2.4, NO, 1.0)], words) == 1
    assert streaming.matches([streaming.Detection(2.2, NO, 1.0)], words) == 0


@pytest.mark.fast
def test_the_operating_point_misses_least_of_what_alarms_seldom_enough():
    outcomes = [
        streaming.Outcome(*values)
        for values in [(0.5, 0.1, 50.0), (0.6, 0.2, 9.0), (0.7, 0.15, 8.0), (0.8, 0.4, 1.0)]
    ]
    assert streaming.operating_point(outcomes, 10).threshold == 0.7
    assert streaming.operating_point(outcomes, 0.5).threshold == 0.8


@pytest.fixture
def long_recording(tmp_path, trained, data_options):
    """Path of a recording of the sample data's words, and the words in it."""
    settings = checkpoints.read_settings(trained / "best")
    data = input_data.open_data(data_options(), settings)
    recording = streaming.make_recording("x", data.training, data.noise, 1, [0], settings)
    soundfile.write(tmp_path / "long.wav", recording.samples, RATE)
    lines = [f"{seconds:.3f},{settings.labels[label]}\n" for seconds, label in recording.words]
    (tmp_path / "words.csv").write_text("".join(lines))
    return tmp_path / "long.wav", tmp_path / "words.csv", recording


def test_the_words_of_a_long_recording_are_told_as_text_json_and_from_a_pipe(trained, long_recording):
    path, _, recording = long_recording
    flags = ["--threshold", "0.25", "--smoothing_ms", "200"]
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


def test_a_stream_is_evaluated_at_the_threshold_chosen_on_another(trained, tmp_path):
    flags = ["--data_dir", SAMPLE_DATA, "--stream", "--stream_minutes", "1", "--json", tmp_path / "x.json"]
    output = call("evaluation.py", "--checkpoint", trained / "best", *flags).stdout
    assert "validation, 1.0 minutes" in output and "testing, 1.0 minutes" in output
    (result,) = json.loads((tmp_path / "x.json").read_text()).values()
    assert result["validation"]["chosen_threshold"] == result["testing"]["chosen_threshold"]
    alarms = [outcome["false_alarms"] for outcome in result["testing"]["outcomes"]]
    assert alarms[0] > alarms[-1]


def test_a_given_recording_is_evaluated_with_its_words(trained, long_recording):
    path, words, recording = long_recording
    command = ["evaluation.py", "--checkpoint", trained / "best", "--stream_wav", path]
    output = call(*command, "--stream_words", words).stdout
    assert f"{path}, 1.0 minutes with {len(recording.words)} words" in output
    words.write_text("1.0,yes\nsoon,no\n")
    assert_one_clear_line(call(*command, "--stream_words", words, check=False), "line 2", "seconds,word")


@pytest.mark.fast
def test_a_recording_without_clips_cannot_be_made(dnn_small, data_options):
    data = input_data.open_data(data_options(), dnn_small)
    with pytest.raises(UserError, match="no clips"):
        streaming.make_recording("x", data.testing.take(np.array([], int)), data.noise, 1, [0], dnn_small)
