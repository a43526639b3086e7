"""Checkpoints and exports: the settings and the scores they carry, and checkpoints of other makers."""

import shutil
import sys
import zipfile

import numpy as np
import pytest

import models
from conftest import (
    DATA,
    DNN_SMALL_FLAGS,
    FLOAT32_TOLERANCE,
    ROOT,
    assert_one_clear_line,
    call,
    settings_flags,
)
from kws.base.errors import UserError
from kws.base.settings import SettingsFlags
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel
from networks import TINY, features, network, tiny, with_random_weights


def test_every_form_carries_the_settings(trained, tflite, dnn_small):
    for path in (trained / "best", trained / "saved_model", trained / "dnn.keras", *tflite.values()):
        assert checkpoints.read_settings(path) == dnn_small


def test_every_form_gives_the_same_scores(trained, tflite, test_set):
    from kws.base.quiet_tf import keras

    features, _ = test_set
    model, _ = models.load_checkpoint(trained / "best")
    expected = checkpoints.keras_predictor(model)(features)
    from_saved_model, _ = models.load_checkpoint(trained / "saved_model")
    np.testing.assert_array_equal(checkpoints.keras_predictor(from_saved_model)(features), expected)
    if sys.version_info[:3] != (3, 13, 0):  # whose zipfile cannot seek; repaired in 3.13.1
        plain_keras = keras.models.load_model(trained / "dnn.keras")
        np.testing.assert_allclose(plain_keras.predict(features, verbose=0), expected, atol=FLOAT32_TOLERANCE)
    plain_saved_model = keras.models.load_model(trained / "saved_model")
    np.testing.assert_allclose(
        plain_saved_model.predict(features, verbose=0), expected, atol=FLOAT32_TOLERANCE
    )
    np.testing.assert_allclose(
        TFLiteModel(tflite["fp32"]).predict(features), expected, atol=FLOAT32_TOLERANCE
    )
    for kind, tolerance in (("int8 inside", 0.25), ("int8", 0.25), ("int16", 0.15)):
        assert np.abs(TFLiteModel(tflite[kind]).predict(features) - expected).max() < tolerance


@pytest.mark.parametrize("architecture", TINY)
def test_every_form_of_a_network_gives_the_same_scores(architecture, tmp_path):
    settings, model, given, expected = network(architecture, clips=10)
    checkpoints.save_checkpoint(model, settings, tmp_path / "checkpoint")
    checkpoints.export_saved_model(model, settings, tmp_path / "saved_model")
    for form in ("checkpoint", "saved_model"):
        loaded, stored = models.load_checkpoint(tmp_path / form)
        assert stored == settings
        np.testing.assert_array_equal(checkpoints.keras_predictor(loaded)(given), expected)


def test_the_cost_of_a_checkpoint_is_that_of_its_files(trained):
    cost = models.load(trained / "best").cost()
    assert cost.bytes == sum(file.stat().st_size for file in checkpoints.checkpoint_files(trained / "best"))
    assert (cost.parameters, cost.macs) == (79_644, 79_200)


@pytest.mark.parametrize("form", ["best", "saved_model"])
def test_a_flag_that_contradicts_a_checkpoint_is_an_error_naming_both(trained, form):
    with pytest.raises(UserError, match="--dct_coefficient_count 12 contradicts 10, stored in"):
        models.load_checkpoint(trained / form, settings_flags("--dct_coefficient_count", "12"))
    models.load_checkpoint(trained / form, settings_flags("--dct_coefficient_count", "10"))


@pytest.mark.parametrize("script", ["optimisations.py", "convert_to_tflite.py", "evaluation.py"])
def test_a_checkpoint_that_contradicts_the_flags(script, trained):
    flags = ["--checkpoint", trained / "best", *DATA, "--window_stride_ms", "20"]
    assert_one_clear_line(call(script, *flags, check=False), "--window_stride_ms 20 contradicts 40")


