"""train.py as a user calls it: what it prints and writes, what it resumes, how it fails."""

import dataclasses
import fcntl
import re
import shutil
import signal

import numpy as np
import pytest
import soundfile

import input_data
import models
from conftest import (
    DATA,
    DNN_SMALL_FLAGS,
    ON_OFF,
    RATE,
    ROOT,
    SAMPLE_DATA,
    SHIPPED_INT8,
    TC_RESNET_FLAGS,
    WEIGHTS,
    assert_one_clear_line,
    assert_same_weights,
    call_here,
    interrupt,
    made_once,
    make_words,
    train_here,
    training_command,
    weights,
    write_wav,
)
from kws.base.settings import DetectorSettings, Sensitivity
from kws.data import checks
from kws.data.augmentation import Augmentation
from kws.model import checkpoints
from kws.train.runs import read_history

RECIPE = (
    "--batch_norm --learning_rate_schedule cosine --echo_factor 2 --speed_change 10 --volume_change_db 6 "
    "--silence_volume 0.5 --training_unknown_percentage 20"
).split()


@pytest.fixture(scope="session")
def distilled(trained, tmp_path_factory):
    """Return a folder in which train.py has run with all flags of the recipe, taught by `trained`."""

    def make(folder):
        output = train_here(folder, "--teacher", trained / "best", *RECIPE).stdout
        (folder / "output.txt").write_text(output)

    return made_once(tmp_path_factory, "distilled", make)


def test_training_says_how_good_the_best_checkpoint_is_and_where(trained):
    output = (trained / "output.txt").read_text()
    steps = [int(step) for step in re.findall(r"^step (\d+) of 80", output, re.M)]
    assert steps == [20, 40, 60, 80]
    assert [float(rate) for rate in re.findall(r"rate ([\d.e-]+),", output)] == [1e-3, 1e-3, 1e-3, 1e-4]
    assert re.search(r"testing, paper protocol .*: accuracy [\d.]+ % .*N = 480", output)
    validated = [float(v) for v in re.findall(r"validation accuracy ([\d.]+) %", output)]
    (index,) = (trained / "best").glob("*.index")
    name = re.search(r"best checkpoint: .*/(dnn_(\d{4})\.ckpt-(\d+))$", output, re.M)
    assert index.stem == name[1]
    history = read_history(trained)
    best = np.lexsort((history[:, 5], -history[:, 4]))[0]  # of equal accuracy the one of the lowest loss
    assert int(name[2]) == round(100 * max(validated)) and int(name[3]) == steps[best]


def test_training_learns_something(trained):
    output = (trained / "output.txt").read_text()
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]
    assert losses[-1] < losses[0] / 2


def test_training_writes_summaries_for_tensorboard(trained):
    from kws.base.quiet_tf import tf

    (events,) = (trained / "summaries").glob("events.out.tfevents.*")
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    expected = {"loss", "loss/validation", "accuracy/training", "accuracy/validation", "learning_rate"}
    assert found == dict.fromkeys(expected, [20, 40, 60, 80])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    train_here(tmp_path / "again")
    assert_same_weights(trained / "saved_model", tmp_path / "again/saved_model")
    train_here(tmp_path / "other", "--seed", "1")
    assert (weights(tmp_path / "other/saved_model")[1] != weights(trained / "saved_model")[1]).any()


