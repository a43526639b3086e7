"""The trainee: a network in each of its forms, and the models that it starts and learns from."""

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.flags import flag_adder
from kws.base.settings import DATA_FIELDS, UNKNOWN_INDEX, Settings, SettingsFlags
from kws.base.text import show
from kws.data.dataset import Data
from kws.model.checkpoints import KerasModel, keras_predictor, load_checkpoint, read_settings
from kws.model.inspection import output_hop
from kws.model.transfer import load_start
from kws.train.validation import Validated

VALIDATION_CLIPS = 1000  # of an embedding, which takes some milliseconds for each


@dataclass(frozen=True)
class StartOptions:
    """How a trainee is made from a network: flags of train.py; optimisations.py has --prior_correction.

    Raises UserError if they do not fit each other.
    """

    start_checkpoint: str | None = None
    freeze_start: bool = False
    batch_norm: bool = False
    blend_start: float = 0
    prior_correction: bool = False
    trunk_negatives: str | None = None

    def __post_init__(self):
        for name in ("blend_start", "freeze_start"):
            if getattr(self, name) and not self.start_checkpoint:
                raise UserError(f"--{name} is for training that starts from a checkpoint: give --start_from")
        if self.trunk_negatives and not self.freeze_start:
            raise UserError("--trunk_negatives are outputs of a frozen trunk: give --freeze_start")


@dataclass(frozen=True)
class Trainee:
    """A network that `loop.fit` trains, in each of its forms.

    The *network in training* may have what only training needs: batch normalisation, wrappers of tfmot. The
    *plain network* is the one of the settings, and computes what the network in training does; it is saved.
    The *validated network* is the network in training, or the plain one if its weights differ on purpose.
    *Latent weights* are trained in place of the quantized weights that the network computes with.
    """

    network: Any  # in training; a Keras model whose last layer is softmax
    plain: Callable  # () -> the plain network, a Keras model with the weights of now
    validated: Any = None  # has the weights of the last call of `plain`; `network` if None
    latent: Any = None  # LatentWeights of `network`, if any
    keep_from: int = 0  # steps before which no checkpoint is kept
    starts_trained: bool = False  # else the first weights are random
    teacher: Callable | None = None  # (audio, features) -> targets, as kws.data.batches takes it
    inputs: Callable | None = None  # features -> what the network in training takes; features if None
    added: Any = None  # rows to add to each batch: kws.trunk.head.AddedNegatives
    # what is learnt and validated in place of labels, as `loop.compiled_steps` and `loop.fit` take them
    objective: Callable | None = None
    validate: Callable | None = None
    # what a resumed run must have in common with the one before
    start: str = "random"  # fingerprint of the weights at the start
    made_by: tuple = ()  # the dataclasses of the flags that made it


def add_prior_correction(group):
    """Add the flag --prior_correction of StartOptions."""
    flag_adder(group, StartOptions)(
        "prior_correction",
        "if training holds more unknown words and negatives than validation, lower the bias of _unknown_ "
        "accordingly in what is validated and kept (logit adjustment, arXiv:2007.07314)",
        action=argparse.BooleanOptionalAction,
    )


# ---- weights that are adjusted before they are validated and kept ----


def adjusted(
    trainee: Trainee, options: StartOptions, data: Data, build_network: Callable, start_weights: list = ()
) -> Trainee:
    """Return `trainee` with a validated network of adjusted weights, if the options ask for an adjustment.

    `options.blend_start` % of each weight are taken from `start_weights`, arrays as Keras' get_weights gives
    them of the plain network; so less is forgotten of what these knew (Wortsman et al., arXiv:2109.01903).
    Weights after the end of that list stay as trained. With `options.prior_correction` the bias of _unknown_
    is lowered (see `unknown_offset`). `build_network()` gives a new plain network.
    """
    offset = unknown_offset(data) if options.prior_correction else 0.0
    if not (options.blend_start or offset):
        return trainee
    kept, share = build_network(), options.blend_start / 100
    offsets = np.zeros(kept.output_shape[1], np.float32)  # [labels]
    offsets[UNKNOWN_INDEX] = offset

    def adjust():
        weights = trainee.plain().get_weights()
        if share:
            pairs = zip(start_weights, weights, strict=False)
            weights[: len(start_weights)] = [share * old + (1 - share) * new for old, new in pairs]
        *others, bias = weights
        kept.set_weights([*others, bias + offsets])
        return kept

    return dataclasses.replace(trainee, plain=adjust, validated=kept)


def unknown_offset(data: Data) -> float:
    """Return what to add to the bias of _unknown_ for it to be as likely as in validation.

    That is the logarithm of how much more likely the label is there than in training (logit adjustment, Menon
    et al., arXiv:2007.07314). Windows without words count as unknown; 0 if either side has none.
    """
    in_training = data.no_words_per_epoch
    in_validation = np.count_nonzero(data.validation.label == UNKNOWN_INDEX)
    if not in_training or not in_validation:
        return 0.0
    words_in_training = np.count_nonzero(data.training.label > UNKNOWN_INDEX) + len(data.repeated)
    words_in_validation = np.count_nonzero(data.validation.label > UNKNOWN_INDEX)
    return float(np.log(in_validation / words_in_validation * words_in_training / in_training))


