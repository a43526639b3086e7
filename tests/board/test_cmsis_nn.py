"""CMSIS-NN in place of the layers of kws_nn.c: nearly the scores of the interpreter."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_export_c import CLASSIFY_ALL

import networks
from c_modules import BOARDS, Module, exported, needs, random_inputs
from conftest import CMSIS_NN, ROOT, SHIPPED_INT8
from kws.board.c_folder import write_c_folder
from kws.model.tflite import TFLiteModel

STAND_IN = ROOT / "tests" / "cmsis_nn"
ARCHIVE = ROOT / "model_archive" / "TFLite"
FILES = {
    "dnn_small": SHIPPED_INT8,
    "ds_cnn_small": ARCHIVE / "tflite_ds_cnn_small_int8" / "ds_cnn_small_int8.tflite",
    "stream_cnn_small": ARCHIVE / "tflite_stream_cnn_small_int8" / "stream_cnn_small_int8.tflite",
}
CALLS = {
    "dnn_small": ["arm_fully_connected_s8"],
    "ds_cnn_small": ["arm_convolve_wrapper_s8", "arm_depthwise_conv_wrapper_s8", "arm_avgpool_s8"],
    "stream_cnn_small": [
        "arm_convolve_wrapper_s8",
        "arm_depthwise_conv_wrapper_s8",
        "arm_fully_connected_s8",
    ],
}
# numbers of channels, and of inputs of a convolution, that fit no word and no vector instruction
ODD = {
    "row by row": (2, 5, 1, 4, 1, 4, 3, 2, 2, 1, 1),  # the first layer leaves inputs of its row out
    "single_fc": (),
    "cnn": (5, 3, 3, 1, 2, 3, 2, 4, 2, 1, 3, 6),
    "ds_cnn": (3, 5, 3, 10, 1, 3, 6, 10, 2, 3, 1, 3, 2, 1, 1, 2),
    "stream_cnn": (2, 5, 3, 3, 3, 2, 3, 2, 2, 1, 1),
}


@pytest.fixture(scope="module", params=["stand-in", "Arm's"])
def cmsis_nn(request):
    """Return a folder of CMSIS-NN: the tests' own with the same interface, and Arm's if there is one."""
    if request.param == "stand-in":
        return STAND_IN
    if not CMSIS_NN:
        pytest.skip("the environment variable CMSIS_NN does not name a folder with Arm's CMSIS-NN")
    return Path(CMSIS_NN).resolve()


@pytest.fixture(scope="module")
def kernels(cmsis_nn, tmp_path_factory):
    """Return what compiles a module of a PC with CMSIS-NN: flags, and the functions in an archive."""
    folder = tmp_path_factory.mktemp("kernels")
    sources = [
        path for name in ("*_s8*.c", "*_offset.c") for path in (cmsis_nn / "Source").glob(f"[!B]*/{name}")
    ]
    flags = ["-std=gnu99", "-O2", "-I", cmsis_nn / "Include", "-DCMSIS_NN_USE_SINGLE_ROUNDING"]
    subprocess.run(["cc", *flags, "-w", "-fPIC", "-c", *sources], cwd=folder, check=True)
    subprocess.run(["ar", "rcs", "cmsis_nn.a", *folder.glob("*.o")], cwd=folder, check=True)
    return ["-DKWS_CMSIS_NN", *flags, folder / "cmsis_nn.a"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a shipped file's module by the file's name, made once."""
    folders = {}

    def write(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "c"
            write_c_folder(FILES[name], folders[name])
        return folders[name]

    return write


def make(folder, *arguments):
    command = ["make", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "targets",
    [("check",), pytest.param(("m4", "m55", "qemu"), marks=needs("arm-none-eabi-gcc", "qemu-system-arm"))],
)
@pytest.mark.parametrize("name", FILES)
def test_cmsis_nn_is_called_with_what_the_layers_are(written, tmp_path, name, targets, cmsis_nn):
    shutil.copytree(written(name), tmp_path / "c")
    result = make(tmp_path / "c", *targets, f"CMSIS_NN={cmsis_nn}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 1 + ("qemu" in targets)
    programs = [path for path in (tmp_path / "c").glob("kws_cmsis_nn*") if path.suffix in ("", ".elf")]
    assert len(programs) == len(targets) - len(targets) // 3
    for path in programs:
        assert all(call.encode() in path.read_bytes() for call in CALLS[name])
        # nothing is left of the layers that kws_nn.c computes itself
        assert b"patch_at" not in path.read_bytes() and b"add_products" not in path.read_bytes()


def agreement(folder, model, kernels, count):
    """Return how many of `count` inputs get the interpreter's scores with CMSIS-NN, and its label: shares."""
    module, given = Module(folder, *kernels), random_inputs(model, count)
    labels = len(model.settings.labels)
    scores = np.stack([module.call("kws_classify_with_cmsis_nn", one, labels, np.int8) for one in given])
    expected = np.concatenate([model.run(one[None]) for one in given])
    assert len(np.unique(scores, axis=0)) > min(100, count // 4)
    return (scores == expected).all(1).mean(), (scores.argmax(1) == expected.argmax(1)).mean()


def test_scores_by_cmsis_nn_are_those_of_the_interpreter(written, tmp_path, kernels):
    """Nearly all: CMSIS-NN scales sums by a fixed-point number, LiteRT by a float32."""
    shutil.copytree(written("dnn_small"), tmp_path / "c")
    same, _ = agreement(tmp_path / "c", TFLiteModel(SHIPPED_INT8), kernels, 2000)
    assert same >= 0.999


@pytest.mark.parametrize("name", ["ds_cnn_small", "stream_cnn_small"])
def test_labels_of_convolutions_are_those_of_the_interpreter(written, tmp_path, kernels, name):
    shutil.copytree(written(name), tmp_path / "c")
    same, labels = agreement(tmp_path / "c", TFLiteModel(FILES[name]), kernels, 200)
    assert same >= 0.95 and labels >= 0.99


@pytest.fixture(scope="module")
def odd(tmp_path_factory, c_tools):
    """Return folder and model of an odd network by its architecture, made once."""
    made = {}

    def export(architecture):
        if architecture not in made:
            name = "stream_cnn" if architecture == "row by row" else architecture
            settings = replace(networks.tiny(name), model_size_info=ODD[architecture])
            module, model = exported(settings, tmp_path_factory.mktemp(name))
            made[architecture] = module.folder, model
        return made[architecture]

    return export


@pytest.mark.parametrize("architecture", ODD)
def test_odd_numbers_of_channels_give_the_scores_of_the_interpreter(odd, tmp_path, kernels, architecture):
    folder, model = odd(architecture)
    shutil.copytree(folder, tmp_path / "c")
    same, labels = agreement(tmp_path / "c", model, kernels, 500)
    assert same >= 0.99 and labels >= 0.99


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(("board", "program"), list(zip(BOARDS, ["m4", "m55"], strict=False)))
@pytest.mark.parametrize("architecture", ODD)
def test_boards_give_the_scores_of_the_interpreter(odd, tmp_path, cmsis_nn, architecture, board, program):
    folder, model = odd(architecture)
    model = TFLiteModel(model.path)
    shutil.copytree(folder, tmp_path / "c")
    given = random_inputs(model, 100)
    rows = ",\n".join(f"{{{', '.join(map(str, row))}}}" for row in given)
    (tmp_path / "c" / "main.c").write_text(CLASSIFY_ALL.replace("GIVEN", rows))
    elf = f"kws_cmsis_nn_{program}.elf"
    result = make(tmp_path / "c", elf, f"CMSIS_NN={cmsis_nn}")
    assert result.returncode == 0, result.stderr
    emulated = ["qemu-system-arm", "-M", board, "-nographic", "-semihosting", "-kernel", tmp_path / "c" / elf]
    output = subprocess.run(emulated, capture_output=True, text=True, timeout=60).stdout
    expected = np.concatenate([model.run(one[None]) for one in given])
    scores = np.array(output.split(), int).reshape(expected.shape)
    assert (scores == expected).all(1).mean() >= 0.97


@pytest.mark.parametrize("name", ["ds_cnn_small", "stream_cnn_small"])
def test_layers_stay_within_their_memory(written, tmp_path, name):
    """The stand-in fills what CMSIS-NN may use of it."""
    shutil.copytree(written(name), tmp_path / "c")
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover -g"
    result = make(tmp_path / "c", "check", sanitized, f"CMSIS_NN={STAND_IN}")
    assert result.returncode == 0, result.stderr
    assert "4 of 4 clips as on the PC" in result.stdout


NEEDED = """
#include <stdio.h>
#include "arm_nnfunctions.h"
#include "kws.h"
static void most(int *of, int one) { if (one > *of) *of = one; }
int main(void) {
    int dsp = 1, helium = 1;
    for (const kws_layer *layer = kws_layers; layer != kws_layers + KWS_LAYERS; layer++) {
        const int in = KWS_STREAMING ? layer->kernel_height : layer->from.height;
        const int out = KWS_STREAMING ? 1 : layer->to.height;
        const cmsis_nn_dims from = {1, in, layer->from.width, layer->from.channels};
        const cmsis_nn_dims to = {1, out, layer->to.width, layer->outputs};
        const cmsis_nn_tile stride = {layer->stride_width, layer->stride_height}, one = {1, 1};
        const cmsis_nn_tile padding = {layer->pad_left, layer->pad_top};
        const cmsis_nn_conv_params convolution = {0, 0, stride, padding, one, {-128, 127}};
        const cmsis_nn_dw_conv_params depthwise = {0, 0, 1, stride, padding, one, {-128, 127}};
        cmsis_nn_dims kernel = {1, layer->kernel_height, layer->kernel_width, layer->outputs};
        if (layer->kind == KWS_AVERAGE) most(&dsp, arm_avgpool_s8_get_buffer_size_dsp(to.w, from.c));
        if (layer->kind == KWS_DEPTHWISE) {
            most(&dsp, arm_depthwise_conv_wrapper_s8_get_buffer_size_dsp(&depthwise, &from, &kernel, &to));
            most(&helium, arm_depthwise_conv_wrapper_s8_get_buffer_size_mve(&depthwise, &from, &kernel, &to));
        }
        kernel.n = layer->outputs, kernel.c = layer->from.channels;
        if (layer->kind == KWS_CONVOLUTION) {
            most(&dsp, arm_convolve_wrapper_s8_get_buffer_size_dsp(&convolution, &from, &kernel, &to));
            most(&helium, arm_convolve_wrapper_s8_get_buffer_size_mve(&convolution, &from, &kernel, &to));
        }
    }
    printf("%d %d %d %d", dsp, KWS_SCRATCH, helium, KWS_SCRATCH_HELIUM);
    return 0;
}
"""


@pytest.mark.parametrize("network", [*FILES, *ODD])
def test_the_memory_for_cmsis_nn_is_what_its_own_functions_ask_for(
    request, written, odd, tmp_path, kernels, cmsis_nn, network
):
    if cmsis_nn == STAND_IN:
        pytest.skip("the stand-in has no such functions")
    folder = written(network) if network in FILES else odd(network)[0]
    (tmp_path / "needed.c").write_text(NEEDED)
    sources = [tmp_path / "needed.c", folder / "kws_model.c"]
    flags, archive = kernels[:-1], kernels[-1]
    command = ["cc", *flags, "-I", folder, *sources, archive, "-o", tmp_path / "needed"]
    subprocess.run(command, check=True)
    output = subprocess.run([tmp_path / "needed"], capture_output=True, text=True, check=True).stdout
    dsp, ours, helium, ours_helium = map(int, output.split())
    assert dsp <= ours and helium <= ours_helium, output


def test_what_was_built_with_another_library_or_other_flags_is_built_again(written, tmp_path):
    shutil.copytree(written("dnn_small"), tmp_path / "c", ignore=shutil.ignore_patterns("kws_cmsis_nn"))
    wrong = tmp_path / "wrong"
    shutil.copytree(STAND_IN, wrong, copy_function=shutil.copy2)
    kernel = wrong / "Source" / "FullyConnectedFunctions" / "arm_fully_connected_s8.c"
    times = kernel.stat()
    kernel.write_text(kernel.read_text().replace("sum += (input", "sum -= (input"))
    os.utime(kernel, ns=(times.st_atime_ns, times.st_mtime_ns))  # older than what is built from it

    right = f"CMSIS_NN={STAND_IN}"
    assert make(tmp_path / "c", right).returncode == 0
    assert "scores differ" in make(tmp_path / "c", f"CMSIS_NN={wrong}").stdout
    assert make(tmp_path / "c", right).returncode == 0
    assert "-o " not in make(tmp_path / "c", right).stdout
    assert "-o " in make(tmp_path / "c", right, "CFLAGS=-DNEW='1'").stdout


def test_cmsis_nn_computes_the_layers_of_a_module_with_another_prefix(tmp_path):
    write_c_folder(SHIPPED_INT8, tmp_path / "c", prefix="door")
    result = make(tmp_path / "c", "check", f"CMSIS_NN={STAND_IN}")
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout, result.stderr
    assert b"arm_fully_connected_s8" in (tmp_path / "c" / "door_cmsis_nn").read_bytes()


@pytest.mark.parametrize("start", ["kws_classify(&stream, 0, 0)", "kws_stream_start(&stream)"])
def test_a_program_compiled_without_cmsis_nn_does_not_link_to_a_module_with_it(
    written, tmp_path, kernels, start
):
    """Its streams are smaller."""
    folder = written("ds_cnn_small")
    program = f'#include "kws.h"\nint main(void) {{ static kws_stream stream; {start}; return 0; }}\n'
    (tmp_path / "main.c").write_text(program)
    sources = [folder / f"kws_{name}.c" for name in ("features", "nn", "model")]
    subprocess.run(["cc", *kernels[:-1], "-c", *sources], cwd=tmp_path, check=True)
    command = ["cc", "-I", folder, "main.c", *tmp_path.glob("*.o"), kernels[-1], "-lm", "-o", "main"]
    subprocess.run([*command, "-DKWS_CMSIS_NN"], cwd=tmp_path, check=True)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode
