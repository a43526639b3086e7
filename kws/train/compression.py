"""The methods of optimisations.py: each turns a trained network into a Trainee that `loop.fit` fine-tunes.

By tensorflow-model-optimization (tfmot): weight clustering, pruning, quantization-aware training (QAT), and
QAT that preserves clusters (CQAT) or clusters and zeros (PCQAT). By this project's own quantizers:
entropy-constrained clusters, and training on the values of int8 weights.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from kws.base.errors import UserError
from kws.base.flags import bounded, flag_adder
from kws.base.quiet_tf import keras, quiet, tfmot
from kws.base.settings import SILENCE_INDEX, Settings
from kws.data.clips import Clips, features
from kws.model.checkpoints import keras_predictor
from kws.model.inspection import fully_connected, kernels
from kws.train.calibration import calibration_features
from kws.train.trainee import Trainee

CLIPS_TO_MEASURE_ON = 1000  # for the mean squares of inputs, which hardly change with more
MOST_CENTROIDS = 256  # that survive int8
# Zeros are kept from this share of every kernel on: pruning makes more, rounding to int8 fewer.
PRUNED = 0.2


@dataclass(frozen=True)
class CompressionOptions:
    """How the weights are compressed: the flags of `add_arguments`."""

    method: str = "clustering"
    clusters: int = 32
    sparsity: float = 50


def add_arguments(parser):
    """Add the flags of CompressionOptions."""
    add = flag_adder(parser.add_argument_group("compression"), CompressionOptions)
    add(
        "method",
        "clustering, pruning, qat (quantization-aware training) and cqat (the same for a clustered model, "
        "whose clusters it preserves) are tensorflow-model-optimization's; entropy (clusters that take few "
        "bits) and quantization (weights of int8) are this project's. clustering and cqat keep the zeros "
        f"of a pruned model: one with at least {100 * PRUNED:.0f} %% of zeros in every kernel",
        choices=(*METHODS, "entropy", "quantization"),
    )
    add("clusters", "most values in a kernel", type=bounded(int, 3, MOST_CENTROIDS), metavar="N")
    zeros = "weights that --method pruning makes zero, in %%"
    add("sparsity", zeros, type=bounded(float, 1, 99), metavar="P")


def fine_tuning(
    network, options: CompressionOptions, steps: int, clips: Clips, settings: Settings, seed: int
) -> Trainee:
    """Return the trainee that `steps` of training make a compressed network of the Keras model `network`.

    Batch normalisation must have been folded (`fold_batch_norm_in_place`), so that a kernel here is the one
    that is converted. The entropy method measures the layers' inputs on `clips`. Raises UserError if the
    method cannot take a layer of the network.
    """
    # this project's methods train latent weights, and leave the network plain
    if options.method == "entropy":
        latent = entropy_clusters(network, options, clips, settings, seed)
        return Trainee(network, lambda: network, latent=latent)
    if options.method == "quantization":
        return Trainee(network, lambda: network, latent=int8_weights(network))
    # tfmot's methods wrap its layers; they warn of kernels left as they are, which optimisations.py says
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        trainee = METHODS[options.method](network, options, steps)
        if options.method in ("qat", "cqat"):
            _fix_input_range(trainee.network, calibration_features(clips, settings, seed))
        return trainee


# ---- tensorflow-model-optimization ----


def clustering(network, options, steps):
    """Cluster the weights by tfmot, from centroids chosen by k-means++ (arXiv:2001.07710 describes the kind).

    Centroids and the weights behind them are trained; each weight takes the value of the nearest centroid.
    """
    # the public function lacks preserve_sparsity
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    first, keep_zeros = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS, is_pruned(network)

    def wrapped(layer):
        return cluster.cluster_weights(layer, options.clusters, first, preserve_sparsity=keep_zeros)

    clustered = _clone(network, wrapped, "cluster")
    return Trainee(clustered, lambda: tfmot.clustering.keras.strip_clustering(clustered))


def pruning(network, options, steps):
    """Prune the smallest weights by tfmot: the share of zeros grows over the first half of the steps."""
    # updates every `interval` steps, from step 1 on
    interval = max(1, min(100, steps // 20))
    last_update = 1 + steps // 2 // interval * interval
    decay, share = tfmot.sparsity.keras.PolynomialDecay, options.sparsity / 100
    schedule = decay(0, share, begin_step=1, end_step=last_update, frequency=interval)

    def wrapped(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    wrapping = _clone(network, wrapped, "prune")
    pruned = [layer for layer in wrapping.layers if hasattr(layer, "pruning_step")]
    # as tfmot's callback for Keras' fit does when training begins
    for layer in pruned:
        layer.pruning_step.assign(0)

    def plain():
        # make zero again what the last step of training moved
        for layer in pruned:
            layer.pruning_obj.weight_mask_op()
        return tfmot.sparsity.keras.strip_pruning(wrapping)

    return Trainee(wrapping, plain, keep_from=last_update)


def _clone(network, wrapped, verb):
    """Return `network` with `wrapped(layer)` for each layer; UserError names one that tfmot cannot take."""

    def wrap(layer):
        try:
            return wrapped(layer)
        except ValueError:
            kind = type(layer.cell if hasattr(layer, "cell") else layer).__name__
            own = "; --method entropy can" if verb == "cluster" else ""
            cannot = f"cannot {verb} the layer {layer.name} ({kind}){own}"
            raise UserError(f"tensorflow-model-optimization {cannot}") from None

    return keras.models.clone_model(network, clone_function=wrap)


def qat(network, options, steps):
    """Train with weights and activations that tfmot rounds as int8 rounds them (QAT)."""
    return _quantization_aware(network, tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme())


def cqat(network, options, steps):
    """Train as `qat` does, and preserve the clusters (and zeros) of a clustered model."""
    for layer, kernel in kernels_to_compress(network):
        count = len(np.unique(kernel))
        if count > MOST_CENTROIDS:
            none = f"{layer.name} has none, but {count:,} distinct weights"
            raise UserError(f"--method cqat preserves clusters, and {none}: first --method clustering")
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(is_pruned(network))
    return _quantization_aware(network, scheme)


def is_pruned(network) -> bool:
    """Return whether every kernel that tfmot compresses has a share PRUNED of zeros or more."""
    return all(np.mean(kernel.numpy() == 0) >= PRUNED for _, kernel in kernels_to_compress(network))


def kernels_to_compress(network) -> list:
    """Return (layer, kernel) for all kernels that tfmot clusters and prunes: all but depthwise ones."""
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.DepthwiseConv2D)]
    return [(layer, kernel) for layer in layers for kernel in kernels(layer)]


def _quantization_aware(network, scheme):
    quantization = tfmot.quantization.keras
    registry = quantization.default_8bit.Default8BitQuantizeRegistry()
    for layer in network.layers:
        recurrent = isinstance(layer, keras.layers.RNN)
        if recurrent or kernels(layer) and not registry.supports(layer):
            missing = f"has no quantization-aware training for {layer.name} ({type(layer).__name__})"
            afterwards = "convert_to_tflite.py quantizes it after training"
            raise UserError(f"tensorflow-model-optimization {missing}: {afterwards}")
    rounding = quantization.quantize_apply(quantization.quantize_annotate_model(network), scheme)

    def plain():
        for wrapper in rounding.layers:
            if getattr(wrapper, "layer", None) is None or not wrapper.layer.trainable:
                continue
            layer = network.get_layer(wrapper.layer.name)
            if kernels(layer):
                # private, but the only way to the weights that the wrapped layer computes with; True as in
                # training: ranges and clusters follow the last step
                ((weights, quantizer, variables),) = wrapper._weight_vars
                (kernel,) = kernels(layer)
                kernel.assign(quantizer(weights, True, weights=variables))
                if layer.use_bias:
                    layer.bias.assign(wrapper.layer.bias)
        return network

    return Trainee(rounding, plain)


def _fix_input_range(network, calibration):
    """Quantize the input of a quantization-aware network in training as conversion will.

    tfmot takes the range of all values ever seen: digital silence leaves few steps for everything else.
    """
    # QuantizeLayer, the first: it alone has a quantizer of its own
    (layer,) = [layer for layer in network.layers if hasattr(layer, "quantizer")]
    lowest, highest = float(calibration.min()), float(calibration.max())
    layer.quantizer = tfmot.quantization.keras.quantizers.FixedQuantizer(8, lowest, highest, False)


# ---- this project's own quantizers ----


def int8_weights(network):
    """Return LatentWeights whose kernels take int8 values; UserError if conversion would use other scales."""
    from kws.model.quantizers import EightBitValues, LatentWeights

    if not fully_connected(network):
        raise UserError("--method quantization is for models of fully connected layers alone; there is qat")
    all_kernels = [kernel for layer in network.layers for kernel in kernels(layer)]
    return LatentWeights(network, {kernel.ref(): EightBitValues() for kernel in all_kernels})


def entropy_clusters(network, options, clips, settings, seed):
    """Return LatentWeights whose kernels take few values, chosen for the layers' inputs on `clips`.

    The biases of fully connected layers are corrected for what clustering adds to their sums on average.
    """
    from kws.model.quantizers import Clusters, LatentWeights

    recordings = np.flatnonzero(clips.label != SILENCE_INDEX)
    chosen = np.random.default_rng(seed).permutation(recordings)[:CLIPS_TO_MEASURE_ON]
    measured_on = features(clips.take(chosen), settings.front_end)
    quantizers = {}
    # from the last layer on, so that no bias below has changed when the inputs of a layer are measured
    for layer in filter(kernels, reversed(network.layers)):
        input_kernel, *state_kernels = kernels(layer)
        inputs = keras_predictor(keras.Model(network.input, layer.input))(measured_on)  # [clips, ..., inputs]
        mean_square = np.square(inputs).mean(axis=tuple(range(inputs.ndim - 1)))[:, None]
        dense = isinstance(layer, keras.layers.Dense)
        clusters = Clusters(input_kernel, mean_square, options.clusters, eight_bits=dense)
        if dense:
            # [clips, inputs] -> [inputs] @ [inputs, units]: the mean error of each sum
            layer.bias.assign_add(inputs.mean(0) @ (input_kernel - clusters(input_kernel)).numpy())
        quantizers[input_kernel.ref()] = clusters
        for kernel in state_kernels:  # their inputs, the states, are all of one size
            quantizers[kernel.ref()] = Clusters(kernel, np.ones((1, 1)), options.clusters, eight_bits=False)
    return LatentWeights(network, quantizers)


# By tfmot; `fine_tuning` has the two others.
METHODS = {method.__name__: method for method in (clustering, cqat, qat, pruning)}
