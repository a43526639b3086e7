"""How good a network in training is, on clips and on an open microphone, and which checkpoint is best."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import input_data
from input_data import Data
from kws import ambient
from kws.ambient import Measured
from kws.checkpoints import KerasModel
from kws.negatives import open_long_recordings
from kws.settings import Settings
from kws.streaming import DetectorOptions
from kws.streams import make_recording

LEAST_SCORE = 1e-7  # of which a logarithm is taken
STREAM_MINUTES = 30  # of validation clips
# Around the wanted false alarms per hour: an hour of audio has few, and misses at one rate alone are chance.
RATES = 0.5, 1.0, 2.0


class Validated(NamedTuple):
    """What a validation found."""

    accuracy: float  # of clips, 0 to 1
    loss: float  # mean cross-entropy of clips
    miss_rate: float  # mean at RATES of the wanted false alarms per hour, 0 to 1; nan where not measured

    @property
    def merit(self) -> float:
        """By which checkpoints are chosen: the accuracy, or its mean with the words detected in a stream."""
        return self.accuracy if math.isnan(self.miss_rate) else (self.accuracy + 1 - self.miss_rate) / 2

    def is_better(self, merit: float, loss: float) -> bool:
        """Than one of that merit and loss: few clips often give the same accuracy, then by the loss."""
        return self.merit > merit or self.merit == merit and self.loss < loss


def validation(
    model, data: Data, settings: Settings, folders: tuple[str, ...], false_alarms_per_hour: float
) -> Callable[[], Validated]:
    """A function that validates the Keras `model`, as it is when called, on the validation partition; where
    there are `folders`, also by its misses in a stream of these clips at so many false alarms in those.
    """
    features, labels = input_data.features(data.validation, settings.front_end), data.validation.label
    current = KerasModel(model, settings)
    misses = _misses(current, data, folders, false_alarms_per_hour) if folders else lambda: math.nan

    def validate():
        scores = current.predict(features)
        of_true_labels = scores[np.arange(len(labels)), labels]
        loss = -np.log(np.maximum(of_true_labels, LEAST_SCORE)).mean()
        return Validated(float((scores.argmax(1) == labels).mean()), float(loss), misses())

    return validate


def _misses(model, data, folders, false_alarms_per_hour):
    settings = model.settings
    recordings = open_long_recordings(folders, settings.front_end)
    words = make_recording("validation", data.validation, data.noise, STREAM_MINUTES, [0, 0], settings)
    options = DetectorOptions().for_model(settings)

    def misses():
        negatives = [
            ambient.track(str(number), blocks, model, options)
            for number, (_, blocks) in enumerate(recordings.pieces())
        ]
        stream = ambient.track(words.name, [words.samples], model, options)
        points = ambient.sweep(Measured(negatives, stream, words, settings, options))
        wanted = [rate * false_alarms_per_hour for rate in RATES]
        return float(np.mean([ambient.operating_point(points, rate).miss_rate for rate in wanted]))

    return misses
