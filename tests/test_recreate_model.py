"""recreate_model.sh as a user calls it, in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import yaml

import build
import compare
from conftest import ROOT, SAMPLE_DATA, WEIGHTS, assert_same_weights, copy_of_the_repository, python
from kws.board import firmware
from kws.model.tflite import TFLiteModel

NOISE = SAMPLE_DATA / "_background_noise_"


def recreate(*arguments, repository=ROOT, cwd=ROOT, **variables):
    """Run the repository's recreate_model.sh in the environment of the tests, and `variables`."""
    folders = os.path.dirname(python()), os.path.dirname(sys.executable), os.environ["PATH"]
    command = ["bash", str(repository / "recreate_model.sh"), *map(str, arguments)]
    environment = os.environ | {"PATH": os.pathsep.join(folders)} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


def shorten(copy):
    """Have the repository `copy` take 20 steps in each stage."""
    expected = {"recreate_model.sh": 3, "recorded_words.txt": 0, "augmentation.txt": 0}
    expected["microphone_quantize.txt"] = 0
    for file in (copy / "recreate_model.sh", *(copy / "recipes").glob("*.txt")):
        shorter, changed = re.subn(
            r'(?<=--how_many_training_steps )(\d+|"\$2")', "20", file.read_text(), flags=re.M
        )
        assert changed == expected.get(file.name, 1)
        file.write_text(shorter)


def table_in(output):
    """Return the table at the end of recreate_model.sh's output: {file: [bytes, zipped, ...]}."""
    rows = [re.split("  +", line) for line in output.splitlines() if re.match(r"\w+\.tflite  ", line)]
    return {name: cells for name, *cells in rows}


def check_what_a_newcomer_reads(lines, table):
    """Check that the output fits two screens, and that the table says something true."""
    assert len(lines) <= 100
    assert [line for line, count in Counter(filter(None, lines)).items() if count > 2] == []
    assert not [line for line in lines if "predicted by column" in line]
    # as the shipped file: rounding alone has changed it
    _, _, here, from_start, stated = table["dnn_small_int8.tflite"]
    assert float(here.split()[0]) >= 85 and abs(float(from_start.split()[0])) < 1
    assert f"| {stated} |" in (ROOT / "docs" / "accuracy.md").read_text()
    for kind in ("clustered", "clustered_16", "entropy"):
        assert float(table[f"dnn_small_{kind}_int8.tflite"][3].split()[0]) > -2


def check_archive_of(recreated, archive, monkeypatch):
    """Build the `archive` from the folder that recreate_model.sh left, and check what is in it.

    Costs on boards, which need other programs, are left out: test_archive.py checks them.
    """
    monkeypatch.setattr(build, "ARCHIVE", archive)
    monkeypatch.setattr(build, "arena_size", lambda path: 0)
    monkeypatch.setattr(build, "npu_cost", lambda path: dict.fromkeys(firmware.NpuCost._fields, 0))
    build.take_models(recreated)
    for kind in build.KINDS:
        path = build.tflite_path(kind)
        definition = yaml.safe_load((path.parent / "definition.yaml").read_text())
        assert path.read_bytes() == (recreated / path.name).read_bytes()
        sets = [figures["set"].split(",")[0] for figures in definition["accuracy"]]
        assert sets == ["validation", "testing"]
        assert ("detection" in definition) == (kind in build.MICROPHONE + build.VERIFIER + build.STREAM)
        assert len(list(path.parent.glob("testing_input/input/*.npy"))) == 12
    for folder, stage in build.STAGES.items():
        assert_same_weights(archive / "model_source" / folder, recreated / stage / "best")
    assert_same_weights(archive / "model_source" / "saved_model", recreated / "quantized" / "best")


