"""How good a model is: accuracy with its interval, confusion matrix, precision and recall per label."""

import json
import math
from dataclasses import dataclass, field

import numpy as np

from kws.base.files import write_text
from kws.base.settings import SILENCE_INDEX, SILENCE_LABEL, UNKNOWN_INDEX, UNKNOWN_LABEL
from kws.data.clips import Clips
from kws.data.dataset import DataOptions, percent_of
from kws.model.tflite import Cost

NORMAL_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Report:
    """The outcome of classifying one set of clips."""

    name: str  # which clips, by which protocol
    labels: tuple[str, ...]
    confusion: np.ndarray  # int [labels, labels]: rows: true labels, columns: predicted ones

    @staticmethod
    def from_scores(name: str, labels, true: np.ndarray, scores: np.ndarray) -> "Report":
        """From the true labels [n] and the scores [n, labels]; the highest score is predicted."""
        confusion = np.zeros((len(labels), len(labels)), int)
        np.add.at(confusion, (true, scores.argmax(1) if len(scores) else true), 1)
        return Report(name, tuple(labels), confusion)

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Share of clips classified correctly, 0 to 1; NaN for no clips."""
        return self.correct / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy (Wilson 1927), 0 to 1."""
        n, p, z = self.count, self.accuracy, NORMAL_95
        if not n:
            return 0.0, 1.0
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    @property
    def recall(self) -> np.ndarray:
        """Share of each label's clips that are predicted as it, float [labels]; NaN where there are none."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def precision(self) -> np.ndarray:
        """Share of the clips predicted as a label that are it, float [labels]; NaN where there are none."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(0))

    def summary(self) -> str:
        """One line: what, accuracy, interval, N and what it is made of."""
        if not self.count:
            return f"{self.name}: no clips"
        low, high = self.interval
        return (
            f"{self.name}: accuracy {100 * self.accuracy:.2f} % "
            f"(95 % interval {100 * low:.2f} to {100 * high:.2f}), N = {self.count:,}: {self.composition()}"
        )

    def composition(self) -> str:
        """How many clips are of wanted words, of silence and of other words."""
        counts = dict(zip(self.labels, self.confusion.sum(1), strict=True))
        silence, unknown = (counts.pop(label, 0) for label in (SILENCE_LABEL, UNKNOWN_LABEL))
        return f"{sum(counts.values()):,} wanted words, {silence:,} silence, {unknown:,} unknown words"

    def text(self) -> str:
        """The summary, the confusion matrix with label names, and precision and recall per label."""
        if not self.count:
            return self.summary() + "\n"
        first = max(len(label) for label in self.labels)
        widths = [max(len(label), 4) + 1 for label in self.labels]
        heading = "".join(f"{label:>{width}}" for label, width in zip(self.labels, widths, strict=True))
        lines = [
            self.summary(),
            "",
            "true label by row, predicted by column:",
            f"{'':{first}}{heading}   recall  precision",
        ]
        for label, row, recall, precision in zip(
            self.labels, self.confusion, self.recall, self.precision, strict=True
        ):
            counts = "".join(f"{count or '.':>{width}}" for count, width in zip(row, widths, strict=True))
            lines.append(f"{label:{first}}{counts}  {_percent(recall):>7}  {_percent(precision):>9}")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict:
        """The same figures, ready for JSON; None stands for a share of nothing."""
        return {
            "set": self.name,
            "N": self.count,
            "correct": self.correct,
            "accuracy": _or_none(self.accuracy),
            "interval_95": list(self.interval),
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
            "recall": [_or_none(value) for value in self.recall],
            "precision": [_or_none(value) for value in self.precision],
        }


NEARLY = (
    0.95  # of the clips asked for: a few less, as in a part of the data set, do not change a figure's meaning
)


