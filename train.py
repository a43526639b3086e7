"""Train a keyword-spotting model: fit it, keep the checkpoint that validates best, and export that one.

The same command given again goes on where it was interrupted.
"""

from pathlib import Path

import numpy as np

import input_data
import models
import plots
import training
from reports import Report
from settings import SILENCE_INDEX, new_parser, resolve, run


def parse_arguments():
    parser = new_parser(__doc__)
    input_data.add_arguments(parser)
    input_data.add_augmentation_arguments(parser)
    models.add_arguments(parser)
    group = training.add_arguments(parser, steps="15000,3000", rates="0.001,0.0001", train_dir="train")
    group.add_argument(
        "--batch_norm",
        action="store_true",
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
        help="draw learning curves, and what the model hears in the test clips, into this folder",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    training.check_arguments(args)
    settings = resolve(args, None, "")
    data = input_data.open_data(args, settings)
    training.check_clips(data, settings, args)

    strategy = training.new_strategy(args.distribute)

    from backend import keras

    keras.utils.set_random_seed(args.seed)
    best = Path(args.train_dir) / "best"
    with strategy.scope():
        model = models.build_model(settings)
        if args.batch_norm:
            real = data.validation.take(np.flatnonzero(data.validation.label != SILENCE_INDEX))
            model = models.with_batch_norm(model, input_data.features(real, settings))

    def save(name):
        plain = models.fold_batch_norm(model, settings) if args.batch_norm else model
        models.keep_best(plain, settings, best, name)

    start = "random, with batch normalisation" if args.batch_norm else "random"
    training.fit(model, data, settings, args, start, save)
    number, workers = training.worker(strategy)
    if number == 0:
        finish(args, settings, data, best)
    else:
        print(f"worker {number} of {workers} is done; worker 0 has the model")


def finish(args, settings, data, best):
    """Export the best checkpoint, and say how good it is."""
    model, _ = models.load_checkpoint(best, args)
    models.export_saved_model(model, settings, Path(args.train_dir) / "saved_model")
    models.export_keras_file(model, settings, Path(args.train_dir) / f"{settings.model_architecture}.keras")
    features = input_data.features(data.testing, settings)
    scores = models.keras_scores(model)(features)
    name = f"testing, {input_data.protocol(args)}"
    report = Report.of(name, settings.labels, data.testing.label, scores)
    print(report.text())
    if args.plots:
        plots.write_training_plots(args.plots, training.read_history(args.train_dir))
        plots.write_report_plots(args.plots, "testing", report, settings, data.testing, features, scores)
    print(f"best checkpoint: {models.checkpoint_prefix(best)}")
    print(f"SavedModel and .keras file: {args.train_dir}")


if __name__ == "__main__":
    run(main)
