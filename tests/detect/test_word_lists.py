"""Lists of the words in a recording: lines of seconds,word, or a label track."""

import pytest

from kws.base.errors import UserError
from kws.base.text import folded
from kws.detect.labelled_streams import read_words

pytestmark = pytest.mark.fast

EXPECTED = [(2.5, "yes"), (10.0, "größe")]


def words(path, content):
    path.write_bytes(content)
    return [entry[1:] for entry in read_words(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_utf_8_with_any_line_end_is_read(tmp_path, encoding, end):
    text = end.join(["2.5,yes", "", "10,größe", ""])
    assert words(tmp_path / "x.csv", text.encode(encoding)) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "2.5;yes\n10;größe\n",
        "2.5\tyes\n10.0\tgröße\n",
        "2.5, yes\n10 , größe\n",
        "\n 2.5,yes \n\n10.,größe",
    ],
)
def test_a_comma_a_semicolon_or_a_tab_separates(tmp_path, text):
    assert words(tmp_path / "x.csv", text.encode()) == EXPECTED


def test_a_label_track_of_audacity_has_start_and_end(tmp_path):
    track = "2.250000\t2.750000\tyes\n\\\t120.0\t4000.0\n10.000000\t10.000000\tgröße\n"
    assert words(tmp_path / "labels.txt", track.encode()) == EXPECTED
    assert words(tmp_path / "labels.txt", b"1\t2\they robot\n3\t5\t7\n") == [(1.5, "hey robot"), (4.0, "7")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1.0,yes\nsoon,no\n", "line 2"),
        ("seconds,word\n1.0,yes\n", "line 1"),
        ("2,5,yes\n", "line 1"),
        ("2,5\tyes\n", "line 1"),
        ("1.0,1.5,yes\n", "line 1"),
        ("1.0\t1.5,yes\n", "line 1"),
        ("1.0\tsoon\tyes\n", "line 1"),
        ("1.0\t1.5\t2.0\tyes\n", "line 1"),
        ("1.0,yes,loud\n", "line 1"),
        ('"1.0","yes"\n', "line 1"),
        ("1.0 yes\n", "line 1"),
        ("-1,yes\n", "line 1"),
        ("inf,yes\n", "line 1"),
        ("1.0,\n", "line 1"),
    ],
)
def test_a_line_that_does_not_say_when_which_word_is_an_error_that_names_it(tmp_path, text, line):
    with pytest.raises(UserError, match=rf"x\.csv, {line}: expected 'seconds,word', such as 2.5,yes, not '"):
        words(tmp_path / "x.csv", text.encode())


def test_a_word_may_be_a_number(tmp_path):
    assert words(tmp_path / "x.csv", b"1.5,2\n") == [(1.5, "2")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("1.0,größe".encode("cp1252"), "line 1: not text in UTF-8"),
        (b"1.0,yes\n2.0,gr\xf6\xdfe\n", "line 2: not text in UTF-8"),
        ("1.0,yes".encode("utf-16"), "line 1: not text in UTF-8"),
        ("1.0,yes".encode("utf-16-le"), "line 1: expected 'seconds,word'"),
        (b"PK\x03\x04...", "line 1: expected 'seconds,word'"),
        (b"\x01\x02\x03\0\xff\xfe", "line 1: not text in UTF-8"),
    ],
)
def test_anything_but_text_in_utf_8_is_an_error_that_names_the_line(tmp_path, content, line):
    with pytest.raises(UserError, match=rf"x\.csv, {line}"):
        words(tmp_path / "x.csv", content)


def test_spellings_of_a_word_are_one():
    assert folded("Yes") == folded("yes") and folded("gru\u0308n") == folded("grün")
