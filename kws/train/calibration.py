"""Features to calibrate an integer model with: the range of each tensor is the range it has for them."""

from collections.abc import Iterator

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import SILENCE_INDEX, Settings
from kws.data.clips import Clips, features

CALIBRATION_CLIPS = 500  # ranges hardly change with more
SATURATED_BELOW = 0.01  # share of the features; chosen on the validation partition
SATURATED_OF_SOUND = 0.0005  # the same of frames with sound; chosen on words of synthesize.py
MUCH_SILENCE = 0.1  # share of the frames; recordings have less, synthetic words more


def calibration_features(
    clips: Clips, settings: Settings, seed: int, saturated: float = SATURATED_BELOW, silence=False
) -> np.ndarray:
    """Return features of clips drawn from `clips`, float32 [at most CALIBRATION_CLIPS, feature_count].

    The lowest values are logs of almost nothing, from digital silence, and would leave too few steps for
    everything else. So the lowest share `saturated` of them is raised to the next value, and generated
    silence is left out unless `silence`. If clips hold much digital silence, which no microphone gives, all
    of it is raised to the lowest values of the other frames, but for a share SATURATED_OF_SOUND of these.
    With `saturated` 0 nothing is raised. Raises UserError if there is no clip.
    """
    chosen = np.arange(len(clips)) if silence else np.flatnonzero(clips.label != SILENCE_INDEX)
    if not len(chosen):
        raise UserError("no clips for validation, so there is nothing to calibrate the quantized model with")
    count = min(CALIBRATION_CLIPS, len(chosen))
    chosen = np.random.default_rng(seed).choice(chosen, count, replace=False)
    drawn = features(clips.take(chosen), settings.front_end)
    values = drawn.reshape(-1, settings.front_end.frame_features)  # [clips * frames, features]
    if saturated and much_digital_silence(drawn, settings):
        values, saturated = values[~_digital_silence(drawn, settings)], SATURATED_OF_SOUND
    return np.maximum(drawn, np.quantile(values, saturated).astype(np.float32))


def much_digital_silence(features, settings: Settings) -> bool:
    """Return whether these features, [clips, feature_count], hold much digital silence, and sound."""
    return MUCH_SILENCE < _digital_silence(features, settings).mean() < 1


def _digital_silence(features, settings):
    """Return which frames are digital silence, bool [clips * frames]."""
    nothing = mfcc(np.zeros((1, settings.clip_samples), np.int16), settings.front_end)[0, 0]
    return features.reshape(-1, settings.front_end.frame_features)[:, 0] <= nothing


def calibrations(clips: Clips, settings: Settings, seed: int) -> Iterator[np.ndarray]:
    """Yield features chosen in several ways: which are best depends on how a model tells silence."""
    for saturated, silence in ((SATURATED_BELOW, False), (SATURATED_BELOW, True), (0, True)):
        yield calibration_features(clips, settings, seed, saturated, silence)
