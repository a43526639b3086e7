"""Features that the range of each tensor of an integer model is taken from."""

from collections.abc import Iterator

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import SILENCE_INDEX, Settings
from kws.data.clips import Clips, features

CALIBRATION_CLIPS = 500  # ranges hardly change with more
SATURATED_BELOW = 0.01  # of the features; chosen on the validation partition
SATURATED_OF_SOUND = 0.0005  # of those of frames with sound; chosen on words of synthesize.py
MUCH_SILENCE = 0.1  # of the frames; recordings have hardly any digital silence, synthetic words a half


def calibration_features(
    clips: Clips,
    settings: Settings,
    seed: int,
    saturated: float = SATURATED_BELOW,
    silence=False,
) -> np.ndarray:
    """Features of clips drawn from `clips`, to take the range of each tensor from: [500, feature_count].

    The lowest of the values, a share `saturated` of them, are raised to the next: they are logs of almost
    nothing, from digital silence, and would leave too few steps for everything else. So would generated
    silence, which is left out but with `silence`. Where clips hold much digital silence, which no microphone
    gives, all of it is raised, to the lowest of the other frames, but for SATURATED_OF_SOUND of their values;
    if `saturated` is 0, nothing is.
    """
    chosen = np.arange(len(clips)) if silence else np.flatnonzero(clips.label != SILENCE_INDEX)
    if not len(chosen):
        raise UserError("no clips for validation, so there is nothing to calibrate the quantized model with")
    count = min(CALIBRATION_CLIPS, len(chosen))
    chosen = np.random.default_rng(seed).choice(chosen, count, replace=False)
    drawn = features(clips.take(chosen), settings.front_end)
    values = drawn.reshape(-1, settings.dct_coefficient_count)
    if saturated and much_digital_silence(drawn, settings):
        values, saturated = values[~_digital_silence(drawn, settings)], SATURATED_OF_SOUND
    return np.maximum(drawn, np.quantile(values, saturated).astype(np.float32))


def much_digital_silence(features, settings: Settings) -> bool:
    """Whether clips of these features, [clips, feature_count], hold MUCH_SILENCE of it, and sound."""
    return MUCH_SILENCE < _digital_silence(features, settings).mean() < 1


def _digital_silence(features, settings):
    nothing = mfcc(np.zeros((1, settings.clip_samples), np.int16), settings.front_end)[0, 0]
    return features.reshape(-1, settings.dct_coefficient_count)[:, 0] <= nothing


def calibrations(clips: Clips, settings: Settings, seed: int) -> Iterator[np.ndarray]:
    """Features to calibrate with, in several ways: which is best depends on how a model tells silence."""
    for saturated, silence in ((SATURATED_BELOW, False), (SATURATED_BELOW, True), (0, True)):
        yield calibration_features(clips, settings, seed, saturated, silence)
