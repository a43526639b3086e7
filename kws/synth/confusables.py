"""What is not the word: words and phrases that sound like it, by their phonemes, and running text."""

import ctypes
import ctypes.util
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.base.errors import UserError
from kws.base.text import words_in

WORD_LISTS = {"en": "/usr/share/dict/words"}  # Debian's wamerican, or the one that the system has
VOWELS = set("aeiouyɐɑɒæɔəɛɜɪʊʌøœɨʉɯɤɶɵɚɝᵻ")
ALIKE = "p b,t d,k ɡ,f v,s z,θ ð,ʃ ʒ,tʃ dʒ,m n,n ŋ,l ɹ,f θ,s θ,v w"  # consonants that are easily mistaken
# Costs of a substitution. Any other one, and a phoneme more or less, cost 1.
VOWEL_COST, ALIKE_COST = 0.6, 0.5
# Distances as a share of the phrase's phonemes. What is nearer is the phrase itself in some voice ("hey
# robots"), so that a network would learn to miss it. What is farther does not sound like it.
NEAREST, FARTHEST = 0.15, 0.5
LEAST_DISTANCE = 0.5
AUDIO_OUTPUT_SYNCHRONOUS, CHARS_UTF8, PHONEMES_IPA = 2, 1, 2  # of espeak-ng's speak_lib.h


# ---- phonemes ----


@functools.cache
def _library():
    """Return espeak-ng's library, ready for use, or None if it is not installed.

    Its command line makes the audio too, which takes far longer for a list of words.
    """
    try:
        library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    except OSError:
        return None
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    return library if library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, None, 0) > 0 else None


def can_tell_phonemes() -> bool:
    return _library() is not None


def phonemes(texts, language: str) -> list[tuple[str, ...]]:
    """Return the phonemes of each text, in IPA without stress, as espeak-ng reads it in a language.

    Raise UserError if espeak-ng has no such language. Needs `can_tell_phonemes`.
    """
    library = _library()
    # it has en-gb and fr-fr by the names en and fr alone
    names = language, language.split("-")[0]
    if all(library.espeak_SetVoiceByName(name.encode()) != 0 for name in names):
        raise UserError(f"espeak-ng has no --language {language} (espeak-ng --voices lists them)")
    return [_phonemes(library, text) for text in texts]


def _phonemes(library, text):
    # the library reads a clause at a time, and moves the pointer on
    place, parts = ctypes.c_char_p(text.encode()), []
    while place.value:
        found = library.espeak_TextToPhonemes(ctypes.byref(place), CHARS_UTF8, PHONEMES_IPA | ord("_") << 8)
        parts.append((found or b"").decode(errors="replace"))
    # "(en)" stands before words that it reads as English
    joined = re.sub(r"\([a-z-]+\)|[ˈˌ\u200d]", "", " ".join(parts))
    return tuple(filter(None, re.split(r"[_\s]+", joined)))


def check_readable(texts, language: str):
    """Raise UserError for a text that espeak-ng does not say, or spells: in English, what is not Latin."""
    for text in texts:
        if not phonemes([text], language)[0]:
            raise UserError(f"{text!r}: espeak-ng says nothing in --language {language}")
        letters = filter(str.isalpha, text)
        if language.split("-")[0] == "en" and not all(map(_is_latin, letters)):
            raise UserError(f"{text!r} is not in the letters of --language {language}: give its --language")


def _is_latin(letter):
    return unicodedata.name(letter, "").startswith("LATIN")


def distances(target: tuple[str, ...], others: list[tuple[str, ...]]) -> np.ndarray:
    """Return the edit distance of phonemes from `target` to each of `others`, float [others]."""
    lengths = np.array([len(other) for other in others], int)
    inventory = {name: index for index, name in enumerate(sorted({p for other in others for p in other}))}
    # [others, most phonemes]: indices into the inventory, 0 behind the end
    table = np.full((len(others), max(lengths, default=0)), 0)
    for row, other in zip(table, others, strict=True):
        row[: len(other)] = [inventory[name] for name in other]
    # Levenshtein's algorithm for all others at once; rows are [others, most phonemes + 1]
    before = np.tile(np.arange(table.shape[1] + 1.0), (len(others), 1))
    for count, phoneme in enumerate(target, 1):
        costs = np.array([_cost(phoneme, name) for name in inventory])
        now = np.full_like(before, count)
        for j in range(table.shape[1]):
            replaced = before[:, j] + costs[table[:, j]]
            now[:, j + 1] = np.minimum(np.minimum(before[:, j + 1], now[:, j]) + 1, replaced)
        before = now
    return before[np.arange(len(others)), lengths]


@functools.cache
def _cost(one, other):
    if one == other:
        return 0.0
    # a diphthong counts by its first vowel
    if one[0] in VOWELS and other[0] in VOWELS:
        return VOWEL_COST
    return ALIKE_COST if {one, other} in [set(pair.split()) for pair in ALIKE.split(",")] else 1.0


# ---- what sounds near ----


def read_word_list(path) -> list[str]:
    """Return the words in a file, one a line, sorted: the lower-case ones, without names and genitives."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--word_list {path}: {error.strerror}") from None
    words = {line for line in text.split() if len(line) > 1 and line == line.lower() and _is_letters(line)}
    if not words:
        raise UserError(f"--word_list {path} has no words in lower case, one a line")
    return sorted(words)


def _is_letters(text):
    """Return whether a text is letters alone; marks, such as Hindi's vowels, are letters here."""
    return words_in(text) == [text] and not any(map(str.isdigit, text))


