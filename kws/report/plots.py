"""Draw learning curves, confusions, comparisons and detection errors."""

import re
from pathlib import Path

import numpy as np

from kws.base.files import errors_name
from kws.base.settings import Settings
from kws.model.tflite import Cost
from kws.report.reports import Report, misclassified

INK, ACCENT, SECOND, PALE = "#22313f", "#1f6fb2", "#d9772b", "#d7e3ee"
CLIPS_SHOWN = 12
BESIDE_POINT = {"textcoords": "offset points", "color": INK}
DPI = 110


def write_training_plots(folder, history: np.ndarray):
    """Draw learning curves from a history with a row for each validation.

    A row is step, learning rate, loss, training accuracy, validation accuracy, validation loss, and miss rate
    in a stream (NaN if it was not measured).
    """
    columns = np.asarray(history, float).reshape(-1, 7).T
    step, rate, loss, training, validation, validation_loss, miss_rate = columns
    figure = _figure(9, 6.5)
    heights = {"height_ratios": (3, 1.5, 1)}
    accuracy_axes, loss_axes, rate_axes = figure.subplots(3, 1, sharex=True, gridspec_kw=heights)
    # augmented clips, so often below validation
    training_label = "training (augmented), mean since the last point"
    accuracy_axes.plot(step, 100 * training, color=SECOND, label=training_label)
    accuracy_axes.plot(step, 100 * validation, color=ACCENT, label="validation")
    if len(step):
        # the checkpoint that training keeps as the best
        merit = np.where(np.isnan(miss_rate), validation, (validation + 1 - miss_rate) / 2)
        best = np.lexsort((validation_loss, -merit))[0]
        point = step[best], 100 * validation[best]
        accuracy_axes.plot(*point, "o", color=ACCENT)
        accuracy_axes.annotate(f"{point[1]:.2f} %", point, (0, 7), ha="center", **BESIDE_POINT)
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
        _grid(axes)
    _save(figure, folder, "learning_curves")


def write_det_plot(folder, curves: dict[str, list]):
    """Draw each model's misses against false alarms an hour (a DET curve), from measure's points."""
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    for name, points in curves.items():
        # a logarithmic scale has no 0
        alarms = [max(point.false_alarms_per_hour, 0.1) for point in points]
        axes.plot(alarms, [100 * point.miss_rate for point in points], ".-", label=str(name))
    axes.set_xscale("log")
    axes.set_xlabel("false alarms an hour (0.1: none)")
    axes.set_ylabel("misses, %")
    axes.set_ylim(0, 100)
    _grid(axes, which="both")
    axes.legend(frameon=False)
    _save(figure, folder, "det")


def write_noise_plot(folder, in_noise: dict[str, list]):
    """Draw each model's misses against the signal-to-noise ratio, from measure's MissesInNoise."""
    if not in_noise:
        return
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    for name, (clean, *mixed) in in_noise.items():
        for noise in dict.fromkeys(one.noise for one in mixed):
            shown = [clean, *(one for one in mixed if one.noise == noise)]
            ratios = ["none" if one.ratio_db is None else f"{one.ratio_db:g} dB" for one in shown]
            axes.plot(ratios, [100 * one.miss_rate for one in shown], ".-", label=f"{name}, {noise}")
    axes.set_xlabel("noise: none, or signal-to-noise ratio")
    axes.set_ylabel("misses, %")
    axes.set_ylim(0, 100)
    _grid(axes)
    # labels hold paths, too long to be in the picture
    figure.legend(frameon=False, loc="outside lower center")
    _save(figure, folder, "misses_in_noise")


def write_report_plots(folder, prefix: str, report: Report, settings: Settings, clips, features, scores):
    """Draw the confusion matrix, the recall of each label, and the most confident mistakes.

    `report` is about `clips` with their `features` [n, feature_count] and `scores` [n, labels].
    """
    if not report.count:
        return
    prefix = re.sub(r"[^\w.-]+", "_", prefix).strip("_")
    _save(_confusion(report), folder, f"{prefix}_confusion")
    _save(_recall(report), folder, f"{prefix}_recall")
    # (title, name, features) of each clip
    shown = []
    for clip in misclassified(clips.label, scores, CLIPS_SHOWN):
        true, predicted = report.labels[clips.label[clip]], report.labels[scores[clip].argmax()]
        title = f"{true}, predicted {predicted} {100 * scores[clip].max():.0f} %"
        shown.append((title, clips.names[clip] or "generated silence", features[clip]))
    if shown:
        _save(_misclassified(shown, features, settings), folder, f"{prefix}_misclassified")


