"""Killed at any moment, a run leaves nothing that keeps the same command from ending like an undisturbed one;
two runs at once do not disturb each other; and a full disk leaves nothing half.

KILLS says how often to kill each command; the moments are random, but the same in every run of the tests.
"""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tarfile
import time

import numpy as np
import pytest
import soundfile

import models
from conftest import (
    DATA,
    ROOT,
    SAMPLE_DATA,
    WEIGHTS,
    QuietHandler,
    assert_one_clear_line,
    call,
    call_here,
    python,
    train_here,
    training_command,
    web_server,
    weights,
)

COUNT = int(os.environ.get("KILLS", "4"))
WORDS = ("yes", "no", "up")


@pytest.fixture
def slow_server(tmp_path):
    """A web server whose archive of recordings, words.tar.gz, takes half a second to download."""
    folder = tmp_path / "www"
    folder.mkdir()
    with tarfile.open(folder / "words.tar.gz", "w:gz") as tar:
        for word in WORDS:
            tar.add(SAMPLE_DATA / word, arcname=word)

    class Slow(QuietHandler):
        def copyfile(self, source, outputfile):
            content = source.read()
            for part in np.array_split(np.frombuffer(content, np.uint8), 10):
                time.sleep(0.05)
                try:
                    outputfile.write(part.tobytes())
                except OSError:
                    return

    with web_server(folder, Slow) as address:
        yield address