# ---- the models that it starts and learns from ----


def start_from(path, network, settings: Settings) -> bool:
    """Give the Keras `network` of `settings` the weights of a checkpoint, and print what is kept of it.

    Returns whether all is kept: the checkpoint is for the same labels, in the same order.
    """
    stored = read_settings(path) or settings
    print(f"starting from {path}:", *load_start(network, settings, path), sep="\n  ")
    for name in DATA_FIELDS[1:]:
        if getattr(stored, name) != getattr(settings, name):
            learnt = "if on the same recordings, it has learnt clips that it is validated or tested on here"
            print(f"{path} was trained with --{name} {show(getattr(stored, name))}: {learnt}")
    return stored.labels == settings.labels


def load_teacher(path, settings: Settings, build_model: Callable) -> Callable | None:
    """Load the model of --teacher, None if `path` is; if it carries no settings, the student's are assumed.

    The result takes audio, float32 [clips, clip_samples], and its features, and returns scores, float32
    [clips, labels]. Raises UserError if it is for other audio, labels or partitions than the student's
    `settings`.
    """
    if path is None:
        return None
    carries_settings = read_settings(path) is not None
    flags = None if carries_settings else SettingsFlags(vars(settings))
    network, its_settings = load_checkpoint(path, build_model, flags)
    percentages = "validation_percentage", "testing_percentage"  # it must not have learnt what we test on
    for name in ("sample_rate", "clip_duration_ms", "wanted_words", *percentages):
        ours, theirs = getattr(settings, name), getattr(its_settings, name)
        if ours != theirs:
            raise UserError(f"--teacher {path} has --{name} {show(theirs)}, the student {show(ours)}")
    model, front_end = KerasModel(network, its_settings), its_settings.front_end
    shares_features = front_end == settings.front_end
    return lambda audio, features: model.predict(features if shares_features else mfcc(audio, front_end))


# ---- pretraining: the values of a speech embedding in place of labels ----


def embedding_trainee(network, data: Data, settings: Settings, start: str, made_by: tuple) -> Trainee:
    """Return a trainee whose convolutions learn what the speech embedding computes, by a projection.

    The outputs of the last convolution with ReLU predict the embedding of the same audio, each value
    standardised. The plain network has these convolutions, and a classifier that nothing was taught.
    UserError if the network's outputs cannot be compared with the embedding.
    """
    from kws.base.quiet_tf import keras, tf
    from kws.model.speech_embedding import HOP_SAMPLES, NAME, SAMPLE_RATE, VALUES, SpeechEmbedding

    # [outputs, 1, channels], one each `hop` samples
    outputs = [layer.output for layer in network.layers if isinstance(layer, keras.layers.ReLU)]
    hop = output_hop(network, settings.front_end)
    if (
        settings.model_architecture != "stream_cnn"
        or settings.sample_rate != SAMPLE_RATE
        or HOP_SAMPLES % hop
    ):
        raise UserError(f"--teacher {NAME} is for stream_cnn at 16000 Hz, with outputs every 80, 40 or 20 ms")

    # 1. The teacher: its values of validation clips standardise all.
    embedding = SpeechEmbedding()
    clips = len(data.validation)
    spread = np.unique(np.linspace(0, clips - 1, min(clips, VALIDATION_CLIPS)).astype(int))
    audio = data.validation.audio(spread) / np.float32(32768)  # [clips, clip_samples]
    known = embedding.embed(audio)  # [clips, n, 96]
    mean, deviation = known.mean((0, 1)), known.std((0, 1))
    taken = range(0, outputs[-1].shape[1], HOP_SAMPLES // hop)[: known.shape[1]]

    def standardised(embedded):
        values = (embedded[:, : len(taken)] - mean) / deviation
        return values.reshape(len(embedded), -1)  # [clips, taken * 96]

    # 2. The network in training: at the outputs that begin with an embedding's window, a projection to it.
    projected = keras.layers.Conv2D(VALUES, 1, name="projection")(outputs[-1])[:, :: taken.step, 0]
    predicted = keras.layers.Flatten()(projected[:, : len(taken)])
    in_training = keras.Model(network.input, keras.layers.Activation("linear")(predicted))

    # 3. The loss, and the share of the variance that is explained.
    def objective(outputs, batch):
        error = tf.reduce_mean((outputs - batch.targets) ** 2, 1)
        return error, 1 - error

    features, wanted = mfcc(audio, settings.front_end), standardised(known)
    predict = keras_predictor(in_training)

    def validate():
        error = float(np.mean((predict(features) - wanted) ** 2))
        return Validated(1 - error, error, math.nan)

    return Trainee(
        in_training,
        lambda: network,
        teacher=lambda audio, _: standardised(embedding.embed(audio)),
        start=start,
        made_by=made_by,
        objective=objective,
        validate=validate,
    )
