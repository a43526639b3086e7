"""Measure how good a model is: accuracy, confusion matrix, precision and recall, on validation and test sets.

With --ambient or --stream_wav, count false alarms and misses in long recordings instead. A model carries its
settings, so it needs no other flag; several models end in one table.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

import input_data
import models
from kws.base.errors import run
from kws.base.files import write_json
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import SettingsFlags
from kws.data.dataset import DEFAULT_DATA_DIR, DataOptions
from kws.detect import held_out, labelled_streams, measure, streaming
from kws.detect.streaming import DetectorOptions
from kws.model import checkpoints
from kws.report import plots
from kws.report.reports import Evaluation, Report, comparison_table, paired_tests, protocol_of

# each flag, and the flags of which it needs one
NEEDS = (
    ("ambient_test", "ambient"),
    ("write_detector", "ambient"),
    ("stream_wav", "stream_words"),
    ("stream_words", "stream_wav"),
    ("verifier", "ambient", "stream_wav"),
    # in a stream made of clips hardly any word follows the wake word
    ("wake_word", "stream_wav"),
)
EXCLUDE = (
    # a test needs a second stream of words
    ("ambient_test", "stream_wav"),
    # a threshold chosen with the wake word is too low without it
    ("wake_word", "write_detector"),
    # clips are not evaluated beside long recordings
    ("test_dir", "ambient"),
    ("test_dir", "stream_wav"),
)

# Streams mixed with noise: the longest of one condition, and the longest of all beside what was listened to.
MIXED_MINUTES, MIXED_SHARE = 10, 0.3
MIXED_SEED = 2  # after the streams without one


def parse_arguments():
    parser = new_parser(__doc__)
    add = parser.add_argument
    forms = "models to evaluate: checkpoints, folders of checkpoints, SavedModels or TFLite files"
    add("models", metavar="MODEL", nargs="*", help=forms)
    for alias in ("--checkpoint", "--tflite_path"):
        add(alias, metavar="MODEL", nargs="+", default=[], help="the same as MODEL")
    tests = "evaluate this folder of one folder per label too; speech_commands_test_set_v0.02 is downloaded"
    add("--test_dir", metavar="DIR", help=tests)
    add("--json", metavar="FILE", help="write the same figures to this file")
    drawn = "draw confusions, recall and mistakes, or misses by false alarms and by noise, into this folder"
    add("--plots", metavar="DIR", help=drawn)
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    add_stream_arguments(parser)
    # models may stand before, between and after flags
    args = parser.parse_intermixed_args()
    args.paths = [*args.models, *args.checkpoint, *args.tflite_path]
    check_flags(parser, args)
    return args


def check_flags(parser, args):
    """End with an error if flags do not go together."""
    if not args.paths:
        parser.error("a MODEL is needed: a checkpoint or a TFLite file")
    for flag, *needed in NEEDS:
        if getattr(args, flag) and not any(getattr(args, one) for one in needed):
            parser.error(f"--{flag} needs --{' or --'.join(needed)}")
    for one, other in EXCLUDE:
        if getattr(args, one) and getattr(args, other):
            parser.error(f"--{one} does not go with --{other}: leave one of them out")
    if args.verifier and args.write_detector and len(args.paths) > 1:
        parser.error("--verifier holds thresholds for one first stage: give one model to --write_detector")


def add_stream_arguments(parser):
    streaming.add_arguments(parser)
    add = parser.add_argument_group("evaluation on long recordings").add_argument
    counted = "count false alarms in these folders; each recording or folder directly in one is held out once"
    add("--ambient", metavar="DIR", nargs="+", help=counted)
    tried = "try the threshold on these folders too, and on a stream of test clips"
    add("--ambient_test", metavar="DIR", nargs="+", help=tried)
    recording = "count misses in this recording, and without --ambient its false alarms too"
    add("--stream_wav", metavar="FILE", help=recording)
    words = "the words in it: lines seconds,word for the middle of each, or a label track of Audacity's"
    add("--stream_words", metavar="FILE", help=words)
    minutes, rate, seed = bounded(float, 0.1, 600), bounded(float, 0), bounded(int, 0, 2**32 - 1)
    length = "length of the streams made of clips"
    add("--stream_minutes", type=minutes, default=30, metavar="N", help=length)
    accepted = "most that are accepted; the threshold is chosen for this"
    add("--false_alarms_per_hour", type=rate, default=5, metavar="N", help=accepted)
    # the factors are held_out.SENSITIVITY_RATES
    written = "write thresholds into the model: normal for this rate, low for a fifth, high for four times it"
    add("--write_detector", action="store_true", help=written)
    add("--seed", type=seed, default=0, metavar="N", help="chooses the clips of the streams")


def main():
    args = parse_arguments()
    if args.ambient or args.stream_wav:
        evaluate_streams(args)
    else:
        evaluate_clips(args)


# ---- on clips ----


def evaluate_clips(args):
    """Print a report of each model on each set of clips, and a table of the models."""
    flags, data_options = SettingsFlags.from_arguments(args), options_from(DataOptions, args)
    loaded = {path: models.load(path, flags) for path in args.paths}
    # plots are named after the file, or its path if two files have one name
    stems = [Path(path).stem for path in loaded]
    titles = {path: Path(path).stem if stems.count(Path(path).stem) == 1 else path for path in loaded}

    # 1. Each model on each set; models with the same front end and words share decoded clips.
    known_sets, evaluations = {}, {}
    for path, model in loaded.items():
        settings = model.settings
        shares = settings.validation_percentage, settings.testing_percentage
        key = settings.front_end, settings.wanted_words, shares
        if key not in known_sets:
            known_sets[key] = labelled_features(data_options, args.test_dir, settings)
        evaluations[path] = Evaluation(model.cost())
        for (set_name, protocol), (clips, features) in known_sets[key].items():
            scores = model.predict(features)  # [clips, labels]
            report = Report.from_scores(f"{set_name}, {protocol}", settings.labels, clips.label, scores)
            evaluations[path].add(set_name, report, clips, scores)
            print(f"{path}: {report.text()}")
            if args.plots:
                prefix = f"{titles[path]}_{set_name}"
                plots.write_report_plots(args.plots, prefix, report, settings, clips, features, scores)

    # 2. The models beside each other, paired on the same clips.
    if len(evaluations) > 1:
        print(paired_tests(evaluations), end="\n\n")
    print(comparison_table(evaluations))
    reports = {path: list(evaluation.reports.values()) for path, evaluation in evaluations.items()}
    if args.plots and len(evaluations) > 1:
        # one set, the last, as testing or --test_dir says more than validation
        last = {titles[path]: of_model[-1] for path, of_model in reports.items()}
        costs = {titles[path]: evaluation.cost for path, evaluation in evaluations.items()}
        plots.write_comparison_plot(args.plots, last, costs)
    if args.json:
        figures = {path: [one.as_dict() for one in of_model] for path, of_model in reports.items()}
        write_json(args.json, figures)


def labelled_features(data_options, test_dir, settings):
    """Return the sets to evaluate: {(name, protocol): (clips, features [n, feature_count])}."""
    sets = {}
    default = data_options.data_dir == str(DEFAULT_DATA_DIR)
    # --test_dir alone needs no download of the training data
    if test_dir and default and not Path(data_options.data_dir).exists():
        print(f"{data_options.data_dir} does not exist: evaluating {test_dir} alone")
    else:
        data = input_data.open_data(data_options, settings)
        sets["validation", protocol_of(data.validation, data_options)] = data.validation
        sets["testing", protocol_of(data.testing, data_options)] = data.testing
    if test_dir:
        folder = Path(test_dir).resolve().name
        name = "canonical" if folder.startswith("speech_commands_test_set") else "test_dir"
        sets[name, f"the clips in {folder}"] = input_data.open_test_dir(test_dir, settings)
    return {key: (clips, input_data.features(clips, settings.front_end)) for key, clips in sets.items()}


# ---- on long recordings ----


def evaluate_streams(args):
    """Print false alarms beside misses for each model, and choose a threshold; try it, and write it."""
    flags, options = SettingsFlags.from_arguments(args), options_from(DetectorOptions, args)
    verifier = models.load(args.verifier) if args.verifier else None
    allowed, results, curves, in_noise = args.false_alarms_per_hour, {}, {}, {}
    for path in args.paths:
        # 1. Score the negatives and a stream of words once; what follows only compares these scores.
        model = models.load(path, flags)
        data = (
            None if args.stream_wav else input_data.open_data(options_from(DataOptions, args), model.settings)
        )
        chosen_on, *tried_on = streams(args, data, model.settings)
        measured = smoothed_best(args, chosen_on, model, options, verifier)
        if verifier:
            measured = held_out.with_best_gate(measured, allowed)
            gate = measured.parameters.gate
            print(f"{args.verifier} is asked about words that have a score of {gate:g} or more in {path}")

        # 2. Choose the threshold with the fewest misses that keeps the rate on kinds of audio held out too.
        points = curves[path] = measure.sweep(measured)
        kinds = held_out.by_kind(measured, points)
        choice = held_out.choose(kinds, allowed)
        chosen = choice.threshold
        print(f"{path}: {measure.text(measured, points, allowed, chosen)}")
        print(f"  {measure.outcome_text(measured, chosen)}\n  {held_out.text(kinds, choice, allowed)}")
        results[path] = {
            "hours": measured.hours,
            "words": len(chosen_on.words),
            "threshold": chosen,
            "held_out": dict(zip(kinds.names, choice.held_out.tolist(), strict=True)),
            "points": [point._asdict() for point in points],
        }

        # 3. Mix words with more and more noise.
        if data:
            in_noise[path] = misses_in_noise(args, data, measured, chosen, model, verifier)
            results[path]["in_noise"] = [one._asdict() for one in in_noise[path]]

        # 4. Try it on recordings that it was not chosen on: only these figures are unbiased.
        for stream in tried_on:
            chosen_parameters = measured.parameters
            asked = replace(options, gate=chosen_parameters.gate, smoothing_ms=chosen_parameters.smoothing_ms)
            tested = measure.measure(args.ambient_test, stream, model, asked, verifier)
            print(f"  on other recordings: {measure.outcome_text(tested, chosen)}")
            results[path]["test"] = tested.point(chosen)._asdict()

        # 5. Write it where label_wav.py and export_c.py find it.
        if args.write_detector:
            detector = held_out.detector_settings(measured, kinds, allowed)
            # The first stage alone has other thresholds than the two together.
            target, settings = (args.verifier, verifier.settings) if verifier else (path, model.settings)
            checkpoints.write_settings(target, replace(settings, detector=detector))
            print(f"  detector written into {target}\n  {held_out.sensitivities_text(detector)}")
    if args.plots:
        plots.write_det_plot(args.plots, curves)
        plots.write_noise_plot(args.plots, in_noise)
    if args.json:
        write_json(args.json, results)


def smoothed_best(args, stream, model, options, verifier) -> measure.Measured:
    """Return what is measured with the smoothing that misses least at the accepted rate of false alarms."""
    ways = [options]
    if args.ambient and not (model.settings.detector or verifier):
        tried = streaming.SMOOTHING_MS.get(model.settings.model_architecture, (None,))
        ways = [replace(options, smoothing_ms=one) for one in tried]
    measured = [measure.measure(args.ambient, stream, model, way, verifier) for way in ways]

    def missed(one):
        return measure.operating_point(measure.sweep(one), args.false_alarms_per_hour).miss_rate

    return min(measured, key=missed) if len(measured) > 1 else measured[0]


def streams(args, data, settings):
    """Return the streams of words that the flags ask for: one, and with --ambient_test another."""
    if args.stream_wav:
        return [labelled_streams.read_stream(args.stream_wav, args.stream_words, settings)]
    sets = {"validation": data.validation} | ({"testing": data.testing} if args.ambient_test else {})
    # each stream has a seed of its own, so that one more flag does not change the first
    make, minutes = labelled_streams.make_stream, args.stream_minutes
    return [
        make(name, clips, data.noise, minutes, [args.seed, number], settings)
        for number, (name, clips) in enumerate(sets.items())
    ]


def misses_in_noise(args, data, measured, threshold, model, verifier):
    """Print and return misses of validation words in no noise, in noise of the data set and of --ambient."""
    seed, settings = [args.seed, MIXED_SEED], measured.settings
    files = [track.name for track in measured.negatives]
    noises = {"_background_noise_": np.concatenate(data.noise)} if data.noise else {}
    noises["--ambient"] = labelled_streams.recorded_noise(files, MIXED_MINUTES, seed, settings.sample_rate)
    # all mixed streams together are at most MIXED_SHARE as long as what was listened to
    conditions = 1 + len(noises) * len(labelled_streams.RATIOS_DB)
    heard = 60 * (measured.hours + measured.track.hours)
    minutes = min(MIXED_MINUTES, MIXED_SHARE * heard / conditions)
    mixed = labelled_streams.mixed_streams(data.validation, noises, minutes, seed, settings)
    misses = measure.misses_in_noise(measured, mixed, threshold, model, verifier)
    print(f"  {measure.noise_text(misses, threshold)}")
    return misses


if __name__ == "__main__":
    run(main)
