"""Wrong flags, missing and damaged files, full disks: one clear line, and nothing half-made."""

import fcntl
import shutil
import subprocess
import tarfile

import pytest

import input_data
from conftest import (
    DATA,
    ROOT,
    SAMPLE_DATA,
    assert_one_clear_line,
    call,
    train,
)
from kws import checkpoints


@pytest.mark.parametrize("script", ["optimisations.py", "convert_to_tflite.py", "evaluation.py"])
def test_a_checkpoint_that_does_not_exist(script, tmp_path):
    result = call(script, "--checkpoint", tmp_path / "none.ckpt", *DATA, check=False)
    assert_one_clear_line(result, tmp_path / "none.ckpt", "does not exist")


@pytest.mark.parametrize("script", ["optimisations.py", "convert_to_tflite.py", "evaluation.py"])
def test_a_checkpoint_that_contradicts_the_flags(script, trained):
    flags = ["--checkpoint", trained / "best", *DATA, "--window_stride_ms", "20"]
    assert_one_clear_line(call(script, *flags, check=False), "--window_stride_ms 20 contradicts 40")


def test_a_tflite_file_that_does_not_exist(tmp_path):
    result = call("evaluation.py", "--tflite_path", tmp_path / "none.tflite", *DATA, check=False)
    assert_one_clear_line(result, tmp_path / "none.tflite", "does not exist")


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_data_folder_without_recordings(tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "empty":
        folder.mkdir()
    if kind == "file":
        folder.write_text("")
    result = train(tmp_path / "train", "--data_url", "", data_dir=folder, check=False)
    assert_one_clear_line(result, folder)


def test_a_wanted_word_without_recordings(tmp_path):
    result = train(tmp_path, "--wanted_words", "yes,banana", check=False)
    assert_one_clear_line(result, "no recordings of banana")


def test_a_size_that_does_not_fit(tmp_path):
    result = train(tmp_path, "--model_size_info", "144", "0", check=False)
    assert_one_clear_line(result, "--model_size_info 144 0", "for example 144 144 144")


def test_a_word_without_clips_to_learn_from(tmp_path):
    shutil.copytree(SAMPLE_DATA, tmp_path / "data")
    for file in (tmp_path / "data" / "yes").iterdir():
        if input_data.which_partition(file.name, 10, 10) == "training":
            file.unlink()
    result = train(tmp_path / "train", "--wanted_words", "yes,no", data_dir=tmp_path / "data", check=False)
    assert_one_clear_line(result, "no clips of yes to learn from")


@pytest.mark.parametrize(
    "flags",
    [
        ("--window_size_ms", "nan"),
        ("--window_stride_ms", "inf"),
        ("--time_shift_ms", "inf"),
        ("--learning_rate", "nan,0.1"),
        ("--seed", "99999999999"),
    ],
)
def test_numbers_that_are_none(tmp_path, flags):
    assert_one_clear_line(train(tmp_path, *flags, check=False), flags[0])


def test_a_learning_rate_that_diverges(tmp_path):
    result = train(tmp_path, "--learning_rate", "3e38,3e38", check=False)
    assert_one_clear_line(result, "diverged", "--learning_rate")


def test_a_damaged_resume_folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    for file in (tmp_path / "copy" / "resume").glob("ckpt*"):
        file.write_bytes(b"damage")
    assert_one_clear_line(
        train(tmp_path / "copy", check=False), "resume is damaged or of another version; delete"
    )


def test_a_summaries_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    result = train(tmp_path / "train", "--summaries_dir", tmp_path / "file" / "x", check=False)
    assert_one_clear_line(result, "cannot write", tmp_path / "file")


def test_a_training_folder_that_tensorflow_would_take_for_a_pattern(tmp_path):
    assert_one_clear_line(train(tmp_path / "t[1]", check=False), "wildcards")


def test_a_first_try_that_failed_does_not_block_the_next(tmp_path):
    train(tmp_path, "--learning_rate", "3e38,3e38", check=False)
    assert "step 80 of 80" in train(tmp_path).stdout


def test_two_runs_in_one_folder_at_once(tmp_path):
    tmp_path.joinpath("train").mkdir()
    with open(tmp_path / "train" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_clear_line(train(tmp_path / "train", check=False), "another run is training in")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("TFLite/tflite_int8/dnn_small_int8.tflite", "--tflite_path"),
        ("model_source/dnn_small.keras", "SavedModel"),
        ("model_source", "did you mean"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(path, hint):
    result = call("convert_to_tflite.py", "--checkpoint", ROOT / "model_archive" / path, *DATA, check=False)
    assert_one_clear_line(result, path, hint)


def test_an_empty_partition(tmp_path):
    result = train(tmp_path, "--validation_percentage", "0", check=False)
    assert_one_clear_line(result, "no clips for validation")


def test_a_folder_that_cannot_be_written(trained):
    assert_one_clear_line(train(ROOT / "README.md" / "folder", check=False), "README.md")
    output = ROOT / "README.md" / "x.tflite"
    flags = ["--checkpoint", trained / "best", *DATA, "--output", output]
    assert_one_clear_line(call("convert_to_tflite.py", *flags, check=False), output)


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
    result = train(small_disk / "train", check=False)
    assert_one_clear_line(result, "No space left on device", small_disk)
    checkpoints.load_checkpoint(small_disk / "train" / "best")


def test_a_full_disk_leaves_no_half_cache(small_disk):
    for word in ("yes", "no"):
        shutil.copytree(SAMPLE_DATA / word, small_disk / word)
    result = call("input_data.py", "--data_dir", small_disk, "--wanted_words", "yes,no", check=False)
    assert_one_clear_line(result, "No space left on device", small_disk)
    assert [path.name for path in (small_disk / ".pcm_cache").iterdir()] == ["lock"]


def test_a_full_disk_while_extracting_keeps_the_archive(small_disk, tmp_path):
    archive = small_disk / "words.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for word in ("yes", "no", "up"):
            tar.add(SAMPLE_DATA / word, arcname=word)
    size = archive.stat().st_size
    result = call(
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
    assert_one_clear_line(call("convert_to_tflite.py", *flags, check=False), "x.tflite: No space left")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]
