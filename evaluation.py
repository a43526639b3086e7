"""Measure how good a model is: accuracy, confusion matrix, precision and recall, on validation and test sets.

A model carries its settings, so it needs no other flag; several models end in one table.
"""

from dataclasses import replace
from pathlib import Path

import input_data
import models
from kws.base.errors import run
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import SettingsFlags
from kws.data.dataset import DEFAULT_DATA_DIR, DataOptions
from kws.detect import labelled_streams, measure, streaming
from kws.detect.streaming import DetectorOptions
from kws.model import checkpoints
from kws.report import plots
from kws.report.reports import Evaluation, Report, comparison_table, paired_tests, protocol_of, write_json


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        nargs="+",
        default=[],
        help="checkpoints, folders of checkpoints, or SavedModels",
    )
    parser.add_argument("--tflite_path", metavar="FILE", nargs="+", default=[], help="TFLite files")
    parser.add_argument(
        "--test_dir",
        metavar="DIR",
        help="evaluate this folder too, one folder of recordings per label; one named "
        "speech_commands_test_set_v0.02 is downloaded where it is missing",
    )
    parser.add_argument("--json", metavar="FILE", help="write the same figures to this file")
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="draw confusion matrices, recall per label and the clips misclassified with most confidence "
        "into this folder",
    )
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    add_stream_arguments(parser)
    args = parser.parse_args()
    args.paths = [*args.checkpoint, *args.tflite_path]
    if not args.paths:
        parser.error("one of --checkpoint and --tflite_path is needed")
    if bool(args.stream_wav) != bool(args.stream_words):
        parser.error("--stream_wav and --stream_words go together")
    if args.stream and args.stream_wav:
        parser.error("--stream makes recordings, --stream_wav gives one: give one of the two")
    if (args.ambient_test or args.write_detector) and not args.ambient:
        parser.error("--ambient_test and --write_detector need --ambient, which chooses the thresholds")
    if args.ambient and args.stream:
        parser.error("--ambient makes its own stream of words: leave out --stream")
    if args.ambient_test and args.stream_wav:
        parser.error(
            "--ambient_test needs a second stream of words, which --stream_wav is not: leave out one"
        )
    if args.verifier and not (args.ambient or args.stream or args.stream_wav):
        parser.error("--verifier is for long recordings: it needs --ambient, --stream or --stream_wav")
    if args.wake_word and (args.write_detector or (args.stream or args.ambient) and not args.stream_wav):
        parser.error(
            "--wake_word is for --stream_wav, without --write_detector: in a recording made of clips hardly "
            "any word follows it, and thresholds chosen with it are too low without it"
        )
    if args.verifier and len(args.paths) > 1 and args.write_detector:
        parser.error("--verifier holds thresholds for one first stage: give one model to --write_detector")
    on_streams = args.stream or args.stream_wav and not args.ambient
    if on_streams and (args.plots or args.test_dir):
        parser.error("--plots and --test_dir are for clips, not for long recordings")
    return args


def add_stream_arguments(parser):
    streaming.add_arguments(parser)
    group = parser.add_argument_group("evaluation on long recordings")
    group.add_argument(
        "--stream",
        action="store_true",
        help="count false alarms and false rejects on long recordings: one made of the validation clips, to "
        "choose a threshold, and one of the test clips, to try it",
    )
    group.add_argument(
        "--ambient",
        metavar="DIR",
        nargs="+",
        help="count false alarms in these folders of recordings without the words, and misses in a stream of "
        "validation clips (or --stream_wav); choose thresholds for --false_alarms_per_hour",
    )
    group.add_argument(
        "--ambient_test",
        metavar="DIR",
        nargs="+",
        help="and try these thresholds on other such folders, and on a stream of test clips",
    )
    group.add_argument(
        "--write_detector",
        action="store_true",
        help="write the detector into the model's settings, where label_wav.py finds it: normal sensitivity "
        "for --false_alarms_per_hour, low for a fifth of them, high for four times as many",
    )
    group.add_argument("--stream_wav", metavar="FILE", help="count misses in this recording instead")
    group.add_argument(
        "--stream_words",
        metavar="FILE",
        help="with the words in it: a CSV file, lines of seconds,word (its middle)",
    )
    group.add_argument(
        "--stream_minutes",
        type=bounded(float, 0.1, 600),
        default=30,
        metavar="N",
        help="length of the recordings that --stream makes",
    )
    group.add_argument(
        "--false_alarms_per_hour",
        type=bounded(float, 0),
        default=5,
        metavar="N",
        help="how many are accepted; the threshold is chosen for this",
    )
    group.add_argument(
        "--seed", type=bounded(int, 0, 2**32 - 1), default=0, metavar="N", help="of the recordings made"
    )


