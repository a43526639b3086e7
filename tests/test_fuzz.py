"""Damaged files: a clear error or an answer, never a crash. FUZZ_INPUTS says how many of each kind to try."""

import contextlib
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import SHIPPED_INT8, WEIGHTS, encode_audio
from kws.audio.recordings import BadAudio, read_audio
from kws.base.errors import UserError
from kws.base.settings import Settings, SettingsFlags
from kws.board.layers import read_network
from kws.detect import labelled_streams
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel

COUNT = int(os.environ.get("FUZZ_INPUTS", "300"))
EXPECTED_ERRORS = UserError, BadAudio


def mutations(content: bytes, count: int, header: int | None = None):
    """`content` with bytes changed, cut out, doubled or missing at the end; every other one in the header."""
    rng = np.random.default_rng(0)
    for number in range(count):
        damaged = bytearray(content)
        reach = min(header or len(content), len(content)) if number % 2 else len(content)
        for _ in range(rng.integers(1, 6)):
            place, length = int(rng.integers(reach)), int(rng.integers(1, 9))
            how = rng.integers(4)
            if how == 0:
                damaged[place : place + length] = rng.bytes(len(damaged[place : place + length]))
            elif how == 1:
                del damaged[place : place + length]
            elif how == 2:
                damaged[place:place] = damaged[place : place + length]
            else:
                damaged[place : place + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * length
        if rng.random() < 0.1:
            del damaged[int(rng.integers(len(damaged) + 1)) :]
        yield bytes(damaged)


def survives(read, content, tmp_path, name, header=None):
    """How many damaged files are read, and how many refused; anything else fails the test."""
    path, outcomes = tmp_path / name, [0, 0]
    for damaged in mutations(content, COUNT, header):
        path.write_bytes(damaged)
        try:
            read(path)
            outcomes[0] += 1
        except EXPECTED_ERRORS:
            outcomes[1] += 1
    assert os.listdir(tmp_path) == [name]
    return outcomes


def in_a_process(function, *arguments):
    """Run a function in a process of its own, so that a crash of a library is seen."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(COUNT + 120)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate"),
    [
        *[
            ("wav", "PCM_16", 16000),
            ("wav", "PCM_24", 44100),
            ("flac", "PCM_16", 16000),
            ("ogg", "VORBIS", 22050),
        ],
        *[
            ("wav", "FLOAT", 16000),
            ("aiff", "PCM_16", 16000),
            ("caf", "PCM_16", 16000),
            ("au", "PCM_16", 16000),
        ],
        *[("w64", "PCM_16", 16000), ("rf64", "PCM_16", 16000)],
    ],
)
def test_recordings(tmp_path, suffix, subtype, rate):
    samples = np.random.default_rng(0).normal(scale=0.1, size=rate // 5)
    soundfile.write(tmp_path / f"x.{suffix}", samples, rate, subtype)
    content = (tmp_path / f"x.{suffix}").read_bytes()

    def read(path):
        samples, _ = read_audio(path, 16000)
        assert samples.dtype == np.int16 and samples.ndim == 1 and len(samples)

    in_a_process(survives, read, content, tmp_path, f"x.{suffix}", 60)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("aac", "aac")])
def test_recordings_of_phones_and_browsers(tmp_path, suffix, codec):
    content = encode_audio(tmp_path / f"x.{suffix}", codec, 48000, seconds=0.2).read_bytes()
    # the index of a M4A file is at its end
    header = 300 if suffix == "webm" else None

    def read(path):
        samples, _ = read_audio(path, 16000)
        assert samples.dtype == np.int16 and samples.ndim == 1 and len(samples)

    in_a_process(survives, read, content, tmp_path, f"x.{suffix}", header)


@pytest.mark.fast
def test_settings(tmp_path):
    content = Settings().to_json().encode()
    read, refused = survives(
        lambda path: Settings.from_json(path.read_bytes(), "x"), content, tmp_path, "x.json"
    )
    assert read and refused > COUNT / 3


@pytest.mark.fast
def test_lists_of_words(tmp_path, dnn_small):
    content = b"1.25,yes\n3.5,no\n17.0,go\n"
    recording = tmp_path.parent / f"{tmp_path.name}.wav"
    soundfile.write(recording, np.zeros(20 * 16000), 16000)
    read, refused = survives(
        lambda path: labelled_streams.read_stream(recording, path, dnn_small),
        content,
        tmp_path,
        "words.csv",
    )
    assert read and refused


def test_tflite_files(tmp_path):
    content = SHIPPED_INT8.read_bytes()

    def read(path):
        checkpoints.read_settings(path)
        model = TFLiteModel(path, SettingsFlags())
        features = np.zeros((2, model.settings.feature_count), np.float32)
        assert model.predict(features).shape == (2, len(model.settings.labels))

    in_a_process(survives, read, content, tmp_path, "x.tflite", 3000)


@pytest.mark.fast
def test_tflite_files_to_export(tmp_path):
    def read(path):
        network = read_network(path.read_bytes(), path)
        assert network.layers

    survives(read, SHIPPED_INT8.read_bytes(), tmp_path, "x.tflite", 3000)


def test_checkpoints(tmp_path):
    prefix = Path(checkpoints.checkpoint_prefix(WEIGHTS))
    for file in prefix.parent.glob(f"{prefix.name}.*"):
        shutil.copy(file, tmp_path)
    index = tmp_path / f"{prefix.name}.index"
    for damaged in mutations(index.read_bytes(), COUNT):
        index.write_bytes(damaged)
        with contextlib.suppress(UserError):
            for layer in checkpoints.read_weights(tmp_path / prefix.name):
                assert all(isinstance(value, np.ndarray) for value in layer.values())
