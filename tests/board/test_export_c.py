"""The C module: the same features, scores and labels as on the PC, here and on emulated microcontrollers."""

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import convert_to_tflite
import input_data
import models
import networks
from c_modules import BOARDS, STRICT, Module, assert_same_scores, exported, needs, random_inputs
from conftest import (
    ROOT,
    SHIPPED,
    SHIPPED_INT8,
    assert_one_clear_line,
    call,
    write_wav,
)
from kws.audio.recordings import wav_bytes
from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import DetectorSettings, Sensitivity, Settings
from kws.board import c_source
from kws.board.c_folder import write_c_folder
from kws.board.layers import read_network
from kws.detect import labelled_streams, streaming
from kws.detect.streaming import DetectorOptions
from kws.model.tflite import TFLiteModel, embed_settings, quantize


def recordings(data, settings):
    """Speech, silence, and noise from quiet to full scale, int16 [clips, clip_samples]."""
    speech = [clips.samples(clip) for clips in (data.training, data.testing) for clip in range(len(clips))]
    rng = np.random.default_rng(0)
    noise = [
        rng.uniform(-level, level, settings.clip_samples)
        for level in np.geomspace(3, 32767, 250)
        for _ in range(2)
    ]
    square = np.sign(rng.normal(size=(3, settings.clip_samples))) * 32767
    silence = np.zeros((1, settings.clip_samples))
    return np.concatenate([speech, noise, square, silence]).astype(np.int16)


def test_features_and_labels_are_those_of_the_pc(shipped, sample, dnn_small):
    module, model = shipped
    clips = recordings(sample, dnn_small)
    assert len(clips) >= 500
    expected = mfcc(clips / np.float32(32768), dnn_small.front_end)
    frames = clips[:, : 25 * 640].reshape(-1, 640)
    found = np.stack([module.call("kws_mfcc", frame, 10, np.float32) for frame in frames])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)
    given = np.stack([module.call("kws_features", clip, 250, np.int8) for clip in clips])
    steps = np.abs(given.astype(int) - quantize(expected, model.input))
    assert steps.max() <= 1 and (steps > 0).mean() < 0.001
    scores = np.stack([module.call("kws_classify", one, 12, np.int8) for one in given])
    assert (scores.argmax(1) == model.predict(expected).argmax(1)).mean() >= 0.995


def test_scores_are_those_of_the_interpreter_bit_for_bit(shipped):
    module, model = shipped[0], TFLiteModel(SHIPPED_INT8)
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 60, (2000, 1))
    given = np.clip(rng.normal(20, spread, (2000, 250)), -128, 127).astype(np.int8)
    scores = np.stack([module.call("kws_classify", one, 12, np.int8) for one in given])
    np.testing.assert_array_equal(scores, np.concatenate([model.run(one[None]) for one in given]))
    assert len(np.unique(scores.argmax(1))) > 5


@pytest.mark.usefixtures("c_tools")
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        *((name, networks.TINY[name]) for name in ("single_fc", "dnn", "cnn", "ds_cnn", "stream_cnn")),
        ("dnn", (7, 1, 5)),
        ("stream_cnn", (2, 5, 4, 3, 3, 2, 3, 2, 2, 1, 1)),
        ("cnn", (5, 4, 2, 1, 2, 3, 2, 4, 2, 1, 3, 6)),
        ("ds_cnn", (3, 2, 3, 2, 1, 1, 3, 2, 2, 1, 1, 5, 1, 1, 2, 1)),
    ],
)
def test_each_exported_architecture_gives_the_scores_of_the_interpreter(tmp_path, architecture, size):
    settings = replace(networks.tiny(architecture), model_size_info=size)
    assert_same_scores(*exported(settings, tmp_path), 500)


@pytest.fixture(scope="module")
def odd_ds_cnn(tmp_path_factory, c_tools):
    """A network whose numbers of channels and inputs fit no vector instruction."""
    size = (3, 5, 3, 10, 1, 3, 6, 10, 2, 3, 1, 3, 2, 1, 1, 2)
    settings = replace(networks.tiny("ds_cnn"), model_size_info=size)
    return exported(settings, tmp_path_factory.mktemp("odd_ds_cnn"))


