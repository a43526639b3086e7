"""Networks to test with: of each architecture a tiny one, on ten frames of ten coefficients."""

import numpy as np

import models
from kws.base.settings import Settings
from kws.model import checkpoints

# Of each network a small one, on ten frames of ten coefficients.
TINY = {
    "single_fc": (),
    "dnn": (8, 8),
    "cnn": (4, 3, 3, 1, 1, 6, 3, 3, 2, 1, 5, 8),
    "basic_lstm": (6,),
    "lstm": (5, 7),
    "gru": (2, 6),
    "crnn": (4, 3, 4, 2, 2, 2, 6, 8),
    "ds_cnn": (3, 8, 4, 3, 2, 1, 8, 3, 3, 2, 2, 10, 3, 3, 1, 1),
    "stream_cnn": (3, 4, 3, 4, 1, 2, 6, 3, 2, 1, 1, 8, 3, 3, 1, 1),
    "tc_resnet": (3, 8, 8),
}


def tiny(architecture):
    return Settings(
        window_size_ms=100,
        window_stride_ms=100,
        dct_coefficient_count=10,
        model_architecture=architecture,
        model_size_info=TINY[architecture],
    )


def features(settings, count, seed=0):
    shape = count, settings.feature_count
    return np.random.default_rng(seed).normal(scale=3, size=shape).astype(np.float32)


def with_random_weights(model):
    """`model` with weights such that batch normalisation and biases do something."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.1, 0.3, value.shape) * np.where(value.ndim > 1, rng.choice([-1, 1], value.shape), 1)
            for value in model.get_weights()
        ]
    )
    return model


def network(architecture, clips):
    """Settings and model of `tiny(architecture)`, features of some clips, and their scores."""
    settings = tiny(architecture)
    model = with_random_weights(models.build_model(settings))
    given = features(settings, clips)
    return settings, model, given, checkpoints.keras_predictor(model)(given)
