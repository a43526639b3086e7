"""Models in all their forms, each with its Settings: checkpoints, SavedModels, .keras and TFLite files.

`load` makes any of them but a .keras file ready to predict. It takes the function that builds a checkpoint's
network, models.build_model, as an argument; `models.load` passes it.
"""

import dataclasses
import functools
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kws.base.errors import UserError
from kws.base.files import appears_complete, write_bytes, write_text
from kws.base.quiet_tf import tf
from kws.base.settings import Settings, SettingsFlags, settings_to_use
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
            # a .keras file is a zip
            with zipfile.ZipFile(path) as archive:
                text = archive.read(SETTINGS_NAME) if SETTINGS_NAME in archive.namelist() else None
        else:
            # a folder or a prefix: the settings are in a file beside the weights
            file = _settings_file(path)
            text = file.read_bytes() if file.exists() else None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    # zipfile: an unknown compression, a member with a password
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is not a .keras file: {error}") from None
    return None if text is None else Settings.from_json(text, str(path))


def _settings_file(path):
    if (path / "saved_model.pb").exists():
        # the folder that TensorFlow leaves to other tools
        return path / "assets.extra" / SETTINGS_NAME
    return Path(f"{checkpoint_prefix(path)}.{SETTINGS_NAME}")


def without_detector(settings: Settings, path) -> Settings:
    """Return the settings for a model made from the checkpoint `path` that gives other scores.

    The thresholds, chosen for the checkpoint's scores, are left out; a printed line says so.
    """
    if settings.detector:
        others = "left out here; evaluation.py --write_detector chooses others"
        print(f"the thresholds in {path} were chosen for its weights and are {others}")
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
        note = (path / "checkpoint").read_text(errors="replace")
        latest = re.search(r'^model_checkpoint_path: "(.+)"', note, re.M)
        path = path / (latest[1] if latest else "checkpoint")
    # a checkpoint is several files: what their names begin with stands for all
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5}|settings\.json)$", "", str(path))
    if not os.path.exists(f"{prefix}.index"):
        raise UserError(_why_no_checkpoint(path, prefix))
    return prefix


def _why_no_checkpoint(path, prefix):
    if path.is_file():
        return f"{path} {NO_CHECKPOINT}"
    if not path.is_dir():
        return f"checkpoint {path} does not exist (looked for {prefix}.index)"
    # the folder of a training run holds its checkpoint in best/
    inside = [file.parent for file in sorted(path.glob("*/checkpoint"))]
    hint = f"; did you mean {inside[0]}?" if inside else ""
    return f"folder {path} holds no checkpoint (looked for {prefix}.index){hint}"


def save_checkpoint(model, settings: Settings, prefix):
    """Write the weights in TensorFlow's format, and the settings beside them."""
    with writing(prefix):
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        # settings first: weights without them would need flags to load
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
    # deleted last: if saving fails, the best checkpoint before is still there
    older = [file for file in folder.glob("*.ckpt-*") if not file.name.startswith(f"{name}.")]
    save_checkpoint(model, settings, folder / name)
    for file in older:
        file.unlink()


def delete_unfinished(folder: Path):
    """Delete what TensorFlow leaves beside checkpoints if it is killed while saving one."""
    # shards of weights, before they are joined to one file
    for leftover in folder.glob("*_temp"):
        shutil.rmtree(leftover, ignore_errors=True)
    # the note that names the latest checkpoint
    for leftover in folder.glob("checkpoint.tmp*"):
        leftover.unlink()


def read_weights(path) -> list[dict[str, np.ndarray]]:
    """Read the weights in a checkpoint: {attribute of the layer: array} for each layer, first to last.

    Only arrays are read, by their names in Keras' format; nothing in the checkpoint is executed. Raises
    UserError if the checkpoint is damaged or holds no layers of Keras 2.
    """
    # layer_with_weights-3/cell/kernel/.ATTRIBUTES/VARIABLE_VALUE is weight cell.kernel of the fourth layer
    key_format = re.compile(r"layer_with_weights-(\d+)/([\w/]+)/\.ATTRIBUTES/VARIABLE_VALUE")
    layers = {}
    try:
        reader = tf.train.load_checkpoint(checkpoint_prefix(path))
        # keys of optimisers and counters are passed over
        for key in sorted(reader.get_variable_to_shape_map()):
            if match := key_format.fullmatch(key):
                layers.setdefault(int(match[1]), {})[match[2].replace("/", ".")] = reader.get_tensor(key)
    # TensorFlow trusts the sizes in the file, so damage shows in many ways
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    if not layers:
        raise UserError(f"{path}, which holds no layers of Keras 2, {NO_CHECKPOINT}")
    return [layers[number] for number in sorted(layers)]


