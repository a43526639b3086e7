"""Compress a trained model: cluster, prune or quantize its weights, and fine-tune them.

The default is weight clustering by tensorflow-model-optimization: at most 32 distinct values in each kernel,
initialised by k-means++. The result is a checkpoint like any other. The same command resumes an interrupted
run.
"""

import dataclasses
from pathlib import Path

import numpy as np

import input_data
import models
from kws.base.errors import run
from kws.base.files import fingerprint
from kws.base.flags import add_model, new_parser, options_from, parse_with_model
from kws.base.quiet_tf import keras
from kws.base.settings import SettingsFlags
from kws.data.checks import check_data
from kws.model import checkpoints
from kws.model.batch_norm import fold_batch_norm_in_place
from kws.model.checkpoints import KerasModel
from kws.model.inspection import kernels
from kws.report.reports import Report, protocol_of
from kws.train import compression, loop, runs
from kws.train.compression import CompressionOptions
from kws.train.runs import RunOptions
from kws.train.trainee import StartOptions, add_prior_correction, adjusted, load_teacher


def parse_arguments():
    parser = new_parser(__doc__)
    add_model(parser, "model to start from: a checkpoint, a folder of checkpoints, or a SavedModel")
    compression.add_arguments(parser)
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    models.add_arguments(parser)
    group = runs.add_arguments(parser, steps="3750,750", rates="0.001,0.0001", train_dir="clustered")
    add_prior_correction(group)
    return parse_with_model(parser)


def main():
    args = parse_arguments()
    how, options = options_from(CompressionOptions, args), RunOptions.from_arguments(args)
    adjustment = options_from(StartOptions, args)
    training = options.training

    # 1. The trained model, and its settings.
    network, settings = models.load_checkpoint(args.checkpoint, SettingsFlags.from_arguments(args))
    settings = checkpoints.without_detector(settings, args.checkpoint)

    # 2. Data: labelled clips by partition, noise, negatives.
    data = input_data.open_data(options.data, settings)
    check_data(data, settings, options.data.data_dir, options.variation)

    # 3. How good the model is before.
    test_features = input_data.features(data.testing, settings.front_end)  # [clips, feature_count]

    def report(when, model):
        name = f"testing {when} {how.method}, {protocol_of(data.testing, options.data)}"
        return Report.from_scores(name, settings.labels, data.testing.label, model.predict(test_features))

    keras.utils.set_random_seed(training.seed)
    before = report("before", KerasModel(network, settings))
    print(before.summary())

    # 4. What is trained: by the method, the network in training, and the plain network to keep of it.
    fold_batch_norm_in_place(network)
    steps, clips = training.total_steps, data.validation
    trainee = dataclasses.replace(
        compression.fine_tuning(network, how, steps, clips, settings, training.seed),
        starts_trained=True,
        teacher=load_teacher(training.teacher, settings, models.build_model),
        start=fingerprint(checkpoints.checkpoint_files(args.checkpoint)),
        made_by=(how, adjustment),
    )
    trainee = adjusted(trainee, adjustment, data, lambda: models.build_model(settings))

    # 5. Fine-tuning: the checkpoint that validates best is kept in `train_dir`/best.
    loop.fit(trainee, data, settings, options)

    # 6. How good that checkpoint is, and how few values it has.
    best = Path(training.train_dir) / "best"
    model = models.load(best)
    print_distinct_values(model.network, how)
    print(report("after", model).summary())
    print(f"checkpoint after {how.method}: {checkpoints.checkpoint_prefix(best)}")


def print_distinct_values(network, how: CompressionOptions):
    """Print in one line how many values each kernel has, and which kernels are as they were."""
    counts = []
    for layer in network.layers:
        for kernel in kernels(layer):
            count, zeros = len(np.unique(kernel)), 100 * np.mean(kernel.numpy() == 0)
            notes = f" ({zeros:.1f} % zeros)" if zeros > 1 else ""
            if how.method == "clustering" and count > how.clusters:
                notes += " (which tensorflow-model-optimization leaves as it is)"
            counts.append(f"{kernel.name.removesuffix(':0')} {count}{notes}")
    print(f"distinct values after {how.method}: {', '.join(counts)}")


if __name__ == "__main__":
    run(main)
