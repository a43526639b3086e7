"""TensorFlow and Keras, imported when they are first used and without their start-up messages.

Importing them takes seconds, and `--help`, wrong flags and the evaluation of a TFLite file do not need them.
Modules that derive classes from Keras' (recurrent, muon, quantizers) use it at once, so functions import them
when they need them. Keras is tf_keras (Keras 2), whose checkpoints are plain arrays by name.
"""

import contextlib
import functools
import importlib
import os
import sys


@contextlib.contextmanager
def quiet():
    """Silence C++ libraries, which print past Python's own streams."""
    # what Python has printed so far is shown
    sys.stdout.flush()
    sys.stderr.flush()
    # the descriptors themselves: C++ knows nothing of sys.stdout
    terminal = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in enumerate(terminal, 1):
            os.dup2(saved, descriptor)
            os.close(saved)
        os.close(nowhere)


@functools.cache
def _imported(name):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    with quiet():
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for GPUs, and complains if there is none
        tensorflow.get_logger().setLevel("ERROR")
        return importlib.import_module(name)


class _OnFirstUse:
    """A stand-in for a module until one of its attributes is asked for."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(_imported(self._name), attribute)


tf, keras = _OnFirstUse("tensorflow"), _OnFirstUse("tf_keras")
tfmot = _OnFirstUse("tensorflow_model_optimization")
