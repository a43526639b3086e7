"""Draw images/every_model.png: accuracy of the small int8 models against size and multiply-accumulates.

    python benchmarks/every_model.py

The figures are in docs/models.md; the shipped DNN Small has its definition.yaml.
"""

import re
import sys
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kws.model.tflite import Cost
from kws.report import plots
from kws.report.reports import Report

ROOT = Path(__file__).resolve().parent.parent
ROW = r"^\| `(\w+_small)` \| ([\d,]+) \| ([\d,]+) \| [^|]+ \| [^|]+ \| [\d.]+ / ([\d.]+) % \|"
TEST_SET = "canonical, the clips in speech_commands_test_set_v0.02"


def main():
    text = (ROOT / "docs" / "models.md").read_text()
    shipped = yaml.safe_load((ROOT / "model_archive/TFLite/tflite_int8/definition.yaml").read_text())
    (figures,) = (figures for figures in shipped["accuracy"] if figures["set"] == TEST_SET)
    reports, costs = {}, {}
    for name, macs, size, percent in re.findall(ROW, text, re.M):
        costs[name] = Cost(number(size), 0, 0, number(macs))
        reports[name] = report(float(percent) / 100, figures["N"])
    costs["dnn_small as shipped"] = costs["dnn_small"]
    reports["dnn_small as shipped"] = report(figures["accuracy"], figures["N"])
    plots.write_comparison_plot(ROOT / "images", reports, costs, "every_model")


def report(accuracy, count):
    """Return a report with this accuracy and N, the only figures that are known."""
    correct = round(accuracy * count)
    return Report(TEST_SET, ("right", "wrong"), np.array([[correct, count - correct], [0, 0]]))


def number(text):
    return int(text.replace(",", ""))


if __name__ == "__main__":
    main()
