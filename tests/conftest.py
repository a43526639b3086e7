"""What the tests share: the scripts called as a user calls them, the sample data, and models made from it."""

import contextlib
import dataclasses
import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import input_data
import models
from input_data import DataOptions
from kws.augmentation import Augmentation
from kws.cli import new_parser
from kws.settings import Settings, SettingsFlags

ROOT = Path(__file__).resolve().parent.parent

SAMPLE_DATA = ROOT / "sample_data"
RECORDINGS = Path(os.environ.get("SPEECH_COMMANDS", ROOT.parent / "shared" / "speech_commands"))
WEIGHTS = ROOT / "model_archive" / "model_source" / "weights"
SHIPPED_INT8 = ROOT / "model_archive" / "TFLite" / "tflite_int8" / "dnn_small_int8.tflite"
RATE = 16000  # Hz
DNN_SMALL_FLAGS = (
    "--model_size_info 144 144 144 --dct_coefficient_count 10 --window_size_ms 40 --window_stride_ms 40"
).split()
# Scores are softmaxes of sums of up to some hundred products, whose order differs between processors and ways
# of computing. float32 rounds to 6e-8, so sums differ by up to 1e-6 and scores by less than ten times that.
FLOAT32_TOLERANCE = 1e-5


def call(script, *arguments, cwd=ROOT, check=True, **options):
    """Run a script of the repository; its result with text in stdout and stderr."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def assert_one_clear_line(result, *parts):
    """The script ended with exit code 2 and one line on standard error that holds `parts`."""
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert "error: " in line
    for part in parts:
        assert str(part) in line


# Files whose tests start neither a process nor TensorFlow; single tests elsewhere have the mark themselves.
FAST_FILES = "test_layout test_features_division test_reports test_library".split()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in FAST_FILES:
            item.add_marker(pytest.mark.fast)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def web_server(folder, handler=QuietHandler):
    """The address of a web server for a folder."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def training_command(folder, *flags, data_dir=SAMPLE_DATA):
    """The command that trains briefly with DNN Small's settings."""
    return [
        "train.py",
        "--data_dir",
        data_dir,
        "--train_dir",
        folder,
        *"--how_many_training_steps 60,20 --learning_rate 0.001,0.0001 --eval_step_interval 20".split(),
        *DNN_SMALL_FLAGS,
        *flags,
    ]


def train(folder, *flags, data_dir=SAMPLE_DATA, **options):
    """Run train.py briefly with DNN Small's settings."""
    return call(*training_command(folder, *flags, data_dir=data_dir), **options)


def weights(path):
    """The weights in a checkpoint or SavedModel, one array after the other."""
    from kws import checkpoints

    return [value for layer in checkpoints.read_weights(path) for _, value in sorted(layer.items())]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which train.py has run on the sample data."""
    folder = tmp_path_factory.mktemp("train")
    folder.joinpath("output.txt").write_text(train(folder).stdout)
    return folder


@pytest.fixture(scope="session")
def dnn_small():
    """The settings of DNN Small."""
    return Settings(
        window_size_ms=40, window_stride_ms=40, dct_coefficient_count=10, model_size_info=(144, 144, 144)
    )


@pytest.fixture(scope="session")
def data_options():
    """The options of the sample data, as a function of what is to differ."""

    def options(**changes) -> DataOptions:
        return DataOptions(**({"data_dir": str(SAMPLE_DATA)} | changes))

    return options


DATA = ("--data_dir", SAMPLE_DATA)


TC_RESNET = ("--model_architecture", "tc_resnet", "--model_size_info", "3", "8", "8")


RECIPE = (
    *("--batch_norm", "--learning_rate_schedule", "cosine", "--echo_factor", "2", "--speed_change", "10"),
    *("--volume_change_db", "6", "--silence_volume", "0.5", "--training_unknown_percentage", "20"),
)


def interrupt(command, how):
    """Start a training command and send the signal `how` after its first validation; its standard error."""
    script, *arguments = map(str, command)
    running = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    for line in running.stdout:
        if line.startswith("step 20"):
            running.send_signal(how)
            break
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    return errors


@pytest.fixture(scope="session")
def distilled(trained, tmp_path_factory):
    """A folder in which train.py has run with every flag of the recipe, taught by the model in `trained`."""
    folder = tmp_path_factory.mktemp("distilled")
    output = train(folder, "--teacher", trained / "best", *RECIPE).stdout
    (folder / "output.txt").write_text(output)
    return folder


def clustering(checkpoint, folder):
    """The command that clusters `checkpoint`, briefly."""
    return [
        *("optimisations.py", "--checkpoint", checkpoint, *DATA, "--train_dir", folder),
        *("--how_many_training_steps", "40,20", "--eval_step_interval", "20"),
    ]


@pytest.fixture(scope="session")
def clustered(trained, tmp_path_factory):
    """A folder in which optimisations.py has run."""
    folder = tmp_path_factory.mktemp("clustered")
    result = call(*clustering(trained / "best", folder))
    (folder / "output.txt").write_text(result.stdout)
    return folder


SPEAKERS = [f"{number:08x}" for number in range(40)]


def write_wav(path, seconds=1.0, rate=RATE, channels=1, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * np.random.default_rng(0).normal(size=(int(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")


def make_words(folder, words=("on", "off", "cat"), speakers=SPEAKERS):
    """A small data set of noise."""
    for word in words:
        for speaker in speakers:
            write_wav(folder / word / f"{speaker}_nohash_0.wav")
    return folder


ON_OFF = Settings(wanted_words=("on", "off"))


def open_sample(data_options, settings, **changes):
    """The sample data, and the Augmentation with these flags."""
    fields = {field.name for field in dataclasses.fields(Augmentation)}
    options = {name: value for name, value in changes.items() if name not in fields}
    variation = Augmentation(**{name: value for name, value in changes.items() if name in fields})
    return input_data.open_data(data_options(**options), settings), variation


def flags_of(*typed):
    parser = new_parser("")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return SettingsFlags.from_arguments(parser.parse_args(typed))


@pytest.fixture(scope="session")
def tflite_files(trained, tmp_path_factory):
    """One TFLite file of each kind: {kind: path}."""
    folder = tmp_path_factory.mktemp("tflite")
    kinds = {
        "fp32": ["--no-quantize"],
        "int8 inside": [],
        "int8": ["--inference_type", "int8"],
        "int16": ["--inference_type", "int16"],
    }
    paths = {kind: folder / f"{kind.replace(' ', '_')}.tflite" for kind in kinds}
    for kind, path in paths.items():
        base = ["--checkpoint", trained / "best", "--data_dir", SAMPLE_DATA, "--output", path]
        call("convert_to_tflite.py", *base, *kinds[kind])
    return paths


@pytest.fixture(scope="session")
def labelled_features(data_options, dnn_small):
    """(features, labels) of the sample data's test partition, and the ranges that features have."""
    data = input_data.open_data(data_options(), dnn_small)
    return input_data.features(data.testing, dnn_small.front_end), data.testing.label


def shipped_recordings(tmp_path, part):
    """The recordings of RECORDINGS, unpacked for a test that needs real speech; skipped without them."""
    if not (RECORDINGS / "unpack.py").exists():
        pytest.skip(f"no recordings of Speech Commands in {RECORDINGS}")
    command = [sys.executable, str(RECORDINGS / "unpack.py"), str(tmp_path), "--only", part]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path
