"""Say how good a model is: accuracy, confusion matrix, precision and recall, on the validation and test sets.

A model carries its settings, so it needs no other flag; several TFLite files end in one table.
"""

from pathlib import Path

import input_data
import models
import streaming
from reports import Report, write_json
from settings import bounded, new_parser, run


def parse_arguments():
    parser = new_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--checkpoint", metavar="PATH", help="a checkpoint, a folder of checkpoints, or a SavedModel"
    )
    which.add_argument("--tflite_path", metavar="FILE", nargs="+", help="one or more TFLite files")
    parser.add_argument(
        "--test_dir",
        metavar="DIR",
        help="evaluate this folder too, one folder of recordings per label; one named "
        "speech_commands_test_set_v0.02 is downloaded where it is missing",
    )
    parser.add_argument("--json", metavar="FILE", help="write the same figures to this file")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    add_stream_arguments(parser)
    args = parser.parse_args()
    if bool(args.stream_wav) != bool(args.stream_words):
        parser.error("--stream_wav and --stream_words go together")
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
    load = models.load_tflite if args.tflite_path else load_keras
    paths = args.tflite_path or [args.checkpoint]
    loaded = [load(path, args) for path in paths]
    sets = {}  # one entry for each definition of features and labels; models usually share theirs
    results = {}
    for path, (scores, settings) in zip(paths, loaded, strict=True):
        if settings not in sets:
            sets[settings] = labelled_features(args, settings)
        results[path] = []
        for name, (features, expected) in sets[settings].items():
            report = Report.of(name, settings.labels, expected, scores(features))
            results[path].append(report)
            print(f"{path}: {report.text()}")
    if args.tflite_path:
        print(table(results))
    if args.json:
        write_json(
            args.json, {path: [report.as_dict() for report in reports] for path, reports in results.items()}
        )


def load_keras(path, args):
    model, settings = models.load_checkpoint(path, args)
    return models.keras_scores(model), settings


def labelled_features(args, settings):
    """The sets to evaluate: {name: (features [n, feature_count], labels [n])}."""
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
    return {name: (input_data.features(clips, settings), clips.label) for name, clips in sets.items()}


def evaluate_streams(args):
    """Print, for each model, what it makes of long recordings at several thresholds."""
    results = {}
    for path in args.tflite_path or [args.checkpoint]:
        scores, settings = models.load(path, args)
        chosen = None
        for recording in recordings(args, settings):
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
    return [
        streaming.make_recording(name, clips, data.noise, args.stream_minutes, args.seed, settings)
        for name, clips in (("validation", data.validation), ("testing", data.testing))
    ]


def stream_text(recording, outcomes, settings) -> str:
    hours = recording.hours(settings)
    lines = [f"{recording.name}, {60 * hours:.1f} minutes with {len(recording.words)} words"]
    lines += [f"threshold {outcome.threshold:.2f}: {describe(outcome)}" for outcome in outcomes[::10]]
    return "\n  ".join(lines)


def describe(outcome) -> str:
    missed = f"{100 * outcome.false_rejects:5.1f} % false rejects"
    return f"{missed}, {outcome.false_alarms:6.1f} false alarms an hour"


def table(results) -> str:
    """One line per file: bytes, zipped bytes, and the accuracy on each set with its N."""
    rows = [
        ["file", "bytes", "zipped", *(report.name.split(",")[0] for report in next(iter(results.values())))]
    ]
    for path, reports in results.items():
        content = Path(path).read_bytes()
        accuracies = [f"{100 * report.accuracy:.2f} % (N = {report.count:,})" for report in reports]
        rows.append([path, f"{len(content):,}", f"{models.zipped_size(content):,}", *accuracies])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    run(main)
