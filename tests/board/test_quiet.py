"""While it is quiet the detector hears nothing, and detects the same."""

import subprocess

import numpy as np
import pytest

from c_modules import STRICT
from conftest import RATE, ROOT, SHIPPED_INT8
from kws.board.c_folder import write_c_folder

STREAM = ROOT / "model_archive" / "TFLite" / "tflite_stream_cnn_small_int8" / "stream_cnn_small_int8.tflite"
LEVEL = 20  # standard deviation of 16-bit samples
HOP = 640  # samples
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "kws_quiet.h"
int main(int count, char **arguments) {
    static kws_detector detector;
    static kws_quiet quiet;
    static int16_t samples[1000];
    kws_detection found;
    int32_t taken;
    const int refused = kws_quiet_push(&quiet, &detector, samples, 1) == KWS_BAD_ARGUMENT; /* not started */
    kws_detect_start(&detector, KWS_NORMAL);
    if (!refused || kws_quiet_start(&quiet, -1) != KWS_BAD_ARGUMENT ||
        kws_quiet_start(0, 1) != KWS_BAD_ARGUMENT ||
        kws_quiet_push(0, &detector, samples, 1) != KWS_BAD_ARGUMENT ||
        kws_quiet_push(&quiet, &detector, samples, -1) != KWS_BAD_ARGUMENT ||
        kws_quiet_push(&quiet, &detector, 0, 1) != KWS_BAD_ARGUMENT) return 1;
    if (count > 1) kws_quiet_start(&quiet, atoi(arguments[1]));
    while ((taken = (int32_t)fread(samples, sizeof *samples, 1000, stdin)) > 0) {
        if (count > 1) kws_quiet_push(&quiet, &detector, samples, taken);
        else kws_push(&detector, samples, taken);
        while (kws_next(&detector, &found) == KWS_DETECTED)
            printf("%lu %s %.4f\\n", (unsigned long)found.sample, kws_labels[found.label],
                   (double)found.score);
    }
    printf("%lu\\n", (unsigned long)quiet.left_out);
    return 0;
}
"""


@pytest.fixture(scope="module", params=[SHIPPED_INT8, STREAM], ids=["clips", "frame by frame"])
def detect(request, tmp_path_factory, c_tools):
    """Return a function of samples and a level, or none: the detections, and the share that was left out."""
    folder = tmp_path_factory.mktemp("quiet")
    write_c_folder(request.param, folder)
    (folder / "program.c").write_text(PROGRAM)
    sources = [f"kws_{name}.c" for name in ("features", "nn", "detect", "model")]
    warnings = "-Wconversion", "-Wshadow", "-pedantic"
    program = ["program.c", *sources, "-o", "program", "-lm"]
    subprocess.run(["cc", *STRICT, *warnings, *program], cwd=folder, check=True)
    cxx = ["c++", "-x", "c++", "-std=c++17", *STRICT[1:], *warnings, "-fsyntax-only", "program.c"]
    subprocess.run(cxx, cwd=folder, check=True)

    def detected(samples, *level):
        command = [folder / "program", *map(str, level)]
        result = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
        *lines, left_out = result.stdout.decode().splitlines()
        return [line.split() for line in lines], int(left_out) / len(samples)

    return detected


def words_with_pauses(sample, pause):
    """Return 20 words of the sample data with `pause(samples)` before each and at the end, int16."""
    rng = np.random.default_rng(0)
    parts = []
    for clip in range(0, len(sample.testing), len(sample.testing) // 20):
        parts += [pause(HOP * rng.integers(50, 200)), sample.testing.samples(clip)]
    return np.concatenate([*parts, pause(2 * RATE)]).astype(np.int16)


def test_quiet_that_repeats_is_left_out_and_changes_nothing(detect, sample):
    """All hops of quiet are the same, so that the detector cannot tell that some are missing."""
    hops = words_with_pauses(sample, lambda length: np.zeros(length)).reshape(-1, HOP)
    hops[hops.std(axis=1) <= LEVEL] = np.random.default_rng(0).normal(scale=3, size=HOP)
    samples = hops.ravel()
    expected, _ = detect(samples)
    found, left_out = detect(samples, LEVEL)
    assert found == expected and len(expected) > 8
    assert left_out > 0.4


def test_in_a_quiet_room_the_same_words_are_detected(detect, sample):
    """Windows hold other noise than without the gate: times differ by up to two hops."""
    rng = np.random.default_rng(0)
    samples = words_with_pauses(sample, lambda length: rng.normal(scale=3, size=length))
    expected, _ = detect(samples)
    found, left_out = detect(samples, LEVEL)
    assert [word for _, word, _ in found] == [word for _, word, _ in expected] and len(expected) > 8
    apart = [abs(int(ours[0]) - int(theirs[0])) for ours, theirs in zip(found, expected, strict=True)]
    assert max(apart) <= 2 * HOP and np.median(apart) == 0 and left_out > 0.4


def test_in_a_loud_room_nothing_is_left_out(detect, half_hour):
    rng = np.random.default_rng(0)
    samples = half_hour.samples[: 60 * RATE] / 2 + rng.normal(scale=3 * LEVEL, size=60 * RATE)
    samples = samples.astype(np.int16)
    assert detect(samples, LEVEL) == detect(samples)


def test_nothing_is_left_out_while_windows_hold_a_word(detect, sample):
    """A second of pause is shorter than the windows that are averaged."""
    samples = words_with_pauses(sample, lambda length: np.zeros(RATE // HOP * HOP))
    assert detect(samples[: 10 * RATE], LEVEL)[1] == 0
