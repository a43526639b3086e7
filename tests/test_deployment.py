"""Forms of a TFLite file that firmware takes."""

import re
import subprocess

import pytest

from conftest import SAMPLE_DATA, WEIGHTS, assert_one_clear_line, call

INT8 = ("--checkpoint", WEIGHTS, "--data_dir", SAMPLE_DATA, "--inference_type", "int8")


@pytest.mark.parametrize(("suffix", "compiler"), [("c", "cc"), ("cc", "c++")])
def test_an_array_holds_the_file_and_is_aligned(tmp_path, suffix, compiler):
    array = tmp_path / f"my-words.{suffix}"
    call("convert_to_tflite.py", *INT8, "--output", array)
    content = (tmp_path / "my-words.tflite").read_bytes()
    numbers = re.search(r"my_words\[\] = {(.*?)}", array.read_text(), re.S)[1]
    assert "aligned(16)" in array.read_text()
    assert bytes(map(int, numbers.strip().strip(",").split(","))) == content
    program = tmp_path / f"main.{suffix}"
    start = 'extern "C" {' if suffix == "cc" else ""
    program.write_text(
        f"{start} extern const unsigned char my_words[]; extern const unsigned int my_words_len; "
        f"{'}' if start else ''}\n"
        "int main(void) { return (unsigned long)my_words % 16 != 0 || my_words_len != "
        f"{len(content)} || my_words[4] != 'T'; }}\n"
    )
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "main", program, array]
    subprocess.run(command, check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0


def test_vela_puts_the_whole_network_on_the_npu(tmp_path):
    pytest.importorskip("ethosu.vela")
    output = call(
        "convert_to_tflite.py", *INT8, "--output", tmp_path / "2x.cc", "--vela", "ethos-u55-128"
    ).stdout
    assert re.search(
        r": 100 % of the operators .*SRAM [\d.]+ KiB, DRAM 0.00 KiB, flash [\d.]+ KiB, [\d,]+ cycles", output
    )
    compiled = (tmp_path / "2x_vela.tflite").read_bytes()
    assert compiled[4:8] == b"TFL3"
    assert f"_2x_len = {len(compiled)};" in (tmp_path / "2x.cc").read_text()


def test_vela_wants_integers(tmp_path):
    flags = "--checkpoint", WEIGHTS, "--output", tmp_path / "x.tflite", "--vela", "ethos-u55-128"
    result = call("convert_to_tflite.py", *flags, check=False)
    assert_one_clear_line(result, "--vela needs an integer model")
