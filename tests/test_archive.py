"""The shipped files are what their definitions say, and as good."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import yaml

import build
import models
from conftest import ROOT, WEIGHTS, call_here
from kws.base.settings import Settings
from kws.board import firmware
from kws.board.incremental import incremental, macs_of_a_second
from kws.board.layers import read_network
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel, operator_names, parameters_and_macs, settings_text, zipped_size

ARCHIVE = ROOT / "model_archive"
TFLITE_FOLDERS = sorted((ARCHIVE / "TFLite").iterdir())
EXPECTED = Settings(**models.PRESETS["dnn_small"])
VERIFIER = Settings(**models.PRESETS["ds_cnn_small"])
STREAM = Settings(**models.PRESETS["stream_cnn_small"])
ON_MICROPHONE = build.MICROPHONE + build.VERIFIER + build.STREAM
MOST_MISSES = {
    "microphone_fp32": 0.28,
    "microphone_int8": 0.28,
    "stream_cnn_small_fp32": 0.15,
    "stream_cnn_small_int8": 0.15,
    "ds_cnn_small_fp32": 0.18,
    "ds_cnn_small_int8": 0.18,
}
OPERATORS = {
    "dnn": ["FULLY_CONNECTED", "SOFTMAX"],
    "stream_cnn": ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "RESHAPE", "SOFTMAX"],
    "ds_cnn": ["AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "RESHAPE", "SOFTMAX"],
}


def definition(folder):
    return yaml.safe_load((folder / "definition.yaml").read_text())


def tflite_file(folder):
    return folder / definition(folder)["file"]


def expected(folder):
    """The settings of a folder's file, but for its detector."""
    others = {"tflite_ds_cnn_small": VERIFIER, "tflite_stream_cnn_small": STREAM}
    return others.get(folder.name.rsplit("_", 1)[0], EXPECTED)


def by_name(folder):
    return folder.name


@pytest.mark.fast
def test_there_is_a_file_of_each_kind():
    assert [folder.name for folder in TFLITE_FOLDERS] == sorted(f"tflite_{kind}" for kind in build.KINDS)


@pytest.mark.fast
@pytest.mark.parametrize(
    "path",
    [
        WEIGHTS,
        ARCHIVE / "model_source" / "saved_model",
        ARCHIVE / "model_source" / "dnn_small.keras",
        ARCHIVE / "model_source" / "microphone",
        *(tflite_file(folder) for folder in TFLITE_FOLDERS if folder.name[7:] not in ON_MICROPHONE),
    ],
    ids=by_name,
)
def test_every_shipped_form_carries_the_settings_of_dnn_small(path):
    assert checkpoints.read_settings(path) == EXPECTED


@pytest.mark.fast
@pytest.mark.parametrize("kind", ON_MICROPHONE)
def test_files_for_microphones_carry_their_detector(kind):
    folder = ARCHIVE / "TFLite" / f"tflite_{kind}"
    settings = checkpoints.read_settings(tflite_file(folder))
    assert dataclasses.replace(settings, detector=None) == expected(folder)
    assert (settings.detector.gate is not None) == (kind in build.VERIFIER)
    points = {point["threshold"]: point for point in definition(folder)["detection"]["points"]}
    for name, most in (("low", 2), ("normal", 5), ("high", 20)):
        one = getattr(settings.detector, name)
        assert one.false_alarms_per_hour <= most
        assert points[one.threshold]["miss_rate"] == pytest.approx(one.miss_rate, abs=1e-4)
    normal = points[settings.detector.normal.threshold]
    assert normal["miss_rate"] <= MOST_MISSES[kind]


