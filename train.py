"""Train a keyword-spotting model: fit it, keep the checkpoint that validates best, and export that one.

The same command resumes an interrupted run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import input_data
import models
from kws.audio.folders import parse_flags
from kws.base.errors import UserError, run
from kws.base.files import fingerprint
from kws.base.flags import bounded, flag_adder, new_parser, options_from
from kws.base.quiet_tf import keras
from kws.base.settings import SILENCE_INDEX, Settings, SettingsFlags
from kws.data.batches import Batching
from kws.data.checks import check_data
from kws.data.dataset import Data
from kws.detect.held_out import sensitivities_text
from kws.model import checkpoints, speech_embedding
from kws.model.batch_norm import fold_batch_norm_into_plain_model, load_plain_weights, with_batch_norm
from kws.model.transfer import settings_to_start, trunk_layers
from kws.report import plots
from kws.report.reports import Report, protocol_of
from kws.train import loop, runs
from kws.train.distribution import Devices, open_devices
from kws.train.runs import RunOptions
from kws.train.trainee import (
    StartOptions,
    Trainee,
    add_prior_correction,
    adjusted,
    embedding_trainee,
    load_teacher,
    start_from,
)
from kws.trunk.head import head_trainee
from kws.trunk.outputs import StoredOutputs, split
from kws.trunk.thresholds import chosen_detector

CLIPS_TO_MEASURE_ON = 1000  # the statistics of a batch normalisation


def parse_arguments():
    parser = new_parser(__doc__)
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    models.add_arguments(parser)
    group = runs.add_arguments(parser, steps="15000,3000", rates="0.001,0.0001", train_dir="train")
    add = flag_adder(group, StartOptions)
    group.add_argument(
        "--start_from",
        "--start_checkpoint",
        dest="start_checkpoint",
        metavar="PATH",
        help="start from these weights instead of random ones: a checkpoint of the same network; if its "
        "--wanted_words differ, new words' weights in the last layer start at random. One flag of two names",
    )
    add(
        "freeze_start",
        "train only what --start_from does not give, and the last layer",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "blend_start",
        "average the trained weights with P %% of the starting ones before validating, so that the model "
        "forgets less (arXiv:2109.01903); the last layer only if it is for the same words",
        type=bounded(float, 0, 100),
        metavar="P",
    )
    add(
        "trunk_negatives",
        "outputs of the frozen trunk for negatives (model_archive/negatives.py); they choose thresholds too",
        metavar="FILE",
    )
    add_prior_correction(group)
    add(
        "batch_norm",
        "normalise features and batches of each layer's sums while training a dnn; the checkpoints hold the "
        "plain network, with the normalisation folded into its weights",
        action=argparse.BooleanOptionalAction,
    )
    group.add_argument(
        "--distribute",
        choices=("none", "mirrored", "multi_worker"),
        default="none",
        help="train on one device, on all GPUs of this machine, or on the workers that TF_CONFIG lists, "
        "which share --data_dir and --train_dir",
    )
    plots_help = "draw learning curves, and confusions of the test clips, into this folder"
    parser.add_argument("--plots", metavar="DIR", help=plots_help)
    return parse_flags(parser)


def main():
    args = parse_arguments()
    start_options, options = options_from(StartOptions, args), RunOptions.from_arguments(args)

    # 1. Settings: from the checkpoint to start from, and from the flags.
    start, flags = start_options.start_checkpoint, SettingsFlags.from_arguments(args)
    settings = settings_to_start(start, flags) if start else flags.resolve()

    # 2. Data: labelled clips by partition, noise, negatives.
    data = input_data.open_data(options.data, settings)
    check_data(data, settings, options.data.data_dir, options.variation)

    # 3. What is trained: a network in training, and the plain network to keep of it.
    devices = open_devices(args.distribute)
    keras.utils.set_random_seed(options.training.seed)
    trainee = new_trainee(start_options, settings, data, options, devices)

    # 4. Training: the checkpoint that validates best is kept in `train_dir`/best.
    loop.fit(trainee, data, settings, options)

    # 5. That checkpoint, exported and tested.
    if devices.is_first:
        finish(Path(options.training.train_dir), data, options, start_options, args.plots)
    else:
        print(f"{devices} is done; the first one has the model")


def new_trainee(
    start_options: StartOptions, settings: Settings, data: Data, options: RunOptions, devices: Devices
) -> Trainee:
    """Build the network in training, and say which plain network is validated and kept of it."""
    # random weights, or the checkpoint's
    start, same_labels, frozen = "random", True, None
    with devices.scope():
        network = models.build_model(settings)
        if start_options.start_checkpoint:
            same_labels = start_from(start_options.start_checkpoint, network, settings)
            start = fingerprint(checkpoints.checkpoint_files(start_options.start_checkpoint))
        if start_options.freeze_start:
            frozen = trunk_layers(checkpoints.read_settings(start_options.start_checkpoint), settings)
            if frozen is None and start_options.trunk_negatives:
                what = f"--trunk_negatives: {start_options.start_checkpoint} has this network's head already"
                raise UserError(
                    f"{what}; --start_from its trunk, model_archive/model_source/pretrained_stream"
                )
            if frozen is None:
                freeze(network)
    start_weights = network.get_weights()
    if not same_labels:
        del start_weights[-2:]  # the last layer's, some of which are random

    # batch normalisation around it, which is folded into a plain network again
    plain_network = network
    if start_options.batch_norm:
        with devices.scope():
            network = normalised(network, data, options, settings, start_options.start_checkpoint)
        plain_network = models.build_model(settings)

    def plain():
        if start_options.batch_norm:
            fold_batch_norm_into_plain_model(network, plain_network)
        return plain_network

    if options.training.teacher == speech_embedding.NAME:
        return embedding_trainee(network, data, settings, start, (start_options,))
    if frozen:
        # the trunk is computed once for each clip, and the head alone is in training
        devices.check_single("--freeze_start")
        if options.training.teacher or start_options.blend_start:
            what = "--freeze_start learns a new head on the trunk, by labels"
            raise UserError(f"{what}: leave out --teacher and --blend_start")
        trainee = head_trainee(network, settings, frozen, start_options, options.training, start)
        return adjusted(trainee, start_options, data, lambda: models.build_model(settings))
    trainee = Trainee(
        network,
        plain,
        starts_trained=bool(start_options.start_checkpoint),
        teacher=load_teacher(options.training.teacher, settings, models.build_model),
        start=start,
        made_by=(start_options,),
    )
    # blended weights and a corrected bias are validated and kept instead
    return adjusted(trainee, start_options, data, lambda: models.build_model(settings), start_weights)


def freeze(network):
    """Keep all layers with weights but the last as they are, statistics too."""
    for layer in [layer for layer in network.layers if layer.weights][:-1]:
        layer.trainable = False


def normalised(network, data: Data, options: RunOptions, settings: Settings, starts_trained):
    """Return a network like `network` with batch normalisation; it computes the same if that is trained."""
    # of varied clips: words by synthesis all begin and end in digital silence, which has no deviation
    one = Batching(batch_size=CLIPS_TO_MEASURE_ON, seed=0, steps=range(1))
    (batch,) = input_data.training_batches(data, options.variation, settings.front_end, one)
    result = with_batch_norm(network, batch.features[batch.labels != SILENCE_INDEX])
    if starts_trained:
        load_plain_weights(result, network, batch.features)
    return result


def finish(train_dir: Path, data: Data, options: RunOptions, start_options: StartOptions, plots_folder):
    """Export the best checkpoint in `train_dir`, and print how good it is."""
    model = models.load(train_dir / "best")
    settings = model.settings
    if options.training.teacher == speech_embedding.NAME:
        print(
            f"pretrained convolutions, for --start_from: {checkpoints.checkpoint_prefix(train_dir / 'best')}"
        )
        return
    if start_options.trunk_negatives:
        settings = choose_thresholds(model, train_dir / "best", data, options, start_options)
    checkpoints.export_saved_model(model.network, settings, train_dir / "saved_model")
    checkpoints.export_keras_file(model.network, settings, train_dir / f"{settings.model_architecture}.keras")
    features = input_data.features(data.testing, settings.front_end)  # [clips, feature_count]
    scores = model.predict(features)  # [clips, labels]
    name = f"testing, {protocol_of(data.testing, options.data)}"
    report = Report.from_scores(name, settings.labels, data.testing.label, scores)
    print(report.text())
    if plots_folder:
        plots.write_training_plots(plots_folder, runs.read_history(train_dir))
        plots.write_report_plots(plots_folder, "testing", report, settings, data.testing, features, scores)
    print(f"best checkpoint: {checkpoints.checkpoint_prefix(train_dir / 'best')}")
    print(f"SavedModel and .keras file: {train_dir}")


def choose_thresholds(model, path, data: Data, options: RunOptions, start_options: StartOptions) -> Settings:
    """Choose thresholds on stored negatives, write them into the checkpoint, and return its settings."""
    frozen = trunk_layers(checkpoints.read_settings(start_options.start_checkpoint), model.settings)
    every = StoredOutputs.read(start_options.trunk_negatives, split(model.network, frozen)[0])
    # where a word is often said, it would be detected rightly, not falsely
    stored = every.without(model.settings.wanted_words)
    allowed = options.training.false_alarms_per_hour
    settings = replace(model.settings, detector=chosen_detector(model, frozen, stored, data, allowed))
    checkpoints.write_settings(path, settings)
    print(f"thresholds from {start_options.trunk_negatives}:\n  {sensitivities_text(settings.detector)}")
    for name in [name for name in every.names if name not in stored.names]:
        print(f"  not from {name}, in which a word is often said: expect more false alarms than these")
    print("These words are validation clips; if they are synthetic, people are missed more often.\n")
    return settings


if __name__ == "__main__":
    run(main)