def test_hard_negatives_are_found_by_the_model_to_start_from_and_a_resumed_run_has_the_same(tmp_path):
    flags = "--hard_negatives_percentage", "100", "--negatives_dir", SAMPLE_DATA / "go"
    begun = *flags, "--start_from", WEIGHTS
    found = r"^hard negatives: ([\d,]+) of ([\d,]+) windows"
    whole = train_here(tmp_path / "whole", *begun, "--how_many_training_steps", "70,10").stdout
    before, after = whole.split("step 20 of 80")
    assert len(re.findall(found, before, re.M)) == 1 and not re.search(found, after, re.M)
    train_here(tmp_path / "parts", *begun, "--how_many_training_steps", "60", "--learning_rate", "0.001")
    rest = train_here(tmp_path / "parts", *begun, "--how_many_training_steps", "70,10").stdout
    assert "resuming after step 60 of 80" in rest and not re.search(found, rest, re.M)
    assert_same_weights(tmp_path / "whole/saved_model", tmp_path / "parts/saved_model")
    assert_one_clear_line(train_here(tmp_path / "random", *flags, check=False), "--start_from")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_resumes_and_ends_as_an_undisturbed_one(trained, tmp_path, by):
    errors = interrupt(training_command(tmp_path), by)
    assert by == signal.SIGKILL or "run the same command to resume" in errors
    output = train_here(tmp_path).stdout
    assert re.search(r"resuming after step (20|40) of 80", output)
    assert_same_weights(trained / "saved_model", tmp_path / "saved_model")


def test_of_equally_good_checkpoints_the_one_with_the_lower_loss_is_kept(tmp_path):
    flags = "--how_many_training_steps 25 --learning_rate 0.000001".split()  # too low to change a label
    output = train_here(tmp_path, *flags).stdout
    assert re.findall(r"^step (\d+) of 25: rate (\S+),", output, re.M) == [("20", "1e-06"), ("25", "1e-06")]
    (first, loss), (second, lower_loss) = read_history(tmp_path)[:, 4:6]
    assert first == second and lower_loss < loss
    assert "ckpt-25" in checkpoints.checkpoint_prefix(tmp_path / "best")


def test_a_finished_training_with_more_steps_continues_and_ends_as_an_undisturbed_one(trained, tmp_path):
    longer = "--how_many_training_steps", "60,40"
    shutil.copytree(trained, tmp_path / "continued")
    output = train_here(tmp_path / "continued", *longer).stdout
    assert "it continues with 60,40" in output and "resuming after step 80 of 100" in output
    train_here(tmp_path / "whole", *longer)
    assert_same_weights(tmp_path / "whole/saved_model", tmp_path / "continued/saved_model")
    np.testing.assert_array_equal(read_history(tmp_path / "whole"), read_history(tmp_path / "continued"))


