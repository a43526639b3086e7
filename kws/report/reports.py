"""Report how good models are: accuracy with its interval, confusions, and comparisons of models."""

import math
from dataclasses import dataclass, field

import numpy as np

from kws.base.settings import SILENCE_INDEX, SILENCE_LABEL, UNKNOWN_INDEX, UNKNOWN_LABEL
from kws.data.clips import Clips
from kws.data.dataset import DataOptions, percent_of
from kws.model.tflite import Cost

NORMAL_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Report:
    """The outcome of classifying one set of clips."""

    name: str  # the set and its protocol
    labels: tuple[str, ...]
    confusion: np.ndarray  # int [labels, labels]: true labels by row, predicted ones by column

    @staticmethod
    def from_scores(name: str, labels, true: np.ndarray, scores: np.ndarray) -> "Report":
        """Return the report of true labels [n] and scores [n, labels]; the highest score is predicted."""
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
        """Return the share of clips classified correctly, 0 to 1; NaN without clips."""
        return self.correct / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the accuracy (Wilson 1927), 0 to 1."""
        n, p, z = self.count, self.accuracy, NORMAL_95
        if not n:
            return 0.0, 1.0
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # unlike the normal approximation it stays within 0 to 1 near 100 %
        return middle - half, middle + half

    @property
    def recall(self) -> np.ndarray:
        """Return the share of each label's clips that are predicted right, float [labels]; NaN for none."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def precision(self) -> np.ndarray:
        """Return the share of each label's predictions that are right, float [labels]; NaN for none."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(0))

    def summary(self) -> str:
        """Return one line: the set, accuracy, interval, N, and the kinds of clips."""
        if not self.count:
            return f"{self.name}: no clips"
        low, high = self.interval
        counts = dict(zip(self.labels, self.confusion.sum(1), strict=True))
        silence, unknown = (counts.pop(label, 0) for label in (SILENCE_LABEL, UNKNOWN_LABEL))
        return (
            f"{self.name}: accuracy {100 * self.accuracy:.2f} % "
            f"(95 % interval {100 * low:.2f} to {100 * high:.2f}), N = {self.count:,}: "
            f"{sum(counts.values()):,} wanted words, {silence:,} silence, {unknown:,} unknown words"
        )

    def text(self) -> str:
        """Return the summary, the confusion matrix, and recall and precision of each label."""
        if not self.count:
            return self.summary() + "\n"
        # a column is as wide as its label, and at least four digits
        first = max(len(label) for label in self.labels)
        widths = [max(len(label), 4) + 1 for label in self.labels]
        heading = "".join(f"{label:>{width}}" for label, width in zip(self.labels, widths, strict=True))
        lines = [
            self.summary(),
            "",
            "true label by row, predicted by column:",
            f"{'':{first}}{heading}   recall  precision",
        ]
        columns = self.labels, self.confusion, self.recall, self.precision
        for label, row, recall, precision in zip(*columns, strict=True):
            # dots for zeros, so that confusions stand out
            counts = "".join(f"{count or '.':>{width}}" for count, width in zip(row, widths, strict=True))
            lines.append(f"{label:{first}}{counts}  {_percent(recall):>7}  {_percent(precision):>9}")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict:
        """Return the same figures, ready for JSON, which has no NaN: None in its place."""
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


# a part of the data set may lack a few of the clips asked for, and a figure still mean the same
LEAST_SHARE = 0.95


def protocol_of(clips: Clips, options: DataOptions) -> str:
    """Return the protocol of a validation or test set made with `options`, such as "10 % unknown words".

    The protocol of the paper's code is named so.
    """
    wanted = int(np.sum(clips.label > UNKNOWN_INDEX))
    parts, as_in_paper = [], True
    for index, asked, kind in (
        (SILENCE_INDEX, options.silence_percentage, "silence of zeros"),
        (UNKNOWN_INDEX, options.unknown_percentage, "unknown words"),
    ):
        count = int(np.sum(clips.label == index))
        # the data may have fewer clips than asked for: then say the share that there is
        enough = count == percent_of(wanted, asked) or not wanted
        share = asked if enough else round(100 * count / wanted, 1)
        parts.append(f"{share:g} % {kind}" if count else f"no {kind}")
        as_in_paper = as_in_paper and asked == 10 and count > LEAST_SHARE * percent_of(wanted, asked)
    mixture = ", ".join(parts)
    return f"paper protocol ({mixture})" if as_in_paper else mixture


def misclassified(true: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of up to `count` clips with a wrong prediction, int [clips].

    The most confident predictions come first, but one of each confusion (true and predicted label) before a
    second of any.
    """
    predicted, confidence = scores.argmax(1), scores.max(1)
    # [wrong], most confident first
    wrong = np.flatnonzero(predicted != true)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    # the first of each confusion comes before all others
    confusions = np.stack([true[wrong], predicted[wrong]])
    _, first_of_each = np.unique(confusions, axis=1, return_index=True)
    others = np.delete(wrong, first_of_each)
    return np.concatenate([wrong[np.sort(first_of_each)], others])[:count]


