"""Lists of the words in a recording and their times, as editors and spreadsheets write them."""

import codecs
import contextlib
import csv
import math
from collections.abc import Collection, Iterator
from pathlib import Path

from kws.base.errors import UserError
from kws.base.text import folded

WORKBOOKS = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"  # first bytes of .xlsx and .ods, and of .xls


def read_words(path, wanted: Collection[str]) -> Iterator[tuple[int, float, str]]:
    """The number of each line of a word list, its seconds and its word. UserError where it cannot be read.

    Fields are separated by commas, semicolons or tabs (then decimals may have a comma); those after the word
    do not matter. A line of titles may come first, which `wanted` (folded words) are not.
    """
    titles_may_come = True
    for number, line in enumerate(_text(path).splitlines(), 1):
        separator = next((mark for mark in "\t;," if mark in line), ",")
        fields = [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
        if not any(fields) or titles_may_come and fields[0].startswith("sep="):  # which is for Excel
            continue
        word = fields[1] if len(fields) > 1 else ""
        seconds = _number(fields[0] if separator == "," else fields[0].replace(",", "."))
        known = folded(word) in wanted
        is_title = titles_may_come and word and math.isnan(seconds) and not known
        titles_may_come = False
        if is_title:
            continue
        # a number in the place of the word is a decimal, or the end of the word
        if not 0 <= seconds < math.inf or not word or not (known or math.isnan(_number(word))):
            raise UserError(
                f"{path}, line {number}: expected 'seconds,word' such as 2.5,yes (or with a semicolon or a "
                f"tab, such as 2,5;yes), not {line.strip()!r}"
            )
        yield number, seconds, word


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def _text(path):
    """The text of a file in UTF-8, UTF-16, or else Windows' western letters."""
    content = Path(path).read_bytes()
    if content.startswith(WORKBOOKS):
        raise UserError(f"{path} is a spreadsheet's workbook: save it as CSV")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content[:2]:  # UTF-16 without its mark; digits come first
        encodings = ["utf-16-be" if content[0] == 0 else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" not in text:
                return text
    raise UserError(f"{path} is not text")