def weight_of(layer, name: str):
    """Return the weight of a Keras layer that `read_weights` calls `name`; None if it has none."""
    # a checkpoint may name anything, and `cell.kernel` is an attribute of an attribute
    found = functools.reduce(lambda part, key: getattr(part, key, None), name.split("."), layer)
    return found if any(found is weight for weight in layer.weights) else None


def fits(layer, values: dict[str, np.ndarray]) -> bool:
    """Return whether a layer has the weights `values`, as `read_weights` gives them, of the same shapes."""
    pairs = [(weight_of(layer, name), value) for name, value in values.items()]
    shapes_agree = all(own is not None and own.shape == value.shape for own, value in pairs)
    return shapes_agree and len(values) == len(layer.weights)


def assign_weights(network, weights: list[dict[str, np.ndarray]], path, settings: Settings):
    """Give a Keras model of these settings the weights, as `read_weights` gives them, of checkpoint `path`.

    Raises UserError if they do not fit.
    """
    layers = [layer for layer in network.layers if layer.weights]
    if len(layers) != len(weights) or not all(map(fits, layers, weights)):
        raise UserError(_why_it_does_not_fit(path, settings, layers))
    for layer, values in zip(layers, weights, strict=True):
        assign_layer(layer, values)


def assign_layer(layer, values: dict[str, np.ndarray]):
    """Give a layer the weights `values`, by name, which fit it."""
    for name, value in values.items():
        weight_of(layer, name).assign(value)


def _why_it_does_not_fit(path, settings, layers):
    stored = read_settings(path)
    # a fully connected layer has a row for each feature of a clip
    if stored and stored.clip_duration_ms != settings.clip_duration_ms:
        theirs, ours = stored.clip_duration_ms, settings.clip_duration_ms
        return f"{path} has layers for --clip_duration_ms {theirs}, which {ours} contradicts"
    found = ", ".join(shapes(layer.values()) for layer in read_weights(path))
    shapes_differ = f"its layers are {found}, expected {', '.join(shapes(layer.weights) for layer in layers)}"
    if stored:
        return f"{path} does not fit its settings: {shapes_differ}"
    how = "--model_size_info, --window_size_ms and the like must say how it was trained"
    return f"{path} does not fit the flags: {shapes_differ}; it carries no settings, so {how}"


def shapes(weights) -> str:
    """Return the shapes of a layer's weights, arrays or variables, as text: kernels first."""
    return " + ".join(sorted(("x".join(map(str, one.shape)) for one in weights), key=len, reverse=True))


@contextmanager
def writing(path):
    """Turn TensorFlow's errors about files, such as a full disk, into UserError."""
    try:
        yield
    except tf.errors.OpError as error:
        # the names of its own operations tell the user nothing
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
        # features, float32 [clips, feature_count] -> scores, float32 [clips, labels]
        self.predict = keras_predictor(network)

    def cost(self) -> Cost:
        """Return the cost of the network, and the size of the checkpoint that it was loaded from."""
        content = b"".join(file.read_bytes() for file in checkpoint_files(self._path))
        # moving means and variances are no parameters, but statistics
        parameters = sum(int(np.prod(weight.shape)) for weight in self.network.trainable_weights)
        return Cost(len(content), zipped_size(content), parameters, operations(self.network) // 2)


def keras_predictor(network):
    """Return a function from inputs, float32 [n, ...], to a Keras model's outputs, computed in batches."""
    # traced for the first number of clips, and once more for any other
    compiled = tf.function(lambda inputs: network(inputs, training=False), reduce_retracing=True)

    def predict(inputs):
        # [n, ...] -> [at most CLIPS_AT_ONCE, outputs] each
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
    # before settings are asked for: what has no weights needs no flags
    weights = read_weights(path)
    settings = settings_to_use(stored, flags, path)
    network = build_model(settings)
    assign_weights(network, weights, path, settings)
    return network, settings