def test_a_finished_training_is_not_done_again(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    output = train_here(tmp_path / "copy").stdout
    assert "resuming after step 80 of 80" in output and "step 20" not in output


def test_a_folder_that_holds_another_run_is_not_overwritten(trained):
    result = train_here(trained, "--seed", "7", check=False)
    assert_one_clear_line(result, trained, "--seed 0", "not 7", "--train_dir")


def test_cosine_rates_fall_to_zero_over_each_part(tmp_path):
    output = train_here(tmp_path, "--learning_rate_schedule", "cosine").stdout
    rates = [float(rate) for rate in re.findall(r": rate (\S+),", output)]
    falling = [0.0005 * (1 + np.cos(np.pi * step / 60)) for step in (19, 39, 59)]
    falling.append(0.00005 * (1 + np.cos(np.pi * 19 / 20)))
    np.testing.assert_allclose(rates, falling, rtol=1e-3)


def test_a_flag_spelt_out_with_its_default_is_the_same_run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    train_here(
        tmp_path / "copy", "--speed_change", "0", "--silence_percentage", "10.0", "--time_shift_ms", "100"
    )


# ---- from the weights of a checkpoint ----


def start(checkpoint, folder, *flags, check=True):
    """Train from a checkpoint for one step that hardly changes a weight; what train.py printed."""
    flags = "--how_many_training_steps", "1", "--learning_rate", "1e-6", *flags
    return call_here(
        "train.py", *DATA, "--train_dir", folder, "--start_checkpoint", checkpoint, *flags, check=check
    )


def test_a_training_starts_from_a_checkpoint_and_needs_no_flag_of_its_network(trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "start")
    settings = checkpoints.read_settings(trained / "best")
    sensitivity = Sensitivity(0.5, 1, 0.1)
    detector = DetectorSettings(20, 500, 1000, *3 * [sensitivity])
    checkpoints.write_settings(tmp_path / "start", dataclasses.replace(settings, detector=detector))
    start(tmp_path / "start", tmp_path)
    for ours, theirs in zip(weights(tmp_path / "best"), weights(trained / "best"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)  # Adam's first step is the learning rate
    assert (
        checkpoints.read_settings(tmp_path / "best") == settings
    )  # the detector was chosen for other weights


@pytest.mark.parametrize("batch_norm", [(), ("--batch_norm",)])
def test_the_weights_of_the_start_are_blended_in(trained, tmp_path, batch_norm):
    def end(percentage):
        flags = "--learning_rate", "0.01", "--blend_start", percentage, *batch_norm
        start(trained / "best", tmp_path / percentage, *flags)
        return weights(tmp_path / percentage / "best")

    for before, half, after in zip(weights(trained / "best"), end("50"), end("0"), strict=True):
        assert np.abs(after - before).max() > 0.001
        np.testing.assert_allclose(half, (before + after) / 2, atol=1e-5)


def test_of_other_words_the_start_is_blended_in_but_for_the_last_layer(trained, tmp_path):
    def end(percentage):
        flags = "--wanted_words", "no,bird,yes", "--learning_rate", "0.01", "--blend_start", percentage
        start(trained / "best", tmp_path / percentage, *flags)
        return weights(tmp_path / percentage / "best")

    *halves, half_bias, half_kernel = end("50")
    *ends, bias, kernel = end("0")
    for before, half, after in zip(weights(trained / "best")[:-2], halves, ends, strict=True):
        assert np.abs(after - before).max() > 0.001
        np.testing.assert_allclose(half, (before + after) / 2, atol=1e-5)
    np.testing.assert_array_equal(half_bias, bias)
    np.testing.assert_array_equal(half_kernel, kernel)


def test_for_other_words_the_last_layer_keeps_what_both_have(trained, tmp_path):
    words = "--wanted_words", "no,bird,yes"
    output = start(trained / "best", tmp_path, *words).stdout
    labels, ours = (
        checkpoints.read_settings(trained / "best").labels,
        ("_silence_", "_unknown_", "no", "bird", "yes"),
    )
    dropped = ", ".join(label for label in labels if label not in ours)
    assert f"starting from {trained}/best:\n  hidden_1: kept (250x144 + 144)\n" in output
    kept = "  output: kept for _silence_, _unknown_, no, yes; new, at random, for bird; dropped for "
    assert f"{kept}{dropped}\n" in output
    *hidden, bias, kernel = weights(tmp_path / "best")
    *expected, expected_bias, expected_kernel = weights(trained / "best")
    for value, other in zip(hidden, expected, strict=True):
        np.testing.assert_allclose(value, other, atol=2e-6)
    assert kernel.shape == (144, 5) and bias.shape == (5,)
    for number, label in enumerate(ours):
        if label == "bird":
            assert np.abs(kernel[:, number, None] - expected_kernel).max(axis=0).min() > 0.01
        else:
            place = labels.index(label)
            np.testing.assert_allclose(kernel[:, number], expected_kernel[:, place], atol=2e-6)
            np.testing.assert_allclose(bias[number], expected_bias[place], atol=2e-6)


def test_with_batch_norm_too_a_training_starts_from_a_checkpoint(trained, tmp_path):
    start(trained / "best", tmp_path, "--batch_norm", "--batch_size", "1000")
    features = np.random.default_rng(0).normal(scale=3, size=(50, 250)).astype(np.float32)
    ours, theirs = (models.load(folder / "best").predict(features) for folder in (tmp_path, trained))
    assert np.abs(ours - theirs).mean() < 0.02  # the statistics are of other batches


def test_a_checkpoint_without_settings_starts_what_the_flags_say(trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*.settings.json"):
        file.unlink()
    start(tmp_path / "bare", tmp_path / "train", *DNN_SMALL_FLAGS)
    start(tmp_path / "bare", tmp_path / "two", *DNN_SMALL_FLAGS, "--wanted_words", "yes,no")
    result = start(tmp_path / "bare", tmp_path / "other", check=False)
    assert_one_clear_line(result, tmp_path / "bare", "carries no settings")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--model", "ds_cnn_small"), ("model_architecture", "ds_cnn contradicts dnn")),
        (("--model_size_info", "144", "12"), ("--model_size_info 144 12 contradicts 144 144 144",)),
        (("--dct_coefficient_count", "12"), ("--dct_coefficient_count 12 contradicts 10",)),
        (("--start_checkpoint", "nothing"), ("nothing does not exist",)),
        (
            ("--start_checkpoint", SHIPPED_INT8),
            ("dnn_small_int8.tflite is not a checkpoint: give a checkpoint",),
        ),
    ],
)
def test_a_start_from_another_network_names_what_differs(trained, tmp_path, flags, parts):
    result = start(trained / "best", tmp_path / "train", *flags, check=False)
    assert_one_clear_line(result, *parts)


def test_other_partitions_than_those_of_the_start_are_named(trained, tmp_path):
    output = start(trained / "best", tmp_path, "--testing_percentage", "20").stdout
    assert "was trained with --testing_percentage 10" in output


def test_where_a_run_started_is_part_of_it(trained, tmp_path):
    start(trained / "best", tmp_path)
    assert "resuming after step 1 of 1" in start(trained / "best", tmp_path).stdout
    assert_one_clear_line(
        start(WEIGHTS, tmp_path, check=False), "holds a run with starting weights", "--train_dir"
    )


# ---- the flags of the recipe ----


def test_a_model_trained_with_batch_norm_is_a_plain_one(distilled):
    assert [weight.shape for weight in weights(distilled / "best")] == [
        weight.shape for weight in weights(WEIGHTS)
    ]
    validated = re.findall(r"validation accuracy ([\d.]+) %", (distilled / "output.txt").read_text())
    best = checkpoints.checkpoint_prefix(distilled / "best")
    assert f"_{max(map(float, validated)):05.2f}".replace(".", "") in best
    output = call_here("evaluation.py", "--checkpoint", distilled / "best", *DATA).stdout
    assert f"{max(map(float, validated)):.2f} %" in output


def test_a_taught_model_agrees_with_its_teacher_more_than_another(tmp_path, test_set):
    flags = (
        "--how_many_training_steps 1200,300 --eval_step_interval 1500 --echo_factor 8".split()
    )  # the last is best
    train_here(tmp_path / "teacher", "--seed", "3", *flags)
    train_here(tmp_path / "taught", "--teacher", tmp_path / "teacher" / "best", *flags)
    train_here(tmp_path / "alone", *flags)

    features, _ = test_set

    def scores(name):
        return models.load(tmp_path / name / "best").predict(features)

    far = {name: np.abs(scores(name) - scores("teacher")).sum(1).mean() for name in ("taught", "alone")}
    assert far["taught"] < 0.9 * far["alone"], far


def test_an_interrupted_distillation_resumes_and_ends_as_an_undisturbed_one(distilled, trained, tmp_path):
    flags = ("--teacher", trained / "best", *RECIPE)
    interrupt(training_command(tmp_path, *flags), signal.SIGKILL)
    assert "resuming after" in train_here(tmp_path, *flags).stdout
    assert_same_weights(distilled / "best", tmp_path / "best")


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--teacher", "TRAINED", "--wanted_words", "yes,no"], ["--teacher", "--wanted_words", "yes,no"]),
        (["--teacher", "TRAINED", "--testing_percentage", "5"], ["--teacher", "--testing_percentage 10"]),
        (["--blend_start", "30"], ["--blend_start", "--start_from"]),
        (
            ["--optimizer", "muon", "--model_architecture", "single_fc", "--model_size_info"],
            ["--optimizer muon", "hidden layers"],
        ),
        (["--batch_norm", *TC_RESNET_FLAGS], ["--batch_norm"]),
    ],
    ids=lambda value: " ".join(value[:3]) if value[0].startswith("--") else "",
)
def test_flags_that_do_not_fit_a_teacher_or_a_network(trained, tmp_path, flags, parts):
    flags = [str(trained / "best") if flag == "TRAINED" else flag for flag in flags]
    assert_one_clear_line(train_here(tmp_path, *flags, check=False), *parts)


