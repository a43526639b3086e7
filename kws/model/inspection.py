"""The layers of a Keras network, and its cost."""

import math

from kws.base.features import FrontEnd
from kws.base.quiet_tf import keras


def kernels(layer) -> list:
    """Return the weights of a layer that multiply its inputs, or its own outputs one frame before."""
    # biases, peepholes and normalisations have one axis
    return [weight for weight in layer.trainable_weights if len(weight.shape) > 1]


def fully_connected(model) -> bool:
    """Return whether all weights of a Keras model are in fully connected layers."""
    return all(isinstance(layer, keras.layers.Dense) for layer in model.layers if layer.weights)


def output_hop(model, front_end: FrontEnd) -> int:
    """Return the samples from one output of a Keras model's convolutions to the next one in time."""
    strides = [layer.strides[0] for layer in model.layers if hasattr(layer, "strides")]
    return math.prod(strides) * front_end.stride_samples


def operations(model) -> int:
    """Return the multiplications and additions for one clip, as the paper counts them.

    They are two for each weight of a kernel and each place or frame that it is applied to.
    """
    total = 0
    for layer in model.layers:
        # a recurrent layer takes [clips, frames, inputs]; others give [clips, ..., channels]
        recurrent = isinstance(layer, keras.layers.RNN)
        times = layer.input_shape[1] if recurrent else math.prod(layer.output_shape[1:-1])
        total += 2 * times * sum(math.prod(weight.shape) for weight in kernels(layer))
    return total


def memory(model) -> int:
    """Return the bytes that a model of 8-bit weights and activations needs, as the paper counts them.

    They are its weights, with batch normalisation folded into them, and the inputs and outputs of the layer
    that has most of both.
    """
    layers = [layer for layer in model.layers if layer.weights]
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.BatchNormalization)]
    # one layer runs at a time, and its buffers are free for the next; a byte each
    activations = [math.prod(layer.input_shape[1:]) + math.prod(layer.output_shape[1:]) for layer in layers]
    return sum(layer.count_params() for layer in layers) + max(activations)
