"""The detector in C: samples in any portions, wrong arguments, gaps, several detectors and modules."""

import hashlib
import itertools
import re
import subprocess
import threading

import numpy as np
import pytest
from test_c_streams import by_the_pc, detections

from c_modules import STRICT, CDetector, needs
from conftest import RATE, ROOT, SHIPPED, SHIPPED_INT8, assert_one_clear_line, call_here
from kws.board.c_folder import write_c_folder
from kws.board.library import VERSION
from kws.detect.streaming import DetectorOptions
from kws.detect.verifier import ASK_MOST, Questions, ask_every
from kws.model.tflite import TFLiteModel

OK, BAD_ARGUMENT = 0, -1
ASK_EVERY = ask_every(0.04)  # hops
ARCHIVE = ROOT / "model_archive" / "TFLite"
MICROPHONE = ARCHIVE / "tflite_microphone_int8" / "dnn_small_microphone_int8.tflite"
VERIFIER = ARCHIVE / "tflite_ds_cnn_small_int8" / "ds_cnn_small_int8.tflite"
STREAM = ARCHIVE / "tflite_stream_cnn_small_int8" / "stream_cnn_small_int8.tflite"
SOURCES = ("features", "nn", "detect", "model")


@pytest.fixture(scope="module")
def samples(half_hour):
    return half_hour.samples[: 120 * RATE]


@pytest.fixture(scope="module")
def expected(shipped, samples):
    """What is detected in `samples`."""
    detector = CDetector(shipped[0])
    detector.push(samples)
    labels = shipped[1].settings.labels
    assert [(time, labels[label]) for time, label, _ in detector.found] == [
        one[:2] for one in by_the_pc(samples, shipped[1], None)
    ]
    assert len(detector.found) > 8
    return detector.found


def test_samples_come_in_any_portions(shipped, samples, expected):
    rng = np.random.default_rng(0)
    for portions in (rng.integers(0, 3000, 999).tolist(), [256], [1, 639, 641], [5000]):
        detector = CDetector(shipped[0])
        detector.push(samples, portions)
        assert detector.found == expected


def test_the_latest_detections_wait(shipped, samples, expected):
    detector = CDetector(shipped[0])
    detector.push(samples, [len(samples)])
    assert detector.found == expected[-4:]


def test_wrong_arguments_are_refused_and_change_nothing(shipped, samples, expected):
    detector = CDetector(shipped[0])
    for function, *arguments in (
        ("kws_set_threshold", 0),
        ("kws_set_threshold", 10001),
        ("kws_detect_after", 1, 1000),  # _unknown_
        ("kws_detect_after", 12, 1000),
        ("kws_detect_after", -1, 1000),
        ("kws_detect_after", 2, -1),
        ("kws_push", samples.ctypes, -1),
        ("kws_push", None, 640),
        ("kws_next", None),
        ("kws_detect_start", -1),
        ("kws_detect_start", 3),
    ):
        assert detector.call(function, *arguments) == BAD_ARGUMENT, (function, arguments)
    assert detector.call("kws_push", None, 0) == OK
    detector.push(samples)
    assert detector.found == expected
    library = shipped[0]._library
    for function in ("detect_start", "set_threshold", "detect_after", "push", "next", "gap"):
        assert getattr(library, f"kws_{function}")(None, 1, 1) == BAD_ARGUMENT
    never_started = CDetector(shipped[0], sensitivity=7)
    assert never_started.call("kws_push", samples.ctypes, 640) == BAD_ARGUMENT
    assert never_started.call("kws_set_threshold", 5000) == BAD_ARGUMENT


@pytest.mark.parametrize("threshold", [0.3, 0.9453])
def test_a_threshold_can_be_set_while_a_stream_runs(shipped, samples, threshold):
    module, model = shipped
    detector = CDetector(module)
    assert detector.call("kws_set_threshold", round(10000 * threshold)) == OK
    detector.push(samples)
    by_pc = by_the_pc(samples, model, None, DetectorOptions(threshold=threshold))
    assert [(time, model.settings.labels[label]) for time, label, _ in detector.found] == [
        found[:2] for found in by_pc
    ]
    assert len(by_pc) > 5


def test_after_a_gap_detections_are_those_of_a_new_detector(shipped, samples):
    first, rest, lost = samples[: 40 * RATE + 123], samples[60 * RATE :], 777
    detector, new = CDetector(shipped[0]), CDetector(shipped[0])
    detector.push(first)
    before, detector.found = detector.found, []
    assert detector.call("kws_gap", lost) == OK
    detector.push(rest)
    new.push(rest)
    later = (len(first) + lost) / RATE
    assert len(before) > 2 and len(new.found) > 5
    assert detector.found == [(f"{float(time) + later:.3f}", *found) for time, *found in new.found]