@pytest.mark.fast
def test_a_chain_that_ends_below_where_it_began_says_so(tmp_path, capsys, monkeypatch):
    shares = {"dnn_small_fp32": 0.9, "dnn_small_int8": 0.9, "dnn_small_clustered_int8": 0.82}
    report = {}
    for name, share in shares.items():
        (tmp_path / f"{name}.tflite").write_bytes(b"x")
        sets = [{"set": "validation, x", "N": 9}, {"set": "testing, x", "N": 400, "accuracy": share}]
        report[str(tmp_path / f"{name}.tflite")] = sets
    (tmp_path / "accuracy.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path / "accuracy.json")])
    compare.main()
    output = capsys.readouterr().out
    table = table_in(output)
    assert table["dnn_small_clustered_int8.tflite"][2:4] == ["82.00 %", "-8.0 points"]
    assert table["dnn_small_int8.tflite"][3] == "+0.0 points"
    worse = "dnn_small_clustered_int8.tflite ends 8.0 points below dnn_small_int8.tflite, where it began"
    assert output.splitlines()[-1] == worse


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
    assert f"--checkpoint {tmp_path}/my checkpoint" in result.stdout
    assert "synthetic voices" not in result.stdout
    files = r"^wrote work/recreated/my words-\d+/from_my checkpoint-\d+/dnn\S*\.tflite: "
    assert len(re.findall(files, result.stdout, re.M)) == 8
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
    assert "/teacher: train.py @recipes/teacher.txt" in result.stdout
    assert "@recipes/quantize.txt" not in result.stdout
    forms = "cnn_small", "cnn_small_clustered", "cnn_small_entropy"
    made = [f"{form}_{kind}.tflite" for kind in ("fp32", "int8") for form in forms]
    assert list(table_in(result.stdout)) == made
    folder = copy / "work" / "recreated" / "sample_data" / "cnn_small" / "trained"
    assert sorted(file.name for file in folder.glob("*.tflite")) == sorted(made)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--model", "dnn_tiny"], ["dnn_tiny", "ds_cnn_large"]),
        (["--model", "gru_small"], ["gru_small has no shipped weights", "--train"]),
        (["--ckpt", WEIGHTS, "--model", "gru_small"], ["--model", "contradicts", "stored in"]),
    ],
)
def test_recreate_model_says_what_is_wrong_with_a_model(flags, parts):
    result = recreate(*flags)
    assert result.returncode == 2 and ": error: " in result.stderr.splitlines()[0]
    assert all(part in result.stderr.splitlines()[0] for part in parts)


@pytest.mark.parametrize(
    "flags",
    [[], ["--train", "--negatives_dir", NOISE, "--ambient", NOISE]],
    ids=["from the shipped weights", "--train"],
)
def test_recreate_model_without_data_or_network_runs_on_sample_data_and_says_so(tmp_path, flags, monkeypatch):
    copy = copy_of_the_repository(tmp_path)
    # the first command of the README is run as it is
    if flags:
        shorten(copy)
    nowhere = "http://127.0.0.1:9"
    result = recreate(*flags, repository=copy, cwd=copy, http_proxy=nowhere, HTTP_PROXY=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    banner = "synthetic voices. Figures on it show that the chain works"
    assert result.stdout.index(banner) < result.stdout.index("/clustered: optimisations.py")
    assert result.stdout.splitlines()[-1].startswith("The figures here are of synthetic voices")
    table = table_in(result.stdout)
    sizes = {name: int(row[0].replace(",", "")) for name, row in table.items()}
    forms = "dnn_small", "dnn_small_clustered", "dnn_small_entropy"
    forms += ("dnn_small_microphone", "ds_cnn_small", "stream_cnn_small") if flags else ()
    made = [f"{form}_{kind}.tflite" for kind in ("fp32", "int8") for form in forms]
    assert list(table) == [*made, "dnn_small_clustered_16_int8.tflite", "dnn_small_int16.tflite"]
    assert sizes["dnn_small_int8.tflite"] <= 84_000
    if flags:
        assert {path.name for path in (ROOT / "model_archive" / "TFLite").glob("*/*.tflite")} <= sizes.keys()
        for kind in ("fp32", "int8"):
            for name, is_verifier in (("dnn_small_microphone", False), ("ds_cnn_small", True)):
                (path,) = copy.glob(f"work/**/{name}_{kind}.tflite")
                assert (TFLiteModel(path).settings.detector.gate is not None) == is_verifier
        check_archive_of(path.parent, copy / "model_archive", monkeypatch)
    else:
        (shipped,) = WEIGHTS.glob("*.index")
        assert "--checkpoint model_archive/model_source/weights" in result.stdout and shipped.exists()
        check_what_a_newcomer_reads(result.stdout.splitlines(), table)
