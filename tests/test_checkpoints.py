"""Checkpoints, SavedModels and .keras files, ours and other makers'."""

import shutil
import sys

import numpy as np
import pytest

from conftest import DNN_SMALL_FLAGS, FLOAT32_TOLERANCE, flags_of
from kws import checkpoints
from kws.cli import UserError
from kws.tflite import TFLiteModel


def test_every_form_carries_the_settings(trained, tflite_files, dnn_small):
    for path in (trained / "best", trained / "saved_model", trained / "dnn.keras", *tflite_files.values()):
        assert checkpoints.read_settings(path) == dnn_small


def test_every_form_gives_the_same_scores(trained, tflite_files, labelled_features):
    from kws.quiet_tf import keras

    features, _ = labelled_features
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
    np.testing.assert_allclose(TFLiteModel(tflite_files["fp32"]).predict(features), expected, atol=1e-5)
    for kind, tolerance in (("int8 inside", 0.25), ("int8", 0.25), ("int16", 0.15)):
        assert np.abs(TFLiteModel(tflite_files[kind]).predict(features) - expected).max() < tolerance


@pytest.mark.parametrize("form", ["best", "saved_model"])
def test_a_flag_that_contradicts_a_checkpoint_is_an_error_naming_both(trained, form):
    with pytest.raises(UserError, match="--dct_coefficient_count 12 contradicts 10, stored in"):
        checkpoints.load_checkpoint(trained / form, flags_of("--dct_coefficient_count", "12"))
    checkpoints.load_checkpoint(trained / form, flags_of("--dct_coefficient_count", "10"))


def test_a_flag_that_contradicts_a_tflite_file_is_an_error_naming_both(tflite_files):
    words = "left,right"
    with pytest.raises(UserError, match="--wanted_words left,right contradicts yes,no,up"):
        TFLiteModel(tflite_files["int8"], flags_of("--wanted_words", words))


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
def test_a_checkpoint_of_keras_2_loads_with_flags(tmp_path, labelled_features, layers, compiled):
    theirs = keras_2_checkpoint(tmp_path / "dnn.ckpt-1", layers, compiled)
    ours, settings = checkpoints.load_checkpoint(tmp_path / "dnn.ckpt-1", flags_of(*DNN_SMALL_FLAGS))
    assert settings.model_size_info == (144, 144, 144)
    features, _ = labelled_features
    np.testing.assert_allclose(
        checkpoints.keras_predictor(ours)(features), theirs(features), atol=FLOAT32_TOLERANCE
    )


def test_a_checkpoint_without_settings_and_with_wrong_flags_says_what_it_holds(tmp_path):
    keras_2_checkpoint(tmp_path / "dnn.ckpt-1", activations_inside)
    with pytest.raises(UserError, match=r"250x144 \+ 144.*expected 3920x128 \+ 128.*carries no settings"):
        checkpoints.load_checkpoint(tmp_path / "dnn.ckpt-1", flags_of())


def test_a_checkpoint_that_does_not_exist_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.ckpt"):
        with pytest.raises(UserError, match="does not exist"):
            checkpoints.load_checkpoint(path, flags_of())


@pytest.mark.parametrize("pattern", ["*.index", "*.data-00000-of-00001", "*.settings.json"])
def test_a_damaged_checkpoint_is_an_error(trained, tmp_path, pattern):
    shutil.copytree(trained / "best", tmp_path / "best")
    (file,) = (tmp_path / "best").glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"!" * (len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load_checkpoint(tmp_path / "best")
