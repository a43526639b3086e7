"""Modules that export_c.py wrote, compiled and called."""

import ctypes
import itertools
import shutil
import subprocess

import numpy as np
import pytest

import convert_to_tflite
import models
from kws.base.quiet_tf import keras
from kws.board.c_folder import write_c_folder
from kws.model.tflite import TFLiteModel, embed_settings

STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
BOARDS = {
    "mps2-an386": ["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "mps3-an547": ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
    "mps2-an385": ["-mcpu=cortex-m3", "-mfloat-abi=soft"],  # without DSP extension and FPU
}


def needs(*programs):
    absent = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} not installed")


class Module:
    """An exported module, compiled to a library."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        library = folder / "kws.so"
        sources = [folder / name for name in ("kws_features.c", "kws_nn.c", "kws_detect.c", "kws_model.c")]
        subprocess.run(
            ["cc", *STRICT, "-shared", "-fPIC", "-o", library, *sources, *arguments, "-lm"], check=True
        )
        self._library = ctypes.CDLL(str(library))
        self._stream = np.zeros(2**20, np.int8)  # more than any kws_stream of the tests

    def call(self, function, given, shape, dtype):
        given, result = np.ascontiguousarray(given), np.zeros(shape, dtype)
        pointers = self._stream.ctypes, given.ctypes.data_as(ctypes.c_void_p), result.ctypes
        getattr(self._library, function)(*pointers)
        return result

    def stream(self, samples, settings):
        """The model's input after all whole strides of `samples`."""
        stride = settings.front_end.stride_samples
        state = self._stream
        self._library.kws_stream_start(state.ctypes)
        strides = samples[: len(samples) // stride * stride]
        for part in np.ascontiguousarray(strides.reshape(-1, stride)):
            self._library.kws_stream_push(state.ctypes, part.ctypes)
        return state[: settings.feature_count].copy()

    def stream_scores(self, samples, settings, pushes):
        """The stream's scores after each of `pushes` strides of `samples`, int8 [pushes, labels]."""
        stride, count = settings.front_end.stride_samples, len(settings.labels)
        stream = self._stream
        scores = np.zeros((max(pushes), count), np.int8)
        self._library.kws_stream_start(stream.ctypes)
        for number, row in enumerate(scores):
            part = np.ascontiguousarray(samples[number * stride : (number + 1) * stride])
            self._library.kws_stream_push(stream.ctypes, part.ctypes)
            self._library.kws_stream_scores(stream.ctypes, row.ctypes)
        return scores[np.array(pushes) - 1]


class Found(ctypes.Structure):
    _fields_ = [("sample", ctypes.c_uint64), ("label", ctypes.c_int), ("score", ctypes.c_float)]


class CDetector:
    """A kws_detector of a module, and all that it detected: (seconds, label, score) as text."""

    def __init__(self, module, sensitivity=1):
        self._library, self._state, self.found = module._library, np.zeros(2**20, np.int8), []
        self.call("kws_detect_start", sensitivity)

    def call(self, function, *arguments):
        """Call a function on the detector, and return its status."""
        return getattr(self._library, function)(self._state.ctypes, *arguments)

    def push(self, samples, portions=(640,)):
        """Push int16 samples in portions of these numbers of samples, again and again."""
        samples, start, sizes = np.ascontiguousarray(samples), 0, itertools.cycle(portions)
        while start < len(samples):
            part = samples[start : start + next(sizes)]
            start += len(part)
            if self.call("kws_push", part.ctypes, len(part)) == 1:
                self.take()

    def take(self):
        one = Found()
        while self.call("kws_next", ctypes.byref(one)) == 1:
            self.found.append((f"{one.sample / 16000:.3f}", one.label, f"{one.score:.4f}"))


def exported(settings, folder, seed=0):
    """The module and the model of a network with random weights that responds to its input."""
    return module_and_model(converted(settings, folder, seed), folder / "c")


def module_and_model(path, folder):
    """The module of a TFLite file, written to `folder`, and the model."""
    write_c_folder(path, folder)
    return Module(folder), TFLiteModel(path)


def converted(settings, folder, seed=0, build=models.build_model):
    """A TFLite file in `folder` of a network with random weights that responds to its input."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(settings)
    for layer in model.layers:
        if layer.weights:  # unlike biases of 0 and normalisation that changes nothing
            layer.set_weights(
                [
                    2 * value if value.ndim > 1 else value + rng.uniform(-0.2, 0.2, value.shape)
                    for value in layer.get_weights()
                ]
            )
    features = rng.normal(scale=5, size=(50, settings.feature_count)).astype(np.float32)
    content = convert_to_tflite.convert(model, settings, features, "int8")
    (folder / "x.tflite").write_bytes(embed_settings(content, settings))
    return folder / "x.tflite"


def random_inputs(model, count):
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 90, (count, 1))
    given = rng.normal(10, spread, (count, model.settings.feature_count))
    return np.clip(given, -128, 127).astype(np.int8)


def assert_same_scores(module, model, count, labels=12):
    given = random_inputs(model, count)
    scores = np.stack([module.call("kws_classify", one, labels, np.int8) for one in given])
    np.testing.assert_array_equal(scores, np.concatenate([model.run(one[None]) for one in given]))
    assert len(np.unique(scores, axis=0)) > 10
