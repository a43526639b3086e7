"""Prepare the weights of a trained model for its small forms, and fine-tune them.

clustering leaves each kernel at most 32 distinct values, so that it compresses well: k-means finds them, and
tfmot fine-tunes them. quantization leaves each kernel the values that int8 weights can have, so that
conversion changes no weight; clustering does so too in models of fully connected layers. The same command
given again goes on where it was interrupted.
"""

from pathlib import Path

import numpy as np

import input_data
import models
import training
from reports import Report
from settings import UserError, new_parser, run

CLUSTERS = 32


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="model to start from: a checkpoint, a folder of checkpoints, or a SavedModel",
    )
    parser.add_argument(
        "--method",
        choices=("clustering", "quantization"),
        default="clustering",
        help="values that kernels keep: 32 found by k-means, or those of 8 bits and one scale",
    )
    input_data.add_arguments(parser)
    input_data.add_augmentation_arguments(parser)
    models.add_arguments(parser)
    training.add_arguments(parser, steps="3750,750", rates="0.001,0.0001", train_dir="clustered")
    return parser.parse_args()


def main():
    args = parse_arguments()
    training.check_arguments(args)
    model, settings = models.load_checkpoint(args.checkpoint, args)
    data = input_data.open_data(args, settings)

    from backend import keras

    keras.utils.set_random_seed(args.seed)
    test_features = input_data.features(data.testing, settings)
    before = report(f"before {args.method}", model, test_features, data, settings, args)
    print(before.summary())

    if args.method == "clustering":
        round_to_centroids(model)
        wrapped = cluster(with_rounding(model) if models.fully_connected(model) else model)
    elif models.fully_connected(model):
        wrapped = with_rounding(model)
    else:
        raise UserError("--method quantization is for models of fully connected layers alone")
    best = Path(args.train_dir) / "best"
    start = f"{training.fingerprint(models.checkpoint_files(args.checkpoint))}, {args.method}"
    training.fit(
        wrapped,
        data,
        settings,
        args,
        start,
        lambda name: models.keep_best(strip(wrapped), settings, best, name),
    )

    model, _ = models.load_checkpoint(best, args)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            print(f"distinct values of {layer.name}'s kernel: {len(np.unique(layer.kernel))}")
    print(before.summary())
    print(report(f"after {args.method}", model, test_features, data, settings, args).summary())
    print(f"checkpoint after {args.method}: {models.checkpoint_prefix(best)}")


def round_to_centroids(model):
    """Give each kernel the values that k-means finds, from evenly spaced quantiles on."""
    from scipy.cluster.vq import kmeans2

    for layer in model.layers:
        if hasattr(layer, "kernel"):
            values = layer.kernel.numpy().reshape(-1, 1)
            start = np.quantile(values, (np.arange(CLUSTERS) + 0.5) / CLUSTERS)[:, None]
            centroids, nearest = kmeans2(values, start, iter=100, minit="matrix")
            layer.kernel.assign(centroids[nearest].reshape(layer.kernel.shape))


def cluster(model):
    """The model with its kernels tied to centroids; UserError for a layer that tfmot cannot cluster.

    tfmot's own first choice of centroids, k-means++, takes the values that a rounded kernel has.
    """
    import tensorflow_model_optimization as tfmot

    clustering = tfmot.clustering.keras
    try:
        return clustering.cluster_weights(
            model,
            number_of_clusters=CLUSTERS,
            cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        )
    except ValueError as error:
        raise UserError(f"tfmot cannot cluster this model: {error}") from None


def with_dense_layers(model, kind):
    """A copy of fully connected layers, each made by the class `kind`; the weights are new."""
    from backend import keras

    def copy(layer):
        return (kind if hasattr(layer, "kernel") else type(layer)).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy)


def with_rounding(model):
    """A copy of fully connected layers that computes with kernels rounded to 8 bits; training moves them
    unrounded: quantization-aware training of weights (arXiv:1712.05877).
    """
    import tensorflow_model_optimization as tfmot

    from backend import keras

    class RoundedDense(keras.layers.Dense, tfmot.clustering.keras.ClusterableLayer):
        def get_clusterable_weights(self):
            return [("kernel", self.kernel)]

        def call(self, inputs):
            return self.activation(inputs @ rounded(self.kernel) + self.bias)

    wrapped = with_dense_layers(model, RoundedDense)
    wrapped.set_weights(model.get_weights())
    return wrapped


def rounded(kernel):
    """The values of `kernel` that int8 weights with one scale have: -127 to 127 times the scale."""
    from backend import tf

    largest = tf.reduce_max(tf.abs(kernel))
    return tf.quantization.fake_quant_with_min_max_vars(kernel, -largest, largest, 8, narrow_range=True)


def strip(wrapped):
    """A plain model with the clustered or rounded kernels of `wrapped`."""
    import tensorflow_model_optimization as tfmot

    from backend import keras

    stripped = tfmot.clustering.keras.strip_clustering(wrapped)
    if not models.fully_connected(stripped):
        return stripped

    model = with_dense_layers(stripped, keras.layers.Dense)
    for layer, source in zip(model.layers, stripped.layers, strict=True):
        if hasattr(layer, "kernel"):
            layer.set_weights([rounded(source.kernel), source.bias])
    return model


def report(when, model, test_features, data, settings, args):
    scores = models.keras_scores(model)(test_features)
    name = f"testing {when}, {input_data.protocol(args)}"
    return Report.of(name, settings.labels, data.testing.label, scores)


if __name__ == "__main__":
    run(main)