def test_a_teacher_without_settings_is_taken_to_have_the_students(trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*.settings.json"):
        file.unlink()
    train_here(tmp_path / "train", "--teacher", tmp_path / "bare")
    other = train_here(
        tmp_path / "other", "--teacher", tmp_path / "bare", "--model_size_info", "8", check=False
    )
    assert_one_clear_line(other, tmp_path / "bare", "carries no settings")


# ---- what goes wrong ----


@pytest.mark.parametrize(
    "flags",
    [
        ("--background_volume", "2"),
        ("--silence_percentage", "-1"),
        ("--learning_rate", "0"),
        ("--learning_rate", "0.1,x"),
        ("--batch_size", "0"),
        ("--how_many_training_steps", "100,100,100"),
        ("--model_architecture", "transformer"),
    ],
)
def test_impossible_training_flags_are_errors(flags):
    assert_one_clear_line(call_here("train.py", *flags, check=False), flags[0])


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
    assert_one_clear_line(train_here(tmp_path, *flags, check=False), flags[0])


def test_a_size_that_does_not_fit(tmp_path):
    result = train_here(tmp_path, "--model_size_info", "144", "0", check=False)
    assert_one_clear_line(result, "--model_size_info 144 0", "for example 144 144 144")


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_data_folder_without_recordings(tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "empty":
        folder.mkdir()
    if kind == "file":
        folder.write_text("")
    result = train_here(tmp_path / "train", "--data_url", "", data_dir=folder, check=False)
    assert_one_clear_line(result, folder)


def test_a_wanted_word_without_recordings(tmp_path):
    result = train_here(tmp_path, "--wanted_words", "yes,banana", check=False)
    assert_one_clear_line(result, "no recordings of banana")


def test_a_word_without_clips_to_learn_from(tmp_path):
    shutil.copytree(SAMPLE_DATA, tmp_path / "data")
    for file in (tmp_path / "data" / "yes").iterdir():
        if input_data.which_partition(file.name, 10, 10) == "training":
            file.unlink()
    result = train_here(
        tmp_path / "train", "--wanted_words", "yes,no", data_dir=tmp_path / "data", check=False
    )
    assert_one_clear_line(result, "no clips of yes to learn from")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "asked", "parts"),
    [
        (
            ("on", "off"),
            {},
            ["no clips of _unknown_", "every sound that is not silence", "folders of other words"],
        ),
        (("on", "off", "cat"), {"unknown_percentage": 0}, ["no clips of _unknown_", "--unknown_percentage"]),
        (
            ("on", "off", "cat"),
            {"training_unknown_percentage": 0},
            ["no clips of _unknown_", "a larger --training_unknown_percentage"],
        ),
        (("on", "off", "cat"), {"silence_percentage": 0}, ["no clips of _silence_ to learn from"]),
        (("on", "off", "cat"), {}, []),
    ],
)
def test_a_label_that_nothing_teaches_is_said(tmp_path, capsys, words, asked, parts):
    data = input_data.open_data(
        input_data.DataOptions(data_dir=str(make_words(tmp_path, words)), **asked), ON_OFF
    )
    checks.check_data(data, ON_OFF, tmp_path, Augmentation())
    lines = [line for line in capsys.readouterr().out.splitlines() if "to learn from: the model" in line]
    assert len(lines) == bool(parts) and all(part in lines[0] for part in parts)


