"""recreate_model.sh as a user calls it, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, SAMPLE_DATA, WEIGHTS, call, python
from kws.model.tflite import TFLiteModel

NOISE = SAMPLE_DATA / "_background_noise_"


def recreate(*arguments, repository=ROOT, cwd=ROOT, **variables):
    """Run the repository's recreate_model.sh in the environment of the tests, and `variables`."""
    folders = os.path.dirname(python()), os.path.dirname(sys.executable), os.environ["PATH"]
    command = ["bash", str(repository / "recreate_model.sh"), *map(str, arguments)]
    environment = os.environ | {"PATH": os.pathsep.join(folders)} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


def copy_of_the_repository(tmp_path):
    """A repository that a test may change and write results into."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "work", "data", "__pycache__", ".p*_cache", ".r*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def shorten(copy):
    """Have the repository `copy` take 20 steps in each stage."""
    steps = r"(?<=^--how_many_training_steps )\d+"
    of_script = r"(?<=\$\(short )\d+|(?<=--how_many_training_steps )\d+"
    expected = {"recreate_model.sh": 9, "recorded_words.txt": 0}
    for file in (copy / "recreate_model.sh", *(copy / "recipes").glob("*.txt")):
        pattern = of_script if file.suffix == ".sh" else steps
        shorter, changed = re.subn(pattern, "20", file.read_text(), flags=re.M)
        assert changed == expected.get(file.name, 1)
        file.write_text(shorter)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trian"],
        ["extra"],
        ["--ckpt"],
        ["--train", "--ckpt", "x"],
        ["--negatives_dir", "x"],
        ["--train", "--ambient", "x"],
        ["--data_dir", "/nothing/there"],
    ],
    ids=" ".join,
)
def test_recreate_model_refuses_what_it_does_not_know(arguments):
    result = recreate(*arguments)
    assert result.returncode == 2
    assert "error:" in result.stderr and "Traceback" not in result.stderr


def test_recreate_model_says_how_it_is_used():
    result = recreate("--help")
    assert result.returncode == 0 and "--train" in result.stdout and "--data_dir DIR" in result.stdout


def test_recreate_model_takes_a_checkpoint_and_relative_paths(trained, tmp_path):
    shutil.copytree(SAMPLE_DATA, tmp_path / "my words")
    shutil.copytree(trained / "best", tmp_path / "my checkpoint")
    copy = copy_of_the_repository(tmp_path)
    shorten(copy)
    flags = ("--data_dir", "my words", "--ckpt", "my checkpoint")
    result = recreate(*flags, repository=copy, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"== cluster {tmp_path}/my checkpoint" in result.stdout
    assert "SAY NOTHING" not in result.stdout
    files = r"^work/recreated/my words-\d+/from_my checkpoint-\d+/dnn\S*\.tflite "
    assert len(re.findall(files, result.stdout, re.M)) == 6
    validated = re.findall(r"^checkpoint after cqat: .*/cqat/(\d)/best/dnn_(\d+)", result.stdout, re.M)
    best, _ = max(validated, key=lambda run: int(run[1]))
    assert len(validated) == 3 and f"the best on validation clips: {best}\n" in result.stdout


def test_recreate_model_trains_another_network_of_the_paper(tmp_path):
    copy = copy_of_the_repository(tmp_path)
    shorten(copy)
    nowhere = "http://127.0.0.1:9"
    flags = ("--train", "--model", "cnn_small")
    result = recreate(*flags, repository=copy, cwd=copy, http_proxy=nowhere, HTTP_PROXY=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "== train the teacher" in result.stdout and "== quantize" not in result.stdout
    tables = re.findall(r"^work/recreated/sample_data/cnn_small/trained/(\S+)\.tflite  ", result.stdout, re.M)
    forms = "cnn", "cnn_clustered", "cnn_entropy"
    assert tables == [f"{form}{suffix}" for form in forms for suffix in ("", "_quantized")]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--model", "dnn_tiny"], ["dnn_tiny", "ds_cnn_large"]),
        (["--model", "gru_small"], ["gru_small is not shipped", "--train"]),
        (["--ckpt", WEIGHTS, "--model", "gru_small"], ["--model", "contradicts", "stored in"]),
    ],
)
def test_recreate_model_says_what_is_wrong_with_a_model(flags, parts):
    result = recreate(*flags)
    assert result.returncode == 2 and "recreate_model.sh: error: " in result.stderr.splitlines()[0]
    assert all(part in result.stderr.splitlines()[0] for part in parts)


@pytest.mark.parametrize(
    "flags",
    [[], ["--train", "--negatives_dir", NOISE, "--ambient", NOISE]],
    ids=["from the shipped weights", "--train"],
)
def test_recreate_model_without_data_or_network_runs_on_sample_data_and_says_so(tmp_path, flags):
    copy = copy_of_the_repository(tmp_path)
    shorten(copy)
    nowhere = "http://127.0.0.1:9"
    result = recreate(*flags, repository=copy, cwd=copy, http_proxy=nowhere, HTTP_PROXY=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    warning = "THESE FIGURES SAY NOTHING ABOUT THE MODEL"
    assert result.stdout.count(warning) == 2
    assert result.stdout.index(warning) < result.stdout.index("== cluster")
    assert result.stdout.rindex(warning) > result.stdout.index("dnn_entropy_quantized.tflite")
    table = [line.split() for line in result.stdout.splitlines() if re.match(r"work/\S+\.tflite  ", line)]
    sizes = {row[0].split("/")[-1]: int(row[1].replace(",", "")) for row in table}
    forms = "dnn", *(["dnn_microphone"] if flags else []), "dnn_clustered", "dnn_entropy"
    assert list(sizes) == [f"{form}{suffix}.tflite" for form in forms for suffix in ("", "_quantized")]
    assert sizes["dnn_quantized.tflite"] <= 84_000
    if flags:
        command = re.search(r"to convert it: +python (.*)", result.stdout)[1].split()
        call(copy / command[0], *command[1:], cwd=copy)
        (microphone,) = copy.glob("work/**/dnn_microphone_quantized.tflite")
        assert TFLiteModel(microphone).settings.detector
    else:
        (shipped,) = WEIGHTS.glob("*.index")
        assert "== cluster model_archive/model_source/weights" in result.stdout and shipped.exists()
