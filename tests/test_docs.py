"""Each command in README.md and docs/ is run here or by another test, or is listed as needing recordings."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conftest import RATE, ROOT, SAMPLE_DATA, copy_of_the_repository, python, spoken
from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.synth.engines import installed_voices

FOLDERS = ROOT, ROOT / "benchmarks", ROOT / "sample_data"
PAGES = [ROOT / "CONTRIBUTING.md", *(folder / "README.md" for folder in FOLDERS)]
PAGES += sorted((ROOT / "docs").glob("*.md"))
# commands stand alone in an indented line, or in the text between backticks
PROGRAM = "(?:python|bash|pip|arecord|source|ruff)"
COMMAND = re.compile(rf"^    (?P<line>{PROGRAM} .*)$|(?<!`)`(?P<text>{PROGRAM}\s[^`]+)`", re.MULTILINE)
# commands that another test runs, or that set up what runs the tests
ELSEWHERE = {
    "tests/test_recreate_model.py": [
        "bash recreate_model.sh",
        "bash recreate_model.sh --train",
        "bash recreate_model.sh --model NAME --train",
    ],
    "tests/train/test_fine_tuning.py": [
        "python label_wav.py work/my_words.tflite dishwasher.wav --stream --save_detections wrong",
        "python train.py @recipes/fine_tune.txt --start_from work/my_words/best --data_dir my_words "
        "--data_url '' --negatives_dir wrong --train_dir work/quieter",
        "python convert_to_tflite.py work/quieter/best --data_dir my_words --inference_type int8 "
        "--output work/quieter.tflite",
        "python label_wav.py work/quieter.tflite dishwasher.wav --stream",
    ],
    "tests/test_library.py": ["pip install ."],
    ".ci/run": [
        "bash .ci/run",
        "bash tests/run.sh",
        "bash tests/run.sh -m fast",
        "ruff check . && ruff format .",
        "source environment.sh",
        'source environment.sh "$PWD/tests/requirements.txt"',
        "pip install -r requirements-own-words.txt",
    ],
}
# what needs recordings of people, hours of other audio, or a checkpoint that is not in the repository
NEEDS_RECORDINGS = [
    "bash recreate_model.sh --train --negatives_dir NEGATIVES --ambient OTHERS",
    "bash recreate_model.sh --train --negatives_dir NEGATIVES --ambient OTHERS --data_dir DIR",
    "python model_archive/build.py --recreated work/recreated/NAME/trained",
    "python sample_data/synthesize.py work/teacher/best",
    "python benchmarks/run.py --data_dir data/speech_commands_v0.02",
    "python benchmarks/features.py --data_dir DIR",
    "python benchmarks/synthesisers.py MODEL N",
    "python benchmarks/streaming_wakeword.py MODEL --data_dir DIR --speech DIR --music DIR",
    "python benchmarks/streaming_wakeword.py MODEL --data_dir DIR --speech SPEECH --music MUSIC",
    "python benchmarks/compression.py --checkpoint model_archive/model_source/weights --recipe "
    "recipes/cluster.txt --steps 4000 --data_dir DIR --work_dir work/compression",
    "python benchmarks/wake_words.py work/my_words.tflite --phrase RECORDINGS --ambient OTHERS",
    "python benchmarks/wake_words.py jarvis.tflite --phrase recordings/jarvis --ambient radio --engines "
    "microwakeword:hey_jarvis openwakeword:hey_jarvis",
    "python benchmarks/every_model.py",
    "python -m piper.download_voices",
]
# what makes a command short: flags behind it, by how it begins
SHORTER = {
    "python train.py --data_dir": "--how_many_training_steps 4,4,4",
    "python train.py @recipes/own_words.txt": "--how_many_training_steps 4 --echo_factor 1",
    "python optimisations.py": "--how_many_training_steps 4,4",
    "python synthesize.py": "--count 30 --confusables 2 --sentences 4 --word_list words.txt",
}
ON_STREAMS = "--stream_minutes 1"


def commands_in(page):
    """Return the commands of a page, each in one line without its comment."""
    text = page.read_text().replace("\\\n", " ")
    found = [match["line"] or match["text"] for match in COMMAND.finditer(text)]
    return [" ".join(re.sub("  +#.*", "", command).split()) for command in found]


def run_here():
    """Return the commands that are run here, in the order of the pages and each once."""
    elsewhere = {command for commands in ELSEWHERE.values() for command in commands}
    every = dict.fromkeys(command for page in PAGES for command in commands_in(page))
    return [command for command in every if command not in elsewhere and command not in NEEDS_RECORDINGS]


@pytest.mark.fast
def test_the_lists_hold_what_the_pages_have():
    every = {command for page in PAGES for command in commands_in(page)}
    listed = [*NEEDS_RECORDINGS, *(command for commands in ELSEWHERE.values() for command in commands)]
    assert [command for command in listed if command not in every] == []
    assert all((ROOT / file).exists() for file in ELSEWHERE)
    # the README's own, from preparing recordings to words of one's own
    assert len(run_here()) >= 15 and any("@recipes/own_words.txt" in command for command in run_here())


@pytest.mark.fast
@pytest.mark.parametrize("command", NEEDS_RECORDINGS)
def test_the_flags_of_what_is_not_run_exist(command):
    program, script, *words = command.split()
    if script == "-m":
        return
    # its own flags, and those of the recordings
    source = (ROOT / script).read_text() + (ROOT / "input_data.py").read_text()
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        known = flag in source or f'"{flag[2:]}"' in source
        assert known or flag == "--count"  # of synthesize.py, passed on


@pytest.fixture
def workplace(tmp_path):
    """Return a copy of the repository with small recordings where the pages name some."""
    copy = copy_of_the_repository(tmp_path)
    data = copy / "data"
    test_set = data / "speech_commands_test_set_v0.02"
    test_set.mkdir(parents=True)
    (data / "speech_commands_v0.02").symlink_to(SAMPLE_DATA)
    folders = {word: word for word in Settings.wanted_words}
    for label, word in (folders | {"_unknown_": "tree", "_silence_": "_background_noise_"}).items():
        (test_set / label).symlink_to(SAMPLE_DATA / word)
    rng = np.random.default_rng(0)
    for name, seconds in {"yes.wav": 1, "meeting.mp3": 5, "folder/a.wav": 2}.items():
        (copy / name).parent.mkdir(exist_ok=True)
        soundfile.write(copy / name, rng.normal(0, 0.1, RATE * seconds), RATE)
    for folder in ("radio", "other_radio"):
        for kind in ("news", "music"):
            (copy / folder / kind).mkdir(parents=True)
            soundfile.write(copy / folder / kind / "1.wav", rng.normal(0, 0.1, RATE * 20), RATE)
    (copy / "words.txt").write_text("lights\nnights\nrobber\nhey\n")
    soundfile.write(copy / "raw", soundfile.read(spoken("yes"))[0], RATE, format="RAW", subtype="PCM_16")
    (copy / "bin").mkdir()
    (copy / "bin" / "arecord").write_text("#!/bin/sh\ncat raw\n")
    (copy / "bin" / "arecord").chmod(0o755)
    return copy


def test_the_commands_of_the_readme_and_the_docs_run_one_after_the_other(workplace):
    try:
        installed_voices((), "en")
    except UserError:
        pytest.skip("no speech synthesiser installed")
    programs = str(workplace / "bin"), os.path.dirname(python()), os.path.dirname(sys.executable)
    environment = os.environ | {"PATH": os.pathsep.join([*programs, os.environ["PATH"]])}
    for command in run_here():
        shorter = [flags for beginning, flags in SHORTER.items() if command.startswith(beginning)]
        shorter += [ON_STREAMS] if "--ambient" in command else []
        here = re.sub(r"\bDIR\b", "data/speech_commands_v0.02", command)
        here = re.sub(r"\bMODEL\b", "work/dnn_quantized.tflite", here)
        here = re.sub(r"(?<=\.tflite )50$", "1", here)  # recordings of each synthesiser
        script = f"set -euo pipefail; {' '.join([here, *shorter])}"
        quiet = {"capture_output": True, "text": True, "timeout": 300}
        result = subprocess.run(["bash", "-c", script], cwd=workplace, env=environment, **quiet)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    for made in ("work/report.json", "work/firmware/kws_model.c", "work/my_words.tflite", "work/plots"):
        assert (workplace / made).exists()


# ---- pages ----


def anchors_of(page):
    """Return the names by which a page's headings can be linked, as GitHub makes them."""
    headings = re.findall("^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), (target, anchor)


@pytest.mark.fast
def test_the_readme_can_be_scanned():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100
    assert len(set(re.findall(r"--[a-z_]+", "\n".join(lines)))) <= 25
