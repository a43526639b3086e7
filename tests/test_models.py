"""Models and the forms they travel in: checkpoint, SavedModel, .keras file, TFLite file."""

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import input_data
import models
from conftest import DNN_SMALL_FLAGS, FLOAT32_TOLERANCE, SAMPLE_DATA, call
from kws import batch_norm, checkpoints
from kws.cli import UserError, new_parser
from kws.settings import Settings, SettingsFlags
from kws.tflite import TFLiteModel, dequantize, quantize


def flags(*typed):
    parser = new_parser("")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return SettingsFlags.from_arguments(parser.parse_args(typed))


@pytest.fixture(scope="session")
def tflite(trained, tmp_path_factory):
    """One TFLite file of each kind: {kind: path}."""
    folder = tmp_path_factory.mktemp("tflite")
    kinds = {
        "fp32": ["--no-quantize"],
        "int8 inside": [],
        "int8": ["--inference_type", "int8"],
        "int16": ["--inference_type", "int16"],
    }
    paths = {kind: folder / f"{kind.replace(' ', '_')}.tflite" for kind in kinds}
    for kind, path in paths.items():
        base = ["--checkpoint", trained / "best", "--data_dir", SAMPLE_DATA, "--output", path]
        call("convert_to_tflite.py", *base, *kinds[kind])
    return paths


@pytest.fixture(scope="session")
def test_set(data_options, dnn_small):
    """(features, labels) of the sample data's test partition, and the ranges that features have."""
    data = input_data.open_data(data_options(), dnn_small)
    return input_data.features(data.testing, dnn_small.front_end), data.testing.label


# ---- the networks ----


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
def test_a_size_that_does_not_fit_says_what_is_expected(size):
    with pytest.raises(UserError, match="dnn: it takes the number of units .* for example 144 144 144"):
        models.build_model(Settings(model_size_info=size))


# ---- settings travel ----


def test_every_form_carries_the_settings(trained, tflite, dnn_small):
    for path in (trained / "best", trained / "saved_model", trained / "dnn.keras", *tflite.values()):
        assert checkpoints.read_settings(path) == dnn_small


def test_every_form_gives_the_same_scores(trained, tflite, test_set):
    from kws.quiet_tf import keras

    features, _ = test_set
    model, _ = checkpoints.load_checkpoint(trained / "best")
    expected = checkpoints.keras_predictor(model)(features)
    from_saved_model, _ = checkpoints.load_checkpoint(trained / "saved_model")
    np.testing.assert_array_equal(checkpoints.keras_predictor(from_saved_model)(features), expected)
    if sys.version_info[:3] != (3, 13, 0):  # whose zipfile cannot seek; repaired in 3.13.1
        plain_keras = keras.models.load_model(trained / "dnn.keras")
        np.testing.assert_allclose(plain_keras.predict(features, verbose=0), expected, atol=FLOAT32_TOLERANCE)
    plain_saved_model = keras.models.load_model(trained / "saved_model")
    np.testing.assert_allclose(
        plain_saved_model.predict(features, verbose=0), expected, atol=FLOAT32_TOLERANCE
    )
    np.testing.assert_allclose(TFLiteModel(tflite["fp32"]).predict(features), expected, atol=1e-5)
    for kind, tolerance in (("int8 inside", 0.25), ("int8", 0.25), ("int16", 0.15)):
        assert np.abs(TFLiteModel(tflite[kind]).predict(features) - expected).max() < tolerance


@pytest.mark.parametrize("form", ["best", "saved_model"])
def test_a_flag_that_contradicts_a_checkpoint_is_an_error_naming_both(trained, form):
    with pytest.raises(UserError, match="--dct_coefficient_count 12 contradicts 10, stored in"):
        checkpoints.load_checkpoint(trained / form, flags("--dct_coefficient_count", "12"))
    checkpoints.load_checkpoint(trained / form, flags("--dct_coefficient_count", "10"))


def test_a_flag_that_contradicts_a_tflite_file_is_an_error_naming_both(tflite):
    words = "left,right"
    with pytest.raises(UserError, match="--wanted_words left,right contradicts yes,no,up"):
        TFLiteModel(tflite["int8"], flags("--wanted_words", words))


# ---- checkpoints of other makers ----


def keras_2_checkpoint(prefix, layers, compiled=False):
    """What the original package leaves behind: Keras' own layers and `save_weights`, no settings."""
    from kws.quiet_tf import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((250,), name="input"), *layers(keras)])
    if compiled:
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(np.zeros((4, 250)), np.zeros(4), verbose=0)
    model.save_weights(str(prefix))
    return model


def activations_inside(keras):
    hidden = [keras.layers.Dense(144, activation="relu") for _ in range(3)]
    return [*hidden, keras.layers.Dense(12, activation="softmax")]


def activations_and_dropout_as_layers(keras):
    for _ in range(3):
        yield keras.layers.Dense(144)
        yield keras.layers.ReLU()
        yield keras.layers.Dropout(0.5)
    yield keras.layers.Dense(12)
    yield keras.layers.Softmax()


