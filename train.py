"""Train a keyword-spotting model: fit it, keep the checkpoint that validates best, and export that one.

The same command resumes an interrupted run.
"""

import argparse
from pathlib import Path

import input_data
import models
from kws.audio.folders import parse_flags
from kws.base.errors import run
from kws.base.files import fingerprint
from kws.base.flags import bounded, new_parser, options_from
from kws.base.quiet_tf import keras
from kws.base.settings import SILENCE_INDEX, SettingsFlags
from kws.data.augmentation import Augmentation
from kws.data.checks import check_data
from kws.data.dataset import DataOptions
from kws.model import checkpoints
from kws.model.batch_norm import fold_batch_norm_into_plain_model, load_plain_weights, with_batch_norm
from kws.report import plots
from kws.report.reports import Report, protocol_of
from kws.train import averaging, distribution, loop
from kws.train.loop import TrainingOptions
from kws.train.run_folder import read_history

CLIPS_TO_MEASURE_ON = 1000  # the statistics of a batch normalisation


def parse_arguments():
    parser = new_parser(__doc__)
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    models.add_arguments(parser)
    group = loop.add_arguments(parser, steps="15000,3000", rates="0.001,0.0001", train_dir="train")
    group.add_argument(
        "--start_from",
        "--start_checkpoint",
        dest="start_checkpoint",
        metavar="PATH",
        help="start from these weights instead of random ones: a checkpoint of the same network; where its "
        "--wanted_words differ, new words' weights in the last layer start at random. One flag of two names",
    )
    group.add_argument(
        "--blend_start",
        type=bounded(float, 0, 100),
        default=0,
        metavar="P",
        help="validate and keep the weighted mean of the trained weights and, to so many per cent, those of "
        "--start_checkpoint, which forgets less of what that one knew (arXiv:2109.01903); the last layer's "
        "only where it is for the same words",
    )
    averaging.add_arguments(group)
    group.add_argument(
        "--batch_norm",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="normalise features and batches of each layer's sums while training a dnn; the checkpoints hold "
        "the plain network, with the normalisation folded into its weights",
    )
    group.add_argument(
        "--distribute",
        choices=("none", "mirrored", "multi_worker"),
        default="none",
        help="train on one device, on all GPUs of this machine, or on the workers that TF_CONFIG lists, "
        "which share --data_dir and --train_dir",
    )
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="draw learning curves, and confusions of the test clips, into this folder",
    )
    args = parse_flags(parser)
    if args.blend_start and not args.start_checkpoint:
        parser.error("--blend_start is for training that starts from a checkpoint: give --start_from")
    return args


def main():
    args = parse_arguments()
    options = options_from(TrainingOptions, args)
    variation = options_from(Augmentation, args)
    data_options = options_from(DataOptions, args)
    settings, start = how_to_start(args.start_checkpoint, SettingsFlags.from_arguments(args))
    data = input_data.open_data(data_options, settings)
    check_data(data, settings, data_options.data_dir, variation)

    strategy = distribution.new_strategy(args.distribute)
    keras.utils.set_random_seed(options.seed)
    with strategy.scope():
        model = models.build_model(settings)
        same_labels = True
        if args.start_checkpoint:
            same_labels = loop.start_from(args.start_checkpoint, model, settings)
        if args.batch_norm:
            start += ", with batch normalisation"
            # as varied: words by synthesis all begin and end in digital silence, without any deviation
            batch = some_training_clips(data, variation, settings)
            network, model = model, with_batch_norm(model, batch.features[batch.labels != SILENCE_INDEX])
            if args.start_checkpoint:
                load_plain_weights(model, network, batch.features)

    def plain():
        return (
            fold_batch_norm_into_plain_model(model, models.build_model(settings))
            if args.batch_norm
            else model
        )

    teacher = loop.load_teacher(options.teacher, settings, models.build_model) if options.teacher else None
    offset = averaging.unknown_offset(data) if args.prior_correction else 0
    blended = None
    if args.blend_start:  # but not a last layer of other words, which starts at random
        blended = (network if args.batch_norm else model).get_weights()[: None if same_labels else -2]
    derived = None
    if args.blend_start or offset:
        derived = averaging.Kept(plain, models.build_model(settings), blended, args.blend_start, offset)
        start += derived.changes
    loop.fit(
        model, data, settings, options, variation, data_options, start=start, plain=derived or plain,
        validated=derived and derived.network, starts_trained=bool(args.start_checkpoint), teacher=teacher,
    )  # fmt: skip
    worker, workers = distribution.worker_index_and_count(strategy)
    if worker == 0:
        finish(Path(options.train_dir), data, data_options, args.plots)
    else:
        print(f"worker {worker} of {workers} is done; worker 0 has the model")


def how_to_start(checkpoint, flags):
    """The settings of the model to train, and what identifies its weights at the start."""
    if not checkpoint:
        return flags.resolve(), "random"
    settings = checkpoints.settings_to_start(checkpoint, flags)
    return settings, fingerprint(checkpoints.checkpoint_files(checkpoint))


def some_training_clips(data, variation, settings):
    """A Batch of CLIPS_TO_MEASURE_ON training clips as training varies them."""
    (batch,) = input_data.training_batches(
        data, variation, settings.front_end, batch_size=CLIPS_TO_MEASURE_ON, seed=0, steps=range(1)
    )
    return batch


def finish(train_dir, data, data_options, plots_folder):
    """Export the best checkpoint in `train_dir`, and print how good it is."""
    model = models.load(train_dir / "best")
    settings = model.settings
    checkpoints.export_saved_model(model.network, settings, train_dir / "saved_model")
    checkpoints.export_keras_file(model.network, settings, train_dir / f"{settings.model_architecture}.keras")
    features = input_data.features(data.testing, settings.front_end)
    scores = model.predict(features)
    name = f"testing, {protocol_of(data.testing, data_options)}"
    report = Report.from_scores(name, settings.labels, data.testing.label, scores)
    print(report.text())
    if plots_folder:
        plots.write_training_plots(plots_folder, read_history(train_dir))
        plots.write_report_plots(plots_folder, "testing", report, settings, data.testing, features, scores)
    print(f"best checkpoint: {checkpoints.checkpoint_prefix(train_dir / 'best')}")
    print(f"SavedModel and .keras file: {train_dir}")


if __name__ == "__main__":
    run(main)