def near_phrases(phrases: list[str], words: list[str], language: str, count: int) -> dict[str, list[str]]:
    """Return for each phrase up to `count` words, and phrases with one word replaced, that sound nearest.

    What sounds like one of the phrases, or holds one, is left out.
    """
    # the whole list once, some 100,000 words; candidates are few
    known = phonemes(words, language)
    targets = phonemes(phrases, language)
    found = {}
    for phrase in phrases:
        candidates = _candidates(phrase, words, known, language, 4 * count)
        candidates = [one for one in candidates if not holds_any(one, phrases)]
        sounds = phonemes(candidates, language)
        allowed = np.ones(len(candidates), bool)
        for target in targets:
            allowed &= distances(target, sounds) >= max(LEAST_DISTANCE, NEAREST * len(target))
        # of homophones the first
        first = {sound: index for index, sound in reversed(list(enumerate(sounds)))}
        found[phrase] = [candidates[index] for index in sorted(first.values()) if allowed[index]][:count]
    return found


def _candidates(phrase, words, known, language, count) -> list[str]:
    """Return words near a part of a phrase, alone and in its place, nearest first, from each part in turn."""
    parts, lists = phrase.split(), []
    for place, part in enumerate(parts):
        (sound,) = phonemes([part], language)
        distance = distances(sound, known)
        order = np.argsort(distance, kind="stable")[: 3 * count]
        near = [words[i] for i in order if LEAST_DISTANCE <= distance[i] <= max(1, FARTHEST * len(sound))]
        lists.append([" ".join([*parts[:place], word, *parts[place + 1 :]]) for word in near])
        # short parts, such as "the", have too many near words
        if len(parts) > 1 and len(sound) > 2:
            lists.append(near)
    in_turn = [one for row in itertools.zip_longest(*lists) for one in row if one]
    return list(dict.fromkeys(in_turn))[:count]


# ---- running text ----

MOST_REJECTED = 1000  # sentences in a row
GRAMMAR = """
the THING | the QUALITY THING | my THING | our PERSON | a QUALITY THING | the PERSON | their PERSON
THING: table window kitchen garden letter train morning coffee river market bridge story answer ticket jacket
THING: newspaper computer telephone weather village holiday question journey picture bottle corner season
PERSON: brother teacher neighbour doctor daughter manager driver farmer grandmother student friend colleague
QUALITY: old small yellow quiet heavy strange new broken cheap beautiful wooden empty famous warm early
DOES: finds opens carries remembers forgets follows paints repairs moves watches buys sells brings describes
WHEN: yesterday | in the evening | before breakfast | after the meeting | on Sunday | every year | at noon
WHEN: as usual | without a word | near the station | behind the house | for the first time | in a hurry
"""
PATTERNS = (
    "NOUN DOES NOUN WHEN",
    "WHEN, NOUN DOES NOUN",
    "does NOUN know that NOUN DOES NOUN",
    "NOUN DOES NOUN, but NOUN DOES NOUN WHEN",
    "I think NOUN is QUALITY, and so is NOUN",
    "can you tell me where NOUN and NOUN are",
    "please put NOUN next to NOUN",
    "it was QUALITY WHEN, and NOUN had gone",
)


def sentences(words: list[str], english: bool, forbidden, rng) -> Iterator[str]:
    """Yield endless sentences, drawn by `rng`, that hold none of the phrases `forbidden`.

    They follow the grammar above in English, and every other one (each, in other languages) is a row of
    `words`, which has all sounds of the language in it. Without English and words there are none. Raise
    UserError if every sentence holds a forbidden phrase.
    """
    rejected = 0
    while english or words:
        use_words = words and (not english or rng.random() < 0.5)
        text = " ".join(rng.choice(words, rng.integers(4, 10))) if use_words else _from_grammar(rng)
        rejected = rejected + 1 if holds_any(text, forbidden) else 0
        if not rejected:
            yield text
        elif rejected == MOST_REJECTED:
            fix = "give another --word_list, or --sentences 0"
            raise UserError(f"every sentence that is made up holds one of the words: {fix}")


@functools.cache
def _grammar():
    """Return {category: its choices} of GRAMMAR."""
    lines = [line for line in GRAMMAR.splitlines() if line]
    choices = {"NOUN": [part.strip() for part in lines[0].split("|")]}
    for line in lines[1:]:
        name, rest = line.split(":")
        parts = rest.split("|") if "|" in rest else rest.split()
        choices.setdefault(name, []).extend(part.strip() for part in parts)
    return choices


def _from_grammar(rng):
    # from the pattern down: a choice may hold categories, such as "the THING"
    text = rng.choice(PATTERNS)
    while match := re.search("[A-Z]{4,}", text):
        text = text[: match.start()] + rng.choice(_grammar()[match[0]]) + text[match.end() :]
    return re.sub(r"\b(a)(?= [aeiou])", "an", text)


def holds_any(text: str, phrases) -> bool:
    """Return whether one of the phrases is in the text.

    It has to be there as whole words, but in letters without case, as Chinese and Thai put no spaces between.
    """

    def spoken(words):
        words = words_in(words.casefold())
        without_case = words and unicodedata.category(words[0][0]) == "Lo"
        return "".join(words) if without_case else f" {' '.join(words)} "

    return any(spoken(phrase) in spoken(text) for phrase in phrases)
