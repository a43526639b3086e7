"""Measure the project beside the plain way of doing the same (plain.py) on this machine.

    python benchmarks/run.py --data_dir DIR

Prints a Markdown table with medians over --runs runs (lowest to highest), and ratios. Nothing else should be
running.
"""

import contextlib
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import input_data
import plain
from kws.audio.folders import NOISE_FOLDER, list_recordings, word_folders
from kws.base.errors import run
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import Settings
from kws.data.dataset import Data, DataOptions
from kws.model.tflite import TFLiteModel

ROOT = Path(__file__).resolve().parent.parent
TFLITE = ROOT / "model_archive" / "TFLite" / "tflite_int8" / "dnn_small_int8.tflite"
RECIPE = ["--model", "dnn_small", "--learning_rate", "0.0005", "--echo_factor", "4"]
SCRIPTS = ("train.py", "optimisations.py", "convert_to_tflite.py", "evaluation.py", "input_data.py")


@dataclass(frozen=True)
class Measured:
    """The data and the settings of all measurements."""

    data_dir: str
    data: Data
    settings: Settings
    steps: int  # of a training


def parse_arguments():
    parser = new_parser(__doc__)
    input_data.add_arguments(parser)
    parser.add_argument(
        "--runs", type=bounded(int, 1), default=5, metavar="N", help="runs of each measurement"
    )
    parser.add_argument(
        "--steps", type=bounded(int, 400), default=30000, metavar="N", help="steps of a training"
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = options_from(DataOptions, args)
    settings = TFLiteModel(TFLITE).settings
    subject = Measured(options.data_dir, input_data.open_data(options, settings), settings, args.steps)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}\n")
    print("| what | plain | ours | ratio |\n| --- | ---: | ---: | ---: |")
    for name, unit, theirs, ours in (
        ("training, whole run", "steps/s", plain_training, our_training),
        ("features", "clips/s", plain_features, our_features),
        ("TFLite evaluation, after start-up", "clips/s", plain_evaluation, our_evaluation),
        ("TFLite evaluation, whole process", "processes/s", plain_process, our_process),
    ):
        # both take turns, so that a busy machine slows down both
        pairs = [(theirs(subject), ours(subject)) for _ in range(args.runs)]
        ratios = [fast / slow for slow, fast in pairs]
        slow, fast = zip(*pairs, strict=True)
        print(f"| {name}, {unit} | {spread(slow)} | {spread(fast)} | {spread(ratios)} |", flush=True)

    print("\n| what | ours |\n| --- | ---: |")
    helps = [max(timed(script, "--help")[0] for script in SCRIPTS) for _ in range(args.runs)]
    print(f"| `--help` of the slowest script, s | {spread(helps)} |", flush=True)
    print(f"| `train.py` to its first step, warm cache, s | {spread([first_step(subject) for _ in helps])} |")
    for count in (10_000, 20_000, 40_000, 105_829):
        cold, warm, memory = growth(subject, count)
        print(
            f"| {count:,} clips: decoding, s; training 1,000 steps, s; resident set, GB | "
            f"{cold:.1f}; {warm:.1f}; {memory:.2f} |",
            flush=True,
        )


def spread(values) -> str:
    """Return the median (lowest to highest) as text."""
    return " ".join(
        [f"{statistics.median(values):,.3g}", f"({min(values):,.3g} to {max(values):,.3g})"]
        if max(values) < 1000
        else [f"{statistics.median(values):,.0f}", f"({min(values):,.0f} to {max(values):,.0f})"]
    )


def timed(script, *arguments, **options):
    """Run a script as a process; return its seconds and its standard output."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    start = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout
    return time.perf_counter() - start, output


def plain_training(subject: Measured) -> float:
    paths, labels = plain.files(subject.data_dir, subject.data.training)
    return plain.training_steps_per_second(paths, labels, subject.data.noise, subject.settings)


def our_training(subject: Measured) -> float:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data_dir", subject.data_dir, "--train_dir", folder]
        flags += ["--how_many_training_steps", subject.steps]
        return subject.steps / timed("train.py", *flags, *RECIPE)[0]


def plain_features(subject: Measured) -> float:
    audio = subject.data.validation.audio(range(len(subject.data.validation)))
    return plain.features_per_second(audio / np.float32(32768), subject.settings.front_end)


def our_features(subject: Measured) -> float:
    start = time.perf_counter()
    found = input_data.features(subject.data.validation, subject.settings.front_end)
    return len(found) / (time.perf_counter() - start)


def plain_evaluation(subject: Measured) -> float:
    paths, labels = plain.files(subject.data_dir, subject.data.validation)
    return plain.evaluate(TFLITE, paths, labels, subject.settings)[1]


def our_evaluation(subject: Measured) -> float:
    model = TFLiteModel(TFLITE)
    start = time.perf_counter()
    model.predict(input_data.features(subject.data.validation, subject.settings.front_end))
    return len(subject.data.validation) / (time.perf_counter() - start)


def plain_process(subject: Measured) -> float:
    return 1 / timed("benchmarks/plain.py", TFLITE, subject.data_dir)[0]


def our_process(subject: Measured) -> float:
    return 1 / timed("evaluation.py", "--tflite_path", TFLITE, "--data_dir", subject.data_dir)[0]


def first_step(subject: Measured) -> float:
    """Return the seconds until train.py has taken its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", str(ROOT / "train.py"), "--data_dir", subject.data_dir, *RECIPE]
        command += ["--train_dir", folder, "--how_many_training_steps", "2", "--eval_step_interval", "1"]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            seconds = time.perf_counter() - start
            process.stdout.read()
        return seconds


def growth(subject: Measured, count: int) -> tuple[float, float, float]:
    """Return the seconds to decode `count` clips and to train on them, and the peak resident set in GB."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "clips"
        link_clips(Path(subject.data_dir), target, count)
        cold, _ = timed("input_data.py", "--data_dir", target)
        flags = ["--data_dir", target, "--train_dir", Path(folder) / "train", *RECIPE]
        command = [sys.executable, ROOT / "train.py", *flags, "--how_many_training_steps", 1000]
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        memory = 0.0
        while process.poll() is None:
            memory = peak_memory(process.pid) or memory
            time.sleep(0.1)
        assert process.returncode == 0
        return cold, time.perf_counter() - start, memory


def peak_memory(process_id):
    """Return the peak resident set of a process so far in GB (Linux), 0 if it has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process_id}/status").read_text()
        if match := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(match[1]) / 1e6
    return 0.0


def link_clips(source, target, count):
    """Make a data set of `count` links to clips of `source`, words in proportion, repeated if needed."""
    names = [(word, name) for word in word_folders(source) for name, _, _ in list_recordings(source / word)]
    for number in np.linspace(0, max(len(names), count) - 1, count).astype(int):
        word, name = names[number % len(names)]
        (target / word).mkdir(parents=True, exist_ok=True)
        link = name.replace("/", "_").replace(".", f"_{number // len(names)}.")
        (target / word / link).symlink_to((source / word / name).resolve())
    shutil.copytree(source / NOISE_FOLDER, target / NOISE_FOLDER)


if __name__ == "__main__":
    run(main)
