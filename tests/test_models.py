"""The networks: the published sizes, and each of them through the whole chain."""

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import convert_to_tflite
import models
from conftest import FLOAT32_TOLERANCE, SAMPLE_DATA, call
from kws import batch_norm, checkpoints
from kws.cli import UserError
from kws.settings import Settings, SettingsFlags
from kws.tflite import TFLiteModel, embed_settings, operator_names

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
# Of each network a small one, on ten frames of ten coefficients.
TINY = {
    "single_fc": (),
    "dnn": (8, 8),
    "cnn": (4, 3, 3, 1, 1, 6, 3, 3, 2, 1, 5, 8),
    "basic_lstm": (6,),
    "lstm": (5, 7),
    "gru": (2, 6),
    "crnn": (4, 3, 4, 2, 2, 2, 6, 8),
    "ds_cnn": (3, 8, 4, 3, 2, 1, 8, 3, 3, 2, 2, 10, 3, 3, 1, 1),
    "tc_resnet": (3, 8, 8),
}


def tiny(architecture):
    return Settings(
        window_size_ms=100,
        window_stride_ms=100,
        dct_coefficient_count=10,
        model_architecture=architecture,
        model_size_info=TINY[architecture],
    )


def features(settings, count, seed=0):
    shape = count, settings.feature_count
    return np.random.default_rng(seed).normal(scale=3, size=shape).astype(np.float32)


