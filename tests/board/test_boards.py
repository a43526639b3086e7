"""Starting points for boards: samples of a microphone are converted, and each program runs with stand-ins."""

import ctypes
import os
import re
import subprocess

import numpy as np
import pytest
from scipy import signal
from test_c_library import PROCESSORS, WARNINGS

from c_modules import CDetector, needs
from conftest import RATE, ROOT, SHIPPED_INT8
from kws.board.c_folder import write_c_folder

BOARDS = ROOT / "c" / "library" / "boards"
STAND_INS = ROOT / "tests" / "board" / "boards"
PROGRAMS = ("stm32f4", "nrf52840", "pico", "esp32s3")
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
IN_32, HALVES, INT16, ADC_12 = range(4)  # capture_format
WIDTHS = {IN_32: 4, HALVES: 4, INT16: 2, ADC_12: 2}  # bytes
UNITY = 16
HIGH = 48000

# Converts what is on standard input, in portions that are allocated as long as they are said to be.
TOOL = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "capture.h"
int main(int arguments, char **values) {
    static unsigned char given[1 << 25];
    static capture state;
    const int step = atoi(values[3]), width = atoi(values[5]), of_48 = atoi(values[2]) == 48000;
    const int places = step > 0 ? step : 1;
    const long total = (long)fread(given, 1, sizeof given, stdin) / width / places;
    const capture_format format = (capture_format)atoi(values[1]);
    const int started = capture_start(&state, format, atoi(values[2]), step, atoi(values[4]));
    for (long done = 0, turn = 0; done < total; turn++) {
        long count = atol(values[6 + turn % (arguments - 6)]);
        if (count > total - done) count = total - done;
        const size_t bytes = (size_t)(count * places * width), most = (size_t)(of_48 ? count / 3 + 1 : count);
        unsigned char *part = (unsigned char *)malloc(bytes);
        int16_t *samples = (int16_t *)malloc(2 * most);
        if (bytes) memcpy(part, given + done * places * width, bytes);
        fwrite(samples, 2, (size_t)capture_samples(&state, part, (int32_t)count, samples), stdout);
        done += count;
        free(part);
        free(samples);
    }
    return !started;
}
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory, c_tools):
    folder = tmp_path_factory.mktemp("tool")
    (folder / "tool.c").write_text(TOOL)
    sources = [folder / "tool.c", BOARDS / "capture.c"]
    command = ["cc", *STRICT, "-pedantic", *SANITIZED, "-I", BOARDS, *sources, "-o", folder / "tool"]
    subprocess.run(command, check=True)
    return folder / "tool"


def given_by(format, samples):
    """Return samples, -1 to 1, as a microphone of this format gives them."""
    if format == INT16:
        return np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype("<i2")
    if format == ADC_12:
        return np.clip(np.round(samples * 2**11) + 2**11, 0, 2**12 - 1).astype("<u2")
    words = np.clip(np.round(samples * 2**23), -(2**23), 2**23 - 1).astype("<i4") << 8
    return words if format == IN_32 else words.view("<u2").reshape(-1, 2)[:, ::-1].ravel()


def captured(tool, given, format=IN_32, rate=HIGH, gain=UNITY, step=1, portions=(480,), started=True):
    """Return what capture_samples makes of `given`, int16."""
    arguments = [format, rate, step, gain, WIDTHS[format], *portions]
    result = subprocess.run([tool, *map(str, arguments)], input=given.tobytes(), stdout=subprocess.PIPE)
    assert result.returncode == (0 if started else 1)
    return np.frombuffer(result.stdout, "<i2")


