"""Say how good a model is: accuracy, confusion matrix, precision and recall, on the validation and test sets.

A model carries its settings, so it needs no other flag; several models end in one table.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

import input_data
import models
import plots
import streaming
from reports import Report, write_json
from settings import bounded, new_parser, run


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
        help="draw confusion matrices, recall per label and the worst misheard clips into this folder",
    )
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    add_stream_arguments(parser)
    args = parser.parse_args()
    args.models = [*args.checkpoint, *args.tflite_path]
    if not args.models:
        parser.error("one of --checkpoint and --tflite_path is needed")
    if bool(args.stream_wav) != bool(args.stream_words):
        parser.error("--stream_wav and --stream_words go together")
    if args.stream and args.stream_wav:
        parser.error("--stream makes recordings, --stream_wav gives one: give one of the two")
    if (args.stream or args.stream_wav) and (args.plots or args.test_dir):
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
    group.add_argument("--stream_wav", metavar="FILE", help="do so on this recording instead")
    group.add_argument(
        "--stream_words", metavar="FILE", help="with what is said in it: lines of seconds,word (its middle)"
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
    if args.stream or args.stream_wav:
        evaluate_streams(args)
        return
    loaded = {path: models.load(path, args) for path in args.models}
    stems = [Path(path).stem for path in loaded]
    titles = {path: Path(path).stem if stems.count(Path(path).stem) == 1 else path for path in loaded}
    sets, reports, heard = {}, {}, {}
    for path, (scores, settings) in loaded.items():
        of_data = without_network(settings)
        if of_data not in sets:
            sets[of_data] = labelled_features(args, settings)
        reports[path], heard[path] = [], {}
        for name, (clips, features) in sets[of_data].items():
            given = scores(features)
            report = Report.of(name, settings.labels, clips.label, given)
            reports[path].append(report)
            heard[path][settings.labels, clips.names] = given.argmax(1)
            print(f"{path}: {report.text()}")
            if args.plots:
                prefix = f"{titles[path]}_{name.split(',')[0]}"
                plots.write_report_plots(args.plots, prefix, report, settings, clips, features, given)
    costs = {path: models.cost(path, settings) for path, (_, settings) in loaded.items()}
    print(table(reports, heard, costs))
    if args.plots and len(reports) > 1:
        last = {titles[path]: of_model[-1] for path, of_model in reports.items()}
        plots.write_comparison_plot(args.plots, last, {titles[path]: cost for path, cost in costs.items()})
    if args.json:
        content = {path: [report.as_dict() for report in of_model] for path, of_model in reports.items()}
        write_json(args.json, content)


def without_network(settings):
    """What of the settings the clips and features depend on, which models usually share."""
    return replace(settings, model_architecture="", model_size_info=())


def labelled_features(args, settings):
    """The sets to evaluate: {name: (clips, features [n, feature_count])}."""
    sets = {}
    if (
        args.test_dir
        and args.data_dir == str(input_data.DEFAULT_DATA_DIR)
        and not Path(args.data_dir).exists()
    ):
        print(f"{args.data_dir} is not there: evaluating {args.test_dir} alone")
    else:
        data = input_data.open_data(args, settings)
        mixture = input_data.protocol(args)
        sets = {f"validation, {mixture}": data.validation, f"testing, {mixture}": data.testing}
    if args.test_dir:
        folder = Path(args.test_dir).resolve().name
        kind = "canonical" if folder.startswith("speech_commands_test_set") else "test_dir"
        sets[f"{kind}, the clips in {folder}"] = input_data.open_test_dir(args.test_dir, settings)
    return {name: (clips, input_data.features(clips, settings)) for name, clips in sets.items()}


def evaluate_streams(args):
    """Print, for each model, what it makes of long recordings at several thresholds."""
    results, made = {}, {}
    for path in args.models:
        scores, settings = models.load(path, args)
        of_data = without_network(settings)
        if of_data not in made:
            made[of_data] = recordings(args, settings)
        chosen = None
        for recording in made[of_data]:
            outcomes = streaming.outcomes(recording, scores, settings, args)
            print(f"{path}: {stream_text(recording, outcomes, settings)}")
            if chosen is None:
                point = streaming.operating_point(outcomes, args.false_alarms_per_hour)
                chosen = point.threshold
                if point.false_alarms > args.false_alarms_per_hour:
                    print(f"  no threshold has at most {args.false_alarms_per_hour:g} false alarms an hour")
            at_chosen = next(outcome for outcome in outcomes if outcome.threshold == chosen)
            print(f"  threshold {chosen:.2f}: {describe(at_chosen)}, the operating point\n")
            results.setdefault(path, {})[recording.name] = {
                "words": len(recording.words),
                "hours": recording.hours(settings),
                "chosen_threshold": chosen,
                "outcomes": [outcome._asdict() for outcome in outcomes],
            }
    if args.json:
        write_json(args.json, results)


def recordings(args, settings):
    """The long recordings that the flags ask for; the threshold is chosen on the first."""
    if args.stream_wav:
        return [streaming.read_recording(args.stream_wav, args.stream_words, settings)]
    data = input_data.open_data(args, settings)
    sets = {"validation": data.validation, "testing": data.testing}
    return [
        streaming.make_recording(name, clips, data.noise, args.stream_minutes, [args.seed, number], settings)
        for number, (name, clips) in enumerate(sets.items())
    ]


def stream_text(recording, outcomes, settings) -> str:
    hours = recording.hours(settings)
    lines = [f"{recording.name}, {60 * hours:.1f} minutes with {len(recording.words)} words"]
    lines += [f"threshold {outcome.threshold:.2f}: {describe(outcome)}" for outcome in outcomes[::10]]
    return "\n  ".join(lines)


def describe(outcome) -> str:
    missed = f"{100 * outcome.false_rejects:5.1f} % false rejects"
    return f"{missed}, {outcome.false_alarms:6.1f} false alarms an hour"


def table(reports, heard, costs) -> str:
    """One line per model: its size and cost, its accuracy on each set with N, and on how many clips of all
    sets it hears what the first model hears.
    """
    first = next(iter(reports))
    sets = [report.name.split(",")[0] for report in reports[first]]
    rows = [["model", "bytes", "zipped", "parameters", "MACs", *sets, *["as the first"][: len(reports) - 1]]]
    for path, of_model in reports.items():
        accuracies = [f"{100 * report.accuracy:.2f} % (N = {report.count:,})" for report in of_model]
        rows.append([path, *(f"{number:,}" for number in costs[path]), *accuracies])
        if len(reports) > 1:
            rows[-1].append(agreement(heard[path], heard[first]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def agreement(heard, first) -> str:
    """Share of the clips on which two models hear the same, where they heard the same clips."""
    if heard.keys() != first.keys():
        return "other clips"
    return f"{100 * np.mean(np.concatenate([heard[key] == first[key] for key in heard])):.2f} %"


if __name__ == "__main__":
    run(main)