def with_random_weights(model):
    """`model` with weights such that batch normalisation and biases do something."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.1, 0.3, value.shape) * np.where(value.ndim > 1, rng.choice([-1, 1], value.shape), 1)
            for value in model.get_weights()
        ]
    )
    return model


def network(architecture, clips):
    """Settings and model of `tiny(architecture)`, features of some clips, and their scores."""
    settings = tiny(architecture)
    model = with_random_weights(models.build_model(settings))
    given = features(settings, clips)
    return settings, model, given, checkpoints.keras_predictor(model)(given)


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_presets_need_the_memory_and_operations_of_the_paper(architecture):
    for size, (kilobytes, millions) in zip(
        ("small", "medium", "large"), PUBLISHED[architecture], strict=True
    ):
        model = models.build_model(Settings(**models.PRESETS[f"{architecture}_{size}"]))
        assert models.memory(model) / 1e3 == pytest.approx(kilobytes, rel=0.012)
        assert models.operations(model) / 1e6 == pytest.approx(millions, rel=0.022)


def test_operations_and_memory_of_a_network_counted_by_hand():
    model = models.build_model(tiny("ds_cnn"))
    places = [5 * 10, 3 * 5, 3 * 5]
    first = 4 * 3 * 8 * places[0]
    separable = (9 * 8 + 8 * 8) * places[1] + (9 * 8 + 8 * 10) * places[2]
    assert models.operations(model) == 2 * (first + separable + 10 * 12)
    weights = (96 + 8) + (72 + 8) + (64 + 8) + (72 + 8) + (80 + 10) + (120 + 12)
    assert models.memory(model) == weights + (50 + 15) * 8


@pytest.mark.parametrize("architecture", ["cnn", "lstm", "crnn", "ds_cnn"])
def test_a_network_is_trained_clustered_converted_and_evaluated(architecture, tmp_path):
    flags = ["--data_dir", SAMPLE_DATA, "--data_url", "", "--eval_step_interval", "2"]
    network = ["--model_architecture", architecture, "--model_size_info", *TINY[architecture]]
    frames = ["--window_size_ms", "100", "--window_stride_ms", "100", "--dct_coefficient_count", "10"]
    steps = ["--how_many_training_steps", "4", "--learning_rate", "0.001"]
    call("train.py", *flags, *network, *frames, *steps, "--train_dir", tmp_path / "train")
    output = call(
        "optimisations.py",
        *flags,
        *steps,
        "--checkpoint",
        tmp_path / "train" / "best",
        "--train_dir",
        tmp_path / "clustered",
    ).stdout
    assert "distinct values of output/kernel: " in output
    for layer in checkpoints.read_weights(tmp_path / "clustered" / "best"):
        for name, values in layer.items():
            assert "kernel" not in name or len(np.unique(values)) <= 32
    output = call(
        "convert_to_tflite.py",
        "--data_dir",
        SAMPLE_DATA,
        "--checkpoint",
        tmp_path / "clustered" / "best",
        "--inference_type",
        "int8",
        "--output",
        tmp_path / "int8.tflite",
    ).stdout
    assert "int8.tflite: testing" in output and "N = 48" in output
    output = call(
        "evaluation.py", "--data_dir", SAMPLE_DATA, "--tflite_path", tmp_path / "int8.tflite"
    ).stdout
    assert "N = 48" in output


@pytest.mark.parametrize("architecture", TINY)
def test_a_tflite_file_computes_what_the_network_does_with_integers_alone(architecture, tmp_path):
    settings, model, given, expected = network(architecture, clips=40)
    assert expected.std() > 0.005
    for kind, tolerance in (("fp32", 1e-5), ("int8", 0.2), ("int16", 0.05)):
        calibration = None if kind == "fp32" else given
        content = convert_to_tflite.convert(model, settings, calibration, kind)
        path = tmp_path / f"{kind}.tflite"
        path.write_bytes(embed_settings(content, settings))
        loaded = TFLiteModel(path)
        assert loaded.settings == settings
        np.testing.assert_allclose(loaded.predict(given), expected, atol=tolerance)
        np.testing.assert_array_equal(loaded.predict(given[:7]), loaded.predict(given[:7]))
        row_by_row = np.concatenate([loaded.predict(row[None]) for row in given])
        rounding = FLOAT32_TOLERANCE if kind == "fp32" else 0
        np.testing.assert_allclose(loaded.predict(given), row_by_row, atol=rounding)
        cost = loaded.cost()
        assert cost.parameters == pytest.approx(
            sum(weight.shape.num_elements() for weight in model.weights), rel=0.25
        )
        assert cost.macs == pytest.approx(models.operations(model) / 2, rel=0.11)  # frame 0 has no state
        graph = schema.ModelT.InitFromPackedBuf(path.read_bytes())
        assert not {"CUSTOM", "WHILE", "IF", "CALL_ONCE"} & set(operator_names(path.read_bytes()))
        assert all(len(tensor.shapeSignature or ()) == 0 for tensor in graph.subgraphs[0].tensors)
        types = {tensor.type for tensor in graph.subgraphs[0].tensors}
        assert (schema.TensorType.FLOAT32 in types) == (kind == "fp32")


@pytest.mark.parametrize("architecture", ["cnn", "ds_cnn", "tc_resnet"])
def test_settled_batch_norm_changes_no_score_and_leaves_kernels_as_they_are(architecture):
    settings, model, given, expected = network(architecture, clips=20)
    batch_norm.fold_batch_norm_in_place(model)
    np.testing.assert_allclose(checkpoints.keras_predictor(model)(given), expected, atol=FLOAT32_TOLERANCE)
    for layer in model.layers:
        for kernel in models.kernels(layer):
            kernel.assign(np.round(kernel, 1))
    distinct = {len(np.unique(kernel)) for layer in model.layers for kernel in models.kernels(layer)}
    content = convert_to_tflite.convert(model, settings, None, "fp32")
    graph = schema.ModelT.InitFromPackedBuf(content)
    stored = [
        np.unique(np.frombuffer(bytes(graph.buffers[tensor.buffer].data), np.float32))
        for tensor in graph.subgraphs[0].tensors
        if len(tensor.shape) > 1 and graph.buffers[tensor.buffer].data is not None
    ]
    assert {len(values) for values in stored} == distinct


@pytest.mark.parametrize("architecture", TINY)
def test_a_size_that_does_not_fit_says_what_is_expected(architecture):
    example = models.ARCHITECTURES[architecture].example
    with pytest.raises(UserError, match=f"{architecture}: it takes .*, for example {example}"):
        models.build_model(Settings(model_architecture=architecture, model_size_info=(3, 0, 3)))


@pytest.mark.parametrize("architecture", TINY)
def test_every_form_of_a_network_gives_the_same_scores(architecture, tmp_path):
    settings, model, given, expected = network(architecture, clips=10)
    checkpoints.save_checkpoint(model, settings, tmp_path / "checkpoint")
    checkpoints.export_saved_model(model, settings, tmp_path / "saved_model")
    for form in ("checkpoint", "saved_model"):
        loaded, stored = checkpoints.load_checkpoint(tmp_path / form)
        assert stored == settings
        np.testing.assert_array_equal(checkpoints.keras_predictor(loaded)(given), expected)


def test_layers_and_units_in_the_wrong_order_do_not_fit():
    with pytest.raises(UserError, match="gru: it takes the number of layers and of units in each"):
        models.build_model(Settings(model_architecture="gru", model_size_info=(154, 1)))


def test_a_kernel_larger_than_the_features_does_not_fit():
    for architecture in ("cnn", "crnn"):
        size = (TINY[architecture][0], 11, *TINY[architecture][2:])
        settings = vars(tiny(architecture)) | {"model_size_info": size}
        with pytest.raises(UserError, match=f"does not fit {architecture}"):
            models.build_model(Settings(**settings))


def test_a_flag_that_contradicts_the_preset_is_an_error_naming_both():
    result = call("train.py", "--model", "gru_small", "--window_stride_ms", "20", check=False)
    assert result.returncode == 2
    assert "--window_stride_ms 20 contradicts 40, part of --model" in result.stderr


def test_an_unknown_preset_is_an_error_that_lists_the_known():
    result = call("train.py", "--model", "dnn_tiny", check=False)
    assert result.returncode == 2
    assert "dnn_tiny" in result.stderr and "ds_cnn_large" in result.stderr


def test_the_lstm_has_peepholes_and_a_projection():
    """Against the equations of arXiv:1402.1128, one clip and gate at a time."""
    settings = tiny("lstm")
    model = with_random_weights(models.build_model(settings))
    kernel, recurrent, bias, peepholes, projection = model.layers[2].get_weights()
    (clip,) = features(settings, 1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def gate(number, frame, output):
        part = slice(7 * number, 7 * number + 7)
        return frame @ kernel[:, part] + output @ recurrent[:, part] + bias[part]

    cells, output = np.zeros(7), np.zeros(5)
    for frame in clip.reshape(10, 10):
        into, kept = gate(0, frame, output), gate(1, frame, output)
        candidate, out = np.tanh(gate(2, frame, output)), gate(3, frame, output)
        kept = sigmoid(kept + peepholes[7:14] * cells)
        cells = kept * cells + sigmoid(into + peepholes[:7] * cells) * candidate
        output = (sigmoid(out + peepholes[14:] * cells) * np.tanh(cells)) @ projection
    from kws.quiet_tf import keras

    of_lstm = keras.Model(model.input, model.layers[2].output)(clip[None])
    np.testing.assert_allclose(of_lstm[0], output, rtol=1e-4)


def original(architecture, keras):
    """The layers with weights of the original package's networks, in order, for `tiny(architecture)`."""
    layers = keras.layers

    def normalised(layer):
        return [layer, layers.BatchNormalization(), layers.ReLU()]

    image, last = layers.Reshape((10, 10, 1)), layers.Dense(12, activation="softmax")
    return {
        "single_fc": lambda: [last],
        "dnn": lambda: [layers.Dense(8, "relu"), layers.Dense(8, "relu"), last],
        "cnn": lambda: [
            image,
            *normalised(layers.Conv2D(4, (3, 3))),
            *normalised(layers.Conv2D(6, (3, 3), (2, 1))),
            *(layers.Flatten(), layers.Dense(5)),
            *normalised(layers.Dense(8)),
            last,
        ],
        "basic_lstm": lambda: [layers.Reshape((10, 10)), layers.LSTM(6), last],
        "ds_cnn": lambda: [
            image,
            *normalised(layers.Conv2D(8, (4, 3), (2, 1), "same")),
            *normalised(layers.DepthwiseConv2D((3, 3), (2, 2), "same")),
            *normalised(layers.Conv2D(8, 1)),
            *normalised(layers.DepthwiseConv2D((3, 3), padding="same")),
            *normalised(layers.Conv2D(10, 1)),
            *(layers.GlobalAveragePooling2D(), last),
        ],
    }[architecture]()


