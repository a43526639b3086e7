"""The sample data is what its README says, and the page of licences names all that is shipped or speaks."""

import csv
import re
from collections import Counter

import numpy as np
import pytest

import build
from conftest import ROOT, SAMPLE_DATA
from kws.audio.recordings import read_audio
from kws.data.clips import speaker_of
from kws.synth.engines import ENGINES

MAY_BE_SHARED = "hibari", "piper", "flite", "espeak-ng"


@pytest.mark.fast
def test_the_sample_data_is_small_and_has_all_partitions(sample):
    files = [file for file in SAMPLE_DATA.rglob("*") if file.is_file() and ".pcm_cache" not in file.parts]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    for partition, least in (("training", 60), ("validation", 20), ("testing", 40)):
        counts = np.bincount(getattr(sample, partition).label)
        assert len(counts) == 12 and min(counts) >= least


@pytest.mark.fast
def test_voices_that_may_be_shared_speak_the_sample_data_and_its_readme_counts_them():
    with open(SAMPLE_DATA / "speakers.csv", newline="") as file:
        speakers = {row["speaker"]: row for row in csv.DictReader(file)}
    clips = list(SAMPLE_DATA.glob("*/*.opus"))
    assert {speaker_of(file.name) for file in clips} <= speakers.keys()
    assert len(clips) == sum(int(row["words_kept"]) for row in speakers.values())
    readme = (SAMPLE_DATA / "README.md").read_text()
    for partition, count in Counter(row["partition"] for row in speakers.values()).items():
        assert f"| {partition} | {count} |" in readme
    kept, said = Counter(), Counter()
    for row in speakers.values():
        (engine,) = (name for name in MAY_BE_SHARED if row["voice"].startswith(name))
        kept[engine] += int(row["words_kept"])
        said[engine] += int(row["words_said"])
    for engine, count in kept.items():
        share, of_said = round(100 * count / len(clips)), round(100 * count / said[engine])
        assert re.search(rf"^\| {engine}, .* \| {share} % \| {of_said} % \|", readme, re.M)
    for file in clips[::50]:
        assert len(read_audio(file, 16000)[0]) == 16000


@pytest.mark.fast
def test_the_page_of_licences_names_every_file_and_every_synthesiser():
    page = (ROOT / "docs" / "licences.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for name in ENGINES:
        assert any(row.startswith(f"| {name} |") for row in rows)
    # names as written there: `dnn_small_fp32`, `_int8`, `stream_cnn_small_*`
    named = re.findall(r"`([\w*]+)`", "\n".join(rows))
    for kind in build.KINDS:
        name = build.tflite_path(kind).stem
        patterns = [one.replace("*", r"\w+") for one in named]
        assert any(re.fullmatch(one, name) or one[0] == "_" and name.endswith(one) for one in patterns)
    for form in build.STAGES.keys() | {"pretrained_stream"}:
        assert form in named