def test_odd_numbers_of_channels_give_the_scores_of_the_interpreter(odd_ds_cnn):
    assert_same_scores(*odd_ds_cnn, 500)


def test_ds_cnn_small_gives_the_scores_of_the_interpreter(ds_cnn_small):
    assert_same_scores(*ds_cnn_small, 100)


CLASSIFY_ALL = """
#include <stdio.h>
#include "kws.h"
static const int8_t inputs[][KWS_INPUTS] = {GIVEN};
int main(void) {
    for (unsigned i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        static kws_stream stream;
        int8_t scores[KWS_LABELS];
        kws_classify(&stream, inputs[i], scores);
        for (int j = 0; j < KWS_LABELS; j++) printf("%d ", scores[j]);
    }
    return 0;
}
"""


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("network", ["shipped", "ds_cnn_small", "odd_ds_cnn"])
def test_boards_give_the_scores_of_the_interpreter(request, tmp_path, network, board):
    module, model = request.getfixturevalue(network)
    model = TFLiteModel(model.path)  # one that takes a clip at a time, whatever tests before this one asked
    given = random_inputs(model, 10 if network == "ds_cnn_small" else 200)
    rows = ",\n".join(f"{{{', '.join(map(str, row))}}}" for row in given)
    (tmp_path / "all.c").write_text(CLASSIFY_ALL.replace("GIVEN", rows))
    sources = [module.folder / name for name in ("startup.c", "kws_nn.c", "kws_model.c")]
    flags = [*STRICT, "-mthumb", "--specs=rdimon.specs", "-T", module.folder / "board.ld"]
    program = [*BOARDS[board], "-I", module.folder, *sources, tmp_path / "all.c", "-o", tmp_path / "all"]
    subprocess.run(["arm-none-eabi-gcc", *flags, *program], check=True)
    emulated = ["qemu-system-arm", "-M", board, "-nographic", "-semihosting", "-kernel", tmp_path / "all"]
    output = subprocess.run(emulated, capture_output=True, text=True, timeout=60).stdout
    expected = np.concatenate([model.run(one[None]) for one in given])
    np.testing.assert_array_equal(np.array(output.split(), int).reshape(expected.shape), expected)


TRAPPED = """
#include <stdio.h>
#include "kws_vectors.h"
#define TRAP (*(volatile uint32_t *)0xE000ED14) /* CCR; with bit 3 unaligned words are faults */
static kws_stream stream;
int main(void) {
    static KWS_ALIGNED int8_t bytes[KWS_INPUTS + 4];
    int8_t scores[4][KWS_LABELS];
    for (int shift = 0; shift < 4; shift++) {
        for (int i = 0; i < KWS_INPUTS; i++) bytes[shift + i] = kws_vectors[0].input[i];
        TRAP |= 8;
        kws_classify(&stream, bytes + shift, scores[shift]);
        TRAP &= ~8u;
    }
    TRAP |= 8;
    kws_stream_start(&stream);
    kws_stream_push(&stream, kws_vectors[0].samples);
    TRAP &= ~8u;
    for (int i = 0; i < 4 * KWS_LABELS; i++) printf("%d ", scores[i / KWS_LABELS][i % KWS_LABELS]);
    return 0;
}
"""


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("option", ["-O2", "-Os"])
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("network", ["shipped", "ds_cnn_small", "odd_ds_cnn"])
def test_no_word_is_loaded_from_an_unaligned_address(request, tmp_path, network, board, option):
    """Whatever the address of the input."""
    module, model = request.getfixturevalue(network)
    (tmp_path / "trapped.c").write_text(TRAPPED)
    names = "startup.c", "kws_features.c", "kws_nn.c", "kws_model.c", "kws_vectors.c"
    flags = [*STRICT, option, "-mthumb", "--specs=rdimon.specs", "-T", module.folder / "board.ld"]
    program = [*(module.folder / name for name in names), tmp_path / "trapped.c", "-o", tmp_path / "x", "-lm"]
    command = ["arm-none-eabi-gcc", *flags, *BOARDS[board], "-I", module.folder, *program]
    subprocess.run(command, check=True)
    emulated = ["qemu-system-arm", "-M", board, "-nographic", "-semihosting", "-kernel", tmp_path / "x"]
    output = subprocess.run(emulated, capture_output=True, text=True, timeout=20).stdout
    scores = np.array(output.split(), int).reshape(4, -1)
    np.testing.assert_array_equal(scores, scores[:1].repeat(4, 0))
    assert len(np.unique(scores[0])) > 1


@needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_ds_cnn_small_fits_microcontrollers(ds_cnn_small):
    command = ["make", "-C", ds_cnn_small[0].folder, "qemu"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 2


@pytest.mark.parametrize("architecture", ["gru", "tc_resnet"])
def test_other_architectures_are_refused_in_one_line(tmp_path, architecture):
    settings = replace(networks.tiny(architecture), window_size_ms=500, window_stride_ms=500)  # two frames
    model, given = models.build_model(settings), networks.features(settings, 20)
    content = convert_to_tflite.convert(model, settings, given, "int8")
    (tmp_path / "x.tflite").write_bytes(embed_settings(content, settings))
    with pytest.raises(
        UserError, match=rf"x.tflite \({architecture}\) has .*single_fc, dnn, cnn, ds_cnn and stream_cnn$"
    ):
        write_c_folder(tmp_path / "x.tflite", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_labels_of_real_speech_are_those_of_the_pc(shipped, real_speech, dnn_small):
    clips = input_data.open_test_dir(real_speech / "speech_commands_test_set_v0.02", dnn_small)
    module, model = shipped
    expected = model.predict(input_data.features(clips, dnn_small.front_end)).argmax(1)
    found = []
    for number in range(len(clips)):
        given = module.call("kws_features", clips.samples(number), 250, np.int8)
        found.append(module.call("kws_classify", given, 12, np.int8).argmax())
    assert len(clips) > 2000 and (np.array(found) == expected).mean() >= 0.999


# ---- other languages and names ----

CXX_STRICT = ["-std=c++11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wpedantic"]
CXX_MAIN = """
#include <cstdio>
#include "kws_vectors.h"

int main() {
    static kws_stream stream;
    int8_t input[KWS_INPUTS], scores[KWS_LABELS];
    for (const kws_vector &vector : kws_vectors) {
        kws_features(&stream, vector.samples, input);
        kws_classify(&stream, input, scores);
        std::printf("%s is %s\\n", vector.name, kws_labels[kws_best(scores)]);
    }
}
"""
SOURCES = ("kws_features.c", "kws_nn.c", "kws_model.c", "kws_vectors.c")


@pytest.mark.parametrize("module_compiler", [["cc", *STRICT], ["c++", "-x", "c++", *CXX_STRICT]])
def test_a_program_in_cxx_calls_the_module(shipped, tmp_path, module_compiler):
    module, model = shipped
    (tmp_path / "main.cpp").write_text(CXX_MAIN)
    for name in SOURCES:
        command = [*module_compiler, "-c", module.folder / name, "-o", tmp_path / f"{name}.o"]
        subprocess.run(command, check=True)
    program = [tmp_path / "main.cpp", *tmp_path.glob("*.o"), "-I", module.folder, "-o", tmp_path / "main"]
    subprocess.run(["c++", *CXX_STRICT, *program], check=True)
    output = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert "silence is _silence_" in output and output.count(" is ") == 4


@pytest.mark.parametrize(
    "compiler", ["c++", pytest.param("arm-none-eabi-g++", marks=needs("arm-none-eabi-g++"))]
)
def test_every_source_is_cxx_too(shipped, tmp_path, compiler):
    sources = [path for path in module_sources(shipped[0]) if path.name != "startup.c" or compiler != "c++"]
    boards = [["-mcpu=cortex-m4"], ["-mcpu=cortex-m55", "-mfloat-abi=hard"]] if compiler != "c++" else [[]]
    for flags in boards:
        command = [compiler, "-x", "c++", *CXX_STRICT, *flags, "-I", tmp_path, "-c", *sources]
        subprocess.run(command, cwd=tmp_path, check=True)


def module_sources(module):
    """Return all sources that were exported, without files that tests added."""
    return [
        path for path in module.folder.glob("*.c") if (ROOT / "c" / path.name).exists() or path.stem in MODEL
    ]


MODEL = ("kws_model", "kws_vectors")
SKETCH = """
#include "kws.h"
int said(const char *text);
void setup() {}
void loop() {
    static kws_stream stream;
    static int8_t scores[KWS_LABELS];
    kws_stream_start(&stream);
    kws_classify(&stream, stream.input, scores);
    said(kws_labels[kws_best(scores)]);
}
"""
ARDUINO_CORE = """
#include <stdio.h>
#include <stdlib.h>
void setup(); void loop();
int said(const char *text) { puts(text); exit(0); }
int main() { setup(); for (;;) loop(); }
"""


def test_the_folder_is_a_part_of_an_arduino_sketch(shipped, tmp_path):
    """The core's main is in a library, as in the Arduino IDE: any other main would come before it."""
    (tmp_path / "core.cpp").write_text(ARDUINO_CORE)
    (tmp_path / "sketch.cpp").write_text(SKETCH)
    flags = ["-Os", "-w", "-DARDUINO=10819", "-c", "-I", shipped[0].folder]
    subprocess.run(["cc", "-std=gnu11", *flags, *module_sources(shipped[0])], cwd=tmp_path, check=True)
    cxx = ["c++", "-std=gnu++11", "-fpermissive", *flags]
    subprocess.run([*cxx, "sketch.cpp", "core.cpp"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rc", "core.a", "core.o"], cwd=tmp_path, check=True)
    objects = [path for path in tmp_path.glob("*.o") if path.name != "core.o"]
    subprocess.run(["c++", "-o", "sketch", *objects, "core.a", "-lm"], cwd=tmp_path, check=True)
    output = subprocess.run([tmp_path / "sketch"], capture_output=True, text=True, check=True).stdout
    assert output == "_silence_\n"


WORDS = ('say "hi"', "a\\b", "what??!", "한국", "naïve", "%s", "don't")


def test_any_words_and_names_of_recordings_are_exported(tmp_path, c_tools):
    settings = Settings(wanted_words=WORDS, dct_coefficient_count=10, model_size_info=(8,))
    features = np.random.default_rng(0).normal(scale=5, size=(50, settings.feature_count)).astype(np.float32)
    content = convert_to_tflite.convert(models.build_model(settings), settings, features, "int8")
    (tmp_path / "x.tflite").write_bytes(embed_settings(content, settings))
    for word in WORDS[:3]:
        (tmp_path / "words" / word).mkdir(parents=True)
        write_wav(tmp_path / "words" / word / 'one "?.wav')
    write_c_folder(tmp_path / "x.tflite", tmp_path / "c", tmp_path / "words")
    result = subprocess.run(["make", "-C", tmp_path / "c"], capture_output=True)
    assert result.returncode == 0, result.stderr
    assert b'a\\b/one "?.wav: ' in result.stdout
    labels = (ctypes.c_char_p * len(settings.labels)).in_dll(Module(tmp_path / "c")._library, "kws_labels")
    assert [label.decode() for label in labels] == list(settings.labels)


@pytest.mark.usefixtures("c_tools")
@pytest.mark.parametrize(("window_ms", "stride_ms"), [(40, 40), (40, 20), (30, 10), (20, 25)])
def test_a_stream_gives_the_features_of_its_last_clip(tmp_path, window_ms, stride_ms):
    settings = Settings(
        window_size_ms=window_ms, window_stride_ms=stride_ms, dct_coefficient_count=10, model_size_info=(8,)
    )
    rng = np.random.default_rng(0)
    features = rng.normal(scale=5, size=(50, settings.feature_count)).astype(np.float32)
    content = convert_to_tflite.convert(models.build_model(settings), settings, features, "int8")
    (tmp_path / "x.tflite").write_bytes(embed_settings(content, settings))
    write_c_folder(tmp_path / "x.tflite", tmp_path / "c")
    module = Module(tmp_path / "c")
    samples = rng.integers(-3000, 3000, 2 * settings.sample_rate).astype(np.int16)
    window, stride = settings.front_end.window_samples, settings.front_end.stride_samples
    used = len(samples) // stride * stride
    begin = used - max(window, stride) - (settings.frame_count - 1) * stride
    expected = module.call("kws_features", samples[begin:], settings.feature_count, np.int8)
    np.testing.assert_array_equal(module.stream(samples, settings), expected)


@pytest.mark.usefixtures("c_tools")
@pytest.mark.parametrize(
    ("rate", "window"),
    [
        (16000, 9),
        (16000, 20),
        (16000, 113),
        (16000, 480),
        (16000, 1000),
        (8000, 200),
        (44100, 1103),
        (48000, 2048),
    ],
)
def test_features_are_those_of_the_pc_with_any_window(tmp_path, rate, window):
    """Windows of odd and even length, and FFTs of odd and even powers of two."""
    milliseconds = 1000 * window / rate
    settings = Settings(
        sample_rate=rate, window_size_ms=milliseconds, window_stride_ms=milliseconds, dct_coefficient_count=13
    )
    assert settings.front_end.window_samples == window
    network = read_network(SHIPPED_INT8.read_bytes(), SHIPPED_INT8)
    (tmp_path / "kws_model.h").write_text(c_source.header(network, settings))
    (tmp_path / "kws_model.c").write_text(c_source.tables(network, settings))
    for name in ("kws.h", "kws_detect.h", "kws_features.c", "kws_nn.c", "kws_detect.c"):
        shutil.copy(ROOT / "c" / name, tmp_path)
    rng = np.random.default_rng(0)
    levels = np.geomspace(1, 32767, 50)[:, None]
    clips = (levels * rng.uniform(-1, 1, (50, settings.clip_samples))).astype(np.int16)
    expected = mfcc(clips, settings.front_end)[:, :13]
    module = Module(tmp_path)
    found = np.stack([module.call("kws_mfcc", clip, 13, np.float32) for clip in clips])
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_module_checks_itself_without_undefined_behaviour(shipped):
    module, _ = shipped
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover -g"
    result = subprocess.run(
        ["make", "-B", "-C", module.folder, "check", sanitized], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "4 of 4 clips as on the PC" in result.stdout


def test_the_module_names_the_words_in_files_and_notices_wrong_scores(shipped, sample, dnn_small):
    module, model = shipped
    samples = sample.testing.samples(0)
    (module.folder / "x.raw").write_bytes(samples.astype("<i2").tobytes())
    subprocess.run(["make", "-B", "-C", module.folder, "kws"], check=True, capture_output=True)
    output = subprocess.run(
        [module.folder / "kws", module.folder / "x.raw"], capture_output=True, text=True
    ).stdout
    predicted = model.predict(input_data.features(sample.testing.take([0]), dnn_small.front_end))[0]
    assert output.startswith(f"{module.folder / 'x.raw'}: {dnn_small.labels[predicted.argmax()]} ")
    (module.folder / "x.wav").write_bytes(wav_bytes(samples, 16000))
    (module.folder / "other.wav").write_bytes(wav_bytes(samples, 48000))
    files = [f"{module.folder}/x.wav", f"{module.folder}/other.wav"]
    result = subprocess.run([module.folder / "kws", *files], capture_output=True, text=True)
    assert result.stdout == output.replace("x.raw", "x.wav") and result.returncode == 2
    assert result.stderr.startswith(f"{files[1]}: WAV files have to be 16-bit mono at 16000 Hz")
    shutil.copytree(module.folder, module.folder / "wrong")
    table = (
        (module.folder / "kws_model.c")
        .read_text()
        .replace("bias_3[] = {\n    ", "bias_3[] = {\n    100000 + ")
    )
    (module.folder / "wrong" / "kws_model.c").write_text(table)
    result = subprocess.run(["make", "-C", module.folder / "wrong"], capture_output=True, text=True)
    assert result.returncode != 0 and "scores differ" in result.stdout


@needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_emulated_microcontrollers_predict_what_the_pc_predicts(shipped):
    module, _ = shipped
    result = subprocess.run(
        ["make", "-C", module.folder, "m4", "m55", "qemu"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 2


@needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_instructions_are_counted_and_few(shipped):
    result = subprocess.run(
        ["make", "-C", shipped[0].folder, "count"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    m4, m55 = (int(count) for count in re.findall(r"(\d+) instructions for a classification", result.stdout))
    assert m4 < 2.2 * 79200 and m55 < 0.6 * 79200
    assert all(int(count) < 45000 for count in re.findall(r"(\d+) instructions for the MFCCs", result.stdout))


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("flags", ["-DKWS_PLAIN_C", "-std=gnu11", "-O0"])
def test_boards_give_the_same_however_they_are_compiled(shipped, tmp_path, flags):
    shutil.copytree(shipped[0].folder, tmp_path / "c")
    command = ["make", "-C", tmp_path / "c", "qemu", f"CFLAGS={flags}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert flags in result.stdout
    assert result.stdout.count("4 of 4 clips as on the PC") == 2


def test_cmsis_dsp_computes_the_same_features(shipped, sample, dnn_small):
    dsp = pytest.importorskip("cmsisdsp")
    folder = shipped[0].folder
    names = [f"kws_dsp_{name}" for name in ("dct", "positions", "lengths", "filters", "window")]
    (folder / "dsp.c").write_text(
        f'#include "kws_cmsis_dsp.h"\nconst void *const tables[] = {{{", ".join(names)}}};\n'
        f"const int sizes[] = {{{', '.join(f'sizeof {name} / 4' for name in names)}}};\n"
        "const float offset = KWS_DSP_OFFSET;\n"
    )
    subprocess.run(["cc", *STRICT, "-shared", "-fPIC", "-o", folder / "dsp.so", folder / "dsp.c"], check=True)
    library = ctypes.CDLL(str(folder / "dsp.so"))
    addresses = (ctypes.c_void_p * 5).in_dll(library, "tables")
    counts = (ctypes.c_int * 5).in_dll(library, "sizes")
    kinds = (ctypes.c_float, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_float, ctypes.c_float)
    tables = [
        np.array((kind * count).from_address(address))
        for kind, count, address in zip(kinds, counts, addresses, strict=True)
    ]
    instance = dsp.arm_mfcc_instance_f32()
    assert dsp.arm_mfcc_init_f32(instance, 1024, 40, 10, *tables) == 0
    clips = recordings(sample, dnn_small) / np.float32(32768)
    assert len(clips) >= 500
    frames = np.pad(clips[:, : 25 * 640].reshape(-1, 640), [(0, 0), (0, 1024 - 640)])
    found = np.stack([dsp.arm_mfcc_f32(instance, frame, np.zeros(2050, np.float32)) for frame in frames])
    found[:, 0] -= ctypes.c_float.in_dll(library, "offset").value
    expected = mfcc(clips, dnn_small.front_end)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)


@pytest.mark.fast
def test_the_tables_hold_what_the_header_and_the_network_say(dnn_small):
    network = read_network(SHIPPED_INT8.read_bytes(), SHIPPED_INT8)
    sizes = dict(re.findall(r"#define KWS_(\w+) (\S+)", c_source.header(network, dnn_small)))
    assert [sizes[name] for name in ("FRAMES", "COEFFICIENTS", "LABELS", "LAYERS")] == ["25", "10", "12", "4"]
    tables = c_source.tables(network, dnn_small)
    arrays = dict(re.findall(r" (\w+)\[[^=]*\] = {\n(.*?)};\n", tables, re.S))
    for number, layer in enumerate(network.layers):
        weights = np.array(arrays[f"weights_{number}"].replace("FILL", "0").replace(",", " ").split(), int)
        weights = weights.reshape(len(layer.weights), -1)
        inputs = layer.weights.shape[1]
        assert weights.shape[1] % 4 == 0 and not weights[:, inputs:].any()  # rows are whole words
        np.testing.assert_array_equal(weights[:, :inputs], layer.weights)
    for name, count in (("kws_window", int(sizes["WINDOW"])), ("kws_dct", 10 * 20), ("kws_softmax", 256)):
        assert arrays[name].count(",") == count
    assert arrays["kws_mel_weights"].count("{") == int(sizes["BINS"])


@pytest.mark.fast
def test_a_float_model_cannot_be_exported():
    with pytest.raises(UserError, match="--inference_type int8"):
        read_network(SHIPPED["fp32"].read_bytes(), SHIPPED["fp32"])


BOARD = """
#include <stdio.h>
#include <stdlib.h>
static int now;
int microphone(int16_t samples[], int most) {
    size_t count = fread(samples, sizeof *samples, (size_t)most, stdin);
    if (count == 0) exit(0);
    now += (int)count;
    return (int)count;
}
void led(int on) { if (on) printf("%d\\n", now); }
"""


def test_the_readme_lights_an_led_at_a_word(shipped, tmp_path, sample, dnn_small):
    module, model = shipped
    program, *_ = re.findall("```c\n(.*?)```", (ROOT / "c" / "README.md").read_text(), re.S)
    (tmp_path / "board.c").write_text(program + BOARD)
    sources = [module.folder / name for name in ("kws_features.c", "kws_nn.c", "kws_detect.c", "kws_model.c")]
    board = [tmp_path / "board.c", "-I", module.folder, *sources, "-lm"]
    subprocess.run(["cc", *STRICT, "-o", tmp_path / "board", *board], check=True)
    clips = sample.training
    predicted = model.predict(input_data.features(clips, dnn_small.front_end)).argmax(1)
    (yes, no) = (
        next(clip for clip in range(len(clips)) if clips.label[clip] == predicted[clip] == label)
        for label in map(dnn_small.labels.index, ("yes", "no"))
    )
    pause = np.zeros(2 * 16000, np.int16)
    recording = np.concatenate([pause, clips.samples(no), pause, clips.samples(yes), pause])
    result = subprocess.run([tmp_path / "board"], input=recording.tobytes(), capture_output=True, check=True)
    lit = np.array(result.stdout.split(), int) / 16000
    assert 0.95 < lit[-1] - lit[0] < 1 and np.diff(lit).max() < 0.02 and 5 < lit[0] < 7


def test_a_stream_gives_the_detections_of_the_pc_as_tuned(shipped, tmp_path, sample, dnn_small):
    """The same words at the same times, with a detector in the model; test_c_streams.py has one without."""
    tuned = [Sensitivity(threshold, 1.0, 0.5) for threshold in (0.9, 0.4, 0.3)]
    detector = DetectorSettings(80, 320, 600, tuned[1], tuned[0], tuned[2])
    settings = replace(shipped[1].settings, detector=detector)
    path, folder = tmp_path / "tuned.tflite", tmp_path / "c"
    path.write_bytes(embed_settings(shipped[1].content, settings))
    model = TFLiteModel(path)
    call("export_c.py", path, "--output", folder)
    subprocess.run(["make", "-C", folder, "kws"], check=True, capture_output=True)
    recording = labelled_streams.make_stream("x", sample.training, sample.noise, 4, [0], dnn_small)
    audio = streaming.followed_by_silence([recording.samples], settings.clip_samples)
    expected = [
        (f"{found.seconds:.3f}", settings.labels[found.label])
        for found in streaming.detections_in(audio, model, DetectorOptions())
    ]
    heard = subprocess.run(
        [folder / "kws", "-"], input=recording.samples.tobytes(), capture_output=True, check=True
    ).stdout.decode()
    found = [tuple(line.replace(" s ", "").split()[:2]) for line in heard.splitlines()]
    assert len(expected) >= 20 and found == expected


def test_other_models_are_refused_in_one_line(tmp_path):
    keras_file = ROOT / "model_archive" / "model_source" / "dnn_small.keras"
    for model, *parts in (
        (SHIPPED["fp32"], "--inference_type int8"),
        (tmp_path / "none.tflite", "none.tflite"),
        (keras_file, "is not a TFLite model"),
    ):
        assert_one_clear_line(call("export_c.py", model, "--output", tmp_path / "c", check=False), *parts)
