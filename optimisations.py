"""Cluster the weights of a trained model: each kernel keeps at most 32 distinct values, so that it compresses
well.

Clustering is tfmot's, initialised by k-means++, and followed by fine-tuning of the centroids. The same
command given again goes on where it was interrupted.
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
    before = report("before clustering", model, test_features, data, settings, args)
    print(before.summary())

    wrapped = cluster(model)
    best = Path(args.train_dir) / "best"
    start = training.fingerprint(models.checkpoint_files(args.checkpoint))
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
    print(report("after clustering", model, test_features, data, settings, args).summary())
    print(f"clustered checkpoint: {models.checkpoint_prefix(best)}")


def cluster(model):
    """The model with its kernels tied to centroids; UserError for a layer that tfmot cannot cluster."""
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


def strip(wrapped):
    """A plain model with the clustered kernels of `wrapped`."""
    import tensorflow_model_optimization as tfmot

    return tfmot.clustering.keras.strip_clustering(wrapped)


def report(when, model, test_features, data, settings, args):
    scores = models.keras_scores(model)(test_features)
    name = f"testing {when}, {input_data.protocol(args)}"
    return Report.of(name, settings.labels, data.testing.label, scores)


if __name__ == "__main__":
    run(main)