@pytest.mark.parametrize("script", ["optimisations.py", "convert_to_tflite.py", "evaluation.py"])
def test_a_checkpoint_that_does_not_exist(script, tmp_path):
    result = call(script, "--checkpoint", tmp_path / "none.ckpt", *DATA, check=False)
    assert_one_clear_line(result, tmp_path / "none.ckpt", "does not exist")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("TFLite/tflite_int8/dnn_small_int8.tflite", "is not a checkpoint: give"),
        ("model_source/dnn_small.keras", "is not a checkpoint: give"),
        ("model_source/saved_model/saved_model.pb", "is not a checkpoint: give"),
        ("model_source", "did you mean"),
    ],
)
def test_what_is_no_checkpoint_says_what_can_be_given(path, hint):
    result = call("convert_to_tflite.py", "--checkpoint", ROOT / "model_archive" / path, *DATA, check=False)
    assert_one_clear_line(result, path, hint)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pb", b"\x0a\xc0"),
        ("x.h5", b"\x89HDF\r\n\x1a\n"),
        ("x.keras", b""),
        ("x.pt", b"\x80\x02"),
        ("x.npz", b""),
    ],
)
@pytest.mark.fast
def test_models_of_other_makers_get_one_sentence_with_what_to_do(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / name} is not a checkpoint: give .*set_weights"):
        models.load(tmp_path / name)


def test_a_zip_file_of_another_maker_is_not_taken_for_a_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UserError, match="x.pth is not a checkpoint"):
        models.load(tmp_path / "x.pth")


def test_a_checkpoint_without_layers_of_keras_2_says_so_and_what_to_do(tmp_path):
    from kws.base.quiet_tf import tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weights = tf.compat.v1.get_variable("fc1/W", [250, 144])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver([weights]).save(session, str(tmp_path / "x.ckpt-5"))
    for path in (tmp_path, tmp_path / "x.ckpt-5", tmp_path / "x.ckpt-5.index"):
        for flags in (None, settings_flags(*DNN_SMALL_FLAGS)):
            with pytest.raises(UserError, match=rf"^{path}, which holds no layers of Keras 2, .*set_weights"):
                models.load(path, flags)
    tf.train.Checkpoint(step=tf.Variable(1)).write(str(tmp_path / "y"))
    with pytest.raises(UserError, match="y, which holds no layers of Keras 2"):
        models.load(tmp_path / "y")


def test_a_checkpoint_that_does_not_exist_is_an_error(tmp_path):
    for path, reason in ((tmp_path, "holds no checkpoint"), (tmp_path / "nothing.ckpt", "does not exist")):
        with pytest.raises(UserError, match=f"{path} {reason}"):
            models.load_checkpoint(path, settings_flags())


@pytest.mark.parametrize("pattern", ["*.index", "*.data-00000-of-00001", "*.settings.json"])
def test_a_damaged_checkpoint_is_an_error(trained, tmp_path, pattern):
    shutil.copytree(trained / "best", tmp_path / "best")
    (file,) = (tmp_path / "best").glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"!" * (len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        models.load_checkpoint(tmp_path / "best")


# ---- checkpoints of other makers ----


def keras_2_checkpoint(prefix, layers, compiled=False):
    """What the original package leaves behind: Keras' own layers and `save_weights`, no settings."""
    from kws.base.quiet_tf import keras

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
    ours, settings = models.load_checkpoint(tmp_path / "dnn.ckpt-1", settings_flags(*DNN_SMALL_FLAGS))
    assert settings.model_size_info == (144, 144, 144)
    features, _ = test_set
    np.testing.assert_allclose(
        checkpoints.keras_predictor(ours)(features), theirs(features), atol=FLOAT32_TOLERANCE
    )


def test_a_checkpoint_without_settings_and_with_wrong_flags_says_what_it_holds(tmp_path):
    keras_2_checkpoint(tmp_path / "dnn.ckpt-1", activations_inside)
    with pytest.raises(UserError, match=r"250x144 \+ 144.*expected 3920x128 \+ 128.*carries no settings"):
        models.load_checkpoint(tmp_path / "dnn.ckpt-1", settings_flags())


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
    from kws.base.quiet_tf import keras

    settings = tiny(architecture)
    inputs = keras.Input((settings.feature_count,), name="input")
    theirs = with_random_weights(keras.Sequential([inputs, *original(architecture, keras)]))
    theirs.save_weights(str(tmp_path / "theirs.ckpt"))
    ours, _ = models.load_checkpoint(tmp_path / "theirs.ckpt", SettingsFlags(vars(settings)))
    clips = features(settings, 20)
    np.testing.assert_allclose(
        checkpoints.keras_predictor(ours)(clips), theirs(clips), atol=FLOAT32_TOLERANCE
    )
