"""Each script as a user calls it, on the sample data: what it writes, what it prints, how it fails."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import input_data
from conftest import ROOT, SAMPLE_DATA, WEIGHTS, assert_one_clear_line, call, train, training_command, weights
from kws import checkpoints
from kws.tflite import zipped_size

DATA = ("--data_dir", SAMPLE_DATA)


# ---- train.py ----


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


def interrupt(command, how):
    """Start a training command and send the signal `how` after its first validation; its standard error."""
    script, *arguments = map(str, command)
    running = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    for line in running.stdout:
        if line.startswith("step 20"):
            running.send_signal(how)
            break
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    return errors


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


TC_RESNET = ("--model_architecture", "tc_resnet", "--model_size_info", "3", "8", "8")
RECIPE = (
    *("--batch_norm", "--learning_rate_schedule", "cosine", "--echo_factor", "2", "--speed_change", "10"),
    *("--volume_change_db", "6", "--silence_volume", "0.5", "--training_unknown_percentage", "20"),
)


@pytest.fixture(scope="session")
def distilled(trained, tmp_path_factory):
    """A folder in which train.py has run with every flag of the recipe, taught by the model in `trained`."""
    folder = tmp_path_factory.mktemp("distilled")
    output = train(folder, "--teacher", trained / "best", *RECIPE).stdout
    (folder / "output.txt").write_text(output)
    return folder


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


# ---- optimisations.py ----


def clustering(checkpoint, folder):
    """The command that clusters `checkpoint`, briefly."""
    return [
        *("optimisations.py", "--checkpoint", checkpoint, *DATA, "--train_dir", folder),
        *("--how_many_training_steps", "40,20", "--eval_step_interval", "20"),
    ]


@pytest.fixture(scope="session")
def clustered(trained, tmp_path_factory):
    """A folder in which optimisations.py has run."""
    folder = tmp_path_factory.mktemp("clustered")
    result = call(*clustering(trained / "best", folder))
    (folder / "output.txt").write_text(result.stdout)
    return folder


def test_an_interrupted_clustering_goes_on_and_ends_as_an_undisturbed_one(trained, clustered, tmp_path):
    interrupt(clustering(trained / "best", tmp_path), signal.SIGKILL)
    output = call(*clustering(trained / "best", tmp_path)).stdout
    assert re.search(r"resuming after step (20|40) of 60", output)
    for first, second in zip(weights(clustered / "best"), weights(tmp_path / "best"), strict=True):
        np.testing.assert_array_equal(first, second)


def test_clustering_leaves_at_most_32_values_per_kernel(clustered):
    layers = checkpoints.read_weights(clustered / "best")
    counts = [len(np.unique(layer["kernel"])) for layer in layers]
    assert len(counts) == 4 and max(counts) <= 32
    output = (clustered / "output.txt").read_text()
    assert [int(n) for n in re.findall(r"distinct values of \w+/kernel: (\d+)", output)] == counts


def test_clustering_says_how_good_the_model_was_and_is(clustered):
    output = (clustered / "output.txt").read_text()
    assert re.search(r"testing before clustering, .*accuracy [\d.]+ %.*N = 48", output)
    assert re.search(r"testing after clustering, .*accuracy [\d.]+ %.*N = 48", output)


def test_clustering_fine_tunes(trained, clustered):
    biases = [
        [layer["bias"] for layer in checkpoints.read_weights(folder / "best")]
        for folder in (trained, clustered)
    ]
    assert all((before != after).any() for before, after in zip(*biases, strict=True))


@pytest.mark.parametrize(
    "flags", [["--no-quantize"], ["--inference_type", "int8"], ["--inference_type", "int16"]]
)
def test_clusters_survive_conversion(clustered, tmp_path, flags):
    from ai_edge_litert import schema_py_generated as schema

    path = tmp_path / "x.tflite"
    call("convert_to_tflite.py", "--checkpoint", clustered / "best", *DATA, *flags, "--output", path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    kernels = [
        tensor for tensor in model.subgraphs[0].tensors if len(tensor.shape) == 2 and tensor.shape[0] > 1
    ]
    assert len(kernels) == 4
    for kernel in kernels:
        kind = np.float32 if kernel.type == schema.TensorType.FLOAT32 else np.int8
        values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), kind)
        assert len(values) == np.prod(kernel.shape) and len(np.unique(values)) <= 32


def test_a_clustered_model_is_smaller_when_zipped(trained, clustered, tmp_path):
    sizes = []
    for number, folder in enumerate((trained, clustered)):
        path = tmp_path / f"{number}.tflite"
        call(
            "convert_to_tflite.py", "--checkpoint", folder / "best", *DATA, "--no-quantize", "--output", path
        )
        sizes.append(zipped_size(path.read_bytes()))
    assert sizes[1] < sizes[0] / 3


# ---- convert_to_tflite.py ----


def test_conversion_has_default_names_and_evaluates_what_it_wrote(trained, tmp_path):
    for flags, name in (([], "dnn_quantized.tflite"), (["--no-quantize"], "dnn.tflite")):
        result = call("convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, *flags, cwd=tmp_path)
        size = (tmp_path / name).stat().st_size
        assert f"wrote {name}: {size:,} bytes" in result.stdout
        assert re.search(rf"{name}: testing, .*accuracy [\d.]+ %.*N = 48", result.stdout)


def test_the_same_seed_gives_the_same_file(trained, tmp_path):
    def converted(name, *flags):
        base = ["--checkpoint", trained / "best", *DATA, "--inference_type", "int8"]
        call("convert_to_tflite.py", *base, "--output", tmp_path / name, *flags)
        return (tmp_path / name).read_bytes()

    assert converted("a") == converted("b")


def test_integer_in_and_out_of_a_float_model_is_an_error(trained):
    flags = ["--no-quantize", "--inference_type", "int8"]
    result = call("convert_to_tflite.py", "--checkpoint", trained / "best", *flags, check=False)
    assert_one_clear_line(result, "--no-quantize")


# ---- evaluation.py ----


def test_evaluation_needs_nothing_but_the_model(trained, tmp_path):
    json_file = tmp_path / "report.json"
    result = call("evaluation.py", "--checkpoint", trained / "best", *DATA, "--json", json_file)
    (reports,) = json.loads(json_file.read_text()).values()
    assert [(report["set"].split(",")[0], report["N"]) for report in reports] == [
        ("validation", 48),
        ("testing", 48),
    ]
    for report in reports:
        confusion = np.array(report["confusion"])
        assert report["correct"] == confusion.trace() and report["accuracy"] == confusion.trace() / 48
        assert f"accuracy {100 * report['accuracy']:.2f} %" in result.stdout
        np.testing.assert_allclose(
            [value or 0 for value in report["recall"]], confusion.diagonal() / confusion.sum(1)
        )
    for label in ("_silence_", "_unknown_", "yes", "go"):
        assert re.search(rf"^{label}  .* %", result.stdout, re.M)


def test_training_and_evaluation_give_the_same_figure(trained):
    said = re.search(r"testing, .*: (accuracy .*)", (trained / "output.txt").read_text())[1]
    assert said in call("evaluation.py", "--checkpoint", trained / "best", *DATA).stdout


def test_several_models_end_in_one_table(trained, tmp_path):
    paths = [tmp_path / "float.tflite", tmp_path / "int8.tflite"]
    for path, flags in zip(paths, (["--no-quantize"], ["--inference_type", "int8"]), strict=True):
        call("convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, *flags, "--output", path)
    result = call("evaluation.py", "--checkpoint", trained / "best", "--tflite_path", *paths, *DATA)
    heading, of_checkpoint, *rows = [
        re.split("  +", line) for line in result.stdout.strip().splitlines()[-len(paths) - 2 :]
    ]
    assert heading[:5] == ["model", "bytes", "zipped", "parameters", "MACs"]
    assert heading[5:] == ["validation", "testing", "agreement"]
    assert of_checkpoint[3:5] == ["79,644", "79,200"] and of_checkpoint[-1] == "100.00 %"
    for path, row in zip(paths, rows, strict=True):
        content = path.read_bytes()
        assert row[:3] == [str(path), f"{len(content):,}", f"{zipped_size(content):,}"]
        assert row[3:5] == of_checkpoint[3:5]
        assert 80 < float(row[-1].removesuffix(" %")) <= 100
    assert rows[0][-3:] == [*of_checkpoint[-3:-1], "100.00 %"]


def test_a_tflite_file_is_evaluated_without_tensorflow(tmp_path):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "sys.exit('tensorflow' in sys.modules)"
    )
    shipped = ROOT / "model_archive" / "TFLite" / "tflite_int8" / "dnn_small_int8.tflite"
    command = [sys.executable, "-c", code, "evaluation.py", "--tflite_path", shipped, *DATA]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)


def test_a_folder_laid_out_like_the_canonical_test_set_is_evaluated(trained, tmp_path):
    labels = {"_unknown_": "tree", "_silence_": "_background_noise_", "yes": "yes", "no": "no"}
    for label, word in labels.items():
        shutil.copytree(SAMPLE_DATA / word, tmp_path / label)
    result = call("evaluation.py", "--checkpoint", trained / "best", "--test_dir", tmp_path, *DATA)
    assert re.search(rf"test_dir, the clips in {tmp_path.name}: accuracy .*, N = 75", result.stdout)
    assert "no recordings of up, down" in result.stderr


# ---- bad input ----


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


# ---- recreate_model.sh ----


def recreate(*arguments, repository=ROOT, cwd=ROOT, **variables):
    """Run the repository's recreate_model.sh in the environment of the tests, and `variables`."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    command = ["bash", str(repository / "recreate_model.sh"), *map(str, arguments)]
    environment = os.environ | {"PATH": path} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(
    "arguments",
    [["--trian"], ["extra"], ["--ckpt"], ["--train", "--ckpt", "x"], ["--data_dir", "/nothing/there"]],
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
    recipe = copy / "recipes" / "cluster.txt"
    assert "--how_many_training_steps 8000" in recipe.read_text()
    recipe.write_text(
        recipe.read_text().replace("--how_many_training_steps 8000", "--how_many_training_steps 60")
    )
    flags = ("--data_dir", "my words", "--ckpt", "my checkpoint")
    result = recreate(*flags, repository=copy, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"== cluster {tmp_path}/my checkpoint" in result.stdout
    assert "SAY NOTHING" not in result.stdout
    assert (
        len(
            re.findall(
                r"^work/recreated/my words-\d+/from_my checkpoint-\d+/dnn\S*\.tflite ", result.stdout, re.M
            )
        )
        == 4
    )


def test_recreate_model_trains_another_network_of_the_paper(tmp_path):
    copy = copy_of_the_repository(tmp_path)
    script = (copy / "recreate_model.sh").read_text()
    shorter, changed = re.subn(r"\$\(short \d+\)", "$(short 20)", script)
    assert changed == 6
    (copy / "recreate_model.sh").write_text(shorter)
    nowhere = "http://127.0.0.1:9"
    flags = ("--train", "--model", "cnn_small")
    result = recreate(*flags, repository=copy, cwd=copy, http_proxy=nowhere, HTTP_PROXY=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "== train the teacher" in result.stdout and "== quantize" not in result.stdout
    tables = re.findall(r"^work/recreated/sample_data/cnn_small/trained/(\S+)\.tflite  ", result.stdout, re.M)
    assert tables == ["cnn", "cnn_quantized", "cnn_clustered", "cnn_clustered_quantized"]


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


def copy_of_the_repository(tmp_path):
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "work", "data", "__pycache__", ".p*_cache", ".r*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.mark.parametrize("flags", [[], ["--train"]], ids=["from the shipped weights", "--train"])
def test_recreate_model_without_data_or_network_runs_on_sample_data_and_says_so(tmp_path, flags):
    copy = copy_of_the_repository(tmp_path)
    nowhere = "http://127.0.0.1:9"
    result = recreate(*flags, repository=copy, cwd=copy, http_proxy=nowhere, HTTP_PROXY=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    warning = "THESE FIGURES SAY NOTHING ABOUT THE MODEL"
    assert result.stdout.count(warning) == 2
    assert result.stdout.index(warning) < result.stdout.index("== cluster")
    assert result.stdout.rindex(warning) > result.stdout.index("dnn_clustered_quantized.tflite")
    table = [line.split() for line in result.stdout.splitlines() if re.match(r"work/\S+\.tflite  ", line)]
    sizes = {row[0].split("/")[-1]: int(row[1].replace(",", "")) for row in table}
    assert list(sizes) == [
        "dnn.tflite",
        "dnn_quantized.tflite",
        "dnn_clustered.tflite",
        "dnn_clustered_quantized.tflite",
    ]
    assert sizes["dnn_quantized.tflite"] <= 84_000
    if flags:
        command = re.search(r"to convert it: +python (.*)", result.stdout)[1].split()
        call(copy / command[0], *command[1:], cwd=copy)
    else:
        (shipped,) = WEIGHTS.glob("*.index")
        assert "== cluster model_archive/model_source/weights" in result.stdout and shipped.exists()