@pytest.mark.fast
def test_recordings_longer_than_a_clip_are_counted_in_each_run(tmp_path, capsys):
    make_words(tmp_path)
    for number, seconds in enumerate((1.3, 1.61, 1.65)):
        write_wav(tmp_path / "on" / f"long_nohash_{number}.wav", seconds=seconds)
    for _ in range(2):
        data = input_data.open_data(input_data.DataOptions(data_dir=str(tmp_path)), ON_OFF)
        checks.check_data(data, ON_OFF, tmp_path, Augmentation())
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "longer than a clip" in line]
        words = sum((clips.label >= 2).sum() for clips in (data.training, data.validation, data.testing))
        assert line.startswith(f"3 of {words} recordings of the words")
        assert "--clip_duration_ms 1700" in line


def test_an_empty_partition(tmp_path):
    result = train_here(tmp_path, "--validation_percentage", "0", check=False)
    assert_one_clear_line(result, "no clips for validation")


def test_a_learning_rate_that_diverges(tmp_path):
    result = train_here(tmp_path, "--learning_rate", "3e38,3e38", check=False)
    assert_one_clear_line(result, "diverged", "--learning_rate")


def test_a_damaged_resume_folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    for file in (tmp_path / "copy" / "resume").glob("ckpt*"):
        file.write_bytes(b"damage")
    assert_one_clear_line(
        train_here(tmp_path / "copy", check=False), "resume is damaged or of another version; delete"
    )


