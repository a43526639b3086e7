"""Scores as bars in a terminal."""

import io
import sys

import numpy as np
import pytest

from conftest import RATE, assert_one_clear_line, call_here
from kws.base.errors import UserError
from kws.detect.live import LATEST, LiveScores, paced

pytestmark = pytest.mark.fast

LABELS = "_silence_", "_unknown_", "yes", "no"
THRESHOLD = 0.5


class Clock:
    """Time that passes where it is slept."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def screen():
    """A function that gives LiveScores on a fake terminal, and what is on it."""
    from rich.console import Console

    def made(labels=LABELS, threshold=THRESHOLD, width=80, height=40, **options):
        console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=width,
            height=height,
            color_system=None,
            legacy_windows=False,
        )
        live = LiveScores(labels, threshold, console, **options)

        def lines():
            with console.capture() as shown:
                console.print(live._picture())
            return shown.get().splitlines()

        return live, lines

    return made


def row(lines, label):
    (line,) = [line for line in lines if line.startswith(label)]
    return line


def test_a_score_is_a_bar_and_the_threshold_of_words_is_marked(screen):
    def bars_of(threshold):
        live, lines = screen(threshold=threshold)
        with live:
            live.show("talk.wav", 12.34, np.array([0.0, 0.25, 0.75, 1.0]))
        shown = lines()
        return shown, {label: row(shown, label).split()[1:] for label in LABELS}

    shown, bars = bars_of(0.5)
    assert shown[0] == "talk.wav  12.3 s"
    assert bars["_silence_"] == ["░" * 40, "0.00"] and bars["_unknown_"] == ["█" * 10 + "░" * 30, "0.25"]
    assert bars["yes"] == ["█" * 20 + "┃" + "█" * 9 + "░" * 10, "0.75"]
    assert bars["no"] == ["█" * 20 + "┃" + "█" * 19, "1.00"]
    _, bars = bars_of(1.001)
    assert bars["no"] == ["█" * 40, "1.00"]  # a threshold that no score reaches has no mark


def test_the_latest_detections_are_listed_latest_first(screen):
    live, lines = screen()
    with live:
        for number in range(LATEST + 2):
            live.add(f"detection {number}", True)
    assert lines()[-LATEST:] == [f"detection {number}" for number in range(LATEST + 1, 1, -1)]


@pytest.mark.parametrize(("width", "height"), [(80, 12), (30, 24)])
def test_a_small_terminal_has_the_highest_scores_and_no_line_too_long(screen, width, height):
    labels = ("_silence_", "_unknown_", *(f"word{number}" for number in range(30)))
    live, lines = screen(labels, 0.5, width, height)
    scores = np.linspace(0, 0.9, len(labels))
    with live:
        live.show("a name that is far longer than the terminal is wide" * 2, 1, scores)
    shown = lines()
    assert len(shown) < height and max(map(len, shown)) <= width
    assert row(shown, "word29") and not [line for line in shown if line.startswith("_silence_")]


def test_a_terminal_is_not_drawn_on_more_often_than_it_can_show(screen):
    clock = Clock()
    live, _ = screen(clock=clock)
    drawn = []
    with live:
        live._live.update = lambda *args, **options: drawn.append(clock.now)
        for _ in range(100):
            live.show("x", 0, np.zeros(4))
            clock.sleep(0.01)
    assert len(drawn) <= 1 + 100 * 0.01 / 0.06 + 1 and len(drawn) > 10


def test_a_file_comes_at_the_pace_of_its_recording():
    clock, samples = Clock(), np.arange(RATE, dtype=np.int16)
    parts = []
    for part in paced(iter([samples[:5000], samples[5000:]]), RATE, 640, clock, clock.sleep):
        parts.append(part)
        assert 0 <= clock.now - 100 - sum(map(len, parts)) / RATE + 1e-9 < 0.01
        clock.now += 0.01  # what computing takes is part of the time
    np.testing.assert_array_equal(np.concatenate(parts), samples)
    assert max(map(len, parts)) <= 640


def test_without_rich_a_line_says_how_to_install_it(monkeypatch):
    for name in ("rich.console", "rich.live"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="python -m pip install rich"):
        LiveScores(LABELS, THRESHOLD)


def test_without_a_terminal_a_line_says_so():
    from rich.console import Console

    with pytest.raises(UserError, match="--live draws in a terminal"):
        LiveScores(LABELS, THRESHOLD, Console(file=io.StringIO()))


def test_json_is_not_drawn():
    result = call_here("label_wav.py", "model.tflite", "x.wav", "--live", "--json", "-", check=False)
    assert_one_clear_line(result, "--json", "--live")
