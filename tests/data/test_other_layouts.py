"""Data sets of other programs are recognised, and the documented commands make folders of words of them."""

import re
import shutil
import subprocess

import pytest

from conftest import ROOT, SAMPLE_DATA, assert_one_clear_line, call_here
from kws.audio.folders import list_recordings, word_folders
from kws.data.clips import speaker_of

# (word, speaker) of recordings
RECORDED = [(word, speaker) for word in ("yes", "no") for speaker in ("37f0e527", "1dba36e7")]


def copied(word, speaker, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLE_DATA / word / f"{speaker}_nohash_0.opus", path)


def edge_impulse(folder):
    for (word, speaker), part in zip(RECORDED, ["training", "testing"] * 2, strict=True):
        copied(word, speaker, folder / "export" / part / f"{word}.{speaker}_nohash_0.wav.2k3jh4.wav")
    (folder / "export" / "info.labels").write_text("{}")


def common_voice(folder):
    rows = ["client_id\tpath\tsentence_id\tsentence\tup_votes"]
    for number, (word, speaker) in enumerate(RECORDED):
        copied(word, speaker, folder / "cv" / "clips" / f"common_voice_en_{number}.mp3")
        rows.append(f"{speaker}\tcommon_voice_en_{number}.mp3\t{number}\t{word.capitalize()}.\t2")
    rows.append("2113e64d\tcommon_voice_en_9.mp3\t9\tYes, it is.\t2")
    (folder / "cv" / "validated.tsv").write_text("\n".join(rows) + "\n")


def kaldi(folder):
    tables = {"wav.scp": [], "utt2spk": [], "text": []}
    for word, speaker in RECORDED:
        name, file = f"{speaker}-{word}", f"recordings/{speaker}-{word}.flac"
        copied(word, speaker, folder / file)
        for table, value in zip(tables.values(), (file, speaker, word), strict=True):
            table.append(f"{name} {value}\n")
    (folder / "kaldi").mkdir()
    for table, lines in tables.items():
        (folder / "kaldi" / table).write_text("".join(sorted(lines)))


LAYOUTS = {
    "Edge Impulse": ("export", edge_impulse),
    "Common Voice": ("cv", common_voice),
    "Kaldi": ("kaldi", kaldi),
}


@pytest.mark.fast
@pytest.mark.parametrize("program", LAYOUTS)
def test_a_data_set_of_another_program_is_recognised(tmp_path, program):
    folder, make = LAYOUTS[program]
    make(tmp_path)
    result = call_here("input_data.py", "--data_dir", tmp_path / folder, check=False)
    assert_one_clear_line(result, "no recordings", f"(a data set of {program}: docs/recordings.md has")


@pytest.mark.parametrize("program", LAYOUTS)
def test_the_documented_command_makes_folders_of_words(tmp_path, program):
    LAYOUTS[program][1](tmp_path)
    documented = (ROOT / "docs" / "recordings.md").read_text()
    (command,) = re.findall(rf"^{program}, .*\n\n((?:    .*\n)+)", documented, re.M)
    result = subprocess.run(["bash", "-euc", command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    made = [
        (word, speaker_of(name))
        for word in word_folders(tmp_path / "words")
        for name, *_ in list_recordings(tmp_path / "words" / word)
    ]
    assert sorted(made) == sorted(RECORDED)
