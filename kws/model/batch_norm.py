"""Batch normalisation around a plain network: added for training, folded into the weights afterwards."""

import numpy as np

from kws.base.errors import UserError
from kws.base.quiet_tf import keras
from kws.model.inspection import fully_connected

LEAST_VARIANCE = 0.01  # added to each feature's, so that none is blown up
MOMENTUM = 0.99  # of the moving mean and variance, as Keras has it


def with_batch_norm(model, features: np.ndarray):
    """Return a new model like `model`, with batch normalisation before each ReLU.

    Its input is normalised so that `features` [n, feature_count] have the mean 0 and the deviation 1. Raises
    UserError if the model has other layers than fully connected ones.
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
    # the last fully connected layer and softmax stay as they are
    for layer in model.layers[-2:]:
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(source, x, name=model.name)


def load_plain_weights(model, plain, features: np.ndarray):
    """Give `model`, from `with_batch_norm`, weights with which it computes the same as `plain`.

    The first kernel undoes the input's normalisation. Each other normalisation gets the mean and variance of
    its inputs for `features` [n, feature_count] of training clips, and a scale and an offset that restore
    them. So training, which normalises by each batch, begins near `plain`.
    """
    _, input_norm, *rest = model.layers
    dense = iter([layer for layer in plain.layers if layer.weights])
    mean, deviation = np.ravel(input_norm.input_mean), np.sqrt(np.ravel(input_norm.input_variance))
    x = (features - mean) / deviation  # [n, feature_count]
    for layer in rest:
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = (weight.numpy() for weight in next(dense).weights)
            if layer is rest[0]:
                kernel, bias = deviation[:, None] * kernel, bias + mean @ kernel
            layer.set_weights([kernel, bias])
            x = x @ kernel + bias  # [n, units]
        elif isinstance(layer, keras.layers.BatchNormalization):
            mean, variance = x.mean(0), x.var(0)
            layer.set_weights([np.sqrt(variance + layer.epsilon), mean, mean, variance])
            # the ReLU that follows
            x = np.maximum(x, 0)


def fit_momentum(model, steps: int):
    """Have the moving means and variances of `model` follow a training of `steps` steps.

    With the momentum 0.99 they average the last 100 steps, in which the weights of a short training change
    much. Below 5,000 steps they average the last fiftieth of the steps.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(MOMENTUM, max(0.0, 1 - 50 / steps))


def fold_batch_norm_into_plain_model(trained, plain):
    """Give `plain` the weights with which it computes the same as `trained`, and return it.

    `trained` is a model from `with_batch_norm`, `plain` a network of its layers without normalisation. A
    normalisation is y = scale * x + offset. The layer before it becomes (kernel * scale, bias * scale +
    offset); the layer after the input's becomes (scale * kernel, bias + offset @ kernel).
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
    for layer, values in zip([layer for layer in plain.layers if layer.weights], folded, strict=True):
        layer.set_weights(values)
    return plain


def fold_batch_norm_in_place(model):
    """Move each batch normalisation into the kernel and bias of the layer before it, and freeze it.

    If the layer before has no kernel, it is only frozen. The model computes the same as before, and its
    kernels become its TFLite file's kernels.
    """
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        # private, but Keras has no public way to a layer's source
        before = norm.input._keras_history.layer
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
    """Return (scale, offset), [channels] each, of a batch normalisation as scale * x + offset."""
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return scale, norm.beta.numpy() - norm.moving_mean.numpy() * scale
