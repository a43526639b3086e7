"""Prepare the weights of a trained model for its small forms, and fine-tune them.

clustering leaves each kernel at most 32 distinct values, and takes those that compress well. quantization
leaves each kernel the values that int8 weights can have, so that conversion changes no weight; clustering
does so too in fully connected layers. The same command given again goes
on where it was interrupted.
"""

from pathlib import Path

import numpy as np

import input_data
import models
import training
from architectures import fully_connected, kernels
from reports import Report
from settings import SILENCE_INDEX, UserError, new_parser, run

CLIPS_TO_MEASURE_ON = 1000


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
    input_data.add_augmentation_arguments(parser)
    models.add_arguments(parser)
    training.add_arguments(parser, steps="3750,750", rates="0.001,0.0001", train_dir="clustered")
    return parser.parse_args()


def main():
    args = parse_arguments()
    training.check_arguments(args)
    model, settings = models.load_checkpoint(args.checkpoint, args)
    data = input_data.open_data(args, settings)
    training.check_clips(data, settings, args)

    from backend import keras

    keras.utils.set_random_seed(args.seed)
    test_features = input_data.features(data.testing, settings)
    before = report(f"before {args.method}", model, test_features, data, settings, args)
    print(before.summary())

    best = Path(args.train_dir) / "best"
    models.settle_batch_norm(model)
    start = f"{training.fingerprint(models.checkpoint_files(args.checkpoint))}, {args.method}"
    training.fit(
        *(model, data, settings, args, start),
        lambda name: models.keep_best(model, settings, best, name),
        straight_through(model, args.method, data, settings, args.seed),
    )

    model, _ = models.load_checkpoint(best, args)
    for layer in model.layers:
        for kernel in kernels(layer):
            print(f"distinct values of {kernel.name.removesuffix(':0')}: {len(np.unique(kernel))}")
    print(before.summary())
    print(report(f"after {args.method}", model, test_features, data, settings, args).summary())
    print(f"checkpoint after {args.method}: {models.checkpoint_prefix(best)}")


def straight_through(model, method, data, settings, seed):
    """What makes training keep the kernels of `model` to the values that `method` allows."""
    from backend import keras
    from straight_through import Clusters, EightBits, StraightThrough

    if method == "quantization" and not fully_connected(model):
        raise UserError("--method quantization is for models of fully connected layers alone")
    if method == "quantization":
        kinds = {kernel.ref(): EightBits() for layer in model.layers for kernel in kernels(layer)}
        return StraightThrough(model, kinds)

    real = np.flatnonzero(data.validation.label != SILENCE_INDEX)
    chosen = np.random.default_rng(seed).permutation(real)[:CLIPS_TO_MEASURE_ON]
    features = input_data.features(data.validation.take(chosen), settings)
    roundings = {}
    for layer in filter(kernels, reversed(model.layers)):  # so that the inputs of a layer are still unchanged
        of_inputs, *of_states = kernels(layer)
        inputs = models.keras_scores(keras.Model(model.input, layer.input))(features)
        mean_square = np.square(inputs).mean(axis=tuple(range(inputs.ndim - 1)))[:, None]
        dense = isinstance(layer, keras.layers.Dense)
        clusters = Clusters(of_inputs, mean_square, eight_bits=dense)
        if dense:  # what rounding adds to the sums on average
            layer.bias.assign_add(inputs.mean(0) @ (of_inputs - clusters(of_inputs)).numpy())
        roundings[of_inputs.ref()] = clusters
        roundings |= {
            kernel.ref(): Clusters(kernel, np.ones((1, 1)), eight_bits=False) for kernel in of_states
        }
    return StraightThrough(model, roundings)


def report(when, model, test_features, data, settings, args):
    scores = models.keras_scores(model)(test_features)
    name = f"testing {when}, {input_data.protocol(args)}"
    return Report.of(name, settings.labels, data.testing.label, scores)


if __name__ == "__main__":
    run(main)
