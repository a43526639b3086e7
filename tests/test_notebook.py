"""The notebook runs, and prints what it shows."""

import nbformat
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
    assert "predicted: yes\n" in printed(run) and len(pictures) == 6
