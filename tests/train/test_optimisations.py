"""optimisations.py as a user calls it, and what clusters are worth after conversion."""

import dataclasses
import re
import shutil
import signal

import numpy as np
import pytest

from conftest import (
    DATA,
    TC_RESNET_FLAGS,
    assert_one_clear_line,
    assert_same_weights,
    call,
    call_here,
    interrupt,
    made_once,
    train,
    weights,
)
from kws.base.settings import DetectorSettings, Sensitivity
from kws.model import checkpoints
from kws.model.tflite import zipped_size
from networks import TINY


def optimising(checkpoint, folder, *flags):
    """Return the command that clusters `checkpoint`, or does what the flags say, briefly."""
    brief = "--how_many_training_steps 40,20 --eval_step_interval 20".split()
    return ["optimisations.py", "--checkpoint", checkpoint, *DATA, "--train_dir", folder, *brief, *flags]


@pytest.fixture(scope="session")
def clustered(trained, tmp_path_factory):
    """Return a folder in which optimisations.py has run."""

    def make(folder):
        (folder / "output.txt").write_text(call(*optimising(trained / "best", folder)).stdout)

    return made_once(tmp_path_factory, "clustered", make)


def test_clustering_leaves_at_most_32_values_per_kernel(clustered):
    layers = checkpoints.read_weights(clustered / "best")
    counts = [len(np.unique(layer["kernel"])) for layer in layers]
    assert len(counts) == 4 and max(counts) <= 32
    output = (clustered / "output.txt").read_text()
    assert [int(n) for n in re.findall(r"\w+/kernel (\d+)", output)] == counts


def test_clustering_says_how_good_the_model_was_and_is(clustered):
    output = (clustered / "output.txt").read_text()
    assert re.search(r"testing before clustering, .*accuracy [\d.]+ %.*N = 480", output)
    assert re.search(r"testing after clustering, .*accuracy [\d.]+ %.*N = 480", output)


def test_clustering_fine_tunes(trained, clustered):
    biases = [
        [layer["bias"] for layer in checkpoints.read_weights(folder / "best")]
        for folder in (trained, clustered)
    ]
    assert all((before != after).any() for before, after in zip(*biases, strict=True))


@pytest.mark.parametrize(
    ("start", "flags"),
    [
        ("trained", ["--method", "clustering"]),
        ("trained", ["--method", "pruning", "--sparsity", "40"]),
        ("trained", ["--method", "entropy"]),
        ("clustered", ["--method", "cqat"]),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "from",
)
def test_an_interrupted_run_resumes_and_ends_as_an_undisturbed_one(start, flags, request, tmp_path):
    checkpoint = request.getfixturevalue(start) / "best"
    call(*optimising(checkpoint, tmp_path / "undisturbed", *flags))
    interrupt(optimising(checkpoint, tmp_path / "resumed", *flags), signal.SIGKILL)
    output = call(*optimising(checkpoint, tmp_path / "resumed", *flags)).stdout
    assert re.search(r"resuming after step (20|40) of 60", output)
    assert_same_weights(tmp_path / "undisturbed" / "best", tmp_path / "resumed" / "best")


def test_another_number_of_clusters_is_another_run(clustered, trained):
    result = call(*optimising(trained / "best", clustered, "--clusters", "8"), check=False)
    assert_one_clear_line(result, "--clusters 32", "not 8")


def test_a_convolutional_network_is_trained_and_clustered(tmp_path):
    output = train(tmp_path / "train", *TC_RESNET_FLAGS, "--how_many_training_steps", "60,2").stdout
    assert "step 62 of 62" in output
    command = optimising(tmp_path / "train" / "best", tmp_path / "clustered")
    output = call(*command, "--how_many_training_steps", "2,1").stdout
    assert "output/kernel " in output


def test_a_kernel_that_tfmot_does_not_cluster_is_named(tmp_path):
    network = ["--model_architecture", "ds_cnn", "--model_size_info", *map(str, TINY["ds_cnn"])]
    frames = "--window_size_ms 100 --window_stride_ms 100 --dct_coefficient_count 10".split()
    brief = "--how_many_training_steps 2 --learning_rate 0.001".split()
    call("train.py", *DATA, *network, *frames, *brief, "--train_dir", tmp_path / "train")
    command = optimising(tmp_path / "train" / "best", tmp_path / "clustered", *brief, "--clusters", "4")
    output = call(*command).stdout
    assert re.search(r"depthwise_conv2d\S* \d+ \(which [^)]* leaves as it is\)", output), output
    assert "output/kernel 4\n" in output


def test_a_checkpoint_without_clusters_cannot_keep_them(trained, tmp_path):
    result = call(*optimising(trained / "best", tmp_path, "--method", "cqat"), check=False)
    assert_one_clear_line(result, "hidden_1", "--method clustering")


def test_thresholds_that_were_chosen_for_the_weights_before_are_left_out(trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "start")
    settings = checkpoints.read_settings(trained / "best")
    detector = DetectorSettings(20, 500, 1000, *3 * [Sensitivity(0.5, 1, 0.1)])
    checkpoints.write_settings(tmp_path / "start", dataclasses.replace(settings, detector=detector))
    brief = "--how_many_training_steps 2 --learning_rate 0.001 --method entropy".split()
    output = call_here(*optimising(tmp_path / "start", tmp_path / "after"), *brief).stdout
    assert f"the thresholds in {tmp_path / 'start'} were chosen for its weights" in output
    assert checkpoints.read_settings(tmp_path / "after" / "best") == settings


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


def test_a_clustered_model_is_smaller_when_zipped_and_smallest_with_few_bits(trained, clustered, tmp_path):
    call(*optimising(trained / "best", tmp_path / "entropy", "--method", "entropy"))
    sizes = []
    for number, folder in enumerate((trained, clustered, tmp_path / "entropy")):
        path = tmp_path / f"{number}.tflite"
        call(
            "convert_to_tflite.py", "--checkpoint", folder / "best", *DATA, "--no-quantize", "--output", path
        )
        sizes.append(zipped_size(path.read_bytes()))
    assert sizes[1] < sizes[0] / 3
    assert sizes[2] < 0.95 * sizes[1]


@pytest.mark.parametrize("script", ["optimisations.py", "train.py"])
def test_what_training_has_too_much_of_is_taken_from_the_bias_of_unknown(trained, tmp_path, script):
    def end(folder, *flags):
        start = {"optimisations.py": "--checkpoint", "train.py": "--start_from"}[script], trained / "best"
        brief = "--how_many_training_steps 20 --learning_rate 0.003 --training_unknown_percentage 30".split()
        method = ["--method", "quantization"] if script == "optimisations.py" else []
        call_here(script, *start, *DATA, *method, *brief, *flags, "--train_dir", tmp_path / folder)
        return weights(tmp_path / folder / "best")

    for before, after in zip(end("plain"), end("corrected", "--prior_correction"), strict=True):
        if before.shape == (12,):
            assert after[1] - before[1] == pytest.approx(np.log(10 / 30), abs=0.15)  # clips are counted whole
            before[1] = after[1]
        np.testing.assert_array_equal(before, after)
