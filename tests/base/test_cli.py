"""How flags are read: each script's --help and its errors, and the types of flags."""

import argparse
import io
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from conftest import DATA, ROOT, SHIPPED_INT8, assert_one_clear_line, call, call_here
from kws.base.errors import UserError, run
from kws.base.flags import bounded, flag_adder, new_parser, number_list, options_from, word_list
from kws.base.text import show

SCRIPTS = ("train.py", "optimisations.py", "convert_to_tflite.py", "evaluation.py", "input_data.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_and_needs_no_tensorflow(script):
    command = [sys.executable, ROOT / script, "--help"]
    environment = {"PATH": "", "PYTHONPROFILEIMPORTTIME": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "--wanted_words" in result.stdout
    assert "tensorflow" not in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["--wanted_word", "--data-dir", "--nonsense"])
def test_unknown_and_shortened_flags_are_errors(script, flag):
    result = call(script, "--checkpoint", "x", flag, "yes", check=False)
    assert_one_clear_line(result, flag)


@pytest.mark.parametrize(
    ("script", "flag"), [("benchmarks/run.py", "--data_dir"), ("model_archive/build.py", "--recreated")]
)
def test_the_makers_scripts_start_from_anywhere(script, flag, tmp_path):
    command = [sys.executable, ROOT / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert flag in result.stdout


# ---- types and parsers ----


@dataclass(frozen=True)
class Options:
    speed: float = 1
    words: tuple[str, ...] = ("yes", "no")


@pytest.fixture
def parse():
    """Options from typed flags; --other is a flag that they have nothing to do with."""
    parser = new_parser("A test.")
    add = flag_adder(parser, Options)
    add("speed", "how fast", type=bounded(float, 0, 2))
    add("words", "which words", type=word_list)
    parser.add_argument("--other")
    return lambda *typed: options_from(Options, parser.parse_args(typed))


@pytest.mark.fast
def test_options_have_the_defaults_of_their_class_and_what_is_typed(parse):
    assert parse() == Options()
    assert parse("--speed", "0.5", "--other", "x", "--words", "up, down") == Options(0.5, ("up", "down"))


@pytest.mark.fast
def test_what_a_script_does_not_offer_keeps_its_default():
    assert options_from(Options, argparse.Namespace(speed=2, other="x")) == Options(speed=2)


@pytest.mark.fast
def test_flags_come_from_files_with_comments_and_later_ones_override(parse, tmp_path):
    (tmp_path / "flags.txt").write_text("# slow, as\n--speed 0.5  # a comment\n--words 'on,off'\n\n")
    assert parse(f"@{tmp_path}/flags.txt") == Options(0.5, ("on", "off"))
    assert parse(f"@{tmp_path}/flags.txt", "--speed", "2") == Options(2, ("on", "off"))


@pytest.mark.fast
def test_a_file_of_flags_names_others_relative_to_itself(parse, tmp_path, monkeypatch):
    for folder in ("a", "a/b", "c"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "words.txt").write_text("@b/words.txt --speed 1")
    (tmp_path / "a" / "b" / "words.txt").write_text("@../c.txt --words on,off")
    (tmp_path / "a" / "c.txt").write_text("--speed 0.5 --words up")
    monkeypatch.chdir(tmp_path / "c")
    assert parse("@../a/words.txt") == Options(1, ("on", "off"))
    assert parse("@../a/b/words.txt") == Options(0.5, ("on", "off"))


@pytest.mark.fast
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_flags_as_windows_writes_it_is_read(parse, tmp_path, encoding):
    (tmp_path / "flags.txt").write_bytes("--speed 0.5\r\n--words \u3131,on # x\r\n".encode(encoding))
    assert parse(f"@{tmp_path}/flags.txt") == Options(0.5, ("\u3131", "on"))


@pytest.mark.fast
@pytest.mark.parametrize("content", ["@nothing.txt", "--words 'on", "\xff", "-\0-\0w\0"])
def test_a_file_of_flags_that_cannot_be_read_is_named(parse, tmp_path, capsys, content):
    (tmp_path / "flags.txt").write_text(content, encoding="latin-1")
    with pytest.raises(SystemExit):
        parse(f"@{tmp_path}/flags.txt")
    assert f"error: {tmp_path}/" in capsys.readouterr().err


@pytest.mark.fast
@pytest.mark.parametrize("typed", [["--speed", "3"], ["--speed", "nan"], ["--spee", "1"], ["@nothing.txt"]])
def test_wrong_flags_are_one_line_and_exit_code_2(parse, typed, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(*typed)
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ": error: " in line


@pytest.mark.fast
def test_numbers_of_lists_are_positive():
    assert number_list(float)("0.1,2") == (0.1, 2)
    for text in ("0", "1,-1", "nan", "inf", "", "x"):
        with pytest.raises(ValueError):
            number_list(float)(text)


@pytest.mark.fast
@pytest.mark.parametrize("value", [0.001, 40.0, 7, ("yes", "no"), (144, 12), (0.1, 0.01), ()])
def test_values_are_shown_as_they_are_typed(value):
    texts = {(): "", ("yes", "no"): "yes,no", (144, 12): "144 12", (0.1, 0.01): "0.1,0.01", 40.0: "40"}
    assert show(value) == texts.get(value, str(value))
    assert not isinstance(value, float) or math.isclose(float(show(value)), value)


@pytest.mark.fast
def test_a_package_that_is_missing_is_one_line_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    result = call_here("evaluation.py", SHIPPED_INT8, *DATA, check=False)
    assert_one_clear_line(result, "threadpoolctl is missing", "pip install -r requirements.txt")


@pytest.mark.fast
def test_what_the_user_can_put_right_ends_in_one_line_and_exit_code_2(capsys, monkeypatch):
    def main():
        raise UserError("this\nis wrong")

    monkeypatch.setattr("sys.argv", ["some/script.py"])
    with pytest.raises(SystemExit) as exit:
        run(main)
    assert exit.value.code == 2 and capsys.readouterr().err == "script.py: error: this is wrong\n"


@pytest.mark.fast
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_letters_that_a_terminal_cannot_show_are_replaced_and_bytes_that_are_no_text_stay(
    monkeypatch, encoding
):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)

    def main():
        print("\ud55c", "\udce9.wav")
        raise UserError("no \ud55c")

    with pytest.raises(SystemExit):
        run(main)
    err.flush()
    out.flush()
    assert out.buffer.getvalue() == b"\\ud55c \xe9.wav\n"
    assert err.buffer.getvalue().endswith(b"error: no \\ud55c\n")


class DropsExceptions:
    def __del__(self):  # as a callback, it has nobody to raise an exception to
        os.kill(os.getpid(), signal.SIGINT)


def drop_an_interrupt():
    DropsExceptions()


def replace_an_interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("bad argument to internal function") from None


@pytest.mark.fast
@pytest.mark.parametrize("main", [drop_an_interrupt, replace_an_interrupt])
def test_ctrl_c_stops_a_script_also_where_its_exception_is_lost(main, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    try:
        with pytest.raises(SystemExit) as ended:
            run(main)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert sys.unraisablehook is before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert ended.value.code == 130
    output = capsys.readouterr()
    assert output.out == "" and output.err.strip().endswith(": stopped") and "Traceback" not in output.err


@pytest.mark.fast
def test_another_error_after_no_ctrl_c_stays_what_it_was():
    with pytest.raises(SystemError):
        run(lambda: (_ for _ in ()).throw(SystemError("bad argument")))
