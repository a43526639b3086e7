"""Prepare the weights of a trained model for its small forms, and fine-tune them.

clustering leaves each kernel at most 32 distinct values, and chooses those that compress well. quantization
leaves each kernel the values that int8 weights can have, so that conversion changes no weight; clustering
does so too in fully connected layers. The same command resumes an interrupted run.
"""

from pathlib import Path

import numpy as np

import input_data
import models
from input_data import DataOptions
from kws import checkpoints, training
from kws.augmentation import Augmentation
from kws.batch_norm import fold_batch_norm_in_place
from kws.checkpoints import KerasModel
from kws.cli import UserError, new_parser, options_from, run
from kws.files import fingerprint
from kws.quiet_tf import keras
from kws.reports import Report
from kws.settings import SILENCE_INDEX, SettingsFlags
from kws.training import TrainingOptions

CLIPS_TO_MEASURE_ON = 1000  # for the mean squares of inputs, which hardly change with more


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
        help="values that kernels keep: 32 that compress well, or those of 8 bits and one scale",
    )
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    models.add_arguments(parser)
    training.add_arguments(parser, steps="3750,750", rates="0.001,0.0001", train_dir="clustered")
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = options_from(TrainingOptions, args)
    variation = options_from(Augmentation, args)
    data_options = options_from(DataOptions, args)
    network, settings = checkpoints.load_checkpoint(args.checkpoint, SettingsFlags.from_arguments(args))
    data = input_data.open_data(data_options, settings)
    training.check_data(data, settings, data_options.data_dir, variation)
    test_features = input_data.features(data.testing, settings.front_end)

    def report(when, model):
        name = f"testing {when} {args.method}, {data_options.protocol}"
        return Report.from_scores(name, settings.labels, data.testing.label, model.predict(test_features))

    keras.utils.set_random_seed(options.seed)
    before = report("before", KerasModel(network, settings))
    print(before.summary())

    best = Path(options.train_dir) / "best"
    fold_batch_norm_in_place(network)
    if args.method == "clustering":
        latent = clustered_weights(network, data.validation, settings, options.seed)
    else:
        latent = int8_weights(network)
    training.fit(
        network,
        data,
        settings,
        options,
        variation,
        data_options,
        start=f"{fingerprint(checkpoints.checkpoint_files(args.checkpoint))}, {args.method}",
        save=lambda name: checkpoints.keep_best(network, settings, best, name),
        latent=latent,
    )

    model = checkpoints.load(best)
    for layer in model.network.layers:
        for kernel in models.kernels(layer):
            print(f"distinct values of {kernel.name.removesuffix(':0')}: {len(np.unique(kernel))}")
    print(before.summary())
    print(report("after", model).summary())
    print(f"checkpoint after {args.method}: {checkpoints.checkpoint_prefix(best)}")


def int8_weights(network):
    """LatentWeights whose kernels take int8 values; UserError where conversion would use other scales."""
    from kws.quantizers import EightBitValues, LatentWeights

    if not models.fully_connected(network):
        raise UserError("--method quantization is for models of fully connected layers alone")
    kernels = [kernel for layer in network.layers for kernel in models.kernels(layer)]
    return LatentWeights(network, {kernel.ref(): EightBitValues() for kernel in kernels})


def clustered_weights(network, clips, settings, seed):
    """LatentWeights whose kernels take at most 32 values, chosen by what the layers' inputs are on `clips`.

    The biases of fully connected layers are corrected by what clustering adds to their sums on average.
    """
    from kws.quantizers import Clusters, LatentWeights

    recordings = np.flatnonzero(clips.label != SILENCE_INDEX)
    chosen = np.random.default_rng(seed).permutation(recordings)[:CLIPS_TO_MEASURE_ON]
    features = input_data.features(clips.take(chosen), settings.front_end)
    quantizers = {}
    # from the last layer on, so that no bias below has changed when the inputs of a layer are measured
    for layer in filter(models.kernels, reversed(network.layers)):
        input_kernel, *state_kernels = models.kernels(layer)
        inputs = checkpoints.keras_predictor(keras.Model(network.input, layer.input))(features)
        mean_square = np.square(inputs).mean(axis=tuple(range(inputs.ndim - 1)))[:, None]
        dense = isinstance(layer, keras.layers.Dense)
        clusters = Clusters(input_kernel, mean_square, eight_bits=dense)
        if dense:
            layer.bias.assign_add(inputs.mean(0) @ (input_kernel - clusters(input_kernel)).numpy())
        quantizers[input_kernel.ref()] = clusters
        for kernel in state_kernels:  # their inputs, the states, are all of one size
            quantizers[kernel.ref()] = Clusters(kernel, np.ones((1, 1)), eight_bits=False)
    return LatentWeights(network, quantizers)


if __name__ == "__main__":
    run(main)
