"""Forms of a TFLite file that firmware takes."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import convert_to_tflite
import input_data
import models
from conftest import DATA, RATE, ROOT, SHIPPED_INT8, WEIGHTS, assert_one_clear_line, call
from kws.base.settings import Settings
from kws.board import firmware
from kws.detect import streaming
from kws.detect.streaming import DetectorOptions
from kws.model.tflite import TFLiteModel, dequantize, embed_settings, quantize

ARCHIVE = ROOT / "model_archive" / "TFLite"
INT8 = ("--checkpoint", WEIGHTS, *DATA, "--inference_type", "int8")


@pytest.mark.parametrize(("suffix", "compiler"), [("c", "cc"), ("cc", "c++")])
def test_an_array_holds_the_file_and_is_aligned(tmp_path, suffix, compiler):
    array = tmp_path / f"my-words.{suffix}"
    call("convert_to_tflite.py", *INT8, "--output", array)
    content = (tmp_path / "my-words.tflite").read_bytes()
    numbers = re.search(r"my_words\[\] = {(.*?)}", array.read_text(), re.S)[1]
    assert "aligned(16)" in array.read_text()
    assert bytes(map(int, numbers.strip().strip(",").split(","))) == content
    program = tmp_path / f"main.{suffix}"
    start = 'extern "C" {' if suffix == "cc" else ""
    program.write_text(
        f"{start} extern const unsigned char my_words[]; extern const unsigned int my_words_len; "
        f"{'}' if start else ''}\n"
        "int main(void) { return (unsigned long)my_words % 16 != 0 || my_words_len != "
        f"{len(content)} || my_words[4] != 'T'; }}\n"
    )
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "main", program, array]
    subprocess.run(command, check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0


@pytest.mark.parametrize("stem", ["new", "int", "linux", "main", "2 words", "한국", 'say "hi"\n', "a??/", ""])
def test_an_array_has_a_name_of_c_whatever_that_of_the_file(tmp_path, stem):
    source = firmware.c_array(stem, b"TFL3")
    for compiler, language in (("cc", "c"), ("c++", "c++")):
        strict = ["-Wall", "-Wextra", "-Werror", "-x", language, "-c", "-", "-o", tmp_path / "x.o"]
        subprocess.run([compiler, *strict], input=source, text=True, check=True)


@pytest.mark.parametrize("text", ['"', "\\", "??/", "two\nlines\r\t", "한국1", "a\udcff", "*/ // %s", ""])
def test_any_text_is_a_string_of_c(tmp_path, text):
    (tmp_path / "x.c").write_text(
        f"#include <stdio.h>\nint main(void) {{ fputs({firmware.c_string(text)}, stdout); }}\n"
    )
    strict = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "x.c", "-o", "x"]
    subprocess.run(strict, cwd=tmp_path, check=True)
    output = subprocess.run([tmp_path / "x"], capture_output=True, check=True).stdout
    assert output == text.encode("utf-8", "surrogateescape")


def test_vela_puts_the_whole_network_on_the_npu(tmp_path):
    pytest.importorskip("ethosu.vela")
    output = call(
        "convert_to_tflite.py", *INT8, "--output", tmp_path / "2x.cc", "--vela", "ethos-u55-128"
    ).stdout
    assert re.search(
        r": 100 % of the operators .*SRAM [\d.]+ KiB, DRAM 0.00 KiB, flash [\d.]+ KiB, [\d,]+ cycles", output
    )
    compiled = (tmp_path / "2x_vela.tflite").read_bytes()
    assert compiled[4:8] == b"TFL3"
    assert f"_2x_len = {len(compiled)};" in (tmp_path / "2x.cc").read_text()


def test_the_targets_are_those_of_vela():
    pytest.importorskip("ethosu.vela")
    vela = shutil.which("vela", path=firmware.VELA_PATH)
    text = subprocess.run([vela, "--help"], capture_output=True, text=True).stdout
    (choices,) = re.findall(r"--accelerator-config\s+\{(.*?)\}", text.split("positional arguments")[0], re.S)
    assert re.split(r",\s*", choices) == list(firmware.VELA_TARGETS)


def test_vela_compiles_for_the_newest_npu(tmp_path):
    pytest.importorskip("ethosu.vela")
    compiled, cost = firmware.compile_for_npu(Path(shutil.copy(SHIPPED_INT8, tmp_path)), "ethos-u85-256")
    assert cost.operators_on_npu == 100 and 60 < cost.dram_kib < 90 and cost.cycles > 1000
    assert compiled.read_bytes()[4:8] == b"TFL3"


def test_vela_wants_integers(tmp_path):
    flags = "--checkpoint", WEIGHTS, "--output", tmp_path / "x.tflite", "--vela", "ethos-u55-128"
    result = call("convert_to_tflite.py", *flags, check=False)
    assert_one_clear_line(result, "--vela needs an integer model")


@pytest.mark.fast
def test_the_lines_that_register_operators():
    assert firmware.resolver(["AVERAGE_POOL_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]).splitlines() == [
        "tflite::MicroMutableOpResolver<3> resolver;",
        "resolver.AddAveragePool2D();",
        "resolver.AddDepthwiseConv2D();",
        "resolver.AddFullyConnected();",
    ]
    assert "AddEthosU();" in firmware.resolver(["CUSTOM"])


def on_micro(tflite, features):
    """Scores of features by TensorFlow Lite Micro and by LiteRT, both [clips, labels]."""
    runtime = pytest.importorskip("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes(tflite.read_bytes())
    model, found, expected = TFLiteModel(tflite), [], []
    for row in features:
        input_tensor = quantize(row[None], model.input)
        interpreter.set_input(input_tensor, 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0)[0])
        expected.append(model.run(input_tensor)[0])
    return np.array(found, np.float64), np.array(expected, np.float64)


@pytest.mark.fast
@pytest.mark.parametrize("tflite", sorted(ARCHIVE.glob("*/*.tflite")), ids=lambda path: path.stem)
def test_tensorflow_lite_micro_predicts_the_same(tflite, sample):
    front_end = TFLiteModel(tflite).settings.front_end
    micro, litert = on_micro(tflite, input_data.features(sample.testing, front_end))
    assert (micro.argmax(1) == litert.argmax(1)).mean() >= 0.95 and len(set(micro.argmax(1))) > 5


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("cnn", (8, 10, 4, 1, 1, 8, 10, 4, 2, 1, 16, 32)),
        ("ds_cnn", (2, 16, 10, 4, 2, 2, 16, 3, 3, 1, 1)),
        ("crnn", (8, 10, 4, 2, 2, 1, 12, 16)),
        ("gru", (1, 12)),
        ("lstm", (12, 16)),
        ("basic_lstm", (12,)),
        ("tc_resnet", (9, 16, 16, 24)),
    ],
)
def test_tensorflow_lite_micro_takes_every_architecture(tmp_path, architecture, size):
    from kws.base.quiet_tf import keras

    settings = Settings(
        model_architecture=architecture,
        model_size_info=size,
        window_size_ms=40,
        window_stride_ms=40,
        dct_coefficient_count=10,
    )
    keras.utils.set_random_seed(0)
    features = np.random.default_rng(0).normal(scale=5, size=(50, settings.feature_count)).astype(np.float32)
    model = models.build_model(settings)
    for weight in model.trainable_weights:  # so that scores differ between inputs
        weight.assign(1.4 * weight)
    content = convert_to_tflite.convert(model, settings, features, "int8")
    (tmp_path / "x.tflite").write_bytes(embed_settings(content, settings))
    micro, litert = on_micro(tmp_path / "x.tflite", features)
    assert np.corrcoef(micro.ravel(), litert.ravel())[0, 1] >= 0.99 and len(set(litert.argmax(1))) > 1


class OnMicro:
    """A TFLite file that TensorFlow Lite Micro runs, with what kws.detect.streaming asks of a model."""

    def __init__(self, path):
        self._model = TFLiteModel(path)
        self._interpreter = pytest.importorskip("tflite_micro").runtime.Interpreter.from_bytes(
            self._model.content
        )
        self.settings = self._model.settings

    def predict(self, features):
        scores = []
        for row in quantize(features, self._model.input):
            self._interpreter.set_input(row[None], 0)
            self._interpreter.invoke()
            scores.append(dequantize(self._interpreter.get_output(0), self._model.output))
        return np.concatenate(scores)


def test_tensorflow_lite_micro_detects_what_litert_detects(half_hour):
    """Nearly all words are detected in the same window: the two round some sums differently."""
    model, end = OnMicro(SHIPPED_INT8), 600  # seconds
    detections = streaming.detections_in([half_hour.samples[: end * RATE]], model, DetectorOptions())
    found = [(one.seconds, model.settings.labels[one.label]) for one in detections]
    expected = [(float(seconds), word) for seconds, word, _ in half_hour.detections]
    # the last second has no whole windows after it in the one, and has in the other
    found, expected = ([one for one in each if one[0] < end - 1] for each in (found, expected))
    near = [[at for at, word in expected if word == heard and abs(at - time) < 0.15] for time, heard in found]
    assert len(found) > 50 and abs(len(found) - len(expected)) <= 0.05 * len(expected)
    assert sum(map(bool, near)) >= 0.95 * len(found)
    same = [abs(at[0] - time) < 0.001 for at, (time, _) in zip(near, found, strict=True) if at]
    assert np.mean(same) >= 0.9