@dataclass
class Evaluation:
    """The reports of one model on sets of clips, and its predictions, to compare with another model's."""

    cost: Cost
    # by short name of the set, such as "testing"
    reports: dict[str, Report] = field(default_factory=dict)
    # predicted labels int [n], by (labels, names of the clips)
    predicted: dict[tuple, np.ndarray] = field(default_factory=dict)
    # whether they are right, bool [n], by (short name of the set, names of the clips)
    correct: dict[tuple, np.ndarray] = field(default_factory=dict)

    def add(self, set_name: str, report: Report, clips: Clips, scores: np.ndarray):
        self.reports[set_name] = report
        self.predicted[report.labels, clips.names] = scores.argmax(1)
        self.correct[set_name, clips.names] = scores.argmax(1) == clips.label


def comparison_table(evaluations: dict[str, Evaluation]) -> str:
    """Return a table with a line for each model: cost, accuracy on each set with N, and agreement.

    The agreement is the share of clips with the same prediction as the first model's.
    """
    first = next(iter(evaluations.values()))
    agreements = ["agreement"] if len(evaluations) > 1 else []
    rows = [["model", "bytes", "zipped", "parameters", "MACs", *first.reports, *agreements]]
    for path, evaluation in evaluations.items():
        reports = evaluation.reports.values()
        accuracies = [f"{100 * report.accuracy:.2f} % (N = {report.count:,})" for report in reports]
        rows.append([path, *(f"{number:,}" for number in evaluation.cost), *accuracies])
        if agreements:
            rows[-1].append(agreement(evaluation.predicted, first.predicted))
    # paths to the left, numbers to the right
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        row[1:] = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *row[1:]]) for row in rows)


def paired_tests(evaluations: dict[str, Evaluation]) -> str:
    """Return a line for each model but the first, with McNemar's test on each set that both were given.

    A line says on how many clips only this model is right, on how many only the first, and how likely chance
    alone makes as large a difference.
    """
    (first, reference), *others = evaluations.items()
    lines = [f"clips on which only the model is right, and only {first} (McNemar's exact test):"]
    for path, evaluation in others:
        sets = []
        # sets of the same name and the same clips
        for key, correct in evaluation.correct.items():
            if key in reference.correct:
                gained = int(np.sum(correct & ~reference.correct[key]))
                lost = int(np.sum(~correct & reference.correct[key]))
                sets.append(f"{key[0]} {gained} and {lost}, p = {mcnemar(gained, lost):.2g}")
        lines.append(f"{path}: {'; '.join(sets) or 'other clips'}")
    return "\n  ".join(lines)


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (Psychometrika 12, 1947).

    If two models are equally good, a clip on which just one is right is either model's with a chance of 1/2.
    """
    # the clips that both or neither classify correctly say nothing about a difference
    count = gained + lost
    tail = sum(math.comb(count, number) for number in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**count)


def agreement(predicted: dict, others: dict) -> str:
    """Return the share of clips on which two models predict the same, as text, if they had the same clips."""
    if predicted.keys() != others.keys():
        return "other clips"
    return f"{100 * np.mean(np.concatenate([predicted[key] == others[key] for key in predicted])):.2f} %"


def _ratio(part, whole):
    """Return part / whole, float [labels]; NaN for 0 / 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _percent(value):
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _or_none(value):
    return None if math.isnan(value) else float(value)
