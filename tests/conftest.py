"""What the tests share: the scripts called as a user calls them, the sample data, and models made from it."""

import contextlib
import fcntl
import functools
import hashlib
import http.server
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "model_archive")]

import c_modules  # noqa: E402
import forks  # noqa: E402
import input_data  # noqa: E402
import models  # noqa: E402
from kws.base.errors import run  # noqa: E402
from kws.base.flags import new_parser  # noqa: E402
from kws.base.settings import Settings, SettingsFlags  # noqa: E402
from kws.board.c_folder import write_c_folder  # noqa: E402
from kws.data.dataset import DataOptions  # noqa: E402
from kws.detect import labelled_streams  # noqa: E402
from kws.model import checkpoints  # noqa: E402

SAMPLE_DATA = ROOT / "sample_data"
DATA = ("--data_dir", SAMPLE_DATA)
SPEAKER = "37f0e527"  # in the sample data for testing; says all ten words but "up"
RECORDINGS = Path(os.environ.get("SPEECH_COMMANDS", ROOT.parent / "shared" / "speech_commands"))
# Not left in the environment, where make would find it in every test.
CMSIS_NN = os.environ.pop("CMSIS_NN", "")
WEIGHTS = ROOT / "model_archive" / "model_source" / "weights"
SHIPPED = {
    kind: ROOT / "model_archive" / "TFLite" / f"tflite_{kind}" / f"dnn_small_{kind}.tflite"
    for kind in ("fp32", "int8", "int16", "clustered_int8", "clustered_16_int8", "entropy_int8")
}
SHIPPED_INT8 = SHIPPED["int8"]
RATE = 16000  # Hz
SPEAKERS = [f"{number:08x}" for number in range(40)]
ON_OFF = Settings(wanted_words=("on", "off"))
TC_RESNET_FLAGS = "--model_architecture tc_resnet --model_size_info 3 8 8".split()
DNN_SMALL_FLAGS = "--model_size_info 144 144 144 --dct_coefficient_count 10".split()
DNN_SMALL_FLAGS += "--window_size_ms 40 --window_stride_ms 40".split()
# Scores are softmaxes of sums of up to some hundred products, whose order differs between processors and ways
# of computing. float32 rounds to 6e-8, so sums differ by up to 1e-6 and scores by less than ten times that.
FLOAT32_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def fast_means_fast(request, monkeypatch):
    """Tests marked `fast` start no process and do not load TensorFlow."""
    if request.node.get_closest_marker("fast") is None:
        yield
        return

    def refuse(*args, **options):
        raise AssertionError("a test marked fast starts a process")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    had_tensorflow = "tensorflow" in sys.modules
    yield
    assert had_tensorflow or "tensorflow" not in sys.modules, "a test marked fast loads TensorFlow"


def spoken(word):
    """Return the path of a recording of a word in the sample data."""
    return SAMPLE_DATA / word / f"{SPEAKER}_nohash_0.opus"


# ---- scripts and what they leave ----


def copy_of_the_repository(tmp_path):
    """A repository that a test may change and write results into."""
    copy = tmp_path / "copy"
    anywhere = shutil.ignore_patterns("__pycache__", ".p*_cache", ".r*_cache")
    at_the_top = {".git", ".venv", "work", "data"}

    def ignored(folder, names):
        return anywhere(folder, names) | (at_the_top if folder == str(ROOT) else set())

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@functools.cache
def python():
    """A python whose processes have TensorFlow at once, for scripts."""
    return str(forks.Interpreter().path)


