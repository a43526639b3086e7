"""Batch normalisation around a plain network: added for training, folded into the weights afterwards."""

import numpy as np

from kws.cli import UserError
from kws.quiet_tf import keras
from kws.settings import Settings
from models import build_model, fully_connected

LEAST_VARIANCE = 0.01  # added to each feature's, so that one that hardly varies is not blown up


def with_batch_norm(model, features: np.ndarray):
    """A new model like `model`, with batch normalisation before each ReLU.

    Its input is brought to the mean 0 and the deviation 1 that `features` [n, feature_count] have then.
    UserError for a model that is more than fully connected layers.
    """
    layers = keras.layers
    if not fully_connected(model):
        raise UserError("--batch_norm is for models of fully connected layers alone")
    hidden_layers = [layer for layer in model.layers if layer.weights][:-1]
    source = keras.Input(shape=model.input_shape[1:], name="input")
    x = layers.Normalization(mean=features.mean(0), variance=features.var(0) + LEAST_VARIANCE)(source)
    for layer in hidden_layers:
        x = layers.BatchNormalization()(layers.Dense(layer.units, name=layer.name)(x))
        x = layers.ReLU()(x)
    for layer in model.layers[-2:]:  # the last fully connected layer and softmax
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(source, x, name=model.name)


def fold_batch_norm_into_plain_model(trained, settings: Settings):
    """The plain model of `settings` that computes what `trained`, a model of `with_batch_norm`, does.

    With y = scale * x + offset for a normalisation, a layer before it becomes (kernel * scale, bias * scale +
    offset), and the layer after that of the input (scale * kernel, bias + offset @ kernel).
    """
    _, input_norm, *rest = trained.layers
    input_scale = 1 / np.sqrt(np.ravel(input_norm.input_variance))
    input_offset = -np.ravel(input_norm.input_mean) * input_scale
    folded = []
    for layer in rest:
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, offset = _scale_and_offset(layer)
            kernel, bias = folded[-1]
            folded[-1] = kernel * scale, bias * scale + offset
        elif isinstance(layer, keras.layers.Dense):
            kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
            if not folded:
                kernel, bias = input_scale[:, None] * kernel, bias + input_offset @ kernel
            folded.append((kernel, bias))
    model = build_model(settings)
    for layer, values in zip([layer for layer in model.layers if layer.weights], folded, strict=True):
        layer.set_weights(values)
    return model


def fold_batch_norm_in_place(model):
    """Move each batch normalisation into the kernel and bias of the layer before it, where that has a kernel,
    and freeze it.

    The model computes what it did, and its kernels become those that it has in a TFLite file.
    """
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        before = norm.input._keras_history.layer  # private, but Keras has no public way to a layer's source
        if before.weights:
            scale, offset = _scale_and_offset(norm)
            kernel, *bias = before.get_weights()
            depthwise = isinstance(before, keras.layers.DepthwiseConv2D)  # [..., channels, 1]
            kernel = kernel * (scale[:, None] if depthwise else scale)
            if bias:
                bias, offset = [bias[0] * scale + offset], np.zeros_like(offset)
            before.set_weights([kernel, *bias])
            # identity plus offset: the layer divides by sqrt(variance + epsilon), which is 1 then
            ones = np.ones_like(scale)
            norm.set_weights([ones, offset, np.zeros_like(scale), ones - norm.epsilon])
        norm.trainable = False


def _scale_and_offset(norm):
    """(scale, offset) of a batch normalisation as scale * x + offset."""
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return scale, norm.beta.numpy() - norm.moving_mean.numpy() * scale
