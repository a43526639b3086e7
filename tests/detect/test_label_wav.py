"""label_wav.py as a user calls it: on files, on pipes, on clips."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr

import input_data
import models
from conftest import (
    RATE,
    ROOT,
    SAMPLE_DATA,
    SHIPPED_INT8,
    assert_one_clear_line,
    call,
    call_here,
    python,
    spoken,
)
from kws.audio import recordings
from kws.base.settings import DetectorSettings, Sensitivity
from kws.detect import labelled_streams, streaming
from kws.model import checkpoints


def test_the_words_of_a_long_recording_are_told_as_text_json_and_from_a_pipe(
    tflite, long_recording, tmp_path
):
    path, _, recording = long_recording
    settings = checkpoints.read_settings(tflite["fp32"])
    detector = DetectorSettings(100, 200, 1000, *3 * [Sensitivity(0.25, 1, 0.5)])
    model = shutil.copy(tflite["fp32"], tmp_path / "tuned.tflite")
    checkpoints.write_settings(model, replace(settings, detector=detector))
    text = call("label_wav.py", model, path, "--json", tmp_path / "x.jsonl").stdout.splitlines()
    objects = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(text) == len(objects)
    assert text[0] == (
        f"{path}: {objects[0]['seconds']:.1f} s  {objects[0]['label']} {objects[0]['score']:.2f}"
    )
    found = [
        streaming.Detection(one["seconds"], settings.labels.index(one["label"]), one["score"])
        for one in objects
    ]
    assert sum(labelled_streams.matches(found, recording.words)) >= len(recording.words) / 3
    with subprocess.Popen(
        [python(), ROOT / "label_wav.py", model, "-", "--json", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        piped = process.communicate(recording.samples.tobytes())[0].decode().splitlines()
    for line, expected in zip(piped, objects, strict=True):
        assert json.loads(line) == pytest.approx(expected | {"file": "-"}, abs=1e-3)


def test_a_detection_in_a_pipe_is_told_while_more_is_to_come(tflite, long_recording):
    _, _, recording = long_recording
    command = [python(), ROOT / "label_wav.py", tflite["fp32"], "-", "--threshold", "0"]
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
    model = models.load(trained / "best")
    real = [number for number, name in enumerate(data.testing.names) if name][:10]
    files = [SAMPLE_DATA / data.testing.names[number] for number in real]
    expected = model.predict(input_data.features(data.testing.take(real), settings.front_end))
    lines = call("label_wav.py", trained / "best", *files).stdout.splitlines()
    assert lines == [
        f"{file}: 0.5 s  {settings.labels[row.argmax()]} {row.max():.2f}"
        for file, row in zip(files, expected, strict=True)
    ]


# ---- with the shipped model ----

YES = spoken("yes")


def label(*arguments, check=True, **options):
    """The lines that label_wav.py prints with the shipped model, as (file, the rest)."""
    result = call("label_wav.py", SHIPPED_INT8, *arguments, check=check, **options)
    lines = [tuple(line.rsplit(": ", 1)) for line in result.stdout.splitlines()]
    return lines if check else (lines, result)


def label_json(*arguments):
    return [
        json.loads(line)
        for line in call("label_wav.py", SHIPPED_INT8, "--json", "-", *arguments).stdout.splitlines()
    ]


def yes_after(seconds, length, rate=RATE):
    """`length` seconds of silence, with "yes" from `seconds` on: float [samples]."""
    word, _ = soundfile.read(YES)
    audio = np.zeros(int(length * RATE))
    audio[int(seconds * RATE) :][: len(word)] = word
    return soxr.resample(audio, RATE, rate) if rate != RATE else audio


@pytest.fixture
def scene(tmp_path):
    """A recording of six seconds, 48 kHz and stereo, with "yes" in its middle."""
    audio = yes_after(2, 6, 48000)
    soundfile.write(tmp_path / "scene.wav", np.stack([audio, audio], 1), 48000)
    return tmp_path / "scene.wav"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_standard_input_is_read_as_the_file_it_is(scene, suffix):
    path = scene.with_suffix(f".{suffix}")
    soundfile.write(path, *soundfile.read(scene))
    (expected,) = label(path)
    assert re.fullmatch(r"[12]\.\d s  yes [01]\.\d\d", expected[1])
    with open(path, "rb") as file:
        assert label("-", stdin=file) == [("-", expected[1])]


def test_a_named_pipe_is_read_as_the_file_it_is(scene):
    fifo = scene.with_name("fifo")
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(scene.read_bytes()))
    writer.start()
    assert label(fifo) == [(str(fifo), label(scene)[0][1])]
    writer.join()


def test_a_wav_file_that_never_ends_gives_its_detections_as_they_come(scene):
    content = bytearray(scene.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    command = [python(), ROOT / "label_wav.py", SHIPPED_INT8, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        silent_for_too_long = threading.Timer(60, process.kill)
        silent_for_too_long.start()
        try:
            process.stdin.write(content)
            process.stdin.flush()
            assert b" s  yes " in process.stdout.readline()
        finally:
            silent_for_too_long.cancel()
            process.stdin.close()


def test_raw_samples_have_the_rate_that_is_said(scene):
    (expected,) = label(scene)
    raw = scene.with_suffix(".raw")
    raw.write_bytes((32767 * soundfile.read(scene)[0][:, 0]).astype("<i2").tobytes())
    flags = "--raw_rate", "48000"
    assert [line[1][:9] for line in label(raw, *flags)] == [expected[1][:9]]
    with open(raw, "rb") as file:
        assert [line[1][:9] for line in label("-", *flags, stdin=file)] == [expected[1][:9]]


@pytest.mark.parametrize("seconds", [0.4, 0.99])
def test_less_than_a_clip_of_raw_samples_is_padded_as_a_file_is(tmp_path, seconds):
    samples, _ = soundfile.read(YES, dtype="int16", frames=int(seconds * RATE))
    soundfile.write(tmp_path / "x.wav", samples, RATE)
    (tmp_path / "x").write_bytes(samples.tobytes())
    with open(tmp_path / "x", "rb") as file:
        assert [line[1] for line in label("-", stdin=file)] == [label(tmp_path / "x.wav")[0][1]]


@pytest.mark.parametrize("length", [1.1, 1.5, 3])
def test_a_recording_of_up_to_three_seconds_gets_the_label_of_its_loudest_second(tmp_path, length):
    soundfile.write(tmp_path / "x.wav", yes_after(length - 1, length), RATE)
    (line,) = label(tmp_path / "x.wav")
    assert re.fullmatch(r"\d\.\d s  yes (0\.9\d|1\.00)", line[1])
    assert abs(float(line[1].split()[0]) - (length - 0.5)) < 0.2


def test_flags_make_a_clip_of_a_long_recording_and_a_stream_of_a_short_one(scene):
    (line,) = label(scene, "--clip")
    assert " s  yes " in line[1]
    assert "nothing detected at threshold 1, best yes" in label(scene, "--threshold", "1")[0][1]
    assert "nothing detected at threshold 1, best yes" in label(YES, "--threshold", "1", "--stream")[0][1]
    result = label(scene, "--clip", "--stream", check=False)[1]
    assert_one_clear_line(result, "--stream", "--clip")


def test_if_nothing_is_detected_a_line_tells_the_threshold_and_a_sensitivity_that_finds_more(scene, tmp_path):
    model = shutil.copy(SHIPPED_INT8, tmp_path / "tuned.tflite")
    chosen = [Sensitivity(threshold, 1, 0.5) for threshold in (0.9999, 0.999, 0.5)]
    settings = checkpoints.read_settings(SHIPPED_INT8)
    checkpoints.write_settings(model, replace(settings, detector=DetectorSettings(40, 600, 1000, *chosen)))
    line = call_here("label_wav.py", model, scene).stdout
    assert "s  nothing detected at threshold 0.999 (0.5 with --sensitivity high), best yes " in line
    assert " s  yes " in call_here("label_wav.py", model, scene, "--sensitivity", "high").stdout


def test_a_word_at_the_very_end_of_a_recording_is_detected_as_if_silence_followed(tmp_path):
    word, _ = soundfile.read(YES, dtype="int16")
    end = np.flatnonzero(np.abs(word) > 0.1 * np.abs(word).max())[-1] + 1
    samples = np.concatenate([np.zeros(4 * RATE, np.int16), word[:end]])
    soundfile.write(tmp_path / "end.wav", samples, RATE)
    soundfile.write(tmp_path / "more.wav", np.append(samples, np.zeros(3 * RATE, np.int16)), RATE)
    (of_end,), (of_more,) = (label(tmp_path / name) for name in ("end.wav", "more.wav"))
    assert of_end[1] == of_more[1] and " s  yes " in of_end[1]
    (found,) = streaming.detect(tmp_path / "end.wav", models.load(SHIPPED_INT8))
    assert of_end[1] == f"{found.seconds:.1f} s  yes {found.score:.2f}"
    assert found.seconds < len(samples) / RATE


def test_every_file_has_a_line_of_one_form(scene, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(4 * RATE), RATE)
    files = scene, tmp_path / "silence.wav", YES
    lines, objects = label(*files), label_json(*files)
    assert [line[0] for line in lines] == [one["file"] for one in objects] == list(map(str, files))
    form = re.compile(r"(\d+\.\d) s  (nothing detected at threshold 0\.7, best )?(\w+) (\d\.\d\d)")
    for (_, line), one in zip(lines, objects, strict=True):
        assert list(one) == ["file", "seconds", "label", "best", "score"]
        seconds, nothing, word, score = form.fullmatch(line).groups()
        assert (one["label"] is None) == bool(nothing) and one["best"] == word
        assert one["seconds"] == pytest.approx(float(seconds), abs=0.06)
        assert one["score"] == pytest.approx(float(score), abs=0.006)
    assert [one["label"] for one in objects] == ["yes", None, "yes"]


def test_bad_files_are_named_and_the_others_labelled(tmp_path):
    (tmp_path / "bad.wav").write_text("<html>")
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.wav", tmp_path / "none.wav", tmp_path / "empty"
    lines, result = label(bad[0], YES, *bad[1:], YES, check=False)
    assert [line[0] for line in lines] == [str(YES)] * 2 and result.returncode == 2
    assert len(result.stderr.splitlines()) == 3
    for path in bad:
        assert re.search(rf"^label_wav.py: error: (folder )?{path} \w", result.stderr, re.M)


def test_a_folder_means_the_recordings_in_it(tmp_path):
    names = "b.flac", "a/2.flac", "a/1.flac"
    for name in (*names, ".hidden/x.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(YES, tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a recording")
    assert [line[0] for line in label(tmp_path)] == sorted(str(tmp_path / name) for name in names)


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"<html>", "is text, not audio")])
def test_standard_input_without_audio_is_a_clear_error(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with open(tmp_path / "x", "rb") as file:
        assert_one_clear_line(label("-", check=False, stdin=file)[1], "standard input", reason)


# ---- what is kept, and what is drawn ----


def saved(folder):
    """{(word, seconds, score): samples} of the detections in a folder."""
    found = {}
    for path in folder.rglob("*.wav"):
        seconds, score = re.search(r"_nohash_([\d.]+)s_([\d.]+)\.wav", path.name).groups()
        samples, rate = soundfile.read(path, dtype="int16")
        assert rate == RATE and samples.ndim == 1
        found[path.parent.name, float(seconds), float(score)] = samples
    return found


def test_the_audio_of_detections_is_kept_alike_from_files_folders_and_pipes(scene, tmp_path):
    ((_, line),) = label(scene, "--save_detections", tmp_path / "file")
    (((word, seconds, score), samples),) = saved(tmp_path / "file").items()
    assert line == f"{seconds:.1f} s  {word} {score:.2f}" and word == "yes"
    known, _ = recordings.read_audio(scene, RATE)
    place = known.tobytes().find(samples.tobytes()) // 2
    assert (
        0 <= place < 2 * RATE and place + len(samples) > (seconds + 0.5) * RATE
    )  # "yes", and what led up to it
    assert len(samples) < 2.5 * RATE

    (tmp_path / "folder").mkdir()
    shutil.copy(scene, tmp_path / "folder")
    label(tmp_path / "folder", YES, "--save_detections", tmp_path / "from folder")
    (tmp_path / "raw").write_bytes(known.tobytes())
    with open(tmp_path / "raw", "rb") as pipe:
        label("-", "--save_detections", tmp_path / "from pipe", stdin=pipe)
    for name, short in (("from folder", 1), ("from pipe", 0)):
        found = saved(tmp_path / name)
        assert len(found) == 1 + short
        (ours,) = [audio for (_, at, _), audio in found.items() if at > 1]
        np.testing.assert_array_equal(ours, samples)


def test_where_detections_cannot_be_kept_a_line_says_so(scene, tmp_path):
    (tmp_path / "file").touch()
    result = label(scene, "--save_detections", tmp_path / "file", check=False)[1]
    assert_one_clear_line(result, "cannot save detections in", tmp_path / "file")


def test_scores_are_drawn_in_a_terminal(tmp_path):
    # a busy machine may draw the end alone, the silence that follows, in which the word's score is 0.33
    master, terminal = os.openpty()
    (tmp_path / "raw").write_bytes(soundfile.read(YES, dtype="int16")[0].tobytes())
    command = [sys.executable, ROOT / "label_wav.py", SHIPPED_INT8, "-", "--live", "--threshold", "0.2"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "40", "PYTHONIOENCODING": "utf-8"}
    with open(tmp_path / "raw", "rb") as pipe:
        process = subprocess.Popen(command, stdin=pipe, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while part := os.read(master, 2**16):
            shown += part
    os.close(master)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", shown.decode())
    assert process.wait() == 0 and re.search(r"yes +█+┃█+░* 0\.\d\d|yes +█+┃█+ 1\.00", text), text
    assert re.search(r"-: 0\.5 s  yes (1|0)\.\d\d", text) and shown.endswith(
        b"\x1b[?25h"
    )  # the cursor is back