@pytest.mark.parametrize("architecture", ["single_fc", "dnn", "cnn", "basic_lstm", "ds_cnn"])
def test_a_checkpoint_of_the_original_package_loads_with_flags(architecture, tmp_path):
    from kws.quiet_tf import keras

    settings = tiny(architecture)
    inputs = keras.Input((settings.feature_count,), name="input")
    theirs = with_random_weights(keras.Sequential([inputs, *original(architecture, keras)]))
    theirs.save_weights(str(tmp_path / "theirs.ckpt"))
    ours, _ = checkpoints.load_checkpoint(tmp_path / "theirs.ckpt", SettingsFlags(vars(settings)))
    clips = features(settings, 20)
    np.testing.assert_allclose(checkpoints.keras_predictor(ours)(clips), theirs(clips), atol=1e-5)


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


def test_folding_batch_norm_keeps_what_the_network_computes(dnn_small):
    rng = np.random.default_rng(0)
    seen = rng.normal(3, 20, (500, 250)).astype(np.float32)
    trained = batch_norm.with_batch_norm(models.build_model(dnn_small), seen)
    for layer in trained.layers[2:]:
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    folded = batch_norm.fold_batch_norm_into_plain_model(trained, dnn_small)
    plain = models.build_model(dnn_small)
    assert list(map(type, folded.layers)) == list(map(type, plain.layers))
    features = rng.normal(scale=20, size=(20, 250)).astype(np.float32)
    for layer in (trained.layers[-1], folded.layers[-1]):  # scores would be 0 or 1: compare what they are of
        layer.activation = lambda logits: logits
    expected = trained(features).numpy()
    np.testing.assert_allclose(folded(features).numpy(), expected, rtol=1e-4)
    assert expected.std() > 0


def test_batch_norm_around_other_layers_is_an_error():
    settings = Settings(model_architecture="tc_resnet", model_size_info=(3, 8, 8))
    with pytest.raises(UserError, match="--batch_norm"):
        batch_norm.with_batch_norm(models.build_model(settings), np.zeros((2, settings.feature_count)))


def test_dnn_small_is_the_papers(dnn_small):
    model = models.build_model(dnn_small)
    assert model.count_params() == 79644
    assert model.input_shape == (None, 250) and model.output_shape == (None, 12)
    assert model.input_names == ["input"]
    scores = checkpoints.keras_predictor(model)(
        np.random.default_rng(0).normal(size=(7, 250)).astype(np.float32)
    )
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(), (0,), (144, -1)])
def test_an_impossible_size_of_a_dnn_says_what_is_expected(size):
    with pytest.raises(UserError, match="dnn: it takes the number of units .* for example 144 144 144"):
        models.build_model(Settings(model_size_info=size))
