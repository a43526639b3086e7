"""Text as people type it and as files hold it: accents, words, values of flags."""

import itertools
import unicodedata


def composed(text: str) -> str:
    """Return `text` with composed accents (Unicode NFC): macOS decomposes them in names of files."""
    return unicodedata.normalize("NFC", text)


def show(value) -> str:
    """Return `value` as it is written on the command line."""
    if isinstance(value, tuple):
        # sizes of layers are written with spaces, words and rates with commas
        separator = " " if value and isinstance(value[0], int) else ","
        return separator.join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def words_in(text: str, others: str = "") -> list[str]:
    """Return the words in a text: runs of letters with their marks, digits, and the characters `others`.

    Python's \\w leaves out the vowels of Hindi, which Unicode has as marks.
    """

    def in_word(one):
        # category M: marks, such as vowels and accents that are characters of their own
        return one.isalnum() or one in others or unicodedata.category(one)[0] == "M"

    runs = itertools.groupby(text, in_word)
    return ["".join(run) for is_word, run in runs if is_word]


def folded(word: str) -> str:
    """Return a spelling that is the same for Yes and yes, and for accents however they are stored."""
    # casefold, not lower: it makes the German ß and ss the same
    return composed(word).casefold()
