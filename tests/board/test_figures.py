"""The costs that c/README.md states are those of the module."""

import re
import subprocess

import pytest

import board
from c_modules import needs

pytestmark = needs("arm-none-eabi-gcc", "qemu-system-arm", "make")
NUMBER = r"\d[\d,]*\.?\d*"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return board.Measurements(tmp_path_factory.mktemp("board"))


def numbers(table):
    return [float(found.replace(",", "")) for found in re.findall(NUMBER, table)]


def test_every_number_in_the_tables_of_the_page_is_measured_again(measured):
    """Other compilers and their libraries differ by some percent, and more in the stack."""
    version = subprocess.run(["arm-none-eabi-gcc", "-dumpversion"], capture_output=True, text=True).stdout
    page = board.PAGE.read_text()
    same = f"`arm-none-eabi-gcc` {'.'.join(version.split('.')[:2])}," in page
    for table in board.tables(measured):
        stated = board.table_like(table, page)
        assert re.sub(NUMBER, "", table) == re.sub(NUMBER, "", stated)
        for line, stated_line in zip(table.split("\n"), stated.split("\n"), strict=True):
            tolerance = 0.001 if same else 0.25 if "stack" in line else 0.02
            assert numbers(line) == pytest.approx(numbers(stated_line), rel=tolerance, abs=0.01), line


def test_features_in_fixed_point_are_as_near_on_recordings_as_the_page_states(measured, real_speech):
    (*_, table) = board.tables(measured, real_speech / "speech_commands_v0.02")
    stated = board.table_like(table, board.PAGE.read_text())
    assert re.sub(NUMBER, "", table) == re.sub(NUMBER, "", stated)
    assert numbers(table) == pytest.approx(numbers(stated), rel=0.005, abs=0.005)


@pytest.mark.parametrize(
    ("name", "flash", "m4_each", "m55_each"),
    [("clustered", 68500, 2.6, 0.45), ("clustered_16", 58500, 2.1, 0.36)],
)
def test_packed_weights_save_flash_for_few_more_instructions(measured, name, flash, m4_each, m55_each):
    """Unpacked, DNN Small takes 98 kB, and 1.60 instructions for a product on an M4, 0.23 on an M55."""
    path = board.shipped(f"dnn_small_{name}_int8")
    for target, most in (("m4", m4_each), ("m55", m55_each)):
        cost = measured.of(path, target, packed=True)
        assert cost["flash"] < flash and cost["classification"] < most * cost["macs"] == most * 79200


def test_the_stack_is_that_of_the_deepest_calls(tmp_path):
    sizes = {"kws_push": 32, "a": 64, "b": 8, "c": 100}
    calls = [("kws_push", "a"), ("kws_push", "b"), ("b", "c"), ("b", "memcpy")]
    lines = [f'node: {{ title: "{name}" label: "x\\n1:2\\n{size} bytes" }}' for name, size in sizes.items()]
    lines += [f'edge: {{ sourcename: "{source}" targetname: "{target}" }}' for source, target in calls]
    (tmp_path / "x.ci").write_text("\n".join(lines))
    assert board.stack(tmp_path.glob("*.ci")) == 140


def test_a_page_without_the_table_is_an_error():
    with pytest.raises(board.UserError, match="no table that begins with"):
        board.table_like("| a | b |\n| --- | --- |", "| a | c |\n\n")
