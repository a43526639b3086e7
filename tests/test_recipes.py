"""The recipes can be read line by line: short reasons, and what several share stands once."""

import shlex
from collections import Counter

import pytest

from conftest import ROOT

pytestmark = pytest.mark.fast

RECIPES = sorted((ROOT / "recipes").glob("*.txt"))
MOST_WORDS = 8  # of a comment behind a flag
MOST_HEADER_LINES = 10


def comments_behind_flags(recipe):
    """Return the comment of each line that has a flag before it."""
    lines = [line.partition("#") for line in recipe.read_text().splitlines()]
    return [comment for flag, sign, comment in lines if flag.strip() and sign]


def flags_in(recipe):
    """Return the lines of a recipe without comments, each as it would be typed."""
    lines = (shlex.split(line, comments=True) for line in recipe.read_text().splitlines())
    return [" ".join(line) for line in lines if line]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_line_says_why_in_few_words_and_the_header_is_short(recipe):
    assert [comment for comment in comments_behind_flags(recipe) if len(comment.split()) > MOST_WORDS] == []
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert 0 < len(header) <= MOST_HEADER_LINES
    assert recipe.read_text().startswith("\n".join(header))


def test_the_variation_of_clips_stands_once():
    shared = flags_in(ROOT / "recipes" / "augmentation.txt")
    assert len(shared) == 5
    counts = Counter(flag for recipe in RECIPES for flag in flags_in(recipe))
    assert {flag: counts[flag] for flag in shared} == dict.fromkeys(shared, 1)


def test_synthesize_knows_the_clips_of_own_words():
    import synthesize

    assert f"--clip_duration_ms {synthesize.RECIPE_CLIP_MS}" in flags_in(ROOT / "recipes" / "own_words.txt")
