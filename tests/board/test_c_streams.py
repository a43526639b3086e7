"""Detections in streams: the C module and the PC have the same, alone and with a verifier."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

import convert_to_tflite
import input_data
import models
from c_modules import STRICT, needs, random_inputs
from conftest import SHIPPED, SHIPPED_INT8, assert_one_clear_line, call_here
from kws.audio.recordings import wav_bytes
from kws.base.quiet_tf import keras
from kws.base.settings import DetectorSettings, Sensitivity, Settings
from kws.board.c_folder import write_c_folder
from kws.detect import streaming
from kws.detect.streaming import DetectorOptions
from kws.model.tflite import TFLiteModel, embed_settings


def detections(folder, samples, *flags):
    """Build the module's program and return what it prints: (seconds, label, score) of each detection."""
    subprocess.run(["make", "-C", folder, "kws"], check=True, capture_output=True)
    return printed(folder, samples, *flags)


def printed(folder, samples, *flags):
    """Return the same for a program that is built."""
    command = [folder / "kws", "-", *map(str, flags)]
    output = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
    return [tuple(line.replace(" s ", "").split()) for line in output.stdout.decode().splitlines()]


def assert_same_detections(found, expected):
    """The same words at the same times, and the same scores but for a feature between two integers.

    Features of the PC and of C differ in their last bits, so that such a one may be rounded to either. A
    score of some windows is then a step of 1/256 off, and the mean over 16 windows less than that.
    """
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    differences = [
        abs(float(ours[2]) - float(theirs[2])) for ours, theirs in zip(found, expected, strict=True)
    ]
    assert max(differences) < 1 / 256
    assert np.count_nonzero(differences) <= len(expected) / 50


def test_in_half_an_hour_the_detections_are_those_of_label_wav(shipped, half_hour):
    found = detections(shipped[0].folder, half_hour.samples)
    assert len(found) > 150
    assert_same_detections(found, half_hour.detections)
    minute = half_hour.samples[: 16000 * 60]
    wav = np.frombuffer(wav_bytes(minute, 16000), np.uint8)
    assert printed(shipped[0].folder, wav) == printed(shipped[0].folder, minute) != []


def test_a_word_at_the_end_is_detected(shipped, half_hour):
    """Silence follows, as in label_wav.py."""
    module, model = shipped
    found, expected, at_the_end = [], [], 0
    for seconds, word, _ in half_hour.detections[:12]:
        samples = half_hour.samples[: int(16000 * (float(seconds) + 0.45))]
        found += detections(module.folder, samples)
        expected += by_the_pc(samples, model, None)
        at_the_end += found[-1:] != [] and found[-1][1] == word
    assert_same_detections(found, expected)
    assert at_the_end > 8
    assert printed(module.folder, half_hour.samples[:0]) == []


def test_after_a_wake_word_the_detections_are_those_of_the_pc(shipped, half_hour):
    module, model = shipped
    samples, listening = half_hour.samples[: 16000 * 600], DetectorOptions(wake_word="yes", listen_ms=4000)
    expected = by_the_pc(samples, model, None, listening)
    without = [found for found in half_hour.detections if float(found[0]) < 600]
    assert {"yes"} < {word for _, word, _ in expected} and 5 < len(expected) < len(without)
    assert_same_detections(detections(module.folder, samples, "yes", 4000), expected)


FOR_YEARS = r"""
#include <stdio.h>
#include <stdlib.h>
#include "kws_detect.h"
int main(int count, char **arguments) {
    static kws_detector detector;
    static int16_t samples[KWS_STRIDE];
    kws_detection found;
    uint64_t skipped = 0, strides = 0;
    kws_detect_start(&detector, KWS_NORMAL);
    while (fread(samples, sizeof *samples, KWS_STRIDE, stdin) == KWS_STRIDE) {
        if (++strides == 512 && count > 1) { /* as if what lies in between had been quiet */
            skipped = strtoull(arguments[1], 0, 10) * KWS_HOP_STRIDES * KWS_STRIDE;
            detector.received += skipped;
            detector.last += 2 * skipped;
        }
        if (kws_push(&detector, samples, KWS_STRIDE) != KWS_DETECTED) continue;
        kws_next(&detector, &found);
        printf("%lu %s %.4f\n", (unsigned long)(found.sample - skipped), kws_labels[found.label],
               (double)found.score);
    }
    return 0;
}
"""


def test_detections_go_on_after_years_of_windows(shipped, half_hour, tmp_path):
    """The number of windows passes 2**31 and 2**32 half a minute after the stream goes on."""
    (tmp_path / "years.c").write_text(FOR_YEARS)
    sources = [shipped[0].folder / f"kws_{name}.c" for name in ("features", "nn", "detect", "model")]
    program = ["-I", shipped[0].folder, tmp_path / "years.c", *sources, "-o", tmp_path / "years", "-lm"]
    subprocess.run(["cc", *STRICT, *program], check=True)

    def after(*windows):
        command = [tmp_path / "years", *map(str, windows)]
        samples = half_hour.samples[: 16000 * 120].tobytes()
        return subprocess.run(command, input=samples, capture_output=True, check=True).stdout

    expected = after()
    assert len(expected.splitlines()) > 5
    assert after(2**31 - 800) == after(2**32 - 800) == expected


# ---- with a verifier ----


def by_the_pc(samples, model, verifier, options=DetectorOptions()):  # noqa: B008  (frozen)
    """Return the detections of the PC, in the form of detections()."""
    labels = model.settings.labels
    audio = streaming.followed_by_silence([samples], model.settings.clip_samples)
    found = streaming.detections_in(audio, model, options, verifier)
    return [(f"{one.seconds:.3f}", labels[one.label], f"{one.score:.4f}") for one in found]


def shown(sample, settings, path):
    """Write a TFLite file of a network that was shown the sample data, and return its path."""
    given = input_data.features(sample.training, settings.front_end)
    keras.utils.set_random_seed(0)
    network = models.build_model(settings)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(given, np.array(sample.training.label), epochs=20, verbose=0)
    content = convert_to_tflite.convert(network, settings, given, "int8")
    path.write_bytes(embed_settings(content, settings))
    return path


@pytest.fixture(scope="module")
def second_stage(sample, tmp_path_factory):
    """A TFLite file of a network that was shown the sample data, with two frames in the time of one."""
    settings = Settings(
        window_size_ms=40, window_stride_ms=20, dct_coefficient_count=10, model_size_info=(24,)
    )
    return shown(sample, settings, tmp_path_factory.mktemp("second") / "x.tflite")


def test_with_a_verifier_detections_are_those_of_the_pc(shipped, second_stage, tmp_path, half_hour):
    """The verifier's frames have another stride, and its threshold confirms about half of the words."""
    model, verifier = shipped[1], TFLiteModel(second_stage)
    samples = half_hour.samples[: 16000 * 300]

    def tuned(threshold):
        detector = DetectorSettings(80, 720, 600, *3 * [Sensitivity(threshold, 1.0, 0.5)], gate=0.4)
        (tmp_path / "x.tflite").write_bytes(
            embed_settings(verifier.content, replace(verifier.settings, detector=detector))
        )
        return TFLiteModel(tmp_path / "x.tflite")

    scores = [float(score) for *_, score in by_the_pc(samples, model, tuned(1e-6))]
    chosen = tuned(float(np.median(scores)))
    write_c_folder(SHIPPED_INT8, tmp_path / "c", verifier_path=chosen.path)
    expected = by_the_pc(samples, model, chosen)
    assert len(scores) > len(expected) > 20 and len({score for *_, score in expected}) > 10
    assert detections(tmp_path / "c", samples) == expected


def test_a_verifier_with_the_same_frames_is_that_of_the_pc_too(shipped, tmp_path, half_hour):
    """The verifier works from the first window on; sanitizers watch."""
    write_c_folder(SHIPPED_INT8, tmp_path / "c", verifier_path=SHIPPED["entropy_int8"])
    samples = half_hour.samples[: 16000 * 120]
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover"
    result = subprocess.run(["make", "-C", tmp_path / "c", sanitized], capture_output=True, text=True)
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout, result.stderr
    expected = by_the_pc(samples, shipped[1], TFLiteModel(SHIPPED["entropy_int8"]))
    assert len(expected) > 5 and printed(tmp_path / "c", samples) == expected


@pytest.mark.usefixtures("c_tools")
def test_a_verifier_gives_the_scores_of_the_interpreter(verified):
    module, verifier = verified
    given = random_inputs(verifier, 50)
    found = np.stack([module.call("kws_verifier_classify", one, 12, np.int8) for one in given])
    verifier = TFLiteModel(verifier.path)
    np.testing.assert_array_equal(found, np.concatenate([verifier.run(one[None]) for one in given]))


@needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_a_verifier_fits_microcontrollers(verified):
    command = ["make", "-C", verified[0].folder, "qemu", "count"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 2
    assert result.stdout.count("instructions for a classification by the verifier") == 2


UNFIT = "x.tflite cannot verify this model:"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"wanted_words": ("on", "off")}, f"{UNFIT} words must be the same, but are on,off, not yes,no,"),
        ({"window_size_ms": 30}, f"{UNFIT} samples of a window must be the same, but are 480, not 640"),
        ({"sample_rate": 8000}, "the verifier cannot verify this model: --sample_rate must be the same"),
    ],
)
def test_a_verifier_has_the_words_and_windows_of_the_first_model(tmp_path, dnn_small, changed, problem):
    settings = replace(dnn_small, model_size_info=(8,), **changed)
    features = np.random.default_rng(0).normal(scale=5, size=(20, settings.feature_count)).astype(np.float32)
    content = convert_to_tflite.convert(models.build_model(settings), settings, features, "int8")
    (tmp_path / "x.tflite").write_bytes(embed_settings(content, settings))
    flags = "--verifier", tmp_path / "x.tflite", "--output", tmp_path / "c"
    result = call_here("export_c.py", SHIPPED_INT8, *flags, check=False)
    assert_one_clear_line(result, problem)
    assert not (tmp_path / "c").exists()
