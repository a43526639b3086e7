"""Pictures of a training and of how good a model is."""

import re
from pathlib import Path

import numpy as np

from kws.base.files import errors_name
from kws.base.settings import Settings
from kws.model.tflite import Cost
from kws.report.reports import Report, misclassified

INK, ACCENT, SECOND, PALE = "#22313f", "#1f6fb2", "#d9772b", "#d7e3ee"
CLIPS_SHOWN = 12
NEAR = 9  # pixels around a point, in which another's name would be taken for its own
DPI = 110


def write_training_plots(folder, history: np.ndarray):
    """Learning curves, from a row for each validation: step, rate, loss, training and validation accuracy,
    validation loss, miss rate on an open microphone (nan where it was not measured).
    """
    columns = np.asarray(history, float).reshape(-1, 7).T
    step, rate, loss, training, validation, validation_loss, miss_rate = columns
    figure = _figure(9, 6.5)
    accuracy_axes, loss_axes, rate_axes = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.5, 1)}
    )
    accuracy_axes.plot(
        step, 100 * training, color=SECOND, label="training (as varied), mean since the last point"
    )
    accuracy_axes.plot(step, 100 * validation, color=ACCENT, label="validation")
    if len(step):
        merit = np.where(np.isnan(miss_rate), validation, (validation + 1 - miss_rate) / 2)
        best = np.lexsort((validation_loss, -merit))[0]  # as training keeps it
        accuracy_axes.plot(step[best], 100 * validation[best], "o", color=ACCENT)
        accuracy_axes.annotate(
            f"{100 * validation[best]:.2f} %",
            (step[best], 100 * validation[best]),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=ACCENT,
        )
    if np.isfinite(miss_rate).any():
        accuracy_axes.plot(step, 100 - 100 * miss_rate, color=INK, label="words detected in a stream")
    accuracy_axes.set_ylabel("accuracy, %")
    accuracy_axes.legend(frameon=False, loc="lower right")
    loss_axes.plot(step, loss, color=SECOND)
    loss_axes.plot(step, validation_loss, color=ACCENT)
    loss_axes.set_ylabel("loss")
    rate_axes.plot(step, rate, color=INK)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_ylim(0)
    rate_axes.set_xlabel("step")
    accuracy_axes.margins(y=0.12)
    for axes in (accuracy_axes, loss_axes, rate_axes):
        axes.grid(color=PALE, linewidth=0.7)
    _save(figure, folder, "learning_curves")


def write_det_plot(folder, curves: dict[str, list]):
    """Misses against false alarms an hour (a DET curve) of each model, from kws.detect.measure's Points."""
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    for name, points in curves.items():
        alarms = [max(point.false_alarms_per_hour, 0.1) for point in points]  # the scale has no 0
        axes.plot(alarms, [100 * point.miss_rate for point in points], ".-", label=str(name))
    axes.set_xscale("log")
    axes.set_xlabel("false alarms an hour (0.1: none)")
    axes.set_ylabel("misses, %")
    axes.set_ylim(0, 100)
    axes.grid(color=PALE, linewidth=0.7, which="both")
    axes.legend(frameon=False)
    _save(figure, folder, "det")


def write_report_plots(folder, prefix: str, report: Report, settings: Settings, clips, features, scores):
    """Confusion matrix, recall of each label, and the clips misclassified with most confidence.

    `features` [n, feature_count] and `scores` [n, labels] are those of `clips`, which `report` is about.
    """
    if not report.count:
        return
    prefix = re.sub(r"[^\w.-]+", "_", prefix).strip("_")
    _save(_confusion(report), folder, f"{prefix}_confusion")
    _save(_recall(report), folder, f"{prefix}_recall")
    wrong = misclassified(clips.label, scores, CLIPS_SHOWN)
    if len(wrong):
        shown = [
            (
                f"{report.labels[clips.label[clip]]}, predicted {report.labels[scores[clip].argmax()]} "
                f"{100 * scores[clip].max():.0f} %",
                clips.names[clip] or "generated silence",
                features[clip],
            )
            for clip in wrong
        ]
        _save(_misclassified(shown, features, settings), folder, f"{prefix}_misclassified")


def write_comparison_plot(
    folder, reports: dict[str, Report], costs: dict[str, Cost], file_name: str = "comparison"
):
    """Accuracy, with its 95 % interval, against bytes and multiply-accumulates; by name of the model."""
    figure = _figure(9, 4.2)
    names = []
    for axes, values, label in zip(
        figure.subplots(1, 2, sharey=True),
        ([cost.bytes / 1000 for cost in costs.values()], [cost.macs / 1e6 for cost in costs.values()]),
        ("size, kB", "multiply-accumulates for a clip, millions"),
        strict=True,
    ):
        for value, (name, report) in zip(values, reports.items(), strict=True):
            accuracy, (low, high) = 100 * report.accuracy, 100 * np.array(report.interval)
            axes.errorbar(
                value,
                accuracy,
                np.maximum(0, [[accuracy - low], [high - accuracy]]),
                fmt="o",
                color=ACCENT,
                ecolor=PALE,
            )
            names.append((axes, name, (value, accuracy)))
        axes.set_xlabel(label)
        axes.set_xlim(0, 1.4 * max(values))
        axes.grid(color=PALE, linewidth=0.7)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("accuracy, %")
    first = next(iter(reports.values()))
    figure.suptitle(f"{first.name} (N = {first.count:,})", fontsize=10, color=INK)
    _place_names(figure, names)
    _save(figure, folder, file_name)


