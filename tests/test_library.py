"""The package as a library, without flags: from the checkout, and installed by pip."""

import json
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

import models
from conftest import DATA, ROOT, SAMPLE_DATA, SHIPPED_INT8, assert_one_clear_line, spoken
from input_data import open_data
from kws.base.features import mfcc
from kws.data.clips import features
from kws.data.dataset import DataOptions
from kws.detect.streaming import DetectorOptions, detect
from kws.model.tflite import TFLiteModel

INSTALLED = """
import json, sys
import numpy as np
from kws.base.features import mfcc
from kws.detect.streaming import DetectorOptions, detect
from kws.model.tflite import TFLiteModel

model = TFLiteModel(sys.argv[1])
noise = np.random.default_rng(0).normal(scale=0.1, size=(1, model.settings.clip_samples))
found = list(detect(sys.argv[2], model, DetectorOptions(threshold=0.1)))
scores = model.predict(mfcc(noise.astype(np.float32), model.settings.front_end))
print(json.dumps([found, scores.tolist()]))
"""


def test_installed_by_pip_with_three_packages_it_gives_what_the_checkout_gives(tmp_path):
    checkout, python = tmp_path / "checkout", tmp_path / "venv" / "bin" / "python"
    checkout.mkdir()  # a copy, as setuptools leaves its build/ in the checkout
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "kws", checkout / "kws")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--retries", "0"]
    probe = [*pip, "download", "--quiet", "--no-deps", "--dest", tmp_path, "setuptools"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("pip reaches no package index")
    # the pins, so that both compute with one numpy
    install = [*pip, "install", "--quiet", "--constraint", ROOT / "requirements.txt", checkout]
    subprocess.run(install, check=True)
    listed = subprocess.run([*pip, "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert not re.search("^(tensorflow|opencv|scipy|soxr|matplotlib|requests|threadpoolctl)", listed, re.M)

    speech = spoken("yes")
    command = [python, "-c", INSTALLED, SHIPPED_INT8, speech]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    model = TFLiteModel(SHIPPED_INT8)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(1, model.settings.clip_samples))
    found = list(detect(speech, model, DetectorOptions(threshold=0.1)))
    scores = model.predict(mfcc(noise.astype(np.float32), model.settings.front_end))
    assert found and json.loads(result.stdout) == json.loads(json.dumps([found, scores.tolist()]))
    script = [python, ROOT / "label_wav.py", SHIPPED_INT8, speech]
    assert "0.5 s  yes " in subprocess.run(script, capture_output=True, text=True, check=True).stdout
    script = [python, ROOT / "evaluation.py", SHIPPED_INT8, *DATA]
    assert_one_clear_line(subprocess.run(script, capture_output=True, text=True), "-r requirements.txt")


# what Python has on Linux and macOS alone, and what subprocess and tempfile need of it at their import
POSIX_ALONE = "fcntl grp pwd pty readline resource syslog termios tty _posixshmem".split()
POSIX_CALLS = "fork forkpty getuid geteuid mkfifo nice sched_getaffinity setsid".split()
WITHOUT_POSIX = f"""
import os, runpy, sys

for name in {POSIX_ALONE!r}:
    sys.modules[name] = None  # importing it raises ImportError
for name in {POSIX_CALLS!r}:
    delattr(os, name)
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def test_running_a_model_needs_nothing_of_posix(tmp_path):
    def without_posix(*command):
        command = [sys.executable, "-c", WITHOUT_POSIX, *map(str, command)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    labelled = without_posix("label_wav.py", SHIPPED_INT8, spoken("yes"))
    assert re.search(r": 0\.5 s  yes [01]\.\d\d\n$", labelled)
    (tmp_path / "library.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{INSTALLED}")
    found, scores = json.loads(without_posix(tmp_path / "library.py", SHIPPED_INT8, spoken("yes")))
    assert [label for _, label, *_ in found] == [2] and len(scores[0]) == 12


@pytest.mark.fast
def test_the_readmes_lines_print_the_word_that_is_spoken(tmp_path, monkeypatch, capsys):
    (program,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(program.strip().splitlines()) <= 6
    (tmp_path / "program.py").write_text(program)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(tmp_path / "program.py"))
    assert re.fullmatch(r"0\.5 s: yes \d\.\d\d\n", capsys.readouterr().out)


@pytest.mark.fast
def test_a_model_is_loaded_and_evaluated_without_a_command_line():
    model = models.load(SHIPPED_INT8)
    clips = open_data(DataOptions(data_dir=str(SAMPLE_DATA), data_url=""), model.settings).testing
    scores = model.predict(features(clips, model.settings.front_end))
    assert scores.shape == (480, 12) and np.mean(scores.argmax(1) == clips.label) > 0.85


@pytest.mark.fast
def test_a_threshold_that_nothing_reaches_detects_nothing():
    speech = spoken("yes")
    assert not list(detect(speech, models.load(SHIPPED_INT8), DetectorOptions(threshold=1.01)))
