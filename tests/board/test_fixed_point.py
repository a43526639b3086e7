"""Features in integers, for processors without a floating-point unit: nearly the same, for less."""

import re
import subprocess

import numpy as np
import pytest

from c_modules import STRICT, Module, needs
from conftest import ROOT, SHIPPED_INT8
from kws.base.features import mfcc
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


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(("processor", "most"), [("cortex-m0plus", 160000), ("cortex-m3", 110000)])
def test_a_frame_takes_few_instructions(fixed, tmp_path, processor, most):
    """Floating point takes over a million; QEMU has no M0+, but its M3 runs the same instructions."""
    folder = fixed[0].folder
    names = ("startup", "kws_features", "kws_nn", "kws_detect", "kws_model", "kws_vectors", "count")
    flags = [*STRICT, "-mthumb", f"-mcpu={processor}", "-mfloat-abi=soft", "--specs=rdimon.specs"]
    command = [
        "arm-none-eabi-gcc",
        *flags,
        "-T",
        folder / "board.ld",
        *(folder / f"{name}.c" for name in names),
    ]
    subprocess.run([*command, "-o", tmp_path / "count", "-lm"], check=True)
    run = [
        "qemu-system-arm",
        "-M",
        "mps2-an385",
        "-nographic",
        "-semihosting",
        "-icount",
        "shift=0",
        "-kernel",
    ]
    output = subprocess.run([*run, tmp_path / "count"], capture_output=True, text=True, timeout=300).stdout
    assert int(re.search(r"(\d+) instructions for the (MFCCs|features) of a frame", output)[1]) < most
