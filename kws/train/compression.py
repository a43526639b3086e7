"""The methods of optimisations.py: each turns a trained network into one that `loop.fit` fine-tunes.

By tensorflow-model-optimization (tfmot): weight clustering, pruning, quantization-aware training (QAT), and
QAT that preserves clusters (CQAT) or clusters and zeros (PCQAT). By this project's own quantizers:
entropy-constrained clusters, and training on the values of int8 weights.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kws.base.errors import UserError
from kws.base.flags import bounded, flag_adder
from kws.base.quiet_tf import keras, quiet, tfmot
from kws.base.settings import SILENCE_INDEX, Settings
from kws.base.text import show
from kws.data.clips import Clips, features
from kws.model.checkpoints import keras_predictor
from kws.model.inspection import fully_connected, kernels
from kws.train.calibration import calibration_features

CLIPS_TO_MEASURE_ON = 1000  # for the mean squares of inputs, which hardly change with more
MOST_CENTROIDS = 256  # that survive int8


@dataclass(frozen=True)
class CompressionOptions:
    """What is done to the weights: the flags of `add_arguments`."""

    method: str = "clustering"
    clusters: int = 32
    sparsity: float = 50
    preserve_sparsity: bool = False

    def __post_init__(self):
        if self.preserve_sparsity and self.method not in ("clustering", "cqat"):
            raise UserError(f"--preserve_sparsity is for --method clustering and cqat, not {self.method}")

    def __str__(self):
        """What distinguishes one run from another."""
        details = {
            "clustering": f", {self.clusters} clusters",
            "entropy": f", {self.clusters} clusters",
            "pruning": f", {show(self.sparsity)} % zeros",
        }
        return (
            f"{self.method}{details.get(self.method, '')}{', zeros kept' if self.preserve_sparsity else ''}"
        )


class FineTuning(NamedTuple):
    """What `loop.fit` trains, and what is saved of it."""

    model: Any  # the Keras model to train, perhaps with tfmot's wrappers
    plain: Callable  # () -> the Keras model of the settings with the weights that `model` computes with
    latent: Any = None  # LatentWeights to train in place of those of `model`, if any
    keep_from: int = 0  # steps before which no checkpoint is kept


def add_arguments(parser):
    """Add the flags of CompressionOptions."""
    group = parser.add_argument_group("compression")
    add = flag_adder(group, CompressionOptions)
    add(
        "method",
        "clustering, pruning, qat (quantization-aware training) and cqat (the same for a clustered model, "
        "whose clusters it preserves) are tensorflow-model-optimization's; entropy (clusters that take few "
        "bits) and quantization (weights of int8) are this project's",
        choices=tuple(METHODS),
    )
    add("clusters", "most values in a kernel", type=bounded(int, 3, MOST_CENTROIDS), metavar="N")
    add(
        "sparsity", "weights that --method pruning makes zero, in %%", type=bounded(float, 1, 99), metavar="P"
    )
    group.add_argument(
        "--preserve_sparsity",
        action="store_true",
        help="keep the zeros of a pruned model while clustering it",
    )


def fine_tuning(
    network, options: CompressionOptions, steps: int, clips: Clips, settings: Settings, seed: int
) -> FineTuning:
    """What to train for `steps` so that the Keras model `network` is compressed as the options say.

    Batch normalisation must have been folded (`fold_batch_norm_in_place`), so that a kernel here is the one
    that is converted. `clips` are what the entropy method measures the layers' inputs on. Raises UserError
    where the method cannot take a layer of the network.
    """
    if options.method == "entropy":
        return FineTuning(network, lambda: network, entropy_clusters(network, options, clips, settings, seed))
    if options.method == "quantization":
        return FineTuning(network, lambda: network, int8_weights(network))
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter(
            "ignore"
        )  # tfmot's, for kernels that it leaves as they are: we say so ourselves
        tuned = METHODS[options.method](network, options, steps)
        if options.method in ("qat", "cqat"):
            _fix_input_range(tuned.model, calibration_features(clips, settings, seed))
        return tuned


# ---- tensorflow-model-optimization ----


def clustering(network, options, steps):
    """tfmot's weight clustering, centroids initialised by k-means++ (arXiv:2001.07710 describes the kind).

    Centroids and the weights behind them are trained; each weight takes the value of the nearest centroid.
    """
    # the public function lacks preserve_sparsity
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    def wrapped(layer):
        return cluster.cluster_weights(
            layer,
            options.clusters,
            tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=options.preserve_sparsity,
        )

    model = _clone(network, wrapped, "cluster")
    return FineTuning(model, lambda: tfmot.clustering.keras.strip_clustering(model))


def pruning(network, options, steps):
    """tfmot's magnitude pruning: the share of zeros grows over the first half of the steps."""
    interval = max(1, min(100, steps // 20))
    last_update = 1 + steps // 2 // interval * interval
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0,
        final_sparsity=options.sparsity / 100,
        begin_step=1,  # of the steps from 1 on
        end_step=last_update,
        frequency=interval,
    )

    def wrapped(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    model = _clone(network, wrapped, "prune")
    pruned = [layer for layer in model.layers if hasattr(layer, "pruning_step")]
    for layer in pruned:
        layer.pruning_step.assign(0)  # as tfmot's callback for Keras' fit does when training begins

    def plain():
        for layer in pruned:
            layer.pruning_obj.weight_mask_op()  # zeros again what the last step of training moved
        return tfmot.sparsity.keras.strip_pruning(model)

    return FineTuning(model, plain, keep_from=last_update)


def _clone(network, wrapped, verb):
    """`network` with each layer replaced by `wrapped(layer)`; UserError naming one that tfmot cannot take."""

    def wrap(layer):
        try:
            return wrapped(layer)
        except ValueError:
            kind = type(layer.cell if hasattr(layer, "cell") else layer).__name__
            own = "; --method entropy can" if verb == "cluster" else ""
            raise UserError(
                f"tensorflow-model-optimization cannot {verb} the layer {layer.name} ({kind}){own}"
            ) from None

    return keras.models.clone_model(network, clone_function=wrap)


def qat(network, options, steps):
    """tfmot's quantization-aware training: weights and activations are rounded as int8 rounds them."""
    return _quantization_aware(network, tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme())


def cqat(network, options, steps):
    """tfmot's QAT that preserves the clusters (and zeros) of a clustered model."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):  # tfmot does not cluster these
            continue
        for kernel in kernels(layer):
            count = len(np.unique(kernel))
            if count > MOST_CENTROIDS:
                raise UserError(
                    f"--method cqat preserves clusters, and {layer.name} has none, but {count:,} distinct "
                    "weights: cluster the model first (--method clustering)"
                )
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(options.preserve_sparsity)
    return _quantization_aware(network, scheme)


def _quantization_aware(network, scheme):
    quantization = tfmot.quantization.keras
    registry = quantization.default_8bit.Default8BitQuantizeRegistry()
    for layer in network.layers:
        recurrent = isinstance(layer, keras.layers.RNN)
        if recurrent or kernels(layer) and not registry.supports(layer):
            raise UserError(
                "tensorflow-model-optimization has no quantization-aware training for the layer "
                f"{layer.name} ({type(layer).__name__}): convert_to_tflite.py quantizes it after training"
            )
    model = quantization.quantize_apply(quantization.quantize_annotate_model(network), scheme)

    def plain():
        for wrapper in model.layers:
            if getattr(wrapper, "layer", None) is None or not wrapper.layer.trainable:
                continue
            layer = network.get_layer(wrapper.layer.name)
            if kernels(layer):
                # private, but the only way to the weights as the wrapped layer computes with them; as in
                # training, where ranges and clusters follow the last step
                ((weights, quantizer, variables),) = wrapper._weight_vars
                (kernel,) = kernels(layer)
                kernel.assign(quantizer(weights, True, weights=variables))
                if layer.use_bias:
                    layer.bias.assign(wrapper.layer.bias)
        return network

    return FineTuning(model, plain)


def _fix_input_range(model, calibration):
    """Quantize the input of a quantization-aware model in training as conversion will.

    tfmot takes the range of all values ever seen, in which digital silence leaves few steps for everything
    else.
    """
    (layer,) = [layer for layer in model.layers if hasattr(layer, "quantizer")]
    lowest, highest = float(calibration.min()), float(calibration.max())
    layer.quantizer = tfmot.quantization.keras.quantizers.FixedQuantizer(8, lowest, highest, False)


# ---- this project's own quantizers ----


def int8_weights(network):
    """LatentWeights whose kernels take int8 values; UserError where conversion would use other scales."""
    from kws.model.quantizers import EightBitValues, LatentWeights

    if not fully_connected(network):
        raise UserError("--method quantization is for models of fully connected layers alone; there is qat")
    all_kernels = [kernel for layer in network.layers for kernel in kernels(layer)]
    return LatentWeights(network, {kernel.ref(): EightBitValues() for kernel in all_kernels})


def entropy_clusters(network, options, clips, settings, seed):
    """LatentWeights whose kernels take few values, chosen by what the layers' inputs are on `clips`.

    The biases of fully connected layers are corrected by what clustering adds to their sums on average.
    """
    from kws.model.quantizers import Clusters, LatentWeights

    recordings = np.flatnonzero(clips.label != SILENCE_INDEX)
    chosen = np.random.default_rng(seed).permutation(recordings)[:CLIPS_TO_MEASURE_ON]
    measured_on = features(clips.take(chosen), settings.front_end)
    quantizers = {}
    # from the last layer on, so that no bias below has changed when the inputs of a layer are measured
    for layer in filter(kernels, reversed(network.layers)):
        input_kernel, *state_kernels = kernels(layer)
        inputs = keras_predictor(keras.Model(network.input, layer.input))(measured_on)
        mean_square = np.square(inputs).mean(axis=tuple(range(inputs.ndim - 1)))[:, None]
        dense = isinstance(layer, keras.layers.Dense)
        clusters = Clusters(input_kernel, mean_square, options.clusters, eight_bits=dense)
        if dense:
            layer.bias.assign_add(inputs.mean(0) @ (input_kernel - clusters(input_kernel)).numpy())
        quantizers[input_kernel.ref()] = clusters
        for kernel in state_kernels:  # their inputs, the states, are all of one size
            quantizers[kernel.ref()] = Clusters(kernel, np.ones((1, 1)), options.clusters, eight_bits=False)
    return LatentWeights(network, quantizers)


METHODS = {
    "clustering": clustering,
    "cqat": cqat,
    "qat": qat,
    "pruning": pruning,
    "entropy": entropy_clusters,
    "quantization": int8_weights,
}