def test_a_summaries_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    result = train_here(tmp_path / "train", "--summaries_dir", tmp_path / "file" / "x", check=False)
    assert_one_clear_line(result, "cannot write", tmp_path / "file")


def test_a_training_folder_that_tensorflow_would_take_for_a_pattern(tmp_path):
    assert_one_clear_line(train_here(tmp_path / "t[1]", check=False), "wildcards")


def test_a_first_try_that_failed_does_not_block_the_next(tmp_path):
    train_here(tmp_path, "--learning_rate", "3e38,3e38", check=False)
    assert "step 80 of 80" in train_here(tmp_path).stdout


def test_two_runs_in_one_folder_at_once(tmp_path):
    tmp_path.joinpath("train").mkdir()
    with open(tmp_path / "train" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_clear_line(train_here(tmp_path / "train", check=False), "another run is training in")


def test_a_folder_that_cannot_be_written(trained):
    assert_one_clear_line(train_here(ROOT / "README.md" / "folder", check=False), "README.md")
    output = ROOT / "README.md" / "x.tflite"
    flags = ["--checkpoint", trained / "best", *DATA, "--output", output]
    assert_one_clear_line(call_here("convert_to_tflite.py", *flags, check=False), output)


def test_a_run_with_more_negatives_than_before_is_another_one(tmp_path):
    def train_on_negatives():
        few = (
            "--how_many_training_steps 4 --learning_rate 0.001 --eval_step_interval 4 --batch_size 8".split()
        )
        command = "train.py", *DATA, "--negatives_dir", tmp_path / "wrong", "--train_dir", tmp_path / "train"
        return call_here(*command, *few, check=False)

    (tmp_path / "wrong").mkdir()
    soundfile.write(tmp_path / "wrong" / "1.wav", np.zeros(2 * RATE), RATE)
    assert (
        train_on_negatives().returncode == 0 and "resuming after step 4 of 4" in train_on_negatives().stdout
    )
    soundfile.write(tmp_path / "wrong" / "2.wav", np.zeros(2 * RATE), RATE)
    assert_one_clear_line(train_on_negatives(), "number of windows of negatives", "--train_dir")
