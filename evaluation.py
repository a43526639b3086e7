"""Measure how good a model is: accuracy, confusion matrix, precision and recall, on validation and test sets.

With --ambient or --stream_wav, count false alarms and misses in long recordings instead. A model carries its
settings, so it needs no other flag; several models end in one table.
"""

from dataclasses import replace
from pathlib import Path

import input_data
import models
from kws.base.errors import run
from kws.base.files import write_json
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import SettingsFlags
from kws.data.dataset import DEFAULT_DATA_DIR, DataOptions
from kws.detect import labelled_streams, measure, streaming
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


def parse_arguments():
    parser = new_parser(__doc__)
    any_form = "models to evaluate: checkpoints, folders of checkpoints, SavedModels or TFLite files"
    parser.add_argument("models", metavar="MODEL", nargs="*", help=any_form)
    for alias in ("--checkpoint", "--tflite_path"):
        parser.add_argument(alias, metavar="MODEL", nargs="+", default=[], help="the same as MODEL")
    parser.add_argument(
        "--test_dir",
        metavar="DIR",
        help="evaluate this folder too, one folder of recordings per label; one named "
        "speech_commands_test_set_v0.02 is downloaded if it is missing",
    )
    parser.add_argument("--json", metavar="FILE", help="write the same figures to this file")
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="draw into this folder: confusion matrices, recall per label and the clips misclassified with "
        "most confidence; for long recordings misses against false alarms",
    )
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    add_stream_arguments(parser)
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
    group = parser.add_argument_group("evaluation on long recordings")
    group.add_argument(
        "--ambient",
        metavar="DIR",
        nargs="+",
        help="count false alarms in these folders of recordings without the words, and misses in a stream of "
        "validation clips (or --stream_wav); choose the threshold for --false_alarms_per_hour",
    )
    group.add_argument(
        "--ambient_test",
        metavar="DIR",
        nargs="+",
        help="try the threshold on these folders too, and on a stream of test clips",
    )
    group.add_argument(
        "--write_detector",
        action="store_true",
        help="write the detector into the model's settings, where label_wav.py finds it: normal sensitivity "
        "for --false_alarms_per_hour, low for a fifth of them, high for four times as many",
    )
    group.add_argument(
        "--stream_wav",
        metavar="FILE",
        help="count misses in this recording, and without --ambient its false alarms too",
    )
    group.add_argument(
        "--stream_words",
        metavar="FILE",
        help="the words in it: a CSV file with a line seconds,word for the middle of each",
    )
    group.add_argument(
        "--stream_minutes",
        type=bounded(float, 0.1, 600),
        default=30,
        metavar="N",
        help="length of the streams made of clips",
    )
    group.add_argument(
        "--false_alarms_per_hour",
        type=bounded(float, 0),
        default=5,
        metavar="N",
        help="most that are accepted; the threshold is chosen for this",
    )
    group.add_argument(
        "--seed",
        type=bounded(int, 0, 2**32 - 1),
        default=0,
        metavar="N",
        help="chooses the clips of the streams",
    )


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
    stems = [Path(path).stem for path in loaded]
    titles = {path: Path(path).stem if stems.count(Path(path).stem) == 1 else path for path in loaded}
    known_sets, evaluations = {}, {}
    for path, model in loaded.items():
        settings = model.settings
        key = clips_key(settings)
        if key not in known_sets:
            known_sets[key] = labelled_features(data_options, args.test_dir, settings)
        evaluations[path] = Evaluation(model.cost())
        for (set_name, protocol), (clips, features) in known_sets[key].items():
            scores = model.predict(features)
            report = Report.from_scores(f"{set_name}, {protocol}", settings.labels, clips.label, scores)
            evaluations[path].add(set_name, report, clips, scores)
            print(f"{path}: {report.text()}")
            if args.plots:
                prefix = f"{titles[path]}_{set_name}"
                plots.write_report_plots(args.plots, prefix, report, settings, clips, features, scores)
    if len(evaluations) > 1:
        print(paired_tests(evaluations), end="\n\n")
    print(comparison_table(evaluations))
    if args.plots and len(evaluations) > 1:
        last = {
            titles[path]: list(evaluation.reports.values())[-1] for path, evaluation in evaluations.items()
        }
        costs = {titles[path]: evaluation.cost for path, evaluation in evaluations.items()}
        plots.write_comparison_plot(args.plots, last, costs)
    if args.json:
        content = {
            path: [report.as_dict() for report in evaluation.reports.values()]
            for path, evaluation in evaluations.items()
        }
        write_json(args.json, content)


def clips_key(settings):
    """Return the settings that clips and their features depend on; models usually share them."""
    percentages = settings.validation_percentage, settings.testing_percentage
    return settings.front_end, settings.wanted_words, percentages


def labelled_features(data_options, test_dir, settings):
    """Return the sets to evaluate: {(name, protocol): (clips, features [n, feature_count])}."""
    sets = {}
    default = data_options.data_dir == str(DEFAULT_DATA_DIR)
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
    results, curves = {}, {}
    for path in args.paths:
        model = models.load(path, flags)
        # the threshold is chosen on the first stream, and tried on the second
        chosen_on, *tried_on = streams(args, model.settings)
        measured = measure.measure(args.ambient, chosen_on, model, options, verifier)
        if verifier:
            measured = measure.with_best_gate(measured, args.false_alarms_per_hour)
            gate = measured.parameters.gate
            print(f"{args.verifier} is asked about words that have a score of {gate:g} or more in {path}")
        points = curves[path] = measure.sweep(measured)
        chosen = measure.operating_point(points, args.false_alarms_per_hour).threshold
        print(f"{path}: {measure.text(measured, points, args.false_alarms_per_hour)}")
        print(f"  {measure.outcome_text(measured, chosen)}")
        results[path] = {
            "hours": measured.hours,
            "words": len(chosen_on.words),
            "threshold": chosen,
            "points": [point._asdict() for point in points],
        }
        for stream in tried_on:
            asked = replace(options, gate=measured.parameters.gate)
            tested = measure.measure(args.ambient_test, stream, model, asked, verifier)
            print(f"  on other recordings: {measure.outcome_text(tested, chosen)}")
            results[path]["test"] = tested.point(chosen)._asdict()
        if args.write_detector:
            detector = measure.detector_settings(measured, points, args.false_alarms_per_hour)
            # The first stage alone has other thresholds than the two together.
            target, settings = (args.verifier, verifier.settings) if verifier else (path, model.settings)
            checkpoints.write_settings(target, replace(settings, detector=detector))
            print(f"  detector written into {target}\n  {measure.sensitivities_text(detector)}")
    if args.plots:
        plots.write_det_plot(args.plots, curves)
    if args.json:
        write_json(args.json, results)


def streams(args, settings):
    """Return the streams of words that the flags ask for: one, and with --ambient_test another."""
    if args.stream_wav:
        return [labelled_streams.read_stream(args.stream_wav, args.stream_words, settings)]
    data = input_data.open_data(options_from(DataOptions, args), settings)
    sets = {"validation": data.validation}
    if args.ambient_test:
        sets["testing"] = data.testing
    return [
        labelled_streams.make_stream(
            name, clips, data.noise, args.stream_minutes, [args.seed, number], settings
        )
        for number, (name, clips) in enumerate(sets.items())
    ]


if __name__ == "__main__":
    run(main)