def tone(frequency, rate=HIGH, seconds=1.0, amplitude=0.9):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def level(samples):
    """Return the level in dB of full scale, without the first half second."""
    later = samples[len(samples) // 2 :].astype(float)
    return 10 * np.log10(2 * np.mean(later**2) / 2**30)


# ---- capture.c ----


@pytest.fixture(scope="module")
def low_pass():
    return signal.remez(60, [0, 6800, 9200, 24000], [1, 0], weight=[1, 14], fs=48000)


def test_a_tone_that_would_fold_into_speech_is_60_db_lower(tool):
    passed = level(captured(tool, given_by(IN_32, tone(1000))))
    for frequency in (9200, 9500, 10000, 11000, 12500, 15000, 17000, 20000, 23900):
        folded = level(captured(tool, given_by(IN_32, tone(frequency))))
        assert folded <= passed - 60, frequency


def test_tones_of_speech_pass_unchanged(tool):
    for frequency in (60, 300, 1000, 3000, 5000, 6800):
        given = tone(frequency)
        passed = level(captured(tool, given_by(IN_32, given)))
        assert passed == pytest.approx(level(given * 2**15), abs=0.2), frequency
    exact = captured(tool, given_by(INT16, tone(1000, RATE)), INT16, RATE)
    np.testing.assert_allclose(exact[RATE // 2 :], tone(1000, RATE)[RATE // 2 :] * 2**15, atol=100)


def test_the_filter_is_the_one_that_its_comment_computes(low_pass):
    source = (BOARDS / "capture.c").read_text()
    half = np.array([int(value) for value in re.search(r"low_pass.*?{(.*?)}", source, re.S)[1].split(",")])
    assert "remez(60, [0, 6800, 9200, 24000], [1, 0], weight=[1, 14], fs=48000)" in source
    np.testing.assert_allclose(half, low_pass[:30] * 2**15, atol=1)
    assert 2 * np.abs(half).sum() < 2**16 - 1  # times 2^15, so no sum leaves 32 bits


@pytest.mark.parametrize("format", [IN_32, HALVES, INT16, ADC_12])
@pytest.mark.parametrize("rate", [RATE, HIGH])
def test_the_constant_part_goes_and_the_tone_stays(tool, format, rate):
    constant = given_by(format, 0.3 + np.zeros(3 * rate))
    assert not captured(tool, constant, format, rate)[2 * RATE :].any()
    with_tone = given_by(format, 0.3 + tone(1000, rate, 3, 0.5))
    samples = captured(tool, with_tone, format, rate)[2 * RATE :]
    assert abs(samples.mean()) < 8
    assert level(samples) == pytest.approx(20 * np.log10(0.5), abs=0.2)


def test_a_gain_amplifies(tool):
    quiet = given_by(IN_32, tone(500, amplitude=0.01))
    for gain in (0.5, 8, 20):
        expected = 20 * np.log10(0.01 * gain)
        assert level(captured(tool, quiet, gain=int(gain * UNITY))) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("gain", [UNITY, 2 * UNITY, 64 * UNITY - 1])
def test_what_is_too_loud_is_clipped_and_never_wraps(tool, low_pass, gain):
    loud = np.sign(tone(501, RATE))
    samples = captured(tool, given_by(IN_32, loud), IN_32, RATE, gain)
    np.testing.assert_array_equal(np.sign(samples), loud)
    assert samples.min() == -(2**15) and samples.max() == 2**15 - 1
    # the filter's output overshoots
    loud = np.sign(tone(501))
    expected = np.clip(np.convolve(loud, low_pass)[2:HIGH:3], -1, 1)
    difference = captured(tool, given_by(IN_32, loud), gain=gain) / 2**15 - expected
    assert np.abs(difference[RATE // 2 :]).max() < (0.03 if gain == UNITY else 0.001)


@pytest.mark.parametrize(("rate", "format"), [(HIGH, IN_32), (HIGH, HALVES), (RATE, INT16), (HIGH, ADC_12)])
def test_portions_of_any_size_give_the_same_samples(tool, rate, format):
    given = given_by(format, np.random.default_rng(0).normal(scale=0.2, size=30000))
    whole = captured(tool, given, format, rate, portions=(len(given),))
    assert len(whole) == 30000 * RATE // rate
    for portions in ((1,), (0, 1, 2, 3, 4, 5), (479, 7, 961)):
        np.testing.assert_array_equal(captured(tool, given, format, rate, portions=portions), whole)


def test_the_other_slot_is_not_heard(tool):
    left, right = tone(1000), np.random.default_rng(0).normal(scale=0.3, size=HIGH)
    for format in (IN_32, HALVES):
        words = [given_by(format, side).reshape(HIGH, -1) for side in (left, right)]
        both = np.concatenate(words, 1)
        alone = captured(tool, words[0], format)
        np.testing.assert_array_equal(captured(tool, both, format, step=2), alone)


@pytest.mark.parametrize("wrong", [{"rate": 44100}, {"gain": 0}, {"gain": 1024}, {"step": 0}, {"step": -1}])
def test_wrong_arguments_are_refused_and_no_samples_follow(tool, wrong):
    given = given_by(IN_32, tone(1000)[:960])
    assert len(captured(tool, given, started=False, **wrong)) == 0


def test_halves_that_dma_wrote_over_are_counted(tmp_path, c_tools):
    command = ["cc", *STRICT, "-shared", "-fPIC", BOARDS / "capture.c", "-o", tmp_path / "capture.so"]
    subprocess.run(command, check=True)
    taken = ctypes.CDLL(str(tmp_path / "capture.so")).capture_taken
    last = 2**32 - 1
    for full, before, lost, after in (
        (1, 0, 0, 1),
        (3, 1, 1, 2),
        (9, 4, 4, 8),
        (0, last, 0, 0),
        (2, last, 2, 1),
    ):
        halves = (ctypes.c_uint32 * 2)(full, before)
        assert taken(halves) == lost
        assert list(halves) == [full, after]


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++17")])
@pytest.mark.parametrize(
    "processor",
    [pytest.param(name, marks=needs("arm-none-eabi-gcc") if name != "host" else ()) for name in PROCESSORS],
)
def test_capture_has_no_warning(tmp_path, c_tools, processor, language, standard):
    compiler = "cc" if processor == "host" else "arm-none-eabi-gcc"
    command = [compiler, "-x", language, f"-std={standard}", "-O2", *WARNINGS, *PROCESSORS[processor], "-c"]
    subprocess.run([*command, BOARDS / "capture.c"], cwd=tmp_path, check=True)


# ---- from the microphone to words ----


@pytest.fixture(scope="module")
def heard(half_hour):
    """Two minutes of words, and what label_wav.py detects in them."""
    found = [one[:2] for one in half_hour.detections if float(one[0]) < 120 - 0.8]
    assert len(found) > 8
    return half_hour.samples[: 120 * RATE], found


def detected(module, model, *parts):
    """What the detector finds in parts of samples; a number is of samples lost. [(seconds, word)]"""
    detector = CDetector(module)
    for part in parts:
        if isinstance(part, int):
            detector.call("kws_gap", part)
        else:
            detector.push(part)
    return [(time, model.settings.labels[label]) for time, label, _ in detector.found]


def assert_same_words(found, expected):
    """The same words within two hops, but for at most one whose score is about the threshold."""

    def only_in(ours, theirs):
        near = [(word, float(time)) for time, word in theirs]
        return [
            (time, word)
            for time, word in ours
            if not any(word == other and abs(float(time) - at) < 0.081 for other, at in near)
        ]

    different = only_in(found, expected) + only_in(expected, found)
    assert len(different) <= 1, different


def test_words_at_48_khz_and_24_bits_are_detected_as_at_16_khz(shipped, tool, heard):
    samples, expected = heard
    given = given_by(IN_32, signal.resample_poly(samples / 2**15, 3, 1) / 8)
    converted = captured(tool, given, gain=8 * UNITY)
    assert_same_words(detected(*shipped, converted), expected)


# ---- the programs ----


def program(name, folder, prefix="kws"):
    """Compile a program of the exported folder with its stand-in, and return the program's path."""
    write_c_folder(SHIPPED_INT8, folder, prefix=prefix)
    source = folder / "boards" / f"{name}.c"
    for header in re.findall(r'#include "(.*)"', source.read_text()):
        if header not in ("capture.h", f"{prefix}_detect.h"):
            path = folder / "stand_in" / header
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#include "{STAND_INS / name}.h"\n')
    sources = [source, folder / "boards" / "capture.c"]
    sources += [folder / f"{prefix}_{part}.c" for part in ("features", "nn", "detect", "model")]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", *SANITIZED]
    include = ["-I", folder, "-I", folder / "boards", "-I", folder / "stand_in"]
    subprocess.run(["cc", *flags, *include, *sources, "-o", folder / "program", "-lm"], check=True)
    return folder / "program"


@pytest.fixture(scope="module", params=PROGRAMS)
def board(request, tmp_path_factory, c_tools):
    """The name of a program, and its path."""
    return request.param, program(request.param, tmp_path_factory.mktemp(request.param))


def recording(name, samples):
    """Return samples as the microphone of a program gives them, before the program's gain."""
    source = (BOARDS / f"{name}.c").read_text()
    gain = re.search(r"#define GAIN (?:\((\d+) \* )?CAPTURE_UNITY", source)[1]
    quiet = samples / 2**15 / int(gain or 1)
    if name == "nrf52840":
        return given_by(INT16, quiet)
    if name != "stm32f4":
        return given_by(IN_32, quiet)
    left = given_by(HALVES, signal.resample_poly(quiet, 3, 1)).reshape(-1, 2)
    return np.concatenate([left, np.full_like(left, 0x5555)], 1)


def run(path, given, **late):
    """Run a program with a recording; the lines that it prints."""
    environment = os.environ | {name: str(value) for name, value in late.items()}
    result = subprocess.run([path], input=given.tobytes(), capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines()


def words(lines):
    """The detections in what a program printed: [(seconds, word)]"""
    found = [re.fullmatch(r"(\d+) ms  (\S+)", line) for line in lines]
    return [(int(one[1]) / 1000, one[2]) for one in found if one]


def test_a_program_prints_the_words_and_lights_the_led(board, heard):
    name, path = board
    samples, expected = heard
    lines = run(path, recording(name, samples))
    assert_same_words(words(lines), expected)
    assert lines.count("LED") == sum(word == "yes" for _, word in words(lines)) > 0
    assert len(lines) == len(words(lines)) + lines.count("LED")  # no overruns


def test_a_program_that_is_late_tells_the_detector_what_was_lost(board, heard, shipped):
    """After 30 s no half is taken while 25 come: 24 are lost, 20 ms each."""
    name, path = board
    samples, part, before = heard[0], RATE // 50, 1500
    lines = run(path, recording(name, samples), LATE_AFTER=before, LATE_BY=25)
    lost = 24 * part
    first, rest = samples[: before * part], samples[before * part + lost :]
    expected = detected(*shipped, first, lost, rest)
    assert lines.count("1 overruns") == 1 and "2 overruns" not in lines
    assert_same_words(words(lines), expected)
    assert sum(time > 31 for time, _ in words(lines)) > 4


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_takes_another_prefix(name, tmp_path, c_tools):
    path = program(name, tmp_path, "door")
    assert "door_push" in (tmp_path / "boards" / f"{name}.c").read_text() and path.exists()


# ---- the program of the Pico's PIO ----


def test_the_pico_reads_the_left_slot_of_i2s():
    """A microphone puts bits on the line at falling edges of SCK, the highest one a bit after WS falls."""
    source = (BOARDS / "pico.c").read_text()
    program = [int(word, 16) for word in re.findall(r"^ +(0x[0-9a-f]{4}),", source, re.M)]
    assert len(program) == 12 and "#define FRAME_INSTRUCTIONS 128" in source
    sent = np.random.default_rng(0).integers(0, 2**32, 20).tolist()
    waiting, to_come, received = sent[:], [], []
    clock = select = 1
    place = x = line = bits = taken = 0
    for _ in range(128 * len(sent)):
        instruction = program[place]
        kind, operand = instruction >> 13, instruction & 31
        clock_before, select_before = clock, select
        clock, select = instruction >> 11 & 1, instruction >> 12 & 1
        if clock_before and not clock:  # the microphone's turn
            line = to_come.pop(0) if to_come else 0
            if select_before and not select:
                word = waiting.pop(0)
                to_come = [word >> place_of_bit & 1 for place_of_bit in range(31, -1, -1)]
        place = (place + 1) % len(program)
        if kind == 7:  # set x
            x = operand
        elif kind == 2:  # in
            bits, taken = (bits << 1 | line) & (2**32 - 1), taken + 1
            if taken % 32 == 0:
                received.append(bits)
        elif kind == 0:  # jmp x--
            place = operand if x else place
            x -= 1
    assert received == sent


def stated_by_the_page(row):
    """Return the numbers of a row of c/README.md's first table of costs: M4 and M55 of each network."""
    cells = re.search(rf"^\| {row}[^|]* \|(.*)\|$", (ROOT / "c" / "README.md").read_text(), re.M)[1]
    return [int(cell.replace(",", "")) for cell in cells.split("|")]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("row", "place", "megahertz"),
    [("Cortex-M4, 64 MHz", 0, 64), ("120 MHz", 0, 120), ("M55, 160 MHz", 1, 160)],
)
def test_the_page_computes_times_from_the_instructions_that_it_states(row, place, megahertz):
    """An instruction in each cycle, and 25 hops a second."""
    features, network = map(stated_by_the_page, ("for a second of audio", "the network, scored each 40 ms"))
    cells = re.search(rf"^\| {row}.*? \|(.*)\|$", (ROOT / "c" / "README.md").read_text(), re.M)[1]
    for cell, model in zip(cells.split("|"), (0, 4), strict=True):
        milliseconds = (features[model + place] + network[model + place]) / 25 / megahertz / 1000
        assert cell.strip() == f"{milliseconds:.1f} ({milliseconds / 40:.1%})".replace("%", " %")