def watch(command, folder, changes=None, delay=0.0):
    """Run a script, and kill it `delay` seconds after so many changes of the files in `folder`.

    Returns how many changes there were, and whether it was killed.
    """
    script, *arguments = map(str, command)
    ended, held = os.pipe()
    running = subprocess.Popen(
        [python(), str(ROOT / script), *arguments],
        stdin=held,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(held)
    seen, last = 0, {}
    while running.poll() is None and seen != changes:
        now = sizes(folder)
        seen, last = seen + (now != last), now
        time.sleep(0.001)
    if running.poll() is None:
        time.sleep(delay)
        running.kill()
    assert os.read(ended, 1) == b""  # what stands for python is gone a moment before the script it runs
    os.close(ended)
    return seen, running.wait() != 0


def sizes(folder):
    """Names and sizes of the files in a folder that is being written to."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[parent, name] = os.stat(os.path.join(parent, name)).st_size
    return found


def survives_kills(make_command, outcome, tmp_path, call=call):
    """Check that make_command(folder) has the same outcome(folder) after being killed as undisturbed.

    It is killed at a random change of its files, every other time up to a tenth of a second later; then
    `call` runs the command again.
    """
    total, _ = watch(make_command(tmp_path / "whole"), tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    rng, killed = np.random.default_rng(0), 0
    for number in range(COUNT):
        folder = tmp_path / str(number)
        delay = 0.1 * rng.random() * (number % 2)
        killed += watch(make_command(folder), folder, rng.integers(1, total, endpoint=True), delay)[1]
        call(*make_command(folder))
        found = outcome(folder)
        assert found.keys() == expected.keys()
        for name, content in expected.items():
            np.testing.assert_array_equal(found[name], content, f"{folder}: {name}")
    assert killed


def files(folder):
    """The content of all files in a folder, by their names in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


def getting_recordings(server, folder):
    """The command that downloads, extracts and decodes the recordings."""
    flags = ["--data_url", f"{server}/words.tar.gz", "--wanted_words", ",".join(WORDS)]
    return ["input_data.py", "--data_dir", folder, *flags]


def recordings_and_cache(folder):
    """All files, without what in the names of the cache tells when the recordings were written."""
    return {re.sub("-[0-9a-f]{16}", "", name): content for name, content in files(folder).items()}


def test_download_extraction_and_decoding(tmp_path, slow_server):
    survives_kills(functools.partial(getting_recordings, slow_server), recordings_and_cache, tmp_path)


def test_runs_at_once_wait_for_the_one_that_gets_the_recordings(tmp_path, slow_server):
    call(*getting_recordings(slow_server, tmp_path / "whole"))
    script, *flags = map(str, getting_recordings(slow_server, tmp_path / "data"))
    runs = [
        subprocess.Popen(
            [python(), str(ROOT / script), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert len({output for output, _ in said}) == 1
    errors = "".join(error for _, error in said)
    assert errors.count("downloading http") == 1
    assert recordings_and_cache(tmp_path / "data") == recordings_and_cache(tmp_path / "whole")


def test_training(tmp_path):
    def outcome(folder):
        found = dict(enumerate(weights(folder / "saved_model")))
        history = np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)
        names = [name for name in files(folder) if not name.startswith(("summaries", "resume"))]
        return found | {"history": history, **dict.fromkeys(names, 0)}

    survives_kills(training_command, outcome, tmp_path, call_here)


def test_what_tensorflow_leaves_when_killed_while_saving_goes(tmp_path):
    left = [tmp_path / "best" / "dnn_0625.ckpt-20_temp", tmp_path / "resume" / "ckpt-20_temp"]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "part-00000-of-00001.data-00000-of-00001.tempstate1").write_bytes(b"half")
    call_here(*training_command(tmp_path))
    assert not any(folder.exists() for folder in left)


def test_conversion(tmp_path):
    def command(folder):
        flags = [*DATA, "--checkpoint", WEIGHTS, "--inference_type", "int8"]
        folder.mkdir(exist_ok=True)
        return ["convert_to_tflite.py", "--output", folder / "x.tflite", *flags]

    survives_kills(command, files, tmp_path)


# ---- full disks ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system with 700 kB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_line_and_the_best_checkpoint_stays_whole(small_disk, trained):
    result = train_here(small_disk / "train", check=False)
    assert_one_clear_line(result, "No space left on device", small_disk)
    models.load_checkpoint(small_disk / "train" / "best")


def test_a_full_disk_leaves_no_half_cache(small_disk):
    for word in ("yes", "no"):
        (small_disk / word).mkdir()
        for file in sorted((SAMPLE_DATA / word).iterdir())[:24]:
            shutil.copy(file, small_disk / word)
    result = call_here("input_data.py", "--data_dir", small_disk, "--wanted_words", "yes,no", check=False)
    assert_one_clear_line(result, "No space left on device", small_disk)
    assert [path.name for path in (small_disk / ".pcm_cache").iterdir()] == ["lock"]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_full_disk_leaves_no_half_recordings(small_disk):
    options = "--engines espeak-ng --count 60 --sentences 1 --confusables 0".split()
    result = call_here("synthesize.py", "hello", "--output", small_disk / "x", *options, check=False)
    assert_one_clear_line(result, "No space left on device", small_disk / "x" / "hello")
    written = [*(small_disk / "x" / "hello").iterdir()]
    assert written and all(soundfile.info(file).frames >= 16000 for file in written)


def test_a_full_disk_while_extracting_keeps_the_archive(small_disk, tmp_path):
    archive = small_disk / "words.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(SAMPLE_DATA / "yes", arcname="yes")
    size = archive.stat().st_size
    result = call_here(
        "input_data.py",
        "--data_dir",
        small_disk,
        "--data_url",
        "http://127.0.0.1:9/words.tar.gz",
        check=False,
    )
    assert result.returncode == 2 and "No space left on device" in result.stderr.splitlines()[-1]
    assert archive.stat().st_size == size
    assert not (small_disk / "yes").exists()


def test_a_full_disk_leaves_no_half_model(small_disk, trained):
    (small_disk / "fill").write_bytes(bytes(650_000))
    flags = ["--checkpoint", trained / "best", *DATA, "--output", small_disk / "x.tflite"]
    assert_one_clear_line(call_here("convert_to_tflite.py", *flags, check=False), "x.tflite: No space left")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]
