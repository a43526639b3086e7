"""Word lists as editors and spreadsheets write them."""

import pytest

from kws.base.errors import UserError
from kws.base.text import folded
from kws.detect.word_lists import read_words

pytestmark = pytest.mark.fast

EXPECTED = [(2.5, "yes"), (10.0, "größe")]


def words(path, content, wanted=("yes", "no", "2")):
    path.write_bytes(content)
    return [entry[1:] for entry in read_words(path, wanted)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_any_encoding_and_line_end_is_read(tmp_path, encoding, end):
    text = end.join(["2.5,yes", "", "10,größe", ""])
    assert words(tmp_path / "x.csv", text.encode(encoding)) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "2.5;yes\n10;größe\n",
        "2,5;yes\n10,0;größe\n",
        "2,5\tyes\n10,0\tgröße\n",
        "2.5, yes\n10 , größe\n",
        '"2.5","yes"\n"10","größe"\n',
        "Sekunden;Wort\n2,5;yes\n10;größe\n",
        "sep=;\nseconds;word;comment\n2.5;yes;loud, near\n10;größe;\n;;\n",
        "\nseconds,word\n2.5,yes,,\n10,größe,,\n",
    ],
)
def test_any_separator_and_a_line_of_titles_are_read(tmp_path, text):
    assert words(tmp_path / "x.csv", text.encode()) == EXPECTED


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1.0,yes\nsoon,no\n", "line 2"),
        ("soon,no\n1.0,yes\n", "line 1"),
        ("seconds,word\nword,seconds\n", "line 2"),
        ("2,5,yes\n", "line 1"),
        ("1.0\t1.5\tyes\n", "line 1"),
        ("1.0 yes\n", "line 1"),
        ("-1,yes\n", "line 1"),
        ("inf,yes\n", "line 1"),
        ("1.0,\n", "line 1"),
    ],
)
def test_a_line_that_does_not_say_when_which_word_is_an_error_that_names_it(tmp_path, text, line):
    with pytest.raises(UserError, match=rf"x\.csv, {line}: expected 'seconds,word'.*2,5;yes.* not '"):
        words(tmp_path / "x.csv", text.encode())


def test_a_word_may_be_a_number(tmp_path):
    assert words(tmp_path / "x.csv", b"1.5,2\n") == [(1.5, "2")]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"PK\x03\x04...", "save it as CSV"), (b"\x01\x02\x03\0\xff\xfe", "is not text")]
)
def test_what_is_no_text_says_so(tmp_path, content, reason):
    with pytest.raises(UserError, match=reason):
        words(tmp_path / "x.csv", content)


def test_spellings_of_a_word_are_one():
    assert folded("Yes") == folded("yes") and folded("gru\u0308n") == folded("grün")