@pytest.mark.parametrize("layers", [activations_inside, activations_and_dropout_as_layers])
@pytest.mark.parametrize("compiled", [False, True], ids=["weights only", "with optimizer"])
def test_a_checkpoint_of_keras_2_loads_with_flags(tmp_path, test_set, layers, compiled):
    theirs = keras_2_checkpoint(tmp_path / "dnn.ckpt-1", layers, compiled)
    ours, settings = checkpoints.load_checkpoint(tmp_path / "dnn.ckpt-1", flags(*DNN_SMALL_FLAGS))
    assert settings.model_size_info == (144, 144, 144)
    features, _ = test_set
    np.testing.assert_allclose(
        checkpoints.keras_predictor(ours)(features), theirs(features), atol=FLOAT32_TOLERANCE
    )


def test_a_checkpoint_without_settings_and_with_wrong_flags_says_what_it_holds(tmp_path):
    keras_2_checkpoint(tmp_path / "dnn.ckpt-1", activations_inside)
    with pytest.raises(UserError, match=r"250x144 \+ 144.*expected 3920x128 \+ 128.*carries no settings"):
        checkpoints.load_checkpoint(tmp_path / "dnn.ckpt-1", flags())


def test_a_checkpoint_that_does_not_exist_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.ckpt"):
        with pytest.raises(UserError, match="does not exist"):
            checkpoints.load_checkpoint(path, flags())


@pytest.mark.parametrize("pattern", ["*.index", "*.data-00000-of-00001", "*.settings.json"])
def test_a_damaged_checkpoint_is_an_error(trained, tmp_path, pattern):
    shutil.copytree(trained / "best", tmp_path / "best")
    (file,) = (tmp_path / "best").glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"!" * (len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load_checkpoint(tmp_path / "best")


# ---- TFLite files ----


def details(path):
    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_input_details(), interpreter.get_output_details(), interpreter.get_tensor_details()


@pytest.mark.parametrize(("kind", "io"), [("fp32", "float32"), ("int8 inside", "float32"), ("int8", "int8")])
def test_batch_is_one_and_fixed_and_the_input_is_named_input(tflite, kind, io):
    (features,), (scores,), _ = details(tflite[kind])
    assert features["shape"].tolist() == features["shape_signature"].tolist() == [1, 250]
    assert scores["shape"].tolist() == scores["shape_signature"].tolist() == [1, 12]
    assert np.dtype(features["dtype"]) == np.dtype(scores["dtype"]) == io
    assert "input" in features["name"]


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_an_integer_file_is_integer_throughout_with_one_scale_per_tensor(tflite, kind):
    _, _, tensors = details(tflite[kind])
    assert tensors and all(np.issubdtype(tensor["dtype"], np.integer) for tensor in tensors)
    assert all(len(tensor["quantization_parameters"]["scales"]) == 1 for tensor in tensors)
    activations = {np.dtype(tensor["dtype"]).name for tensor in tensors if tensor["shape"][:1] == [1]}
    assert activations == {kind}


def test_the_int8_file_is_small(tflite):
    assert tflite["int8"].stat().st_size <= 84_000


@pytest.mark.parametrize("kind", ["fp32", "int8 inside", "int8", "int16"])
def test_batches_give_what_clip_by_clip_gives(tflite, test_set, kind):
    features, _ = test_set
    model = TFLiteModel(tflite[kind])
    single = np.concatenate([model.predict(features[i : i + 1]) for i in range(len(features))])
    batched = TFLiteModel(tflite[kind]).predict(features)
    if kind == "fp32":
        np.testing.assert_allclose(batched, single, atol=1e-5)
    else:
        np.testing.assert_array_equal(batched, single)


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_integer_scores_are_those_of_the_reference_kernels(tflite, test_set, kind):
    reference = Interpreter(
        model_path=str(tflite[kind]), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    reference.allocate_tensors()
    (source,), (target,) = reference.get_input_details(), reference.get_output_details()
    features, _ = test_set
    scores = TFLiteModel(tflite[kind]).predict(features)
    for row, score in zip(features, scores, strict=True):
        reference.set_tensor(source["index"], quantize(row[None], source))
        reference.invoke()
        expected = dequantize(reference.get_tensor(target["index"]), target)[0]
        np.testing.assert_array_equal(score, expected)


@pytest.mark.parametrize("kind", ["fp32", "int8", "int16"])
def test_buffers_are_aligned(tflite, kind):
    content = tflite[kind].read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    starts = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) >= 9
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_a_tflite_file_without_settings_needs_flags_and_they_suffice(tflite, tmp_path, test_set):
    model = schema.ModelT.InitFromPackedBuf(tflite["int8"].read_bytes())
    model.metadata = []
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(builder.Output())
    assert checkpoints.read_settings(bare) is None
    with pytest.raises(UserError, match=re.escape("takes (250,) features")):
        TFLiteModel(bare, flags())
    with pytest.raises(UserError, match="carries no settings"):
        TFLiteModel(bare)
    with_flags, expected = TFLiteModel(bare, flags(*DNN_SMALL_FLAGS)), TFLiteModel(tflite["int8"])
    np.testing.assert_array_equal(with_flags.predict(test_set[0]), expected.predict(test_set[0]))


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\x00" * 1000])
def test_a_file_that_is_no_tflite_model_is_an_error(tmp_path, content):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.tflite is not a TFLite model"):
        TFLiteModel(path)
