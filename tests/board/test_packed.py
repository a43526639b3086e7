"""Packed weights: the same scores from indices of a few bits, in less flash, for few more instructions."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from test_export_c import CLASSIFY_ALL, STRICT, Module, assert_same_scores, needs, random_inputs

import convert_to_tflite
import models
import networks
from conftest import SHIPPED, SHIPPED_INT8, assert_one_clear_line, call_here
from kws.base.quiet_tf import keras
from kws.board.c_folder import write_c_folder
from kws.board.packing import WORDS, pack
from kws.model.tflite import TFLiteModel, embed_settings

LIBRARY = [*STRICT, "-Wconversion", "-Wshadow", "-pedantic"]
CXX_LIBRARY = ["-x", "c++", "-std=c++17", *(flag for flag in LIBRARY if not flag.startswith("-std"))]
# The machine that QEMU has of a processor, or of one that understands its instructions too.
BOARDS = {
    "cortex-m0plus": ("mps2-an385", "-mfloat-abi=soft"),
    "cortex-m3": ("mps2-an385", "-mfloat-abi=soft"),
    "cortex-m4": ("mps2-an386", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("mps2-an500", "-mfloat-abi=soft"),
    "cortex-m33": ("mps3-an547", "-mfloat-abi=soft"),
    "cortex-m55": ("mps3-an547", "-mfloat-abi=hard"),
}
emulated = needs("arm-none-eabi-gcc", "qemu-system-arm")


def clustered_model(path, settings, counts, seed=0):
    """Write an int8 model with random weights; its last layers have at most `counts` distinct ones each."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = models.build_model(settings)
    layers = [layer for layer in model.layers if layer.weights]
    for layer, count in zip(layers[-len(counts) :], counts, strict=True):
        kernel, *bias = layer.get_weights()
        values = rng.normal(scale=1.2 / len(kernel) ** 0.5, size=count)
        layer.set_weights(
            [rng.choice(values, kernel.shape), *(rng.uniform(-0.2, 0.2, b.shape) for b in bias)]
        )
    features = rng.normal(scale=5, size=(50, settings.feature_count)).astype(np.float32)
    content = convert_to_tflite.convert(model, settings, features, "int8")
    path.write_bytes(embed_settings(content, settings))
    return path


def packed_module(path, folder):
    write_c_folder(path, folder, packed=True)
    return Module(folder), TFLiteModel(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A network with kernels of each kind, one of them not packed, and odd numbers of inputs and rows."""
    folder = tmp_path_factory.mktemp("mixed")
    settings = replace(networks.tiny("dnn"), model_size_info=(37, 22, 19, 70, 1, 9))
    path = clustered_model(folder / "x.tflite", settings, (8, 16, 32, 300, 6, 9, 30))
    return packed_module(path, folder / "c")


@pytest.fixture(scope="module")
def dnn_small_modules(tmp_path_factory, dnn_small):
    """Modules and models of DNN Small's size, with 32 and with 16 distinct weights a layer."""
    folder = tmp_path_factory.mktemp("dnn_small")
    sixteen = clustered_model(folder / "x.tflite", dnn_small, [16] * 4)
    return {
        32: packed_module(SHIPPED["clustered_int8"], folder / "32"),
        16: packed_module(sixteen, folder / "16"),
    }


def unpacked(kernel, outputs, inputs):
    """Return the weights of a packed kernel, in the layout of kws/board/packing.py."""
    half = (inputs + 1) // 2
    stride = half + half % 2 if kernel.bits == 3 else half
    weights = np.zeros((outputs, 2 * half), int)
    for row in range(outputs):
        for at in range(half):
            place = row // 4 * stride + at
            four = int(kernel.words[place])
            if len(kernel.tops):
                four |= int(kernel.tops[place]) << 8 * kernel.words.itemsize
            pair = four >> 2 * kernel.bits * (row % 4)
            weights[row, at] = kernel.values[pair % 2**kernel.bits]
            weights[row, half + at] = kernel.values[(pair >> kernel.bits) % 2**kernel.bits]
    return weights[:, :inputs]


@pytest.mark.fast
@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 32])
def test_indices_and_values_are_the_weights_in_fewer_bits(count):
    rng = np.random.default_rng(count)
    values = rng.permutation(np.arange(-128, 128))[:count]
    for outputs, inputs in ((12, 144), (1, 1), (3, 7), (5, 18)):
        weights = rng.choice(values, (outputs, inputs)).astype(np.int8)
        kernel = pack(weights)
        assert kernel.bits <= max(3, np.ceil(np.log2(count))) <= max(WORDS)
        np.testing.assert_array_equal(unpacked(kernel, outputs, inputs), weights)
    large = pack(rng.choice(values, (144, 250)).astype(np.int8))
    assert large.size < 1.01 * 144 * 250 * large.bits / 8


