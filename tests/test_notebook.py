"""The notebook runs, and prints what it shows."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT


def printed(notebook):
    return [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    ]


def test_the_notebook_runs_and_prints_what_it_shows():
    stored = nbformat.read(ROOT / "how_to_guidance.ipynb", as_version=4)
    run = NotebookClient(
        nbformat.from_dict(stored), timeout=120, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    assert printed(run) == printed(stored)
    pictures = [
        output
        for cell in run.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert "predicted: yes\n" in printed(run) and len(pictures) == 8


@pytest.mark.fast
def test_the_notebook_finds_the_words_that_it_speaks():
    stored = nbformat.read(ROOT / "how_to_guidance.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in stored.cells)
    words = re.findall(r'"(\w+)"', re.search(r"^words = (.*)", code, re.M)[1])
    assert re.findall(r"^[\d.]+ s: (\w+)", printed(stored)[-1], re.M) == words
    assert "pip install notebook" in code