def protocol_of(clips: Clips, options: DataOptions) -> str:
    """What a validation or test set made with `options` holds; by name if it is as in the paper's code."""
    wanted = int(np.sum(clips.label > UNKNOWN_INDEX))
    parts, as_in_paper = [], True
    for index, asked, kind in (
        (SILENCE_INDEX, options.silence_percentage, "silence of zeros"),
        (UNKNOWN_INDEX, options.unknown_percentage, "unknown words"),
    ):
        count = int(np.sum(clips.label == index))
        enough = count == percent_of(wanted, asked) or not wanted
        share = asked if enough else round(100 * count / wanted, 1)  # fewer, where there are no more
        parts.append(f"{share:g} % {kind}" if count else f"no {kind}")
        nearly = count > NEARLY * percent_of(wanted, asked)
        as_in_paper = as_in_paper and nearly and asked == 10
    mixture = ", ".join(parts)
    return f"paper protocol ({mixture})" if as_in_paper else mixture


def misclassified(true: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` clips whose predicted label is wrong, int [clips]: the most confident ones first, but one
    of each confusion (true and predicted label) before a second of any.
    """
    predicted, confidence = scores.argmax(1), scores.max(1)
    wrong = np.flatnonzero(predicted != true)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    confusions = np.stack([true[wrong], predicted[wrong]])
    _, first_of_each = np.unique(confusions, axis=1, return_index=True)
    others = np.delete(wrong, first_of_each)
    return np.concatenate([wrong[np.sort(first_of_each)], others])[:count]


@dataclass
class Evaluation:
    """The reports of one model on sets of clips, and its predictions, to compare with another's."""

    cost: Cost
    reports: dict[str, Report] = field(default_factory=dict)  # by short name of the set, such as "testing"
    predicted: dict[tuple, np.ndarray] = field(default_factory=dict)  # by (labels, names of the clips)
    correct: dict[tuple, np.ndarray] = field(default_factory=dict)  # by (name of the set, names of the clips)

    def add(self, set_name: str, report: Report, clips: Clips, scores: np.ndarray):
        self.reports[set_name] = report
        self.predicted[report.labels, clips.names] = scores.argmax(1)
        self.correct[set_name, clips.names] = scores.argmax(1) == clips.label


def comparison_table(evaluations: dict[str, Evaluation]) -> str:
    """One line per model: its size and cost, its accuracy on each set with N, and on how many clips of all
    sets its prediction is the first model's.
    """
    first = next(iter(evaluations.values()))
    agreements = ["agreement"] if len(evaluations) > 1 else []
    rows = [["model", "bytes", "zipped", "parameters", "MACs", *first.reports, *agreements]]
    for path, evaluation in evaluations.items():
        accuracies = [
            f"{100 * report.accuracy:.2f} % (N = {report.count:,})" for report in evaluation.reports.values()
        ]
        rows.append([path, *(f"{number:,}" for number in evaluation.cost), *accuracies])
        if agreements:
            rows[-1].append(agreement(evaluation.predicted, first.predicted))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def paired_tests(evaluations: dict[str, Evaluation]) -> str:
    """A line for each model but the first: on how many clips of each set, given to both, only it is right,
    on how many only the first, and how likely chance alone makes as large a difference.
    """
    (first, reference), *others = evaluations.items()
    lines = [f"clips on which only the model is right, and only {first} (McNemar's exact test):"]
    for path, evaluation in others:
        sets = []
        for key, correct in evaluation.correct.items():
            if key in reference.correct:
                gained = int(np.sum(correct & ~reference.correct[key]))
                lost = int(np.sum(~correct & reference.correct[key]))
                sets.append(f"{key[0]} {gained} and {lost}, p = {mcnemar(gained, lost):.2g}")
        lines.append(f"{path}: {'; '.join(sets) or 'other clips'}")
    return "\n  ".join(lines)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test (Psychometrika 12, 1947): if two models were equally
    good, each clip on which just one is right would be either's with a chance of a half.
    """
    count = gained + lost
    tail = sum(math.comb(count, number) for number in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**count)


def agreement(predicted: dict, others: dict) -> str:
    """Share of the clips on which two models predict the same, where they were given the same clips."""
    if predicted.keys() != others.keys():
        return "other clips"
    return f"{100 * np.mean(np.concatenate([predicted[key] == others[key] for key in predicted])):.2f} %"


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def _ratio(part, whole):
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _percent(value):
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _or_none(value):
    return None if math.isnan(value) else float(value)
