"""Scores as bars in a terminal, while a recording or a microphone is listened to."""

import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX

BAR = 5, 40  # fewest and most characters for a score of 1
LATEST = 5  # detections that are listed
OTHER_LINES = LATEST + 3  # lines of the screen beside the bars
FRAME_S = 0.06  # least time between pictures, because terminals over a network are slow
HIGH = 0.5  # share of the threshold from which scores stand out


def paced(blocks, sample_rate: int, block_samples: int, clock=time.monotonic, sleep=time.sleep) -> Iterator:
    """Yield the samples of a file, int16 [samples], no sooner than a microphone would give them."""
    started, count = clock(), 0
    for block in blocks:
        for first in range(0, len(block), block_samples):
            part = block[first : first + block_samples]
            count += len(part)
            early = started + count / sample_rate - clock()
            if early > 0:
                sleep(early)
            yield part


class LiveScores:
    """A picture of each label's latest score, with the words' threshold marked, and of the latest detections.

    A context manager. `console` is a rich.console.Console; None stands for standard output. UserError if rich
    is missing or there is no terminal.
    """

    def __init__(self, labels: tuple[str, ...], threshold: float, console=None, clock=time.monotonic):
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            raise UserError("--live draws with rich, which is missing: python -m pip install rich") from None
        self._console = console or Console()
        if not self._console.is_terminal:
            raise UserError("--live draws in a terminal, and standard output is none: leave --live out")
        self._labels, self._threshold, self._clock = labels, threshold, clock
        self._scores, self._title, self._drawn = np.zeros(len(labels)), "", -np.inf
        self._detections = deque(maxlen=LATEST)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self):
        self._live.__enter__()
        return self

    def __exit__(self, *error):
        self._draw()
        return self._live.__exit__(*error)

    def show(self, source: str, seconds: float, scores: np.ndarray):
        """Show the smoothed scores, float [labels], at `seconds` of the recording `source`."""
        self._scores, self._title = scores, f"{source}  {seconds:.1f} s"
        if self._clock() - self._drawn >= FRAME_S:
            self._draw()

    def add(self, line: str, detected: bool):
        """Add a line to the list of detections; it is dim if nothing was detected."""
        self._detections.append((line, "green" if detected else "dim"))
        self._draw()

    def _draw(self):
        self._drawn = self._clock()
        self._live.update(self._picture(), refresh=True)

    def _picture(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for number in self._shown():
            score = self._scores[number]
            style = "bold" if self._above(number) else "" if number > UNKNOWN_INDEX else "dim"
            name, value = Text(self._labels[number], style), Text(f"{score:.2f}", style)
            table.add_row(name, self._bar(number), value)
        latest = [Text(line, style, no_wrap=True) for line, style in reversed(self._detections)]
        # empty lines, so that the bars stay where they are
        latest += [Text("")] * (LATEST - len(latest))
        return Group(Text(self._title, "dim", no_wrap=True), table, Text("detections", "dim"), *latest)

    def _shown(self):
        """Return the labels there is room for: those with the highest scores, in their order."""
        room = max(1, self._console.height - OTHER_LINES)
        return np.sort(np.argsort(-self._scores, kind="stable")[:room])

    def _above(self, number):
        return number > UNKNOWN_INDEX and self._scores[number] >= self._threshold

    def _bar(self, number):
        """Return a score as a bar, with a mark at the threshold of words."""
        from rich.text import Text

        full, empty, mark = "█░┃" if self._console.encoding.startswith("utf") else "#.|"
        score, is_word = self._scores[number], number > UNKNOWN_INDEX
        near = is_word and score >= HIGH * self._threshold
        style = "green" if self._above(number) else "yellow" if near else "blue"
        # the widest name, a score of four characters and a space on each side of the bar
        room = self._console.width - max(map(len, self._labels)) - len("  0.00 ")
        whole = min(max(room, BAR[0]), BAR[1])
        length = int(round(whole * float(score)))
        bar = Text(full * length, style) + Text(empty * (whole - length), "dim")
        if is_word and self._threshold <= 1:
            place = min(whole - 1, int(whole * self._threshold))
            bar = bar[:place] + Text(mark, "bold red") + bar[place + 1 :]
        return bar