@pytest.mark.fast
def test_a_kernel_of_more_values_is_not_packed():
    assert pack(np.arange(33, dtype=np.int8).reshape(3, 11)) is None


@needs("cc")
def test_scores_are_those_of_the_interpreter(mixed, dnn_small_modules):
    assert_same_scores(*mixed, 1000)
    assert_same_scores(*dnn_small_modules[32], 300)


@needs("cc")
def test_convolutions_stay_as_they_are(tmp_path):
    path = clustered_model(tmp_path / "x.tflite", networks.tiny("ds_cnn"), [32])
    module, model = packed_module(path, tmp_path / "c")
    assert "#define KWS_PACKED 5" in (module.folder / "kws_model.h").read_text()
    assert_same_scores(module, model, 500)


@emulated
@pytest.mark.parametrize("processor", BOARDS)
def test_boards_give_the_scores_of_the_interpreter(mixed, tmp_path, processor):
    module, model = mixed
    model = TFLiteModel(model.path)  # one that takes a clip at a time
    machine, *flags = BOARDS[processor]
    given = random_inputs(model, 200)
    rows = ",\n".join(f"{{{', '.join(map(str, row))}}}" for row in given)
    (tmp_path / "all.c").write_text(CLASSIFY_ALL.replace("GIVEN", rows))
    sources = [module.folder / name for name in ("startup.c", "kws_nn.c", "kws_model.c")]
    command = ["arm-none-eabi-gcc", *STRICT, "-mthumb", f"-mcpu={processor}", *flags, "--specs=rdimon.specs"]
    command += ["-T", module.folder / "board.ld", "-I", module.folder, *sources, tmp_path / "all.c"]
    subprocess.run([*command, "-o", tmp_path / "all"], check=True)
    run = ["qemu-system-arm", "-M", machine, "-nographic", "-semihosting", "-kernel", tmp_path / "all"]
    output = subprocess.run(run, capture_output=True, text=True, timeout=60).stdout
    expected = np.concatenate([model.run(one[None]) for one in given])
    np.testing.assert_array_equal(np.array(output.split(), int).reshape(expected.shape), expected)


@emulated
@pytest.mark.parametrize("flags", ["-DKWS_PLAIN_C", "-O0", "-Os -std=gnu11"])
def test_boards_check_themselves_however_they_are_compiled(mixed, tmp_path, flags):
    shutil.copytree(mixed[0].folder, tmp_path / "c")
    command = ["make", "-C", tmp_path / "c", "qemu", f"CFLAGS={flags}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 2


@needs("cc", "make")
def test_the_module_checks_itself_without_undefined_behaviour(mixed, tmp_path):
    shutil.copytree(mixed[0].folder, tmp_path / "c")
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover -g"
    result = subprocess.run(["make", "-C", tmp_path / "c", sanitized], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 of 4 clips as on the PC" in result.stdout


@emulated
@pytest.mark.parametrize("language", [LIBRARY, CXX_LIBRARY], ids=["c", "c++"])
def test_it_compiles_without_warnings(mixed, tmp_path, language):
    compilers = [
        "cc",
        "arm-none-eabi-gcc -mcpu=cortex-m4",
        "arm-none-eabi-gcc -mcpu=cortex-m55 -mfloat-abi=hard",
    ]
    for compiler in compilers:
        command = [*compiler.split(), *language, "-c", mixed[0].folder / "kws_nn.c", "-o", tmp_path / "x.o"]
        subprocess.run(command, check=True)


def test_the_script_says_what_was_packed_and_refuses_where_nothing_can_be(mixed, tmp_path):
    model = mixed[1].path
    output = call_here("export_c.py", model, "--packed", "--output", tmp_path / "c").stdout
    assert [f"packed: {bits} bits each" in output for bits in WORDS] == [True] * 3
    assert len(re.findall(r"layer 3: \d+ distinct weights, too many to pack", output)) == 1
    refused = call_here("export_c.py", SHIPPED_INT8, "--packed", "--output", tmp_path / "none", check=False)
    assert_one_clear_line(refused, SHIPPED_INT8, "at most 32 distinct", "--method clustering")
    assert not (tmp_path / "none").exists()
