"""The notebook runs, and prints what it shows."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT, copy_of_the_repository

# of what the notebook imports, Colab has these
OF_COLAB = "matplotlib", "threadpoolctl", "tqdm"


def printed(notebook):
    """Return what each cell prints; a slow machine delivers it in several outputs."""
    return [
        "".join(output["text"] for output in cell.get("outputs", ()) if output.get("name") == "stdout")
        for cell in notebook.cells
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


def test_it_clones_and_installs_what_it_needs_where_there_is_nothing(tmp_path):
    origin, python = copy_of_the_repository(tmp_path), tmp_path / "venv" / "bin" / "python"
    by = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*by, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0"]
    if subprocess.run([*install, *OF_COLAB, "setuptools"], capture_output=True).returncode:
        pytest.skip("pip reaches no package index")
    stored = nbformat.read(ROOT / "how_to_guidance.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "code")
    code, replaced = re.subn(r'(?<=REPOSITORY = ")[^"]+', str(origin), code)
    assert replaced == 1
    (tmp_path / "nothing").mkdir()
    run = [python, "-c", code]
    environment = os.environ | {"MPLBACKEND": "agg"}
    result = subprocess.run(run, cwd=tmp_path / "nothing", env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "predicted: yes\n" in result.stdout, result.stderr


@pytest.mark.fast
def test_the_notebook_finds_the_words_that_it_speaks():
    stored = nbformat.read(ROOT / "how_to_guidance.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in stored.cells)
    words = re.findall(r'"(\w+)"', re.search(r"^words = (.*)", code, re.M)[1])
    assert re.findall(r"^[\d.]+ s: (\w+)", "".join(printed(stored)), re.M) == words
    assert "pip install notebook" in code
    # the badge opens what the first cell clones
    owner = re.search(r'REPOSITORY = "https://github.com/([^"]+)"', code)[1]
    assert f"(https://colab.research.google.com/github/{owner}/blob/main/how_to_guidance.ipynb)" in code
