"""Thresholds of a head, from what its trunk computed of long recordings: no audio is needed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kws.base.settings import SENSITIVITIES, DetectorSettings
from kws.data.dataset import Data
from kws.detect import held_out, measure
from kws.detect.labelled_streams import make_stream
from kws.detect.streaming import WINDOWS_AT_ONCE, Detector, DetectorOptions, detector_parameters
from kws.model.checkpoints import KerasModel, keras_predictor
from kws.model.inspection import output_hop
from kws.trunk.outputs import StoredOutputs, split

STREAM_MINUTES = 10  # of validation clips
SMOOTHING_MS = 240  # people's scores are high for a moment alone


def chosen_detector(
    model: KerasModel, frozen: int, stored: StoredOutputs, data: Data, false_alarms_per_hour: float
) -> DetectorSettings:
    """Choose the lowest thresholds that keep the allowed false alarms an hour in the stored recordings.

    Misses do not choose: validation clips are of synthetic voices, of which hardly any is missed at any
    threshold. The share of them that is missed is in the result, and is too low for people.
    """
    trunk, head = split(model.network, frozen)
    settings = model.settings
    parameters = detector_parameters(DetectorOptions(), replace(settings, detector=None))
    hop_s = output_hop(trunk, settings.front_end) / settings.sample_rate
    parameters = replace(parameters, hop_ms=1000 * hop_s, smoothing_ms=SMOOTHING_MS)

    # 1. A track of each stored recording, and of a stream of validation clips.
    negatives = []
    for name, levels in zip(stored.names, stored.streams, strict=True):
        detector = Detector(parameters, settings)
        parts = [detector.smoothed(scores) for scores in _scores(head, stored, levels)]
        hours = len(levels) * hop_s / 3600
        negatives.append(measure.Track(name, measure.Smoothed.joined(parts), hours))
    words = make_stream("validation", data.validation, data.noise, STREAM_MINUTES, 0, settings)
    track = measure.track(words.name, [words.samples], model, parameters)
    measured = measure.Measured(negatives, track, words, settings, parameters)

    # 2. The lower the threshold, the fewer people are missed.
    points = [point._replace(miss_rate=point.threshold) for point in measure.sweep(measured)]
    detector = held_out.detector_settings(measured, held_out.by_kind(measured, points), false_alarms_per_hour)
    found = {name: getattr(detector, name) for name in SENSITIVITIES}
    return replace(
        detector,
        **{
            name: replace(one, miss_rate=round(measured.misses(one.threshold), 4))
            for name, one in found.items()
        },
    )


def _scores(head, stored: StoredOutputs, levels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the scores [windows, labels] of the windows of a recording that begin at each output."""
    predict, length = keras_predictor(head), head.input_shape[1]
    for start in range(0, len(levels) - length + 1, WINDOWS_AT_ONCE):
        part = levels[start : start + WINDOWS_AT_ONCE + length - 1]
        # [windows, channels, length] -> [windows, length, 1, channels]
        windows = np.lib.stride_tricks.sliding_window_view(part, length, axis=0).transpose(0, 2, 1)
        yield predict(stored.values(windows)[:, :, None])