def _place_names(figure, names):
    """Write names beside points, (axes, name, point) each: within the axes, where they overlap least and are
    not near another point.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # the layout is known then
    written = []

    def unfitness(text, at):
        """Square pixels that overlap with other names, the surroundings of other points, or lie outside."""
        axes, box = text.axes, text.get_window_extent()
        others = [axes.transData.transform(point) for same, _, point in names if same is axes]
        here = axes.transData.transform(at)
        blocked = [Bbox([p - NEAR, p + NEAR]) for p in others if (p != here).any()]
        blocked += [other.get_window_extent() for other in written]
        inside = Bbox.intersection(box, axes.bbox)
        overlaps = [Bbox.intersection(box, other) for other in blocked]
        return area(box) - area(inside) + sum(map(area, overlaps))

    def area(box):
        return box.width * box.height if box else 0

    for axes, name, at in sorted(
        names, key=lambda entry: -entry[2][0]
    ):  # from the right, where space is short
        style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": INK}
        texts = [
            axes.annotate(name, at, (x, y), ha=side, **style)
            for y in (5, -5, 10, -10, 16, -16, 22, -22)
            for x, side in ((6, "left"), (-6, "right"), (0, "center"))
            if x or abs(y) > 9  # not across its own point
        ]
        written.append(min(texts, key=lambda text: unfitness(text, at)))
        for text in texts:
            if text is not written[-1]:
                text.remove()


def _confusion(report):
    count = len(report.labels)
    size = 3 + 0.55 * count
    figure = _figure(size, size - 0.5)
    axes = figure.subplots()
    rows = np.maximum(report.confusion.sum(1, keepdims=True), 1)
    share = report.confusion / rows
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1.1)  # the root shows small shares too
    for row, column in np.argwhere(report.confusion):
        colour = "white" if share[row, column] > 0.4 else INK
        axes.text(
            column, row, report.confusion[row, column], ha="center", va="center", color=colour, fontsize=9
        )
    axes.set_xticks(range(count), report.labels, rotation=45, ha="right")
    axes.set_yticks(range(count), report.labels)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true label")
    _title(axes, report)
    return figure


def _recall(report):
    figure = _figure(7, 1.6 + 0.33 * len(report.labels))
    axes = figure.subplots()
    order = np.argsort(np.nan_to_num(report.recall))
    places = np.arange(len(order))
    axes.barh(places, 100 * np.nan_to_num(report.recall[order]), color=ACCENT, height=0.62, label="recall")
    axes.plot(
        100 * report.precision[order], places, "o", color=SECOND, markeredgecolor="white", label="precision"
    )
    for place, label in zip(places, order, strict=True):
        recall = report.recall[label]
        text = "no clips" if np.isnan(recall) else f"{100 * recall:.1f} %"
        axes.text(1, place, text, va="center", color="white" if recall > 0.15 else INK, fontsize=9)
    axes.set_yticks(places, [report.labels[label] for label in order])
    axes.set_xlim(0, 102)
    axes.set_xlabel("% (bars: recall, dots: precision)")
    axes.grid(axis="x", color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    _title(axes, report)
    return figure


def _misclassified(shown, features, settings):
    figure = _figure(11, 2.3 * -(-len(shown) // 4) + 0.4)
    panels = np.ravel(figure.subplots(-(-len(shown) // 4), 4, squeeze=False))
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    for axes, (title, name, clip) in zip(panels, shown, strict=False):
        image = ((clip - mean) / deviation).reshape(settings.frame_count, -1).T
        axes.imshow(
            image,
            aspect="auto",
            origin="lower",
            cmap="RdBu_r",
            vmin=-3,
            vmax=3,
            extent=(0, settings.clip_duration_ms / 1000, -0.5, len(image) - 0.5),
        )
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xlabel(f"seconds\n{name}", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_ylabel("MFCC", fontsize=7)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure


def _title(axes, report):
    axes.set_title(
        f"{report.name}\n{100 * report.accuracy:.2f} % of {report.count:,} clips", fontsize=10, color=INK
    )


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, folder, name):
    folder = Path(folder)
    with errors_name(folder):
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=DPI)
    print(f"wrote {folder / name}.png")
