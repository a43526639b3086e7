"""How good a model is: accuracy with its interval, confusion matrix, precision and recall per label."""

import json
import math
from dataclasses import dataclass

import numpy as np

from settings import write_text

NORMAL_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Report:
    """The outcome of classifying one set of clips."""

    name: str  # which clips, by which protocol
    labels: tuple[str, ...]
    confusion: np.ndarray  # int [labels, labels]: rows say what was said, columns what the model heard

    @staticmethod
    def of(name: str, labels, expected: np.ndarray, scores: np.ndarray) -> "Report":
        """From the expected labels [n] and the scores [n, labels]; the highest score decides."""
        confusion = np.zeros((len(labels), len(labels)), int)
        np.add.at(confusion, (expected, scores.argmax(1) if len(scores) else expected), 1)
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
        """Share of each label's clips that were heard as it, float [labels]; NaN where there are none."""
        return _share(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def precision(self) -> np.ndarray:
        """Share of the clips heard as a label that were it, float [labels]; NaN where there are none."""
        return _share(self.confusion.diagonal(), self.confusion.sum(0))

    def summary(self) -> str:
        """One line: what, accuracy, interval, N."""
        if not self.count:
            return f"{self.name}: no clips"
        low, high = self.interval
        return (
            f"{self.name}: accuracy {100 * self.accuracy:.2f} % "
            f"(95 % interval {100 * low:.2f} to {100 * high:.2f}), N = {self.count:,}"
        )

    def text(self) -> str:
        """The summary, the confusion matrix with label names, and precision and recall per label."""
        if not self.count:
            return self.summary() + "\n"
        first = max(len(label) for label in self.labels)
        widths = [max(len(label), 4) + 1 for label in self.labels]
        heading = "".join(f"{label:>{width}}" for label, width in zip(self.labels, widths, strict=True))
        lines = [self.summary(), "", "said, as heard:", f"{'':{first}}{heading}   recall  precision"]
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


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def _share(part, whole):
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _percent(value):
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _or_none(value):
    return None if math.isnan(value) else float(value)
