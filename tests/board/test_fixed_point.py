"""Features in integers, for processors without a floating-point unit: nearly the same, for less."""

import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from c_modules import STRICT, Module, converted, needs
from conftest import ROOT, SHIPPED_INT8
from kws.base.features import mfcc
from kws.base.settings import Settings
from kws.board.c_folder import write_c_folder
from kws.model.tflite import TFLiteModel, quantize

STREAM = ROOT / "model_archive" / "TFLite" / "tflite_stream_cnn_small_int8" / "stream_cnn_small_int8.tflite"


@pytest.fixture(scope="module", params=[SHIPPED_INT8, STREAM], ids=["MFCCs", "log-mel"])
def fixed(request, tmp_path_factory, c_tools):
    folder = tmp_path_factory.mktemp("fixed") / "c"
    write_c_folder(request.param, folder, fixed_point=True)
    return Module(folder), TFLiteModel(request.param)


def clips_of(sample, front_end):
    """Speech, noise from one bit to full scale, a step, and silence, int16 [clips, clip_samples]."""
    rng = np.random.default_rng(0)
    speech = [sample.testing.samples(number) for number in range(len(sample.testing))]
    levels = np.geomspace(1, 32767, 40)[:, None]
    noise = levels * rng.uniform(-1, 1, (40, front_end.clip_samples))
    ones = rng.integers(-1, 1, (1, front_end.clip_samples))
    loudest = np.sign(rng.normal(size=(2, front_end.clip_samples))) * 32767 - 1
    return np.concatenate([speech, noise, ones, loudest, 0 * ones]).astype(np.int16)


def test_features_are_those_of_floating_point(fixed, sample):
    module, model = fixed
    settings = model.settings
    clips = clips_of(sample, settings.front_end)
    expected = quantize(mfcc(clips, settings.front_end), model.input)
    found = np.stack([module.call("kws_features", clip, settings.feature_count, np.int8) for clip in clips])
    steps = np.abs(found.astype(int) - expected)
    assert steps.max() <= 1 and (steps > 0).mean() < 0.003
    assert (found[-1] == expected[-1]).all()  # digital silence


def test_labels_are_those_of_floating_point(fixed, sample):
    """All but those of clips whose two best scores are close, as one step of a feature may decide them."""
    module, model = fixed
    settings = model.settings
    clips = clips_of(sample, settings.front_end)
    scores = model.predict(mfcc(clips, settings.front_end))
    second, best = np.sort(scores, axis=1)[:, -2:].T
    clear = best - second >= 0.5
    given = [module.call("kws_features", clip, settings.feature_count, np.int8) for clip in clips]
    found = [module.call("kws_classify", one, len(settings.labels), np.int8).argmax() for one in given]
    assert clear.mean() > 0.8 and (np.array(found) == scores.argmax(1))[clear].all()


def test_the_module_checks_itself_without_undefined_behaviour(fixed):
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover"
    result = subprocess.run(["make", "-C", fixed[0].folder, sanitized], capture_output=True, text=True)
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout, result.stderr


BOARD = ["-mthumb", "-mfloat-abi=soft", "--specs=rdimon.specs"]
QEMU = "qemu-system-arm -M mps2-an385 -nographic -semihosting -icount shift=0 -kernel".split()


def on_board(folder, program, processor, sources):
    """What a program of the module and `sources` prints on a processor; QEMU's M3 runs M0+ code too."""
    names = ("startup", "kws_features", "kws_nn", "kws_detect", "kws_model", "kws_vectors")
    module = [*(folder / f"{name}.c" for name in names), "-I", folder, "-T", folder / "board.ld"]
    command = ["arm-none-eabi-gcc", *STRICT, *BOARD, f"-mcpu={processor}", *module, *sources]
    subprocess.run([*command, "-o", program, "-lm"], check=True)
    return subprocess.run([*QEMU, program], capture_output=True, text=True, timeout=300).stdout


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(("processor", "most"), [("cortex-m0plus", 120000), ("cortex-m3", 80000)])
def test_a_frame_takes_few_instructions(fixed, tmp_path, processor, most):
    """Floating point takes over a million."""
    folder = fixed[0].folder
    output = on_board(folder, tmp_path / "count", processor, [folder / "count.c"])
    assert int(re.search(r"(\d+) instructions for the (MFCCs|features) of a frame", output)[1]) <= most


PRINT_FEATURES = """
#include <stdio.h>
#include "kws_vectors.h"
int main(void) {
    static kws_stream stream;
    kws_feature features[KWS_COEFFICIENTS];
    for (int clip = 0; clip < KWS_VECTORS; clip++) {
        for (int i = 0; i < KWS_FRAMES; i++) {
            kws_mfcc(&stream, kws_vectors[clip].samples + i * KWS_STRIDE, features);
            for (int j = 0; j < KWS_COEFFICIENTS; j++) printf("%ld\\n", (long)features[j]);
        }
    }
    return 0;
}
"""


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("processor", ["cortex-m0plus", "cortex-m3"])
def test_boards_compute_the_same_bits_as_the_pc(fixed, tmp_path, processor):
    """The M0+ multiplies in halves, the others in 64 bits."""
    module, model = fixed
    source = tmp_path / "features.c"
    source.write_text(PRINT_FEATURES)
    here = [module.folder / f"{name}.c" for name in ("kws_features", "kws_nn", "kws_model", "kws_vectors")]
    pc = ["cc", *STRICT, "-I", module.folder, "-o", tmp_path / "pc", source, *here, "-lm"]
    subprocess.run(pc, check=True)
    expected = subprocess.run([tmp_path / "pc"], capture_output=True, text=True).stdout
    assert expected.count("\n") == 4 * model.settings.feature_count
    assert on_board(module.folder, tmp_path / "board", processor, [source]) == expected


@pytest.mark.parametrize(
    ("rate", "milliseconds", "coefficients"), [(8000, 40, 10), (12000, 64, 0), (16000, 200, 0)]
)
def test_other_front_ends(tmp_path, rate, milliseconds, coefficients):
    """Below 16 kHz the mel filters reach bins above a quarter of the sample rate."""
    settings = Settings(
        model_architecture="single_fc",
        sample_rate=rate,
        window_size_ms=milliseconds,
        window_stride_ms=milliseconds,
        dct_coefficient_count=coefficients,
    )
    path = converted(settings, tmp_path)
    write_c_folder(path, tmp_path / "c", fixed_point=True)
    module, front_end = Module(tmp_path / "c"), settings.front_end
    noise = np.random.default_rng(0).uniform(-1, 1, (20, front_end.window_samples))
    frames = (np.geomspace(1, 32767, 20)[:, None] * noise).astype(np.int16)
    found = [module.call("kws_mfcc", frame, front_end.frame_features, np.int32) / 2**16 for frame in frames]
    alone = replace(front_end, clip_samples=front_end.window_samples)
    # digital silence is far from zero, and sums of its ten coefficients round
    np.testing.assert_allclose(found, mfcc(frames, alone), atol=0.002, rtol=5e-5)