def test_detectors_in_two_threads_find_what_each_finds_alone(shipped, samples, expected):
    """Functions of C run at once in both threads, as tasks on a board do."""
    other = samples[::-1].copy()
    alone, ours, theirs = (CDetector(shipped[0], 2) for _ in range(3))
    alone.push(other)
    ours.call("kws_detect_start", 1)
    threads = [
        threading.Thread(target=one.push, args=(heard, [1280]))
        for one, heard in ((ours, samples), (theirs, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ours.found == expected and theirs.found == alone.found


@needs("nm")
def test_nothing_that_changes_is_outside_of_what_the_caller_owns(verified, shipped):
    for module in (verified[0], shipped[0]):
        symbols = subprocess.run(["nm", module.folder / "kws.so"], capture_output=True, text=True).stdout
        changing = re.findall(r" [bBdD] (.*)", symbols)
        # what the compiler adds to a shared library, and arrays of addresses
        assert not [
            name for name in changing if "kws" in name and not re.search("labels|layers|packed", name)
        ]


@needs("arm-none-eabi-gcc")
def test_the_detector_needs_no_double_precision(verified, tmp_path):
    source, made = verified[0].folder / "kws_detect.c", tmp_path / "x.o"
    subprocess.run(
        ["arm-none-eabi-gcc", "-mcpu=cortex-m0plus", *STRICT, "-c", source, "-o", made], check=True
    )
    called = subprocess.run(["arm-none-eabi-nm", "-u", made], capture_output=True, text=True).stdout.split()
    # __aeabi_dmul and the like; and divisions of 64 bits
    assert not [name for name in called if re.match("__aeabi_(d|[a-z]2d|[a-z]ldivmod)", name)]


# ---- a verifier ----

COUNTED = """
#define kws_verifier_classify asked
#include "kws_detect.c"
#undef kws_verifier_classify
#include <stdio.h>
#define INPUT const int8_t input[KWS_VERIFIER_INPUTS]
void kws_verifier_classify(kws_stream *stream, INPUT, int8_t scores[KWS_LABELS]);
static int times;
void asked(kws_stream *stream, INPUT, int8_t scores[KWS_LABELS]) {
    times++;
    kws_verifier_classify(stream, input, scores);
}
int main(void) {
    static kws_detector detector;
    static int16_t samples[KWS_STRIDE];
    kws_detect_start(&detector, KWS_NORMAL);
    while (fread(samples, sizeof *samples, KWS_STRIDE, stdin) == KWS_STRIDE) {
        times = 0;
        kws_push(&detector, samples, KWS_STRIDE);
        printf("%d\\n", times);
    }
    return 0;
}
"""


def test_a_verifier_is_asked_once_a_hop_at_most_and_as_often_as_on_the_pc(
    shipped, samples, tmp_path, monkeypatch
):
    second = TFLiteModel(SHIPPED["entropy_int8"])
    write_c_folder(SHIPPED_INT8, tmp_path / "c", verifier_path=second.path)
    (tmp_path / "counted.c").write_text(COUNTED)
    sources = [tmp_path / "c" / f"kws_{name}.c" for name in ("features", "nn", "model")]
    program = ["-I", tmp_path / "c", tmp_path / "counted.c", *sources, "-o", tmp_path / "counted", "-lm"]
    subprocess.run(["cc", *STRICT, *program], check=True)
    output = subprocess.run([tmp_path / "counted"], input=samples.tobytes(), capture_output=True, check=True)
    times = np.array(output.stdout.split(), int)  # [hops]

    asked = []
    mean = Questions.mean
    monkeypatch.setattr(Questions, "mean", lambda self, answer: noted(mean, asked, self, answer))
    by_the_pc(samples, shipped[1], second)
    assert times.max() == 1 and times.sum() == sum(asked) > 20
    hops = np.flatnonzero(times)
    runs = np.split(hops, np.flatnonzero(np.diff(hops) != ASK_EVERY) + 1)
    assert max(map(len, runs)) == ASK_MOST and min(np.diff(hops)) > 0


def noted(mean, asked, questions, answer):
    """Call Questions.mean, and note whether it took the answer."""
    before = questions._asked
    result = mean(questions, answer)
    asked.append(questions._asked - before)
    return result


@pytest.mark.fast
def test_after_refusals_a_verifier_is_asked_no_more_until_the_score_fell():
    questions = Questions(hop_s=0.04)

    def answers(windows, label=2):
        """The numbers of windows at which it is asked; each answer is the number of the window."""
        taken = []
        for window in windows:
            questions.follow(window, label)
            before = questions._asked
            questions.mean(window)
            taken += [window] * (questions._asked - before)
        return taken

    first = [100 + ASK_EVERY * number for number in range(ASK_MOST)]
    assert answers(range(100, 200)) == first
    assert answers([201]) == [201]  # it fell for one window
    assert answers([202, 203], label=3) == [202]  # another word
    questions.stop()
    assert answers(range(204, 240), label=3) == []


# ---- two models in one program ----

TWO = """
#include "door_detect.h"
#include "lamp_detect.h"
#include <stdio.h>
static door_detector door;
static lamp_detector lamp;
int main(void) {
    static int16_t samples[320];
    door_detection of_door;
    lamp_detection of_lamp;
    if (door_detect_start(&door, DOOR_NORMAL) || lamp_detect_start(&lamp, LAMP_NORMAL)) return 1;
    while (fread(samples, sizeof *samples, 320, stdin) == 320) {
        door_push(&door, samples, 320);
        lamp_push(&lamp, samples, 320);
        while (door_next(&door, &of_door) == DOOR_DETECTED)
            printf("door %.3f s  %s %.4f\\n", (double)of_door.sample / DOOR_SAMPLE_RATE,
                   door_labels[of_door.label], (double)of_door.score);
        while (lamp_next(&lamp, &of_lamp) == LAMP_DETECTED)
            printf("lamp %.3f s  %s %.4f\\n", (double)of_lamp.sample / LAMP_SAMPLE_RATE,
                   lamp_labels[of_lamp.label], (double)of_lamp.score);
    }
    return 0;
}
"""


@pytest.mark.parametrize("compiler", [["cc", *STRICT], ["c++", "-x", "c++", "-std=c++17", *STRICT[1:]]])
def test_two_models_in_one_program_detect_what_each_detects_alone(samples, tmp_path, compiler):
    models = {"door": SHIPPED_INT8, "lamp": STREAM}
    alone, sources = {}, []
    for prefix, path in models.items():
        write_c_folder(path, tmp_path / prefix, prefix=prefix)
        write_c_folder(path, tmp_path / f"{prefix}_alone")
        alone[prefix] = detections(tmp_path / f"{prefix}_alone", samples)
        assert len(alone[prefix]) > 5
        assert detections(tmp_path / prefix, samples) == alone[prefix]
        sources += [tmp_path / prefix / f"{prefix}_{name}.c" for name in SOURCES]
    (tmp_path / "two.c").write_text(TWO)
    folders = itertools.chain(*(("-I", tmp_path / prefix) for prefix in models))
    program = [*folders, tmp_path / "two.c", *sources, "-o", tmp_path / "two", "-lm"]
    subprocess.run([*compiler, *program], check=True)
    output = subprocess.run([tmp_path / "two"], input=samples.tobytes(), capture_output=True, check=True)
    lines = [line.replace(" s ", "").split() for line in output.stdout.decode().splitlines()]
    for prefix, found in alone.items():
        assert [tuple(one) for name, *one in lines if name == prefix] == found


@pytest.mark.parametrize("prefix", ["2door", "Door", "int", "a-b", ""])
def test_a_prefix_is_the_begin_of_a_name_in_c(tmp_path, prefix):
    flags = "--output", tmp_path / "c", "--prefix", prefix
    result = call_here("export_c.py", SHIPPED_INT8, *flags, check=False)
    assert_one_clear_line(result, f"--prefix {prefix}: names in C cannot begin so")
    assert not (tmp_path / "c").exists()


# ---- what it was made of ----


def test_the_header_says_what_the_module_was_made_of_and_is_always_the_same(tmp_path):
    first, second = MICROPHONE, VERIFIER
    for name in ("one", "other"):
        write_c_folder(first, tmp_path / name, verifier_path=second)
    one, other = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.is_file()}
                  for name in ("one", "other"))  # fmt: skip
    assert one == other
    header = one["kws_model.h"].decode()
    for role, path in (("MODEL", first), ("VERIFIER_MODEL", second)):
        assert f'#define KWS_{role} "{path.name}"\n' in header
        assert f'#define KWS_{role}_SHA256 "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n' in header
    assert f'#define KWS_VERSION "{VERSION}"\n' in header
    normal = TFLiteModel(second).settings.detector.normal
    assert re.search(rf"normal: threshold {normal.threshold:g}, .* % of the words missed", header)
    assert '"yes", "no", "up"' in header
    assert (
        "\n * Accuracy, testing, paper protocol (10 % silence of zeros" in header and ", N = 2717\n" in header
    )


def test_the_header_states_no_accuracy_of_another_file(tmp_path):
    definition = (MICROPHONE.parent / "definition.yaml").read_text()
    for name, text in (("same", definition), ("other", definition.replace("sha256: ", "sha256: 0"))):
        (tmp_path / name).mkdir()
        path = tmp_path / name / MICROPHONE.name
        path.write_bytes(MICROPHONE.read_bytes())
        (path.parent / "definition.yaml").write_text(text)
        write_c_folder(path, tmp_path / name / "c")
        assert ("Accuracy" in (tmp_path / name / "c" / "kws_model.h").read_text()) == (name == "same")


@needs("arm-none-eabi-gcc")
def test_a_module_is_checked_against_the_flash_that_there_is(shipped):
    def make(flash):
        command = ["make", "-C", shipped[0].folder, "m4", f"FLASH={flash}"]
        return subprocess.run(command, capture_output=True, text=True)

    size = int(re.search(r"^ +(\d+)\t +0\t +0\t", make(10**6).stdout, re.M)[1])
    assert 90_000 < size < 100_000
    assert make(size).returncode == 0
    result = make(size - 1)
    assert result.returncode != 0 and f"the module needs {size} bytes of flash" in result.stdout
