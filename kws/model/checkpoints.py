"""Models in all their forms, each with its Settings: checkpoints, SavedModels, .keras and TFLite files.

`load` makes any of them but a .keras file ready to predict. It takes the function that builds a checkpoint's
network, models.build_model, as an argument; `models.load` passes it.
"""

import dataclasses
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import numpy as np

from kws.base.errors import UserError
from kws.base.files import appears_complete, write_bytes, write_text
from kws.base.quiet_tf import tf
from kws.base.settings import DATA_FIELDS, Settings, SettingsFlags, settings_to_use
from kws.base.text import show
from kws.model.inspection import operations
from kws.model.tflite import (
    CLIPS_AT_ONCE,
    Cost,
    TFLiteModel,
    embed_settings,
    is_tflite,
    settings_text,
    zipped_size,
)

SETTINGS_NAME = "settings.json"
NO_CHECKPOINT = (
    "is not a checkpoint: give a checkpoint, its folder, a SavedModel's folder or, to evaluate or label with "
    "it, a TFLite file; weights of another kind come in by set_weights into models.build_model's network and "
    "kws.model.checkpoints.save_checkpoint"
)


# ---- settings inside every form of a model ----


def read_settings(path) -> Settings | None:
    """Return the settings in a checkpoint, SavedModel, .keras file or TFLite file, or None if it has none.

    Raises UserError if there is no such model, or its settings are damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes() if path.is_file() else b""
        if is_tflite(content):
            text = settings_text(content)
        elif content[:4] == b"PK\x03\x04":
            text = _zip_member(path)
        else:
            file = _settings_file(path)
            text = file.read_bytes() if file.exists() else None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return None if text is None else Settings.from_json(text, str(path))


def _settings_file(path):
    if (path / "saved_model.pb").exists():
        return path / "assets.extra" / SETTINGS_NAME
    return Path(f"{checkpoint_prefix(path)}.{SETTINGS_NAME}")


def _zip_member(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(SETTINGS_NAME) if SETTINGS_NAME in archive.namelist() else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is not a .keras file: {error}") from None


def without_detector(settings: Settings, path) -> Settings:
    """Return the settings for a model made from the checkpoint `path` that gives other scores.

    The thresholds, chosen for the checkpoint's scores, are left out; a printed line says so.
    """
    if settings.detector:
        print(
            f"the thresholds in {path} were chosen for its weights and are left out here; "
            "evaluation.py --write_detector chooses others"
        )
    return dataclasses.replace(settings, detector=None)


def write_settings(path, settings: Settings):
    """Replace the settings in a checkpoint or TFLite file."""
    path = Path(path)
    if path.is_file() and is_tflite(content := path.read_bytes()):
        write_bytes(path, embed_settings(content, settings))
    else:
        write_text(_settings_file(path), settings.to_json())


# ---- checkpoints ----


def checkpoint_prefix(path) -> str:
    """Return the prefix of the checkpoint that `path` names.

    `path` is a prefix, a file of the checkpoint, a SavedModel, or a folder whose file `checkpoint` names the
    latest one. Raises UserError if there is no checkpoint.
    """
    path = Path(path)
    refuse_wildcards(path)
    if (path / "saved_model.pb").exists():
        # SavedModels written by Keras alone have only variables/
        ours = path / "assets.extra" / "weights"
        path = ours if ours.with_suffix(".index").exists() else path / "variables" / "variables"
    elif (path / "checkpoint").is_file():
        latest = re.search(
            r'^model_checkpoint_path: "(.+)"', (path / "checkpoint").read_text(errors="replace"), re.M
        )
        path = path / (latest[1] if latest else "checkpoint")
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5}|settings\.json)$", "", str(path))
    if not os.path.exists(f"{prefix}.index"):
        raise UserError(_why_no_checkpoint(path, prefix))
    return prefix


def _why_no_checkpoint(path, prefix):
    if path.is_file():
        return f"{path} {NO_CHECKPOINT}"
    if not path.is_dir():
        return f"checkpoint {path} does not exist (looked for {prefix}.index)"
    inside = [file.parent for file in sorted(path.glob("*/checkpoint"))]
    hint = f"; did you mean {inside[0]}?" if inside else ""
    return f"folder {path} holds no checkpoint (looked for {prefix}.index){hint}"


def save_checkpoint(model, settings: Settings, prefix):
    """Write the weights in TensorFlow's format, and the settings beside them."""
    with writing(prefix):
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        write_text(f"{prefix}.{SETTINGS_NAME}", settings.to_json())
        model.save_weights(str(prefix), save_format="tf")


def refuse_wildcards(path):
    """Raise UserError if TensorFlow would take `path` for a pattern of paths."""
    if re.search(r"[*?\[\]]", str(path)):
        raise UserError(f"{path}: TensorFlow takes *, ?, [ and ] in the path of a checkpoint for wildcards")


def checkpoint_files(path) -> list[Path]:
    """Return the files that hold the weights of a checkpoint."""
    prefix = Path(checkpoint_prefix(path))
    return sorted([*prefix.parent.glob(f"{prefix.name}.data-*"), prefix.with_name(f"{prefix.name}.index")])


