"""The networks: the paper's sizes, and each of them through the whole chain."""

from dataclasses import replace

import numpy as np
import pytest

import models
from conftest import DATA, call
from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.model import checkpoints
from networks import TINY, tiny

# Memory in kB and operations in millions, as printed in the paper (arXiv:1711.07128, tables 3 to 5).
PUBLISHED = {
    "dnn": ((80.0, 0.1588), (199.4, 0.397), (496.6, 0.9902)),
    "cnn": ((79.0, 5.0), (199.4, 17.3), (497.8, 25.3)),
    "basic_lstm": ((63.3, 5.9), (196.5, 18.9), (494.5, 47.9)),
    "lstm": ((79.5, 3.9), (198.6, 19.2), (498.8, 48.4)),
    "gru": ((78.8, 3.8), (200.0, 19.2), (499.7, 48.4)),
    "crnn": ((79.7, 3.0), (199.8, 7.6), (499.5, 19.3)),
    "ds_cnn": ((38.6, 5.4), (189.2, 19.8), (497.6, 56.9)),
}


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_presets_need_the_memory_and_operations_of_the_paper(architecture):
    for size, (kilobytes, millions) in zip(
        ("small", "medium", "large"), PUBLISHED[architecture], strict=True
    ):
        model = models.build_model(Settings(**models.PRESETS[f"{architecture}_{size}"]))
        assert models.memory(model) / 1e3 == pytest.approx(kilobytes, rel=0.012)
        assert models.operations(model) / 1e6 == pytest.approx(millions, rel=0.022)


def test_dnn_small_is_the_papers(dnn_small):
    model = models.build_model(dnn_small)
    assert model.count_params() == 79644
    assert model.input_shape == (None, 250) and model.output_shape == (None, 12)
    assert model.input_names == ["input"]
    scores = checkpoints.keras_predictor(model)(
        np.random.default_rng(0).normal(size=(7, 250)).astype(np.float32)
    )
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_operations_and_memory_of_a_network_counted_by_hand():
    model = models.build_model(tiny("ds_cnn"))
    places = [5 * 10, 3 * 5, 3 * 5]
    first = 4 * 3 * 8 * places[0]
    separable = (9 * 8 + 8 * 8) * places[1] + (9 * 8 + 8 * 10) * places[2]
    assert models.operations(model) == 2 * (first + separable + 10 * 12)
    weights = (96 + 8) + (72 + 8) + (64 + 8) + (72 + 8) + (80 + 10) + (120 + 12)
    assert models.memory(model) == weights + (50 + 15) * 8


def test_tc_resnet_halves_time_in_every_other_block():
    settings = Settings(
        window_size_ms=40,
        window_stride_ms=20,
        model_architecture="tc_resnet",
        model_size_info=(5, 16, 16, 24, 32),
    )
    model = models.build_model(settings)
    frames = [layer.output_shape[1] for layer in model.layers if "add" in layer.name]
    assert frames == [25, 25, 13]
    assert model.output_shape == (None, 12)
    with pytest.raises(UserError, match="tc_resnet: it takes the kernel length"):
        models.build_model(replace(settings, model_size_info=(5, 16)))


@pytest.mark.parametrize("architecture", ["cnn", "lstm", "crnn", "ds_cnn"])
def test_a_network_is_trained_clustered_converted_and_evaluated(architecture, tmp_path):
    flags = [*DATA, "--data_url", "", "--eval_step_interval", "2"]
    network = ["--model_architecture", architecture, "--model_size_info", *TINY[architecture]]
    frames = "--window_size_ms 100 --window_stride_ms 100 --dct_coefficient_count 10".split()
    steps = "--how_many_training_steps 4 --learning_rate 0.001".split()
    trained, clustered, file = tmp_path / "train" / "best", tmp_path / "clustered", tmp_path / "int8.tflite"
    call("train.py", *flags, *network, *frames, *steps, "--train_dir", tmp_path / "train")
    command = ["optimisations.py", "--method", "entropy", *flags, *steps]
    command += ["--checkpoint", trained, "--train_dir", clustered]
    output = call(*command).stdout
    assert "output/kernel " in output
    for layer in checkpoints.read_weights(clustered / "best"):
        for name, values in layer.items():
            assert "kernel" not in name or len(np.unique(values)) <= 32
    command = ["convert_to_tflite.py", *DATA, "--checkpoint", clustered / "best", "--inference_type", "int8"]
    output = call(*command, "--output", file).stdout
    assert "int8.tflite: testing" in output and "N = 480" in output
    output = call("evaluation.py", *DATA, "--tflite_path", file).stdout
    assert "N = 480" in output


# ---- sizes and presets that do not fit ----


@pytest.mark.parametrize("architecture", TINY)
def test_a_size_that_does_not_fit_says_what_is_expected(architecture):
    example = models.ARCHITECTURES[architecture].sizes[0]
    with pytest.raises(UserError, match=f"{architecture}: it takes .*, for example {example}"):
        models.build_model(Settings(model_architecture=architecture, model_size_info=(3, 0, 3)))


def test_layers_and_units_in_the_wrong_order_do_not_fit():
    with pytest.raises(UserError, match="gru: it takes the number of layers and of units in each"):
        models.build_model(Settings(model_architecture="gru", model_size_info=(154, 1)))


def test_a_kernel_larger_than_the_features_does_not_fit():
    for architecture in ("cnn", "crnn"):
        size = (TINY[architecture][0], 11, *TINY[architecture][2:])
        settings = vars(tiny(architecture)) | {"model_size_info": size}
        with pytest.raises(UserError, match=f"does not fit {architecture}"):
            models.build_model(Settings(**settings))


@pytest.mark.parametrize("size", [(), (0,), (144, -1)])
def test_a_size_of_a_dnn_that_does_not_fit_says_what_is_expected(size):
    with pytest.raises(UserError, match="dnn: it takes the number of units .* for example 144 144 144"):
        models.build_model(Settings(model_size_info=size))


def test_a_flag_that_contradicts_the_preset_is_an_error_naming_both():
    result = call("train.py", "--model", "gru_small", "--window_stride_ms", "20", check=False)
    assert result.returncode == 2
    assert "--window_stride_ms 20 contradicts 40, part of --model" in result.stderr


def test_an_unknown_preset_is_an_error_that_lists_the_known():
    result = call("train.py", "--model", "dnn_tiny", check=False)
    assert result.returncode == 2
    assert "dnn_tiny" in result.stderr and "ds_cnn_large" in result.stderr