def write_comparison_plot(folder, reports: dict[str, Report], costs: dict[str, Cost], name="comparison"):
    """Draw the accuracy of models, by name, against their bytes and their multiply-accumulates."""
    figure = _figure(9, 4.2)
    scales = {
        "size, kB": [cost.bytes / 1000 for cost in costs.values()],
        "multiply-accumulates for a clip, millions": [cost.macs / 1e6 for cost in costs.values()],
    }
    for axes, (label, values) in zip(figure.subplots(1, 2, sharey=True), scales.items(), strict=True):
        models = sorted(zip(values, reports, strict=True))
        for number, (value, model) in enumerate(models):
            # percent, with the 95 % interval
            report = reports[model]
            accuracy, (low, high) = 100 * report.accuracy, 100 * np.array(report.interval)
            bar = np.maximum(0, [[accuracy - low], [high - accuracy]])
            axes.errorbar(value, accuracy, bar, fmt="o", color=ACCENT, ecolor=PALE)
            # the names of neighbours alternate, below and above
            offset = 2, 6 if number % 2 else -12
            axes.annotate(model, (value, accuracy), offset, fontsize=8, **BESIDE_POINT)
        axes.set_xlabel(label)
        # room for names
        axes.set_xlim(0, 1.4 * max(values))
        axes.margins(y=0.15)
        axes.set_axisbelow(True)
        _grid(axes)
    figure.axes[0].set_ylabel("accuracy, %")
    first = next(iter(reports.values()))
    figure.suptitle(f"{first.name} (N = {first.count:,})", fontsize=10, color=INK)
    _save(figure, folder, name)


def _confusion(report):
    count = len(report.labels)
    size = 3 + 0.55 * count
    figure = _figure(size, size - 0.5)
    axes = figure.subplots()
    # share of the clips of a label, [labels, labels]
    share = report.confusion / np.maximum(report.confusion.sum(1, keepdims=True), 1)
    # the root shows small shares too
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1.1)
    for row, column in np.argwhere(report.confusion):
        colour = "white" if share[row, column] > 0.4 else INK
        style = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
        axes.text(column, row, report.confusion[row, column], **style)
    axes.set_xticks(range(count), report.labels, rotation=45, ha="right")
    axes.set_yticks(range(count), report.labels)
    # white lines between the fields
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
    # the best label on top
    order = np.argsort(np.nan_to_num(report.recall))
    places = np.arange(len(order))
    axes.barh(places, 100 * np.nan_to_num(report.recall[order]), color=ACCENT, height=0.62)
    axes.plot(100 * report.precision[order], places, "o", color=SECOND, markeredgecolor="white")
    for place, label in zip(places, order, strict=True):
        recall = report.recall[label]
        text = "no clips" if np.isnan(recall) else f"{100 * recall:.1f} %"
        axes.text(1, place, text, va="center", color="white" if recall > 0.15 else INK, fontsize=9)
    axes.set_yticks(places, [report.labels[label] for label in order])
    axes.set_xlim(0, 102)
    axes.set_xlabel("% (bars: recall, dots: precision)")
    _grid(axes, axis="x")
    axes.set_axisbelow(True)
    _title(axes, report)
    return figure


def _misclassified(shown, features, settings):
    rows = -(-len(shown) // 4)
    figure = _figure(11, 2.3 * rows + 0.4)
    panels = np.ravel(figure.subplots(rows, 4, squeeze=False))
    # each coefficient in standard deviations from its mean over all clips
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    for axes, (title, name, clip) in zip(panels, shown, strict=False):
        # [coefficients, frames], time to the right
        image = ((clip - mean) / deviation).reshape(settings.frame_count, -1).T
        extent = (0, settings.clip_duration_ms / 1000, -0.5, len(image) - 0.5)
        axes.imshow(image, "RdBu_r", aspect="auto", vmin=-3, vmax=3, origin="lower", extent=extent)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xlabel(f"seconds\n{name}", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_ylabel("MFCC", fontsize=7)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure


def _title(axes, report):
    text = f"{report.name}\n{100 * report.accuracy:.2f} % of {report.count:,} clips"
    axes.set_title(text, fontsize=10, color=INK)


def _grid(axes, **options):
    axes.grid(color=PALE, linewidth=0.7, **options)


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, folder, name):
    folder = Path(folder)
    with errors_name(folder):
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=DPI)
    print(f"wrote {folder / name}.png")
