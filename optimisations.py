"""Compress a trained model: cluster, prune or quantize its weights, and fine-tune them.

The default is weight clustering by tensorflow-model-optimization: at most 32 distinct values in each kernel,
initialised by k-means++. The result is a checkpoint like any other. The same command resumes an interrupted
run.
"""

from pathlib import Path

import numpy as np

import input_data
import models
from kws.base.errors import run
from kws.base.files import fingerprint
from kws.base.flags import add_model, new_parser, options_from, parse_with_model
from kws.base.quiet_tf import keras
from kws.base.settings import SettingsFlags
from kws.data.augmentation import Augmentation
from kws.data.checks import check_data
from kws.data.dataset import DataOptions
from kws.model import checkpoints
from kws.model.batch_norm import fold_batch_norm_in_place
from kws.model.checkpoints import KerasModel
from kws.model.inspection import kernels
from kws.report.reports import Report, protocol_of
from kws.train import averaging, compression, loop
from kws.train.compression import CompressionOptions
from kws.train.loop import TrainingOptions


def parse_arguments():
    parser = new_parser(__doc__)
    add_model(parser, "model to start from: a checkpoint, a folder of checkpoints, or a SavedModel")
    compression.add_arguments(parser)
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    models.add_arguments(parser)
    averaging.add_arguments(parser)
    loop.add_arguments(parser, steps="3750,750", rates="0.001,0.0001", train_dir="clustered")
    return parse_with_model(parser)


def main():
    args = parse_arguments()
    how = options_from(CompressionOptions, args)
    options = options_from(TrainingOptions, args)
    variation = options_from(Augmentation, args)
    data_options = options_from(DataOptions, args)
    network, settings = models.load_checkpoint(args.checkpoint, SettingsFlags.from_arguments(args))
    settings = checkpoints.without_detector(settings, args.checkpoint)
    data = input_data.open_data(data_options, settings)
    check_data(data, settings, data_options.data_dir, variation)
    test_features = input_data.features(data.testing, settings.front_end)

    def report(when, model):
        name = f"testing {when} {how.method}, {protocol_of(data.testing, data_options)}"
        return Report.from_scores(name, settings.labels, data.testing.label, model.predict(test_features))

    keras.utils.set_random_seed(options.seed)
    before = report("before", KerasModel(network, settings))
    print(before.summary())

    fold_batch_norm_in_place(network)
    tuned = compression.fine_tuning(
        network, how, options.total_steps, data.validation, settings, options.seed
    )
    start = f"{fingerprint(checkpoints.checkpoint_files(args.checkpoint))}, {how}"
    offset = averaging.unknown_offset(data) if args.prior_correction else 0
    derived = (
        averaging.Kept(tuned.plain, models.build_model(settings), unknown_offset=offset) if offset else None
    )
    start += derived.changes if derived else ""
    loop.fit(
        tuned.model,
        data,
        settings,
        options,
        variation,
        data_options,
        start=start,
        plain=derived or tuned.plain,
        validated=derived and derived.network,
        latent=tuned.latent,
        keep_from=tuned.keep_from,
        starts_trained=True,
        teacher=loop.load_teacher(options.teacher, settings, models.build_model) if options.teacher else None,
    )

    best = Path(options.train_dir) / "best"
    model = models.load(best)
    print_distinct_values(model.network, how)
    print(before.summary())
    print(report("after", model).summary())
    print(f"checkpoint after {how.method}: {checkpoints.checkpoint_prefix(best)}")


def print_distinct_values(network, how: CompressionOptions):
    """How many values each kernel has, and which are as they were."""
    for layer in network.layers:
        for kernel in kernels(layer):
            count, zeros = len(np.unique(kernel)), 100 * np.mean(kernel.numpy() == 0)
            notes = f", {zeros:.1f} % zeros" if zeros > 1 else ""
            if how.method == "clustering" and count > how.clusters:
                notes += ", which tensorflow-model-optimization leaves as it is"
            print(f"distinct values of {kernel.name.removesuffix(':0')}: {count}{notes}")


if __name__ == "__main__":
    run(main)
