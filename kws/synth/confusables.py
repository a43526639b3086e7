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

WORD_LISTS = {"en": "/usr/share/dict/words"}  # Debian's wamerican, or whichever the system has
VOWELS = set("aeiouyɐɑɒæɔəɛɜɪʊʌøœɨʉɯɤɶɵɚɝᵻ")
ALIKE = "p b,t d,k ɡ,f v,s z,θ ð,ʃ ʒ,tʃ dʒ,m n,n ŋ,l ɹ,f θ,s θ,v w"  # consonants that are easily mistaken
VOWEL_COST, ALIKE_COST = 0.6, 0.5  # of a substitution; any other, and a phoneme more or less, cost 1
# Of the phrase's number of phonemes. What is nearer is the phrase itself in some voice, so that a network
# would learn to miss it ("hey robots"); what is farther does not sound like it.
NEAREST, FARTHEST = 0.15, 0.5
LEAST_DISTANCE = 0.5
# what scripts are read by, for the hint where a language cannot read a word
LANGUAGE_OF_SCRIPT = {"CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "HEBREW": "he", "DEVANAGARI": "hi"}
LANGUAGE_OF_SCRIPT |= {"HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "cmn", "BENGALI": "bn"}
LANGUAGE_OF_SCRIPT |= {"GEORGIAN": "ka", "ARMENIAN": "hy", "TAMIL": "ta", "LATIN": "en"}
IDEOGRAPHIC = "cmn", "yue", "hak", "ja"  # whose letters are words: no telling that from spelling
AUDIO_OUTPUT_SYNCHRONOUS, CHARS_UTF8, PHONEMES_IPA = 2, 1, 2  # of espeak-ng's speak_lib.h


# ---- phonemes ----


@functools.cache
def _library():
    """espeak-ng's library, ready for use, or None where it is not installed.

    The command line takes ten times as long for a list of words (measured): it makes the audio, too.
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
    """The phonemes of each text, in IPA without stress, as espeak-ng reads it in a language.

    UserError where it has no such language. Needs `can_tell_phonemes`.
    """
    library = _library()
    if library.espeak_SetVoiceByName(language.encode()) != 0:
        raise UserError(f"espeak-ng has no --language {language} (espeak-ng --voices lists them)")
    return [_phonemes(library, text) for text in texts]


def _phonemes(library, text):
    place, parts = ctypes.c_char_p(text.encode()), []
    while place.value:  # a clause at a time
        found = library.espeak_TextToPhonemes(ctypes.byref(place), CHARS_UTF8, PHONEMES_IPA | ord("_") << 8)
        parts.append((found or b"").decode(errors="replace"))
    joined = re.sub(r"\([a-z-]+\)|[ˈˌ\u200d]", "", " ".join(parts))  # (en): words that it reads as English
    return tuple(filter(None, re.split(r"[_\s]+", joined)))


def check_readable(texts, language: str):
    """UserError where espeak-ng spells a word, or says nothing, as it does with letters of another script."""
    for text in texts:
        if not phonemes([text], language)[0]:
            raise UserError(f"{text!r}: espeak-ng says nothing in --language {language}")
        base = language.split("-")[0]
        for word in [] if base in IDEOGRAPHIC else words_in(text):
            script = unicodedata.name(word[0], "").split(" ")[0]
            suitable = LANGUAGE_OF_SCRIPT.get(script)
            # where letters are syllables, as in Korean, words sound as if spelled
            if suitable != base and not word.isascii() and len(word) > 1 and _is_spelled(word, language):
                other = f", such as {suitable}" if suitable else ""
                raise UserError(
                    f"{word!r} is not written as words of --language {language} are: espeak-ng spells its "
                    f"letters; give its --language{other}"
                )


def _is_spelled(word, language):
    whole, letters = phonemes([word, " ".join(word)], language)
    # beginnings alone: vowels of letters are reduced when they are spelled in a row
    consonants = [[one[0] for one in said if one[0] not in VOWELS] for said in (whole, letters)]
    return len(whole) >= 2 * len(word) - 1 and consonants[0] == consonants[1]


def distances(target: tuple[str, ...], others: list[tuple[str, ...]]) -> np.ndarray:
    """Edit distance of phonemes from `target` to each of `others`, float [others]: VOWEL_COST, ALIKE_COST."""
    lengths = np.array([len(other) for other in others], int)
    inventory = {name: index for index, name in enumerate(sorted({p for other in others for p in other}))}
    table = np.full((len(others), max(lengths, default=0)), 0)
    for row, other in zip(table, others, strict=True):
        row[: len(other)] = [inventory[name] for name in other]
    rows = np.arange(len(others))
    before = np.tile(np.arange(table.shape[1] + 1.0), (len(others), 1))  # [others, their phonemes + 1]
    for count, phoneme in enumerate(target, 1):
        costs = np.array([_cost(phoneme, name) for name in inventory])
        now = np.full_like(before, count)
        for j in range(table.shape[1]):
            replaced = before[:, j] + costs[table[:, j]]
            now[:, j + 1] = np.minimum(np.minimum(before[:, j + 1], now[:, j]) + 1, replaced)
        before = now
    return before[rows, lengths]


@functools.cache
def _cost(one, other):
    if one == other:
        return 0.0
    if one[0] in VOWELS and other[0] in VOWELS:
        return VOWEL_COST
    return ALIKE_COST if {one, other} in [set(pair.split()) for pair in ALIKE.split(",")] else 1.0


# ---- what sounds near ----


def read_word_list(path) -> list[str]:
    """The words in a file, one a line, sorted: those in lower-case letters, without names and genitives."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--word_list {path}: {error.strerror}") from None
    words = {line for line in text.split() if len(line) > 1 and line == line.lower() and _is_letters(line)}
    if not words:
        raise UserError(f"--word_list {path} has no words in lower case, one a line")
    return sorted(words)


def _is_letters(text):
    """As str.isalpha, but marks, such as the vowels of Hindi, are letters too."""
    return words_in(text) == [text] and not any(map(str.isdigit, text))


def near_phrases(phrases: list[str], words: list[str], language: str, count: int) -> dict[str, list[str]]:
    """For each phrase up to `count` of the words, and phrases with one word replaced, that sound nearest.

    Whatever sounds like one of the phrases, or holds one, is left out.
    """
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
        first = {sound: index for index, sound in reversed(list(enumerate(sounds)))}
        found[phrase] = [candidates[index] for index in sorted(first.values()) if allowed[index]][:count]
    return found


def _candidates(phrase, words, known, language, count) -> list[str]:
    """Words near a part of a phrase, alone and in its place, nearest first; those of each part in turn."""
    parts, lists = phrase.split(), []
    for place, part in enumerate(parts):
        (sound,) = phonemes([part], language)
        distance = distances(sound, known)
        order = np.argsort(distance, kind="stable")[: 3 * count]
        near = [words[i] for i in order if LEAST_DISTANCE <= distance[i] <= max(1, FARTHEST * len(sound))]
        lists.append([" ".join([*parts[:place], word, *parts[place + 1 :]]) for word in near])
        if len(parts) > 1 and len(sound) > 2:
            lists.append(near)
    in_turn = [one for row in itertools.zip_longest(*lists) for one in row if one]
    return list(dict.fromkeys(in_turn))[:count]


# ---- running text ----

MOST_REJECTED = 1000  # sentences in a row
UNSPACED = "CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"  # scripts without spaces
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
TEMPLATES = (
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
    """Endless sentences, drawn by `rng`, that hold none of the phrases `forbidden`.

    Of the grammar above in English, and every other one (or each, in other languages) a row of `words`, which
    has all sounds of the language in it. None where there is neither; UserError where all hold a phrase.
    """
    rejected = 0
    while english or words:
        use_words = words and (not english or rng.random() < 0.5)
        text = " ".join(rng.choice(words, rng.integers(4, 10))) if use_words else _from_grammar(rng)
        rejected = rejected + 1 if holds_any(text, forbidden) else 0
        if not rejected:
            yield text
        elif rejected == MOST_REJECTED:
            raise UserError(
                "every sentence that is made up holds one of the words: give another --word_list, --text, or "
                "--sentences 0"
            )


@functools.cache
def _grammar():
    lines = [line for line in GRAMMAR.splitlines() if line]
    choices = {"NOUN": [part.strip() for part in lines[0].split("|")]}
    for line in lines[1:]:
        name, rest = line.split(":")
        parts = rest.split("|") if "|" in rest else rest.split()
        choices.setdefault(name, []).extend(part.strip() for part in parts)
    return choices


def _from_grammar(rng):
    text = rng.choice(TEMPLATES)
    while match := re.search("[A-Z]{4,}", text):
        text = text[: match.start()] + rng.choice(_grammar()[match[0]]) + text[match.end() :]
    return re.sub(r"\b(a)(?= [aeiou])", "an", text)


def text_sentences(path, forbidden) -> list[str]:
    """The sentences of a text file that hold none of the phrases `forbidden`, of up to 25 words each."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise UserError(f"--text {path}: {reason}") from None
    found = []
    for sentence in re.split(r"(?<=[.!?…。])\s+|\n\s*\n", text):
        spoken = sentence.split()
        found += [" ".join(spoken[start : start + 25]) for start in range(0, len(spoken), 25)]
    found = [text for text in found if words_in(text) and not holds_any(text, forbidden)]
    if not found:
        raise UserError(f"--text {path} has no sentences without the words")
    return found


def holds_any(text: str, phrases) -> bool:
    """Whether one of the phrases is in the text, as whole words where its script puts spaces between them."""

    def spoken(words):
        words = words_in(words.casefold())
        unspaced = words and unicodedata.name(words[0][0], "").startswith(UNSPACED)
        return "".join(words) if unspaced else f" {' '.join(words)} "

    return any(spoken(phrase) in spoken(text) for phrase in phrases)
