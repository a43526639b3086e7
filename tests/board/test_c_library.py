"""The exported folder as a library: without warnings, and taken by build systems as it is."""

import json
import re
import subprocess

import pytest

from c_modules import BOARDS, needs
from conftest import RATE, ROOT
from kws.base.settings import Settings
from kws.board import library

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
STAND_IN = ROOT / "tests" / "cmsis_nn"  # for Arm's CMSIS-NN
WITH_CMSIS_NN = ["-DKWS_CMSIS_NN", "-isystem", str(STAND_IN / "Include")]
PROCESSORS = {
    "host": [],
    "m0+": ["-mcpu=cortex-m0plus"],
    "m3": ["-mcpu=cortex-m3"],
    "m4": BOARDS["mps2-an386"],
    "m7": ["-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"],
    "m33": ["-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
    "m55": BOARDS["mps3-an547"],
}


@pytest.mark.parametrize(
    "flags", [[], ["-DKWS_CMSIS_NN", "-isystem", str(STAND_IN / "Include")]], ids=["", "cmsis_nn"]
)
@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++17")])
@pytest.mark.parametrize(
    "processor",
    [pytest.param(name, marks=needs("arm-none-eabi-gcc") if name != "host" else ()) for name in PROCESSORS],
)
def test_no_source_has_a_warning(verified, tmp_path, processor, language, standard, flags):
    """The module has packed weights, convolutions and a verifier, so that nothing is left out."""
    sources = sorted(verified[0].folder.glob("*.c"))
    assert len(sources) == 8
    if processor == "host":
        sources = [path for path in sources if path.name != "startup.c"]
    compiler = "cc" if processor == "host" else "arm-none-eabi-gcc"
    command = [compiler, "-x", language, f"-std={standard}", "-O2", *WARNINGS, *PROCESSORS[processor], *flags]
    subprocess.run([*command, "-c", *sources], cwd=tmp_path, check=True)


# ---- CMake ----


def cmake(folder, listing, *arguments):
    """Configure and build a project of one CMakeLists.txt; its folder of results."""
    folder.mkdir(exist_ok=True)
    (folder / "CMakeLists.txt").write_text(listing)
    return cmake_folder(folder, folder / "build", *arguments)


def cmake_folder(source, build, *arguments):
    for command in (["cmake", "-S", source, "-B", build, *arguments], ["cmake", "--build", build]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return build


PROGRAM = """
#include <kws_detect.h>
int main(void) { int8_t scores[KWS_LABELS] = {0, 0, 9}; return kws_best(scores) == 2 ? 0 : 1; }
"""
# with the functions whose names and streams are others with CMSIS-NN
WITH_A_DETECTOR = """
#include <kws_detect.h>
static kws_detector detector;
int main(void) { return kws_detect_start(&detector, KWS_NORMAL) == KWS_OK ? 0 : 1; }
"""
START = "cmake_minimum_required(VERSION 3.13)\nproject(app C)\n"


@needs("cmake")
def test_cmake_builds_the_folder_and_a_project_that_adds_it(shipped, tmp_path):
    build = cmake_folder(shipped[0].folder, tmp_path / "by_itself", "-DCMAKE_BUILD_TYPE=Release")
    result = subprocess.run(["ctest", "--test-dir", build, "-V"], capture_output=True, text=True)
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout
    (tmp_path / "main.c").write_text(PROGRAM)
    listing = f"add_subdirectory({shipped[0].folder} kws)\nadd_executable(app main.c)\n"
    build = cmake(tmp_path, f"{START}{listing}target_link_libraries(app kws)\n")
    subprocess.run([build / "app"], check=True)


@needs("cmake")
def test_cmake_builds_the_folder_and_a_project_that_adds_it_with_cmsis_nn(shipped, tmp_path):
    given = f"-DCMSIS_NN={STAND_IN}"
    build = cmake_folder(shipped[0].folder, tmp_path / "by_itself", given)
    result = subprocess.run(["ctest", "--test-dir", build, "-V"], capture_output=True, text=True)
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout
    (tmp_path / "main.c").write_text(WITH_A_DETECTOR)
    listing = f"add_subdirectory({shipped[0].folder} kws)\nadd_executable(app main.c)\n"
    build = cmake(tmp_path, f"{START}{listing}target_link_libraries(app kws)\n", given)
    subprocess.run([build / "app"], check=True)
    programs = build / "app", tmp_path / "by_itself" / "kws_check"
    assert all(b"arm_fully_connected_s8" in path.read_bytes() for path in programs)


CROSS = """
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_C_FLAGS "FLAGS -Werror -O2")
set(CMAKE_EXE_LINKER_FLAGS "--specs=rdimon.specs -T BOARD")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
"""


@needs("cmake", "arm-none-eabi-gcc", "qemu-system-arm")
def test_cmake_builds_a_program_for_a_board(shipped, tmp_path):
    folder = shipped[0].folder
    toolchain = CROSS.replace("FLAGS -W", f"{' '.join(BOARDS['mps2-an386'])} -mthumb -W")
    (tmp_path / "arm.cmake").write_text(toolchain.replace("BOARD", str(folder / "board.ld")))
    listing = f"add_subdirectory({folder} kws)\ntarget_link_libraries(app kws)\n"
    sources = " ".join(str(folder / name) for name in ("startup.c", "main.c", "kws_vectors.c"))
    build = cmake(
        tmp_path / "app",
        f"{START}add_executable(app {sources})\n{listing}",
        f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'arm.cmake'}",
    )
    emulated = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting", "-kernel", build / "app"]
    output = subprocess.run(emulated, capture_output=True, text=True, timeout=60).stdout
    assert "4 of 4 clips as on the PC" in output


# The commands of the two build systems that the folder calls, as in their manuals, for plain CMake.
ESP_IDF = """
macro(idf_component_register)
    cmake_parse_arguments(given "" "" "SRCS;INCLUDE_DIRS;REQUIRES;PRIV_REQUIRES" ${ARGN})
    if(given_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "unknown: ${given_UNPARSED_ARGUMENTS}")
    endif()
    add_library(component STATIC ${given_SRCS})
    target_include_directories(component PUBLIC ${given_INCLUDE_DIRS})
endmacro()
"""
ZEPHYR = """
add_library(zephyr_interface INTERFACE)
macro(zephyr_library_named name)
    set(ZEPHYR_CURRENT_LIBRARY ${name})
    add_library(${name} STATIC "")
    target_link_libraries(${name} PUBLIC zephyr_interface)
    add_library(component ALIAS ${name})
endmacro()
function(zephyr_library_sources)
    target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
function(zephyr_include_directories)
    foreach(folder ${ARGN})
        get_filename_component(path ${folder} ABSOLUTE)
        target_include_directories(zephyr_interface INTERFACE ${path})
    endforeach()
endfunction()
function(zephyr_compile_definitions)
    target_compile_definitions(zephyr_interface INTERFACE ${ARGN})
endfunction()
"""
# what Zephyr does with its own module if CONFIG_KWS_CMSIS_NN selects it
ZEPHYR_CMSIS_NN = f"""
file(GLOB sources {STAND_IN}/Source/*/*.c)
add_library(cmsis_nn STATIC ${{sources}})
target_include_directories(zephyr_interface INTERFACE {STAND_IN}/Include)
target_link_libraries(cmsis_nn PUBLIC zephyr_interface)
set(CONFIG_KWS_CMSIS_NN y)
"""


@needs("cmake")
@pytest.mark.parametrize("system", [ESP_IDF, ZEPHYR], ids=["esp-idf", "zephyr"])
def test_cmake_registers_a_component(shipped, tmp_path, system):
    (tmp_path / "main.c").write_text(PROGRAM)
    added = f"add_subdirectory({shipped[0].folder} kws)\nadd_executable(app main.c)\n"
    build = cmake(tmp_path, f"{START}{system}{added}target_link_libraries(app component m)\n")
    subprocess.run([build / "app"], check=True)


@needs("cmake")
def test_zephyr_gives_the_layers_to_its_own_cmsis_nn(shipped, tmp_path):
    (tmp_path / "main.c").write_text(WITH_A_DETECTOR)
    added = f"add_subdirectory({shipped[0].folder} kws)\nadd_executable(app main.c)\n"
    linked = "target_link_libraries(app component cmsis_nn m)\n"
    build = cmake(tmp_path, f"{START}{ZEPHYR}{ZEPHYR_CMSIS_NN}{added}{linked}")
    subprocess.run([build / "app"], check=True)
    assert b"arm_fully_connected_s8" in (build / "app").read_bytes()


@needs("cmake")
def test_esp_idf_can_read_the_requirements_before_there_is_a_project(shipped, tmp_path):
    """It first runs the file as a script, in which most of CMake's commands are missing."""
    script = "macro(idf_component_register)\nmessage(STATUS registered)\nreturn()\nendmacro()\n"
    (tmp_path / "script.cmake").write_text(f"{script}include({shipped[0].folder / 'CMakeLists.txt'})\n")
    result = subprocess.run(["cmake", "-P", tmp_path / "script.cmake"], capture_output=True, text=True)
    assert result.returncode == 0 and "registered" in result.stdout, result.stderr


# ---- the rules of formats whose tools are not installed ----

ODD_WORDS = ("yes", 'say "hi"', "a\\b", "@NAME@", "two\nlines", "한국", "a:b=c#d")
SEMANTIC_VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    library.write_library(folder, Settings(wanted_words=ODD_WORDS), 79200, "kws")
    return folder


@pytest.mark.fast
def test_the_properties_are_those_of_an_arduino_library(written):
    """https://arduino.github.io/arduino-cli/latest/library-specification/"""
    lines = (written / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    required = "name version author maintainer sentence paragraph category url architectures includes".split()
    assert list(properties) == required and all(properties.values())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,62}", properties["name"])
    assert re.fullmatch(SEMANTIC_VERSION, properties["version"])
    assert properties["category"] in (
        "Display, Communication, Signal Input/Output, Sensors, Device Control, Timing, Data Storage, "
        "Data Processing, Other"
    ).split(", ")
    assert properties["architectures"] == "*" and (ROOT / "c" / properties["includes"]).exists()
    assert all(" ".join(word.split()) in properties["sentence"] for word in ODD_WORDS)
    (sketch,) = (written / "examples").rglob("*.ino")
    assert sketch.stem == sketch.parent.name


@pytest.mark.fast
def test_the_manifest_is_one_of_platformio(written):
    """https://docs.platformio.org/en/latest/manifests/library-json/"""
    manifest = json.loads((written / "library.json").read_text())
    assert {"name", "version"} <= set(manifest)  # what it requires
    known = "name version description keywords authors homepage license frameworks platforms headers build"
    assert set(manifest) <= set(known.split())
    assert re.fullmatch(r"[^:/,@<>]+", manifest["name"]) and re.fullmatch(
        SEMANTIC_VERSION, manifest["version"]
    )
    assert manifest["frameworks"] == manifest["platforms"] == "*" and manifest["authors"]["name"]
    assert set(manifest["build"]) == {"srcDir", "includeDir", "srcFilter"}
    assert all(" ".join(word.split()) in manifest["description"] for word in ODD_WORDS)


@pytest.mark.fast
def test_the_manifests_of_zephyr_and_esp_idf(written):
    """Zephyr's doc/develop/modules.rst; ESP-IDF's IDF Component Manager, manifest file reference."""
    assert (written / "zephyr" / "module.yml").read_text() == (
        "name: kws\nbuild:\n  cmake: .\n  kconfig: zephyr/Kconfig\n"
    )
    # a menu of its own modules: zephyr/modules/cmsis-nn/Kconfig
    option = (written / "zephyr" / "Kconfig").read_text()
    assert option.startswith("config KWS_CMSIS_NN\n\tbool ") and "\n\tselect CMSIS_NN\n" in option
    assert "if(CONFIG_KWS_CMSIS_NN)" in (written / "CMakeLists.txt").read_text()
    lines = [line.split(": ", 1) for line in (written / "idf_component.yml").read_text().splitlines()]
    values = {key: json.loads(value) for key, value in lines}  # YAML takes strings of JSON
    assert list(values) == ["version", "description", "url", "license"]
    assert re.fullmatch(SEMANTIC_VERSION, values["version"])
    assert all(" ".join(word.split()) in values["description"] for word in ODD_WORDS)


@pytest.mark.fast
def test_each_build_system_takes_the_same_sources(written):
    listed = re.search(r"set\(kws_sources (.*)\)", (written / "CMakeLists.txt").read_text())[1].split()
    make = re.search(r"^module = (.*)$", (ROOT / "c" / "Makefile").read_text(), re.M)[1].split()
    assert listed == make
    chosen = json.loads((written / "library.json").read_text())["build"]["srcFilter"]
    assert chosen == ["+<kws*.c>", "-<kws_vectors.c>"]
    ours = {path.name for path in (ROOT / "c").glob("kws*.c")} | {"kws_model.c"}
    assert set(listed) == ours


@pytest.mark.fast
def test_no_build_system_compiles_the_programs_for_boards(written):
    """Each has a main. Arduino compiles the folder itself, `src` and `utility`."""
    programs = [path.relative_to(written) for path in written.rglob("*.c")]
    assert {path.parts[0] for path in programs} == {"boards"} and len(programs) == 5
    assert not {"src", "utility"} & {path.name for path in written.iterdir()}
    assert "boards" not in (written / "CMakeLists.txt").read_text()
    chosen = json.loads((written / "library.json").read_text())["build"]["srcFilter"][0]
    assert chosen == "+<kws*.c>" and not any(path.match("kws*.c") for path in programs)


# ---- the sketch ----

ARDUINO = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
enum { LED_BUILTIN = 13, OUTPUT = 1, LOW = 0, HIGH = 1 };
inline void pinMode(int, int) {}
inline void digitalWrite(int pin, int level) { if (pin == LED_BUILTIN && level) puts("LED"); }
extern uint32_t samples_read;
inline uint32_t millis() { return samples_read / 16; }
struct {
    void begin(long) {}
    void print(double value, int digits) { printf("%.*f", digits, value); }
    void print(const char *text) { fputs(text, stdout); }
    void println(const char *text) { puts(text); }
} Serial;
"""
PDM = """
uint32_t samples_read = 0;
/* Gives what is on standard input, 256 samples at a time as the library does, whenever the loop waits. */
static struct {
    void (*callback)();
    int left;
    void onReceive(void (*function)()) { callback = function; }
    bool begin(int channels, long rate) { return channels == 1 && rate == 16000; }
    void interrupt() { left = 512; callback(); }
    int available() { return left; }
    int read(void *to, size_t bytes) {
        bytes = fread(to, 1, bytes, stdin);
        if (bytes == 0) exit(0);
        left -= (int)bytes;
        samples_read += (uint32_t)bytes / 2;
        return (int)bytes;
    }
} PDM;
"""


def test_the_sketch_prints_the_words_at_the_microphone(shipped, tmp_path, half_hour):
    """Arduino's core and its library PDM are stand-ins; interrupts come while the sketch waits."""
    module, _ = shipped
    samples = half_hour.samples[: 120 * RATE]
    expected = [found[:2] for found in half_hour.detections if float(found[0]) < 120 - 0.8]
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    (tmp_path / "PDM.h").write_text(PDM)
    sketch = (module.folder / "examples" / "Microphone" / "Microphone.ino").read_text()
    waiting = "while ((count = written - taken) == 0) {\n"
    assert waiting in sketch
    core = "\nint main() { setup(); for (;;) loop(); }\n"
    (tmp_path / "sketch.cpp").write_text(
        "#include <Arduino.h>\n" + sketch.replace(waiting, f"{waiting}PDM.interrupt();\n") + core
    )
    flags = [
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-DARDUINO=10819",
        "-I",
        tmp_path,
        "-I",
        module.folder,
        "-c",
    ]
    sources = [path for path in module.folder.glob("*.c") if path.name != "dsp.c"]
    subprocess.run(["cc", "-std=gnu11", *flags, *sources], cwd=tmp_path, check=True)
    subprocess.run(["c++", "-std=gnu++14", *flags, "sketch.cpp"], cwd=tmp_path, check=True)
    subprocess.run(["c++", "-o", "sketch", *tmp_path.glob("*.o"), "-lm"], cwd=tmp_path, check=True)
    given = {"input": samples.tobytes(), "capture_output": True}
    lines = subprocess.run([tmp_path / "sketch"], **given, check=True).stdout.decode().splitlines()
    assert [tuple(line.split(" s  ")) for line in lines if line != "LED"] == expected
    assert lines.count("LED") == sum(word == "yes" for _, word in expected) > 0
