"""train.py as a user calls it, on the sample data."""

import re
import shutil
import signal

import numpy as np
import pytest

import input_data
from conftest import (
    DATA,
    RECIPE,
    TC_RESNET,
    WEIGHTS,
    assert_one_clear_line,
    call,
    clustering,
    interrupt,
    train,
    training_command,
    weights,
)
from kws import checkpoints


def test_training_says_how_good_the_best_checkpoint_is_and_where(trained):
    output = (trained / "output.txt").read_text()
    steps = [int(step) for step in re.findall(r"^step (\d+) of 80", output, re.M)]
    assert steps == [20, 40, 60, 80]
    assert [float(rate) for rate in re.findall(r"rate ([\d.e-]+),", output)] == [1e-3, 1e-3, 1e-3, 1e-4]
    assert re.search(r"testing, paper protocol .*: accuracy [\d.]+ % .*N = 48", output)
    validated = [float(v) for v in re.findall(r"validation accuracy ([\d.]+) %", output)]
    (index,) = (trained / "best").glob("*.index")
    name = re.search(r"best checkpoint: .*/(dnn_(\d{4})\.ckpt-(\d+))$", output, re.M)
    assert index.stem == name[1]
    assert int(name[2]) == round(100 * max(validated)) and int(name[3]) == steps[np.argmax(validated)]


def test_training_learns_something(trained):
    output = (trained / "output.txt").read_text()
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]
    assert losses[-1] < losses[0] / 2


def test_training_writes_summaries_for_tensorboard(trained):
    from kws.quiet_tf import tf

    (events,) = (trained / "summaries").glob("events.out.tfevents.*")
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    expected = {"loss", "accuracy/training", "accuracy/validation", "learning_rate"}
    assert found == dict.fromkeys(expected, [20, 40, 60, 80])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    train(tmp_path / "again")
    for first, second in zip(
        weights(trained / "saved_model"), weights(tmp_path / "again/saved_model"), strict=True
    ):
        np.testing.assert_array_equal(first, second)
    train(tmp_path / "other", "--seed", "1")
    assert (weights(tmp_path / "other/saved_model")[1] != weights(trained / "saved_model")[1]).any()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_goes_on_and_ends_as_an_undisturbed_one(trained, tmp_path, how):
    errors = interrupt(training_command(tmp_path), how)
    assert how == signal.SIGKILL or "run the same command to resume" in errors
    output = train(tmp_path).stdout
    assert re.search(r"resuming after step (20|40) of 80", output)
    for first, second in zip(
        weights(trained / "saved_model"), weights(tmp_path / "saved_model"), strict=True
    ):
        np.testing.assert_array_equal(first, second)


def test_a_single_learning_rate_and_an_odd_number_of_steps(tmp_path):
    flags = ("--how_many_training_steps", "25", "--learning_rate", "0.002")
    output = train(tmp_path, *flags).stdout
    assert re.findall(r"^step (\d+) of 25: rate ([\d.]+)", output, re.M) == [("20", "0.002"), ("25", "0.002")]


def test_a_finished_training_is_not_done_again(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    output = train(tmp_path / "copy").stdout
    assert "resuming after step 80 of 80" in output and "step 20" not in output


def test_a_folder_that_holds_another_run_is_not_overwritten(trained):
    result = train(trained, "--seed", "7", check=False)
    assert_one_clear_line(result, trained, "--seed 0", "not 7", "--train_dir")


def test_cosine_rates_fall_to_zero_over_each_part(tmp_path):
    output = train(tmp_path, "--learning_rate_schedule", "cosine").stdout
    rates = [float(rate) for rate in re.findall(r": rate (\S+),", output)]
    falling = [0.0005 * (1 + np.cos(np.pi * step / 60)) for step in (19, 39, 59)]
    falling.append(0.00005 * (1 + np.cos(np.pi * 19 / 20)))
    np.testing.assert_allclose(rates, falling, rtol=1e-3)


def test_a_model_trained_with_batch_norm_is_a_plain_one(distilled):
    assert [weight.shape for weight in weights(distilled / "best")] == [
        weight.shape for weight in weights(WEIGHTS)
    ]
    validated = re.findall(r"validation accuracy ([\d.]+) %", (distilled / "output.txt").read_text())
    best = checkpoints.checkpoint_prefix(distilled / "best")
    assert f"_{max(map(float, validated)):05.2f}".replace(".", "") in best
    output = call("evaluation.py", "--checkpoint", distilled / "best", *DATA).stdout
    assert f"{max(map(float, validated)):.2f} %" in output


def test_a_taught_model_agrees_with_its_teacher_more_than_another(tmp_path, data_options, dnn_small):
    flags = ("--how_many_training_steps", "1200,300", "--eval_step_interval", "1500")  # the last is the best
    train(tmp_path / "teacher", "--seed", "3", *flags)
    train(tmp_path / "taught", "--teacher", tmp_path / "teacher" / "best", "--temperature", "2", *flags)
    train(tmp_path / "alone", *flags)

    data = input_data.open_data(data_options(), dnn_small)
    features = input_data.features(data.testing, dnn_small.front_end)

    def scores(name):
        return checkpoints.load(tmp_path / name / "best").predict(features)

    far = {name: np.abs(scores(name) - scores("teacher")).sum(1).mean() for name in ("taught", "alone")}
    assert far["taught"] < 0.9 * far["alone"], far


def test_an_interrupted_distillation_goes_on_and_ends_as_an_undisturbed_one(distilled, trained, tmp_path):
    flags = ("--teacher", trained / "best", *RECIPE)
    interrupt(training_command(tmp_path, *flags), signal.SIGKILL)
    assert "resuming after" in train(tmp_path, *flags).stdout
    for first, second in zip(weights(distilled / "best"), weights(tmp_path / "best"), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--teacher", "TRAINED", "--wanted_words", "yes,no"], ["--teacher", "--wanted_words", "yes,no"]),
        (["--teacher", "TRAINED", "--testing_percentage", "5"], ["--teacher", "--testing_percentage 10"]),
        (["--temperature", "2"], ["--temperature", "--teacher"]),
        (["--optimizer", "muon", *TC_RESNET], ["--optimizer muon", "hidden layers"]),
        (["--batch_norm", *TC_RESNET], ["--batch_norm"]),
    ],
    ids=lambda value: " ".join(value[:3]) if value[0].startswith("--") else "",
)
def test_flags_that_do_not_fit_a_teacher_or_a_network(trained, tmp_path, flags, parts):
    flags = [str(trained / "best") if flag == "TRAINED" else flag for flag in flags]
    assert_one_clear_line(train(tmp_path, *flags, check=False), *parts)


def test_a_teacher_without_settings_is_taken_to_have_the_students(trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*.settings.json"):
        file.unlink()
    train(tmp_path / "train", "--teacher", tmp_path / "bare")
    other = train(tmp_path / "other", "--teacher", tmp_path / "bare", "--model_size_info", "8", check=False)
    assert_one_clear_line(other, tmp_path / "bare", "carries no settings")


def test_a_flag_spelt_out_with_its_default_is_the_same_run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    train(tmp_path / "copy", "--speed_change", "0", "--silence_percentage", "10.0", "--time_shift_ms", "100")


def test_a_convolutional_network_is_trained_and_clustered(tmp_path):
    output = train(tmp_path / "train", *TC_RESNET, "--how_many_training_steps", "60,2").stdout
    assert "step 62 of 62" in output
    command = clustering(tmp_path / "train" / "best", tmp_path / "clustered")
    output = call(*command, "--how_many_training_steps", "2,1").stdout
    assert "distinct values of output/kernel" in output
