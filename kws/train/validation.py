"""How good a network in training is, on clips and on an open microphone, and which checkpoint is best."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kws.base.settings import Settings
from kws.data.clips import features
from kws.data.dataset import Data
from kws.data.negatives import open_long_recordings
from kws.detect import measure
from kws.detect.labelled_streams import make_stream
from kws.detect.measure import Measured
from kws.detect.streaming import DetectorOptions, detector_parameters
from kws.model.checkpoints import KerasModel

LEAST_SCORE = 1e-7  # scores are raised to this before a logarithm is taken
STREAM_MINUTES = 30  # of validation clips
# Around the wanted false alarms per hour: an hour of audio has few, and misses at one rate alone are chance.
RATES = 0.5, 1.0, 2.0


class Validated(NamedTuple):
    """The result of a validation."""

    accuracy: float  # of clips, 0 to 1
    loss: float  # mean cross-entropy of clips
    miss_rate: float  # mean at RATES of the wanted false alarms per hour, 0 to 1; nan if not measured

    @property
    def merit(self) -> float:
        """Return what checkpoints are chosen by: accuracy, or its mean with the share of words detected."""
        return self.accuracy if math.isnan(self.miss_rate) else (self.accuracy + 1 - self.miss_rate) / 2

    def is_better(self, merit: float, loss: float) -> bool:
        """Return whether this beats a checkpoint with that merit; ties go to the lower loss.

        Ties are common, since there are few clips.
        """
        return self.merit > merit or self.merit == merit and self.loss < loss


def validation(
    network, data: Data, settings: Settings, folders: tuple[str, ...], false_alarms_per_hour: float
) -> Callable[[], Validated]:
    """Return a function that validates the Keras model `network`, as it is when called.

    It takes the clips of the validation partition. If there are `folders`, it also measures the misses in a
    stream of these clips, at that number of false alarms per hour in the folders' recordings.
    """
    # float32 [clips, feature_count], int32 [clips]
    inputs, labels = features(data.validation, settings.front_end), data.validation.label
    model = KerasModel(network, settings)
    misses = _misses(model, data, folders, false_alarms_per_hour) if folders else lambda: math.nan

    def validate():
        scores = model.predict(inputs)  # [clips, labels]
        of_true_labels = scores[np.arange(len(labels)), labels]
        loss = -np.log(np.maximum(of_true_labels, LEAST_SCORE)).mean()
        return Validated(float((scores.argmax(1) == labels).mean()), float(loss), misses())

    return validate


def _misses(model, data, folders, false_alarms_per_hour):
    """Return a function that measures the miss rate of `model`, as it is when called."""
    settings = model.settings
    recordings = open_long_recordings(folders, settings.front_end)
    words = make_stream("validation", data.validation, data.noise, STREAM_MINUTES, [0, 0], settings)
    parameters = detector_parameters(DetectorOptions(), settings)

    def misses():
        negatives = [
            measure.track(str(number), blocks, model, parameters)
            for number, (_, blocks) in enumerate(recordings.pieces())
        ]
        stream = measure.track(words.name, [words.samples], model, parameters)
        points = measure.sweep(Measured(negatives, stream, words, settings, parameters))
        wanted = [rate * false_alarms_per_hour for rate in RATES]
        return float(np.mean([measure.operating_point(points, rate).miss_rate for rate in wanted]))

    return misses
