"""What a Keras network is made of, and what it costs."""

import math

from kws.base.quiet_tf import keras


def kernels(layer) -> list:
    """The weights of a layer that multiply its inputs, or its own outputs of one frame before."""
    return [weight for weight in layer.trainable_weights if len(weight.shape) > 1]


def fully_connected(model) -> bool:
    """Whether all weights of a Keras model are those of fully connected layers."""
    return all(isinstance(layer, keras.layers.Dense) for layer in model.layers if layer.weights)


def operations(model) -> int:
    """Multiplications and additions for one clip, as the paper counts them: two for each weight of a kernel
    and each place or frame that it is applied to.
    """
    total = 0
    for layer in model.layers:
        recurrent = isinstance(layer, keras.layers.RNN)
        times = layer.input_shape[1] if recurrent else math.prod(layer.output_shape[1:-1])
        total += 2 * times * sum(math.prod(weight.shape) for weight in kernels(layer))
    return total


def memory(model) -> int:
    """Bytes that a model of 8-bit weights and activations needs, as the paper counts them: its weights, batch
    normalisation folded into them, and the inputs and outputs of the layer that has most of both.
    """
    layers = [layer for layer in model.layers if layer.weights]
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.BatchNormalization)]
    activations = [math.prod(layer.input_shape[1:]) + math.prod(layer.output_shape[1:]) for layer in layers]
    return sum(layer.count_params() for layer in layers) + max(activations)