def keep_best(model, settings: Settings, folder: Path, name: str):
    """Save the checkpoint `folder/name` and delete the older ones, so that `folder` means this one."""
    delete_unfinished(folder)
    older = [file for file in folder.glob("*.ckpt-*") if not file.name.startswith(f"{name}.")]
    save_checkpoint(model, settings, folder / name)
    for file in older:
        file.unlink()


def delete_unfinished(folder: Path):
    """Delete what TensorFlow leaves beside checkpoints if it is killed while saving one."""
    for leftover in folder.glob("*_temp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob("checkpoint.tmp*"):
        leftover.unlink()


def read_weights(path) -> list[dict[str, np.ndarray]]:
    """Read the weights in a checkpoint: {attribute of the layer: array} for each layer, first to last.

    Only arrays are read, by their names in Keras' format; nothing in the checkpoint is executed. Raises
    UserError if the checkpoint is damaged or holds no layers of Keras 2.
    """
    key_format = re.compile(r"layer_with_weights-(\d+)/([\w/]+)/\.ATTRIBUTES/VARIABLE_VALUE")
    layers = {}
    try:
        reader = tf.train.load_checkpoint(checkpoint_prefix(path))
        for key in sorted(reader.get_variable_to_shape_map()):
            if match := key_format.fullmatch(key):
                layers.setdefault(int(match[1]), {})[match[2].replace("/", ".")] = reader.get_tensor(key)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    if not layers:
        raise UserError(f"{path}, which holds no layers of Keras 2, {NO_CHECKPOINT}")
    return [layers[number] for number in sorted(layers)]


def _fits(layer, values):
    """Return whether a layer has the weights `values`, {attribute: array}, of the same shapes."""
    try:
        shapes_agree = all(attrgetter(name)(layer).shape == value.shape for name, value in values.items())
    except AttributeError:
        return False
    return shapes_agree and len(values) == len(layer.weights)


def _all_fit(layers, weights):
    return len(layers) == len(weights) and all(map(_fits, layers, weights))


def _why_it_does_not_fit(path, stored, weights, layers):
    expected = [{weight.name: weight for weight in layer.weights} for layer in layers]
    shapes = f"its layers are {_describe(weights)}, expected {_describe(expected)}"
    if stored:
        return f"{path} does not fit its settings: {shapes}"
    return (
        f"{path} does not fit the flags: {shapes}; it carries no settings, so --model_size_info, "
        "--window_size_ms and the like must say how it was trained"
    )


def _describe(layers):
    """Return the shapes of the weights of `layers`, [{name: array}], as text."""
    shapes = [["x".join(map(str, weight.shape)) for weight in layer.values()] for layer in layers]
    return ", ".join(" + ".join(sorted(layer, key=len, reverse=True)) for layer in shapes) or "none"


@contextmanager
def writing(path):
    """Turn TensorFlow's errors about files, such as a full disk, into UserError."""
    try:
        yield
    except tf.errors.OpError as error:
        message = re.sub(r"{{.*?}}|\[Op:.*?\]", "", error.message)
        raise UserError(f"cannot write {path}: {message}") from None


# ---- SavedModel and .keras ----


def export_saved_model(model, settings: Settings, folder):
    """Write a SavedModel; it appears when it is complete.

    `assets.extra/` holds the settings and the weights once more, under the names that layers give them. A
    SavedModel leaves those names out for recurrent layers.
    """
    with writing(folder), appears_complete(folder) as partial:
        model.save(str(partial), save_format="tf", include_optimizer=False)
        model.save_weights(str(partial / "assets.extra" / "weights"), save_format="tf")
        (partial / "assets.extra" / SETTINGS_NAME).write_text(settings.to_json(), encoding="utf-8")


def export_keras_file(model, settings: Settings, path):
    """Write a .keras file, a zip, with the settings as one more member; it appears when it is complete."""
    with writing(path), appears_complete(path) as partial:
        model.save(str(partial))
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(SETTINGS_NAME, settings.to_json())


# ---- ready to predict ----


class KerasModel:
    """A Keras model ready to predict, with the same methods as a TFLiteModel.

    `network` may still be in training: scores come from its weights at the time.
    """

    def __init__(self, network, settings: Settings, path=None):
        self.network, self.settings, self._path = network, settings, path
        self._predict = keras_predictor(network)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, float32 [clips, labels], for features float32 [clips, feature_count]."""
        return self._predict(features)

    def cost(self) -> Cost:
        """Return the cost of the network, and the size of the checkpoint that it was loaded from."""
        content = b"".join(file.read_bytes() for file in checkpoint_files(self._path))
        parameters = sum(int(np.prod(weight.shape)) for weight in self.network.trainable_weights)
        return Cost(len(content), zipped_size(content), parameters, operations(self.network) // 2)


def keras_predictor(network):
    """Return a function from inputs, float32 [n, ...], to a Keras model's outputs, computed in batches."""
    compiled = tf.function(lambda inputs: network(inputs, training=False), reduce_retracing=True)

    def predict(inputs):
        parts = [compiled(inputs[i : i + CLIPS_AT_ONCE]) for i in range(0, len(inputs), CLIPS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, network.output_shape[-1]), np.float32)

    return predict


def load(path, build_model: Callable, flags: SettingsFlags | None = None) -> TFLiteModel | KerasModel:
    """Load a checkpoint, SavedModel or TFLite file, ready to predict.

    The result has `settings`, `predict(features)` and `cost()`. Without `flags` the model must carry its
    settings. Raises UserError if there is no such model, or it cannot be used.
    """
    path = Path(path)
    if path.suffix == ".tflite" or path.is_file() and is_tflite(path.read_bytes()):
        return TFLiteModel(path, flags)
    network, settings = load_checkpoint(path, build_model, flags)
    return KerasModel(network, settings, path)


def load_checkpoint(path, build_model: Callable, flags: SettingsFlags | None = None):
    """Return the Keras model of a checkpoint (or SavedModel) and its settings.

    A checkpoint without settings, such as Keras' `save_weights` writes, takes them from the flags. Raises
    UserError if there is no such checkpoint, neither it nor flags give settings, or it does not fit them.
    """
    stored = read_settings(path)
    weights = read_weights(path)
    settings = settings_to_use(stored, flags, path)
    network = build_model(settings)
    layers = [layer for layer in network.layers if layer.weights]
    if not _all_fit(layers, weights):
        raise UserError(_why_it_does_not_fit(path, stored, weights, layers))
    _assign(layers, weights)
    return network, settings


# ---- to train on from ----


def settings_to_start(path, flags: SettingsFlags) -> Settings:
    """Return the settings for a training that starts from the weights of the checkpoint `path`.

    The network's settings are the checkpoint's, and so are the others unless a flag says otherwise. Raises
    UserError if a flag asks for another network. Longer or shorter clips may fit: `load_start` says if not.
    """
    stored = read_settings(path)
    if stored is None:
        return flags.resolve()
    typed = {name: flags.typed[name] for name in (*DATA_FIELDS, "clip_duration_ms") if name in flags.typed}
    # thresholds were chosen for the weights before
    return flags.resolve(dataclasses.replace(stored, **typed, detector=None), str(path))


def load_start(network, settings: Settings, path) -> list[str]:
    """Give `network`, a Keras model of `settings`, the weights of a checkpoint of the same network.

    If the checkpoint is for other wanted words, the last layer takes the weights of the labels that both
    have, and keeps its own for the others. Returns a line for each layer that says what it has. Raises
    UserError if the weights do not fit.
    """
    stored, weights = read_settings(path), read_weights(path)
    layers = [layer for layer in network.layers if layer.weights]
    # without settings, a last layer of the same shape is taken to be for the same labels
    unnamed = settings.labels if _fits(layers[-1], weights[-1]) else ()
    theirs = stored.labels if stored else unnamed
    same_labels = theirs == settings.labels
    if not same_labels:
        weights[-1] = _with_shared_labels(layers[-1], weights[-1], theirs, settings.labels)
    if not _all_fit(layers, weights):
        if stored and stored.clip_duration_ms != settings.clip_duration_ms:
            raise UserError(
                f"{path} has layers for --clip_duration_ms {show(stored.clip_duration_ms)}, which "
                f"{show(settings.clip_duration_ms)} contradicts"
            )
        raise UserError(_why_it_does_not_fit(path, stored, read_weights(path), layers))
    _assign(layers, weights)
    lines = [f"{layer.name}: kept ({_shapes(layer)})" for layer in layers]
    if not same_labels:
        lines[-1] = _what_was_kept(layers[-1], theirs, settings.labels)
    return lines


def _with_shared_labels(layer, values, theirs, ours):
    """Return the weights of the last `layer` with the values of `values` for the labels that both have.

    The last axis of `values` is for the labels `theirs`, the last axis of the layer's weights for `ours`.
    """
    both = [label for label in ours if label in theirs]
    to, source = ([labels.index(label) for label in both] for labels in (ours, theirs))
    result = {}
    for name, value in values.items():
        try:
            own = attrgetter(name)(layer).numpy()  # [..., labels]
        except AttributeError:
            return values
        if own.shape[:-1] != value.shape[:-1] or theirs and value.shape[-1] != len(theirs):
            return values  # they do not fit, as the caller finds out
        own[..., to] = value[..., source]
        result[name] = own
    return result


def _what_was_kept(layer, theirs, ours):
    new = [label for label in ours if label not in theirs]
    gone = [label for label in theirs if label not in ours]
    return (
        f"{layer.name}: kept for {_listed([label for label in ours if label in theirs])}"
        + (f"; new, at random, for {_listed(new)}" if new else "")
        + (f"; dropped for {_listed(gone)}" if gone else "")
    )


def _listed(labels, most=12):
    """Return the first `most` labels as text: a pretrained network has hundreds."""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return (", ".join(labels[:most]) or "nothing") + more


def _shapes(layer):
    return " + ".join("x".join(map(str, weight.shape)) for weight in layer.weights)


def _assign(layers, weights):
    for layer, values in zip(layers, weights, strict=True):
        for name, value in values.items():
            attrgetter(name)(layer).assign(value)