def main():
    args = parse_arguments()
    if args.ambient:
        evaluate_ambient(args)
    elif args.stream or args.stream_wav:
        evaluate_streams(args)
    else:
        evaluate_clips(args)


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
    """What of the settings the clips and their features depend on, which models usually share."""
    percentages = settings.validation_percentage, settings.testing_percentage
    return settings.front_end, settings.wanted_words, percentages


def labelled_features(data_options, test_dir, settings):
    """The sets to evaluate: {(name, protocol): (clips, features [n, feature_count])}."""
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


def evaluate_streams(args):
    """Print false alarms and misses of each model on long recordings at several thresholds."""
    flags, options = SettingsFlags.from_arguments(args), options_from(DetectorOptions, args)
    verifier = models.load(args.verifier) if args.verifier else None
    results, known_recordings = {}, {}
    for path in args.paths:
        model = models.load(path, flags)
        key = clips_key(model.settings)
        if key not in known_recordings:
            known_recordings[key] = recordings(args, model.settings)
        chosen = None
        for recording in known_recordings[key]:
            outcomes = labelled_streams.outcomes(recording, model, options, verifier)
            print(f"{path}: {labelled_streams.outcomes_text(recording, outcomes, model.settings)}")
            if chosen is None:
                point = labelled_streams.operating_point(outcomes, args.false_alarms_per_hour)
                chosen = point.threshold
                if point.false_alarms > args.false_alarms_per_hour:
                    print(f"  no threshold has at most {args.false_alarms_per_hour:g} false alarms an hour")
            at_chosen = next(outcome for outcome in outcomes if outcome.threshold == chosen)
            print(f"  threshold {chosen:.2f}: {at_chosen}, the operating point\n")
            results.setdefault(path, {})[recording.name] = {
                "words": len(recording.words),
                "hours": recording.hours(model.settings),
                "chosen_threshold": chosen,
                "outcomes": [outcome._asdict() for outcome in outcomes],
            }
    if args.json:
        write_json(args.json, results)


def evaluate_ambient(args):
    """Print false alarms in recordings without the words beside misses; choose thresholds, and try them."""
    flags, options = SettingsFlags.from_arguments(args), options_from(DetectorOptions, args)
    verifier = models.load(args.verifier) if args.verifier else None
    results, curves = {}, {}
    for path in args.paths:
        model = models.load(path, flags)
        words = recordings(args, model.settings)
        measured = measure.measure(args.ambient, words[0], model, options, verifier)
        if verifier:
            measured = measure.with_best_gate(measured, args.false_alarms_per_hour)
            print(f"{args.verifier} is asked where {path} has a score of {measured.options.gate:g} or more")
        points = measure.sweep(measured)
        print(f"{path}: {measure.text(measured, points, args.false_alarms_per_hour)}")
        common = measure.operating_point(points, args.false_alarms_per_hour).threshold
        chosen = {
            "one threshold": common,
            "a threshold for each word": measure.thresholds_per_word(measured, args.false_alarms_per_hour),
        }
        for name, thresholds in chosen.items():
            print(f"  {name}: {measure.outcome_text(measured, thresholds)}")
        results[path] = {"hours": measured.hours, "points": [point._asdict() for point in points]}
        results[path]["chosen"] = chosen
        curves[path] = points
        if args.ambient_test:
            tested = measure.measure(args.ambient_test, words[1], model, measured.options, verifier)
            for name, thresholds in chosen.items():
                print(f"  {name}, on other recordings: {measure.outcome_text(tested, thresholds)}")
            results[path]["test"] = {
                name: tested.point(thresholds)._asdict() for name, thresholds in chosen.items()
            }
        if args.write_detector:
            # what was tuned for two models is the verifier's: alone, the first has other thresholds
            target, its_settings = (args.verifier, verifier.settings) if verifier else (path, model.settings)
            words = len(its_settings.wanted_words)
            detector = measure.detector_settings(measured, points, args.false_alarms_per_hour, words)
            checkpoints.write_settings(target, replace(its_settings, detector=detector))
            print(f"  detector written into {target}\n  {measure.sensitivities_text(detector)}")
    if args.plots:
        plots.write_det_plot(args.plots, curves)
    if args.json:
        write_json(args.json, results)


def recordings(args, settings):
    """The long recordings that the flags ask for; the threshold is chosen on the first."""
    if args.stream_wav:
        return [labelled_streams.read_recording(args.stream_wav, args.stream_words, settings)]
    data = input_data.open_data(options_from(DataOptions, args), settings)
    sets = {"validation": data.validation}
    if args.stream or args.ambient_test:
        sets["testing"] = data.testing
    return [
        labelled_streams.make_recording(
            name, clips, data.noise, args.stream_minutes, [args.seed, number], settings
        )
        for number, (name, clips) in enumerate(sets.items())
    ]


if __name__ == "__main__":
    run(main)