@pytest.mark.fast
@pytest.mark.parametrize("folder", TFLITE_FOLDERS, ids=by_name)
def test_the_definition_describes_the_file(folder):
    stated, content = definition(folder), tflite_file(folder).read_bytes()
    model = TFLiteModel(tflite_file(folder))
    assert stated["bytes"] == len(content)
    assert stated["zipped_bytes"] == zipped_size(content)
    assert stated["sha256"] == hashlib.sha256(content).hexdigest()
    assert stated["operators"] == operator_names(content)
    assert sorted(stated["operators"]) == OPERATORS[model.settings.model_architecture]
    assert stated["settings"] == json.loads(settings_text(content))
    assert stated["output"]["labels"] == list(EXPECTED.labels)
    for name, detail in (("input", model.input), ("output", model.output)):
        assert stated[name]["shape"] == detail["shape_signature"].tolist()
        assert stated[name]["type"] == np.dtype(detail["dtype"]).name
        if stated[name]["type"] != "float32":
            assert np.float32(stated[name]["scale"]) == np.float32(detail["quantization"][0])
            assert stated[name]["zero_point"] == detail["quantization"][1]


@pytest.mark.fast
def test_the_source_says_how_to_open_each_of_its_forms():
    folder = ARCHIVE / "model_source"
    how = definition(folder)["how_to_open"]
    assert how == build.HOW_TO_OPEN
    assert set(how) == {path.name for path in folder.iterdir()} - {"definition.yaml", "README.md"}
    assert all(f"| `{form}` | {text} |" in (folder / "README.md").read_text() for form, text in how.items())


@pytest.mark.parametrize("folder", TFLITE_FOLDERS, ids=by_name)
def test_tensorflow_lite_micro_needs_what_is_stated(folder):
    pytest.importorskip("tflite_micro")
    stated = definition(folder)["tensorflow_lite_micro"]
    assert stated["resolver"] == firmware.resolver(definition(folder)["operators"]).splitlines()
    sizes = (stated["arena_bytes"] - 16, stated["arena_bytes"])  # all are multiples of 16
    assert [build.runs_in_arena(tflite_file(folder), size) for size in sizes] == [False, True]


@pytest.mark.parametrize(
    "kind",
    [
        "int8",
        "clustered_int8",
        "clustered_16_int8",
        "entropy_int8",
        "int16",
        "microphone_int8",
        "ds_cnn_small_int8",
        "stream_cnn_small_int8",
    ],
)
def test_an_npu_needs_what_is_stated(kind):
    pytest.importorskip("ethosu.vela")
    folder = ARCHIVE / "TFLite" / f"tflite_{kind}"
    assert build.npu_cost(tflite_file(folder)) == definition(folder)[build.NPU]


@pytest.mark.fast
def test_the_integer_files_are_small():
    assert definition(ARCHIVE / "TFLite" / "tflite_int8")["bytes"] <= 84_000
    assert definition(ARCHIVE / "TFLite" / "tflite_clustered_int8")["zipped_bytes"] <= 57_000
    assert definition(ARCHIVE / "TFLite" / "tflite_clustered_16_int8")["zipped_bytes"] <= 46_000
    assert definition(ARCHIVE / "TFLite" / "tflite_entropy_int8")["zipped_bytes"] <= 50_000


@pytest.mark.fast
@pytest.mark.parametrize(
    ("kind", "most"), [("clustered_int8", 32), ("clustered_16_int8", 16), ("entropy_int8", 32)]
)
def test_the_clustered_kernels_have_few_values(kind, most):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(tflite_file(ARCHIVE / "TFLite" / f"tflite_{kind}")))
    interpreter.allocate_tensors()
    kernels = [
        interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8 and len(detail["shape"]) == 2 and detail["shape"][0] > 1
    ]
    assert len(kernels) == 4 and all(len(np.unique(kernel)) <= most for kernel in kernels)


@pytest.mark.fast
@pytest.mark.parametrize("folder", TFLITE_FOLDERS, ids=by_name)
def test_the_regression_vectors_hold(folder):
    model = TFLiteModel(tflite_file(folder))
    outputs = []
    for number in range(len(EXPECTED.labels)):
        given = np.load(folder / "testing_input" / "input" / f"{number}.npy")
        output = np.load(folder / "testing_output" / "output" / f"{number}.npy")
        assert given.shape == (1, expected(folder).feature_count) and output.shape == (1, 12)
        tolerance = 1e-5 if given.dtype == np.float32 else 0
        np.testing.assert_allclose(model.run(given), output, rtol=0, atol=tolerance)
        outputs.append(output)
    # of the 12 clips two may be of one predicted label, and as certain as int8 can tell
    assert len(np.unique(np.concatenate(outputs), axis=0)) >= len(outputs) - 1