def call(script, *arguments, cwd=ROOT, check=True, **options):
    """Run a script of the repository; its result with text in stdout and stderr."""
    command = [python(), str(ROOT / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def call_here(script, *arguments, check=True):
    """As `call`, but in this process, which is spared the start and loads TensorFlow once for all tests."""
    main = importlib.import_module(Path(script).stem).main
    out, errors, known = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [script, *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            run(main)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = known
    result = subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())
    if check:
        assert code == 0, result.stdout + result.stderr
    return result


def assert_one_clear_line(result, *parts):
    """The script ended with exit code 2 and one line on standard error that holds `parts`."""
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert "error: " in line
    for part in parts:
        assert str(part) in line


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def web_server(folder, handler=QuietHandler):
    """The address of a web server for a folder."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))  # looks for its end so often
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def training_command(folder, *flags, data_dir=SAMPLE_DATA):
    """The command that trains briefly with DNN Small's settings."""
    return [
        *["train.py", "--data_dir", data_dir, "--train_dir", folder],
        *"--how_many_training_steps 60,20 --learning_rate 0.001,0.0001 --eval_step_interval 20".split(),
        *DNN_SMALL_FLAGS,
        *flags,
    ]


def train(folder, *flags, data_dir=SAMPLE_DATA, **options):
    """Run train.py briefly with DNN Small's settings."""
    return call(*training_command(folder, *flags, data_dir=data_dir), **options)


def train_here(folder, *flags, data_dir=SAMPLE_DATA, **options):
    """As `train`, in this process."""
    return call_here(*training_command(folder, *flags, data_dir=data_dir), **options)


def interrupt(command, by):
    """Start a training command and send the signal `by` after its first validation; its standard error."""
    script, *arguments = map(str, command)
    running = subprocess.Popen(
        [python(), str(ROOT / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    for line in running.stdout:
        if line.startswith("step 20"):
            running.send_signal(by)
            break
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (130 if by == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    return errors


def weights(path):
    """The weights in a checkpoint or SavedModel, one array after the other."""
    return [value for layer in checkpoints.read_weights(path) for _, value in sorted(layer.items())]


def assert_same_weights(path, other):
    for ours, theirs in zip(weights(path), weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def made_once(tmp_path_factory, name, make):
    """The folder `name`, filled by make(folder) once in a run of the tests, by whichever worker is first."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers' folders lie in one
        base = base.parent
    folder, complete = base / name, base / f"{name}.complete"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which train.py has run on the sample data."""
    return made_once(
        tmp_path_factory,
        "trained",
        lambda folder: folder.joinpath("output.txt").write_text(train(folder).stdout),
    )


@pytest.fixture(scope="session")
def tflite(trained, tmp_path_factory):
    """One TFLite file of each kind, made from `trained`: {kind: path}."""
    kinds = {
        "fp32": ["--no-quantize"],
        "int8 inside": [],
        "int8": ["--inference_type", "int8"],
        "int16": ["--inference_type", "int16"],
    }

    def make(folder):
        for kind, flags in kinds.items():
            command = ["convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, *flags]
            call(*command, "--output", folder / f"{kind}.tflite")

    folder = made_once(tmp_path_factory, "tflite", make)
    return {kind: folder / f"{kind}.tflite" for kind in kinds}


# ---- settings and data ----


def settings_flags(*typed):
    """Typed flags as the scripts read them."""
    parser = new_parser("")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return SettingsFlags.from_arguments(parser.parse_args(typed))


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


@pytest.fixture(scope="session")
def sample(data_options, dnn_small):
    """The sample data as DNN Small takes it."""
    return input_data.open_data(data_options(), dnn_small)


@pytest.fixture(scope="session")
def test_set(sample, dnn_small):
    """(features, labels) of the sample data's test partition."""
    return input_data.features(sample.testing, dnn_small.front_end), sample.testing.label


@pytest.fixture
def long_recording(tmp_path, trained, data_options):
    """Path of a recording of the sample data's words, and the words in it."""
    settings = checkpoints.read_settings(trained / "best")
    data = input_data.open_data(data_options(), settings)
    recording = labelled_streams.make_stream("x", data.training, data.noise, 1, [0], settings)
    soundfile.write(tmp_path / "long.wav", recording.samples, RATE)
    lines = [f"{seconds:.3f},{settings.labels[label]}\n" for seconds, label in recording.words]
    (tmp_path / "words.csv").write_text("".join(lines))
    return tmp_path / "long.wav", tmp_path / "words.csv", recording


def encode_audio(path, codec, rate, layout="mono", seconds=2):
    """Write a tone of 300 Hz and 0.3 of full scale by FFmpeg; returns the path."""
    import av

    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate)
    channels = 2 if layout == "stereo" else 1
    samples = np.repeat((32767 * tone).astype(np.int16), channels)
    frame = av.AudioFrame.from_ndarray(samples[None], "s16", layout)
    frame.sample_rate = rate
    with av.open(str(path), "w") as file:
        bit_rate = 12200 if "amr" in codec else 64000
        stream = file.add_stream(codec, rate=rate, layout=layout, bit_rate=bit_rate)
        convert = av.AudioResampler(stream.codec_context.format.name, layout, rate)
        for part in (*convert.resample(frame), None):
            file.mux(stream.encode(part))
    return path


def write_wav(file, seconds=1.0):
    """Write a recording of noise, one channel at RATE."""
    samples = 0.1 * np.random.default_rng(0).normal(size=int(seconds * RATE))
    soundfile.write(file, samples, RATE, subtype="PCM_16", format="WAV")


def make_words(folder, words=("on", "off", "cat"), speakers=SPEAKERS):
    """A small data set of noise, the same in every clip but for two samples."""
    content = io.BytesIO()
    write_wav(content)
    header, noise = content.getvalue()[:44], content.getvalue()[48:]
    for word in words:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for speaker in speakers:
            own = hashlib.sha256(f"{folder.name}/{word}/{speaker}".encode(errors="replace")).digest()[:4]
            (folder / word / f"{speaker}_nohash_0.wav").write_bytes(header + own + noise)
    return folder


@pytest.fixture(scope="session")
def real_speech(tmp_path_factory):
    """A folder with the validation and test recordings of Speech Commands and its test set; skips without."""
    if not (RECORDINGS / "unpack.py").exists():
        pytest.skip(f"no recordings of Speech Commands in {RECORDINGS}")

    def make(folder):
        command = [sys.executable, RECORDINGS / "unpack.py", folder, "--only", "testing,validation"]
        subprocess.run(command, check=True, capture_output=True)

    return made_once(tmp_path_factory, "real_speech", make)


# ---- C ----


@pytest.fixture(scope="session")
def c_tools():
    """Skips tests where C cannot be compiled."""
    if not (shutil.which("cc") and shutil.which("make")):
        pytest.skip("cc or make not installed")


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, c_tools):
    """The shipped int8 model's module, and the model."""
    return c_modules.module_and_model(SHIPPED_INT8, tmp_path_factory.mktemp("c") / "kws")


@pytest.fixture(scope="session")
def ds_cnn_small(tmp_path_factory, c_tools):
    """A module of the size of DS-CNN Small, and its model."""
    settings = Settings(**models.PRESETS["ds_cnn_small"])
    folder = made_once(tmp_path_factory, "ds_cnn_small", lambda folder: c_modules.converted(settings, folder))
    return c_modules.module_and_model(folder / "x.tflite", tmp_path_factory.mktemp("ds_cnn") / "c")


@pytest.fixture(scope="session")
def verified(tmp_path_factory, ds_cnn_small):
    """The packed module of clustered DNN Small with DS-CNN Small as its verifier, and that one's model."""
    folder = tmp_path_factory.mktemp("verified") / "kws"
    first = SHIPPED["clustered_int8"]
    write_c_folder(first, folder, packed=True, verifier_path=ds_cnn_small[1].path)
    return c_modules.Module(folder), ds_cnn_small[1]


class Stream(NamedTuple):
    """Half an hour of words between pauses, and what label_wav.py detects in it."""

    samples: np.ndarray  # int16
    detections: list[tuple[str, str, str]]  # seconds, label and score, as kws prints them


@pytest.fixture(scope="session")
def half_hour(tmp_path_factory, sample, dnn_small):
    """A Stream for the shipped int8 model."""

    def make(folder):
        recording = labelled_streams.make_stream("x", sample.training, sample.noise, 30, [0], dnn_small)
        soundfile.write(folder / "stream.wav", recording.samples, RATE)
        detections = call("label_wav.py", SHIPPED_INT8, folder / "stream.wav", "--json", "-").stdout
        (folder / "detections.jsonl").write_text(detections)

    folder = made_once(tmp_path_factory, "half_hour", make)
    found = map(json.loads, (folder / "detections.jsonl").read_text().splitlines())
    detections = [(f"{one['seconds']:.3f}", one["label"], f"{one['score']:.4f}") for one in found]
    return Stream(soundfile.read(folder / "stream.wav", dtype="int16")[0], detections)
