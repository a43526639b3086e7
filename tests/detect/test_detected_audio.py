"""The audio of detections: what is kept of a stream, and the files that it becomes."""

import itertools
import resource

import numpy as np
import pytest
import soundfile

from conftest import RATE
from kws.base.errors import UserError
from kws.data.clips import speaker_of
from kws.detect.detected_audio import BEFORE_S, DetectionFolder, history, scored_audio
from kws.detect.recent_audio import RecentAudio

pytestmark = pytest.mark.fast

SCORED_S = 1.6


def ramp(first, end):
    return (np.arange(first, end) % 2**15).astype(np.int16)


def blocks(size, count):
    return (ramp(number * size, (number + 1) * size) for number in range(count))


@pytest.mark.parametrize("size", [640, 16_001, 2**18])
def test_what_was_scored_is_kept_however_the_stream_comes(size):
    recent, passed = RecentAudio(blocks(size, 3 + 10 * RATE // size), history(SCORED_S, RATE)), 0
    for block in recent:
        latest = range(passed, passed + len(block), 5000)  # a score may be of windows that end in this block
        passed += len(block)
        for end in latest:
            middle = end / RATE - SCORED_S / 2
            first = max(0, round(end - (SCORED_S + BEFORE_S) * RATE))
            found = scored_audio(recent, middle, SCORED_S, RATE)
            assert len(found) == pytest.approx(end - first, abs=2)
            np.testing.assert_array_equal(found, ramp(end - len(found), end) if len(found) else [])
        assert recent.received == passed


def test_a_stream_without_end_takes_no_more_memory_the_longer_it_is():
    recent = RecentAudio(itertools.cycle(blocks(640, 9)), history(SCORED_S, RATE))
    sizes = [recent._samples.nbytes for _ in itertools.islice(recent, 900)]
    assert max(sizes) == sizes[-1] <= 2 * ((SCORED_S + BEFORE_S) * RATE + 2 + 640)


def test_a_detection_is_a_wav_file_in_the_folder_of_its_word(tmp_path):
    folder = DetectionFolder(tmp_path / "heard", RATE)
    path = folder.save("-", 12.3456, "yes", 0.914, ramp(0, 2 * RATE))
    assert path.parent == tmp_path / "heard" / "yes" and path.name.endswith("_nohash_12.346s_0.91.wav")
    assert [file for file in (tmp_path / "heard").rglob("*") if file.is_file()] == [path]
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE and soundfile.info(path).subtype == "PCM_16"
    np.testing.assert_array_equal(samples, ramp(0, 2 * RATE))


def test_detections_have_names_of_their_own_and_those_of_a_recording_one_speaker(tmp_path):
    folder = DetectionFolder(tmp_path / "heard", RATE)
    sources = [
        "a/dish washer.wav",
        "b/dish washer.wav",
        "anna_nohash_1.wav",
        f"{'long' * 50}.wav",
        "\udcff.wav",
    ]
    for source in sources:
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).touch()
    names = {
        source: [
            folder.save(str(tmp_path / source), seconds, "on", 0.9, ramp(0, 9)).name
            for seconds in (1, 1.04, 1, 9)
        ]
        for source in sources
    }
    for found in names.values():
        assert found[0] == found[2] and len(set(found)) == 3  # the same detection is one file
        assert len(set(map(speaker_of, found))) == 1
    assert len({name for found in names.values() for name in found}) == 3 * len(sources)
    assert speaker_of(names["anna_nohash_1.wav"][0]) == "anna"
    assert names["a/dish washer.wav"][0].startswith("dish_washer-")


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot save detections in .*file.*: "):
        DetectionFolder(tmp_path / "file" / "heard", RATE)


def test_a_full_disk_is_one_clear_line_and_leaves_no_part_of_a_file(tmp_path):
    folder = DetectionFolder(tmp_path, RATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot save detections in {tmp_path}: File too large"):
            folder.save("-", 1, "yes", 0.9, ramp(0, RATE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
