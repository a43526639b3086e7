"""evaluation.py as a user calls it, on clips and on long recordings."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conftest import (
    DATA,
    RATE,
    ROOT,
    SAMPLE_DATA,
    SHIPPED_INT8,
    assert_one_clear_line,
    call,
    call_here,
    spoken,
)
from kws.model.tflite import zipped_size


def test_evaluation_needs_nothing_but_the_model(trained, tmp_path):
    json_file = tmp_path / "report.json"
    result = call("evaluation.py", "--checkpoint", trained / "best", *DATA, "--json", json_file)
    (reports,) = json.loads(json_file.read_text()).values()
    assert [(report["set"].split(",")[0], report["N"]) for report in reports] == [
        ("validation", 240),
        ("testing", 480),
    ]
    for report in reports:
        confusion = np.array(report["confusion"])
        correct = confusion.trace()
        assert report["correct"] == correct and report["accuracy"] == correct / report["N"]
        assert f"accuracy {100 * report['accuracy']:.2f} %" in result.stdout
        np.testing.assert_allclose(
            [value or 0 for value in report["recall"]], confusion.diagonal() / confusion.sum(1)
        )
    for label in ("_silence_", "_unknown_", "yes", "go"):
        assert re.search(rf"^{label}  .* %", result.stdout, re.M)


def test_training_and_evaluation_give_the_same_figure(trained):
    said = re.search(r"testing, .*: (accuracy .*)", (trained / "output.txt").read_text())[1]
    assert said in call("evaluation.py", "--checkpoint", trained / "best", *DATA).stdout


def test_several_models_end_in_one_table(trained, tmp_path):
    paths = [tmp_path / "float.tflite", tmp_path / "int8.tflite"]
    for path, flags in zip(paths, (["--no-quantize"], ["--inference_type", "int8"]), strict=True):
        call("convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, *flags, "--output", path)
    result = call("evaluation.py", trained / "best", *paths, *DATA)
    aliases = "--checkpoint", trained / "best", "--tflite_path", *paths
    assert call_here("evaluation.py", *DATA, *aliases).stdout == result.stdout
    heading, of_checkpoint, *rows = [
        re.split("  +", line) for line in result.stdout.strip().splitlines()[-len(paths) - 2 :]
    ]
    assert heading[:5] == ["model", "bytes", "zipped", "parameters", "MACs"]
    assert heading[5:] == ["validation", "testing", "agreement"]
    assert of_checkpoint[3:5] == ["79,644", "79,200"] and of_checkpoint[-1] == "100.00 %"
    for path, row in zip(paths, rows, strict=True):
        content = path.read_bytes()
        assert row[:3] == [str(path), f"{len(content):,}", f"{zipped_size(content):,}"]
        assert row[3:5] == of_checkpoint[3:5]
        assert 80 < float(row[-1].removesuffix(" %")) <= 100
    assert rows[0][-3:] == [*of_checkpoint[-3:-1], "100.00 %"]


def test_a_tflite_file_is_evaluated_without_tensorflow(tmp_path):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "sys.exit('tensorflow' in sys.modules)"
    )
    shipped = ROOT / "model_archive" / "TFLite" / "tflite_int8" / "dnn_small_int8.tflite"
    command = [sys.executable, "-c", code, "evaluation.py", "--tflite_path", shipped, *DATA]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)


def test_a_folder_laid_out_like_the_canonical_test_set_is_evaluated(trained, tmp_path):
    labels = {"_unknown_": "tree", "_silence_": "_background_noise_", "yes": "yes", "no": "no"}
    for label, word in labels.items():
        shutil.copytree(SAMPLE_DATA / word, tmp_path / label)
    result = call("evaluation.py", "--checkpoint", trained / "best", "--test_dir", tmp_path, *DATA)
    assert re.search(rf"test_dir, the clips in {tmp_path.name}: accuracy .*, N = 393", result.stdout)
    assert "no recordings of up, down" in result.stderr


def test_a_model_is_needed():
    assert_one_clear_line(call_here("evaluation.py", *DATA, check=False), "a MODEL is needed")


def test_a_tflite_file_that_does_not_exist(tmp_path):
    result = call("evaluation.py", "--tflite_path", tmp_path / "none.tflite", *DATA, check=False)
    assert_one_clear_line(result, tmp_path / "none.tflite", "does not exist")


# ---- long recordings ----


def test_misses_and_false_alarms_are_counted_in_a_recording_with_its_words(trained, long_recording, tmp_path):
    path, words, recording = long_recording
    command = ["evaluation.py", trained / "best", "--stream_wav", path, "--stream_words", words]
    output = call(*command, "--json", tmp_path / "x.json", "--plots", tmp_path).stdout
    assert f"{path}, 1.0 minutes with {len(recording.words)} words" in output
    assert (tmp_path / "det.png").exists()
    (result,) = json.loads((tmp_path / "x.json").read_text()).values()
    assert result["words"] == len(recording.words) and 60 * result["hours"] == pytest.approx(1, rel=0.01)
    first, *_, last = result["points"]
    assert first["false_alarms_per_hour"] > last["false_alarms_per_hour"]
    assert first["miss_rate"] < last["miss_rate"]
    words.write_text("1.0,yes\nsoon,no\n")
    assert_one_clear_line(call(*command, check=False), "line 2", "seconds,word")


def test_the_words_of_a_list_that_the_model_does_not_know_are_named(tmp_path):
    word, _ = soundfile.read(spoken("yes"))
    soundfile.write(tmp_path / "x.wav", np.concatenate([np.zeros(2 * RATE), word, np.zeros(3 * RATE)]), RATE)
    words = tmp_path / "x.csv"
    command = ["evaluation.py", SHIPPED_INT8, "--stream_wav", tmp_path / "x.wav"]

    def evaluate(text, **options):
        words.write_text(text)
        return call_here(*command, "--stream_words", words, **options)

    assert evaluate("2.5,yes\n").stderr == ""
    # a label track
    assert evaluate("2.25\t2.75\tyes\n").stdout == evaluate("2.5,yes\n").stdout
    result = evaluate("2.5\tYes\n4\ttree\n5\ttree\n5.5\t_unknown_\n")
    assert "with 1 words" in result.stdout
    assert result.stderr == f"{words}: words that the model does not know are left out: tree (2)\n"
    assert_one_clear_line(evaluate("2.5,tree\n", check=False), words, "none of the words yes, no", "tree (1)")
    assert_one_clear_line(evaluate("9,yes\n", check=False), "line 1", "9 s", "6 s")