def test_the_sources_and_the_float_file_are_one_model():
    model, settings = models.load_checkpoint(WEIGHTS)
    exported, _ = models.load_checkpoint(ARCHIVE / "model_source" / "saved_model")
    features = np.random.default_rng(0).normal(scale=10, size=(20, 250)).astype(np.float32)
    expected = checkpoints.keras_predictor(model)(features)
    np.testing.assert_array_equal(checkpoints.keras_predictor(exported)(features), expected)
    tflite = TFLiteModel(tflite_file(ARCHIVE / "TFLite" / "tflite_fp32"))
    np.testing.assert_allclose(tflite.predict(features), expected, atol=1e-5)


def test_the_stated_accuracies_are_measured_again(real_speech, tmp_path):
    files = "--tflite_path", *map(tflite_file, TFLITE_FOLDERS), "--checkpoint", WEIGHTS
    data = "--data_dir", real_speech / "speech_commands_v0.02"
    test_set = "--test_dir", real_speech / "speech_commands_test_set_v0.02"
    call_here("evaluation.py", *files, *data, *test_set, "--json", tmp_path / "report.json")
    results = json.loads((tmp_path / "report.json").read_text())
    folders = {str(tflite_file(folder)): folder for folder in TFLITE_FOLDERS}
    folders[str(WEIGHTS)] = ARCHIVE / "model_source"
    accuracy = {}
    for path, folder in folders.items():
        stated = {figures["set"]: figures for figures in definition(folder)["accuracy"]}
        measured = {figures["set"]: figures for figures in results[path]}
        assert measured.keys() == stated.keys()
        for name, figures in stated.items():
            assert measured[name]["N"] == figures["N"]
            assert abs(measured[name]["correct"] - figures["correct"]) <= 2
            accuracy[folder.name, name.split(",")[0]] = figures["accuracy"]
    for test_set, least in (("testing", 0.88), ("canonical", 0.87)):
        assert accuracy["model_source", test_set] >= least
        for kind, loss in (
            ("int8", 0.003),
            ("int16", 0.001),
            ("clustered_int8", 0.005),
            ("clustered_16_int8", 0.02),
            ("entropy_int8", 0.005),
        ):
            assert accuracy[f"tflite_{kind}", test_set] >= accuracy["tflite_fp32", test_set] - loss


@pytest.mark.fast
@pytest.mark.parametrize("folder", TFLITE_FOLDERS, ids=by_name)
def test_the_pages_state_the_figures_of_the_definitions(folder):
    stated = definition(folder)
    accuracy = {f["set"].split(",")[0]: f"{100 * f['accuracy']:.2f} %" for f in stated["accuracy"]}
    size, clips = f"{stated['bytes']:,}", accuracy["canonical"]
    (row,) = rows_of(stated["file"], "docs/accuracy.md")
    assert row[1:] == [size, f"{stated['zipped_bytes']:,}", accuracy["testing"], clips]
    for _, _, *figures in rows_of(stated["file"], "README.md"):
        macs = macs_of_a_second_of(tflite_file(folder)) / 1e6
        assert figures[:3] == [size, f"{macs:.2f} M", clips]


def rows_of(file, page):
    """Return the rows of a table of `page` that begin with the name of a file."""
    rows = [line.strip("|").split("|") for line in (ROOT / page).read_text().splitlines()]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip() == f"`{file}`"]


def macs_of_a_second_of(path):
    """Return the multiply-accumulates of a second of a stream that is scored each 40 ms."""
    model = TFLiteModel(path)
    if model.settings.model_architecture != "stream_cnn":
        return 25 * parameters_and_macs(model.content)[1]
    network = incremental(read_network(model.content, path), model.settings.frame_count, hop_frames=2)
    return macs_of_a_second(network, model.settings)
