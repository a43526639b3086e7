"""The package as a library, without flags."""

import re
import runpy

import numpy as np
import pytest

import models
from conftest import ROOT, SAMPLE_DATA, SHIPPED_INT8
from input_data import open_data
from kws.data.clips import features
from kws.data.dataset import DataOptions
from kws.detect.streaming import DetectorOptions, detect

pytestmark = pytest.mark.fast


def test_the_readmes_lines_print_the_word_that_is_spoken(tmp_path, monkeypatch, capsys):
    (program,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(program.strip().splitlines()) <= 6
    (tmp_path / "program.py").write_text(program)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(tmp_path / "program.py"))
    assert re.fullmatch(r"0\.5 s: yes \d\.\d\d\n", capsys.readouterr().out)


def test_a_model_is_loaded_and_evaluated_without_a_command_line():
    model = models.load(SHIPPED_INT8)
    clips = open_data(DataOptions(data_dir=str(SAMPLE_DATA), data_url=""), model.settings).testing
    scores = model.predict(features(clips, model.settings.front_end))
    assert scores.shape == (48, 12) and np.mean(scores.argmax(1) == clips.label) > 0.5


def test_a_threshold_that_nothing_reaches_detects_nothing():
    (speech,) = SAMPLE_DATA.glob("yes/19032833_nohash_0.flac")
    assert not list(detect(speech, models.load(SHIPPED_INT8), DetectorOptions(threshold=1.01)))
