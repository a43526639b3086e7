"""Models in all their forms: checkpoints, exported models and TFLite files, and their scores.

Each form of a model carries its Settings, and `read_settings` finds them in any of these forms.
"""

import io
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from architectures import ARCHITECTURES, build_model, fully_connected, operations, preset
from settings import Settings, StoreTuple, UserError, add_setting, partial_path, quiet, resolve, write_text

SETTINGS_NAME = "settings.json"
TFLITE_METADATA_NAME = "keyword_spotting_settings"
CLIPS_AT_ONCE = 500

Scores = Callable[
    [np.ndarray], np.ndarray
]  # features float32 [n, feature_count] -> scores float32 [n, labels]


def add_arguments(parser):
    """Add the flags that say what the network looks like."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=preset,
        metavar="NAME",
        help="a network of the paper with its features, such as dnn_small, crnn_medium or ds_cnn_large, in "
        "place of the five flags that say so one by one",
    )
    add_setting(group, "model_architecture", "kind of network", choices=sorted(ARCHITECTURES))
    add_setting(
        group,
        "model_size_info",
        "its size; for dnn the units of each hidden layer",
        type=int,
        nargs="*",
        action=StoreTuple,
        metavar="N",
    )


# ---- batch normalisation ----


def with_batch_norm(model, features: np.ndarray):
    """A new model like `model`, with batch normalisation before each ReLU.

    Its input is brought to the mean 0 and the deviation 1 that `features` [n, feature_count] have then.
    UserError for a model that is more than fully connected layers.
    """
    from backend import keras

    layers = keras.layers
    if not fully_connected(model):
        raise UserError("--batch_norm is for models of fully connected layers alone")
    hidden_layers = [layer for layer in model.layers if layer.weights][:-1]
    source = keras.Input(shape=model.input_shape[1:], name="input")
    x = layers.Normalization(mean=features.mean(0), variance=features.var(0) + 0.01)(source)
    for layer in hidden_layers:
        x = layers.BatchNormalization()(layers.Dense(layer.units, name=layer.name)(x))
        x = layers.ReLU()(x)
    for layer in model.layers[-2:]:  # the last fully connected layer and softmax
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(source, x, name=model.name)


def fold_batch_norm(trained, settings: Settings):
    """The plain model of `settings` that computes what `trained`, a model of `with_batch_norm`, does."""
    from backend import keras

    _, of_input, *rest = trained.layers
    scale = 1 / np.sqrt(np.ravel(of_input.input_variance))
    offset = -np.ravel(of_input.input_mean) * scale
    folded = []
    for layer in rest:
        if isinstance(layer, keras.layers.BatchNormalization):
            after, shift = _scale_and_offset(layer)
            kernel, bias = folded[-1]
            folded[-1] = kernel * after, bias * after + shift
        elif isinstance(layer, keras.layers.Dense):
            kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
            if not folded:
                kernel, bias = scale[:, None] * kernel, bias + offset @ kernel
            folded.append((kernel, bias))
    model = build_model(settings)
    for layer, values in zip([layer for layer in model.layers if layer.weights], folded, strict=True):
        layer.set_weights(values)
    return model


def settle_batch_norm(model):
    """Move what each batch normalisation does into the kernel and bias of the layer before it, where there is
    one with a kernel, and freeze it.

    The model computes what it did, and its kernels become those that it has in a TFLite file.
    """
    from backend import keras

    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        before = norm.input._keras_history.layer
        if before.weights:
            scale, offset = _scale_and_offset(norm)
            kernel, *bias = before.get_weights()
            depthwise = isinstance(before, keras.layers.DepthwiseConv2D)
            kernel = kernel * (scale[:, None] if depthwise else scale)
            if bias:
                bias, offset = [bias[0] * scale + offset], np.zeros_like(offset)
            before.set_weights([kernel, *bias])
            ones = np.ones_like(scale)
            norm.set_weights([ones, offset, np.zeros_like(scale), ones - norm.epsilon])
        norm.trainable = False


def _scale_and_offset(norm):
    """What a batch normalisation multiplies by, and adds then."""
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return scale, norm.beta.numpy() - norm.moving_mean.numpy() * scale


# ---- settings inside every form of a model ----


def read_settings(path) -> Settings | None:
    """The settings in a checkpoint, SavedModel, .keras file or TFLite file; None where it carries none.

    Raises UserError where there is no such model, or its settings are damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes() if path.is_file() else b""
        if _is_tflite(content):
            text = _tflite_metadata(content)
        elif content[:4] == b"PK\x03\x04":
            text = _zip_member(path)
        else:
            file = _settings_file(path)
            text = file.read_bytes() if file.exists() else None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return None if text is None else Settings.from_json(text, str(path))


def required_settings(path) -> Settings:
    """The settings in a model; UserError where it carries none, too."""
    settings = read_settings(path)
    if settings is None:
        raise UserError(f"{path} carries no settings, so how to compute its features is unknown")
    return settings


def _is_tflite(content):
    return content[4:8] == b"TFL3"


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


def _read_bytes(path):
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    return path.read_bytes()


# ---- checkpoints ----


def checkpoint_prefix(path) -> str:
    """The prefix of the checkpoint that `path` means: a prefix, one of its files, a SavedModel, or a folder
    whose `checkpoint` file names the latest. Raises UserError where there is none.
    """
    path = Path(path)
    refuse_wildcards(path)
    if (path / "saved_model.pb").exists():
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
    if path.is_file() and _is_tflite(path.read_bytes()):
        return f"{path} is a TFLite file, not a checkpoint: evaluation.py takes it as --tflite_path"
    if path.suffix == ".keras":
        return f"{path} is a .keras file: give the checkpoint it was exported from, or the SavedModel"
    inside = [file.parent for file in sorted(path.glob("*/checkpoint"))] if path.is_dir() else []
    hint = f"; did you mean {inside[0]}?" if inside else ""
    return f"checkpoint {path} does not exist (looked for {prefix}.index){hint}"


def save_checkpoint(model, settings: Settings, prefix):
    """Write the weights in TensorFlow's format, and the settings beside them."""
    with writing(prefix):
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        write_text(f"{prefix}.{SETTINGS_NAME}", settings.to_json())
        model.save_weights(str(prefix), save_format="tf")


def refuse_wildcards(path):
    """Raise UserError for a path that TensorFlow would take for a pattern of paths."""
    if re.search(r"[*?\[\]]", str(path)):
        raise UserError(f"{path}: TensorFlow takes *, ?, [ and ] in the path of a checkpoint for wildcards")


def checkpoint_files(path) -> list[Path]:
    """The files that hold the weights of a checkpoint."""
    prefix = Path(checkpoint_prefix(path))
    return sorted([*prefix.parent.glob(f"{prefix.name}.data-*"), prefix.with_name(f"{prefix.name}.index")])


def keep_best(model, settings: Settings, folder: Path, name: str):
    """Save the checkpoint `folder/name`, delete the others there; `folder` alone means this one then."""
    delete_unfinished(folder)
    save_checkpoint(model, settings, folder / name)
    for file in folder.iterdir():
        if not file.name.startswith(f"{name}.") and file.name != "checkpoint":
            file.unlink()


def delete_unfinished(folder: Path):
    """Delete what TensorFlow leaves beside checkpoints where it is killed while saving one."""
    for left in folder.glob("*_temp"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob("checkpoint.tmp*"):
        left.unlink()


def load_checkpoint(path, args):
    """The Keras model of a checkpoint (or SavedModel) and its settings.

    The settings are those the checkpoint carries. For one that carries none, such as Keras' `save_weights`
    alone writes, they are those of the flags in `args`. Raises UserError where there is no such checkpoint or
    it does not fit them.
    """
    stored = read_settings(path)
    settings = resolve(args, stored, str(path))
    model = build_model(settings)
    layers = [layer for layer in model.layers if layer.weights]
    weights = read_weights(path)
    if len(layers) != len(weights) or not all(map(_fits, layers, weights)):
        raise UserError(_why_it_does_not_fit(path, stored, weights, layers))
    for layer, values in zip(layers, weights, strict=True):
        for name, value in values.items():
            attrgetter(name)(layer).assign(value)
    return model, settings


def read_weights(path) -> list[dict[str, np.ndarray]]:
    """The weights in a checkpoint, {attribute of the layer: array} for each layer from first to last.

    Only arrays are read, by their names in Keras' format; nothing in the checkpoint is executed.
    """
    from backend import tf

    key_format = re.compile(r"layer_with_weights-(\d+)/([\w/]+)/\.ATTRIBUTES/VARIABLE_VALUE")
    layers = {}
    try:
        reader = tf.train.load_checkpoint(checkpoint_prefix(path))
        for key in sorted(reader.get_variable_to_shape_map()):
            if match := key_format.fullmatch(key):
                layers.setdefault(int(match[1]), {})[match[2].replace("/", ".")] = reader.get_tensor(key)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    return [layers[number] for number in sorted(layers)]


def _fits(layer, values):
    try:
        shapes_agree = all(attrgetter(name)(layer).shape == value.shape for name, value in values.items())
    except AttributeError:
        return False
    return shapes_agree and len(values) == len(layer.weights)


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
    shapes = [["x".join(map(str, weight.shape)) for weight in layer.values()] for layer in layers]
    return ", ".join(" + ".join(sorted(layer, key=len, reverse=True)) for layer in shapes) or "none"


@contextmanager
def writing(path):
    """Turn TensorFlow's errors about files, such as a full disk, into UserError."""
    from backend import tf

    try:
        yield
    except tf.errors.OpError as error:
        message = re.sub(r"{{.*?}}|\[Op:.*?\]", "", error.message)
        raise UserError(f"cannot write {path}: {message}") from None


# ---- SavedModel and .keras ----


def export_saved_model(model, settings: Settings, folder):
    """Write a SavedModel; it appears only when complete.

    In `assets.extra/` are the settings, and the weights once more: under the names that layers give them,
    which a SavedModel leaves out for recurrent ones.
    """
    folder = Path(folder)
    partial = partial_path(folder)
    try:
        with writing(folder):
            model.save(str(partial), save_format="tf", include_optimizer=False)
            model.save_weights(str(partial / "assets.extra" / "weights"), save_format="tf")
        (partial / "assets.extra" / SETTINGS_NAME).write_text(settings.to_json(), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def export_keras_file(model, settings: Settings, path):
    """Write a .keras file with the settings as one more member of the zip; it appears only when complete."""
    path = Path(path)
    partial = partial_path(path)
    try:
        with writing(path):
            model.save(str(partial))
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(SETTINGS_NAME, settings.to_json())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# ---- TFLite files ----


def with_settings(tflite: bytes, settings: Settings) -> bytes:
    """A TFLite model with the settings in a metadata buffer, in place of the converter's own metadata.

    Buffers start at multiples of 16 bytes, as the schema asks and kernels on microcontrollers need. Tensors
    between input and output lose their names, which an unrolled network has by the hundred.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(tflite)
    for entry in model.metadata or ():
        model.buffers[entry.buffer].data = None
    for graph in model.subgraphs:
        for number in {*range(len(graph.tensors))} - {*graph.inputs, *graph.outputs}:
            graph.tensors[number].name = ""
    entry = schema.MetadataT()
    entry.name, entry.buffer = TFLITE_METADATA_NAME, len(model.buffers)
    model.metadata = [entry]
    model.buffers.append(schema.BufferT(data=np.frombuffer(settings.to_json().encode(), np.uint8)))
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(len(tflite) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Aligned(NamedTuple):
    """A buffer of a TFLite model, packed at a multiple of 16 bytes; flatbuffers by itself aligns to 4."""

    buffer: object

    def Pack(self, builder):  # noqa: N802  (the name that flatbuffers calls)
        from ai_edge_litert import schema_py_generated as schema

        data = self.buffer.data
        if data is not None and len(data):
            builder.StartVector(1, len(data), 16)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = bytes(data)
            data_at = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None and len(data):
            schema.BufferAddData(builder, data_at)
        return schema.BufferEnd(builder)


def _tflite_metadata(content):
    """The settings' JSON in a TFLite model, None where there is none."""
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == TFLITE_METADATA_NAME.encode():
                return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    except Exception:  # a damaged file fails in many ways here; the interpreter says what is wrong with it
        return None
    return None


def parse_tflite(content: bytes):
    """The objects (of flatbuffers' ModelT) in a TFLite model; UserError where it is damaged."""
    from ai_edge_litert import schema_py_generated as schema

    try:
        return schema.ModelT.InitFromPackedBuf(content)
    except Exception as error:  # it fails in many ways
        raise UserError(f"the TFLite model is damaged: {error}") from None


def tflite_operators(tflite: bytes) -> list[str]:
    """Names of the operators that a TFLite model uses, sorted."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return sorted({names[code.builtinCode] for code in parse_tflite(tflite).operatorCodes})


class Cost(NamedTuple):
    """What a model needs."""

    bytes: int  # of its file, or of a checkpoint's files
    zipped: int
    parameters: int
    macs: int  # multiply-accumulates for one clip


def cost(path, settings: Settings) -> Cost:
    """What the checkpoint or TFLite file at `path` needs."""
    path = Path(path)
    content = path.read_bytes() if path.is_file() else b""
    if _is_tflite(content):
        parameters, macs = _tflite_parameters_and_macs(content)
    else:
        content = b"".join(file.read_bytes() for file in checkpoint_files(path))
        model = build_model(settings)
        parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        macs = operations(model) // 2
    return Cost(len(content), zipped_size(content), parameters, macs)


def _tflite_parameters_and_macs(content):
    """The numbers in constant operands of arithmetic, equal tensors counted once; multiply-accumulates."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    products = kinds.FULLY_CONNECTED, kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D
    model = parse_tflite(content)
    graph, constants, macs = model.subgraphs[0], {}, 0
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        operands = [graph.tensors[number] for number in operator.inputs if number >= 0]
        if kind in products:
            *places, _ = graph.tensors[operator.outputs[0]].shape
            macs += math.prod(map(int, [*operands[1].shape, *places]))
        if kind in (*products, kinds.ADD, kinds.SUB, kinds.MUL):
            for tensor in operands:
                data = model.buffers[tensor.buffer].data
                if data is not None and len(data):
                    constants[bytes(data)] = math.prod(
                        map(int, tensor.shape if tensor.shape is not None else ())
                    )
    return sum(constants.values()), macs


def zipped_size(content: bytes) -> int:
    """Bytes that `content` takes in a zip file; what an update over the air would carry."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model", content)
    return len(packed.getvalue())


class TFLiteModel:
    """A TFLite file ready to run, fed batches where its operators allow another batch size.

    `input` and `output` are the interpreter's details of the two tensors, as the file has them.
    """

    def __init__(self, path):
        self._path, self._content = path, _read_bytes(Path(path))
        if not _has_a_graph(self._content):  # which would crash the interpreter
            raise UserError(f"{path} is not a TFLite model that can run: it has no graph")
        try:
            self._interpreter = _interpreter(self._content)
            (self.input,) = self._interpreter.get_input_details()
            (self.output,) = self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not a TFLite model that can run: {error}") from None
        self._batch = int(self.input["shape"][0])
        self._resizable = True

    def check_fits(self, settings: Settings, path):
        """Raise UserError where the shapes of input and output are not those of `settings`."""
        expected = [(settings.feature_count,), (len(settings.labels),)]
        found = [tuple(map(int, detail["shape"][1:])) for detail in (self.input, self.output)]
        if found != expected:
            raise UserError(
                f"{path} takes {found[0]} features and gives {found[1]} scores, but its settings or the "
                f"flags say {expected[0]} and {expected[1]}"
            )

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores float32 [clips, labels] of features float32 [clips, feature_count]."""
        self._resize(min(len(features), CLIPS_AT_ONCE))
        scores = []
        for start in range(0, len(features), self._batch):
            part = features[start : start + self._batch]
            padded = np.pad(part, ((0, self._batch - len(part)), (0, 0)))
            given = quantize(padded, self.input)
            scores.append(dequantize(self.run(given), self.output)[: len(part)])
        return np.concatenate(scores) if scores else np.zeros((0, self.output["shape"][1]), np.float32)

    def run(self, given: np.ndarray) -> np.ndarray:
        """The output tensor for one batch of the input tensor, both in the types of the file."""
        self._interpreter.set_tensor(self.input["index"], given)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise UserError(f"{self._path} is not a TFLite model that can run: {error}") from None
        return self._interpreter.get_tensor(self.output["index"])

    def _resize(self, batch):
        if batch in (0, self._batch) or not self._resizable:
            return
        shape = [batch, *map(int, self.input["shape"][1:])]
        self._interpreter.resize_tensor_input(self.input["index"], shape)
        try:
            with quiet():
                self._interpreter.allocate_tensors()
            self._batch = batch
        except RuntimeError:  # its reshapes name the batch
            self._interpreter, self._resizable = _interpreter(self._content), False


def _has_a_graph(content):
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.Model.GetRootAs(content, 0)
        return model.SubgraphsLength() > 0 and model.BuffersLength() > 0
    except Exception:  # a damaged file fails in many ways here
        return False


def _interpreter(content):
    """An interpreter with its tensors allocated.

    With the reference kernels where the fast ones refuse a model, as they do one with a layer that never
    responds; the results of integer models are the same.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def allocated(kernels):
        interpreter = Interpreter(
            model_content=content, num_threads=os.cpu_count(), experimental_op_resolver_type=kernels
        )
        interpreter.allocate_tensors()
        return interpreter

    with quiet():
        try:
            return allocated(OpResolverType.AUTO)
        except RuntimeError:
            return allocated(OpResolverType.BUILTIN_REF)


def quantize(values: np.ndarray, detail: dict) -> np.ndarray:
    """Float values as the tensor of `detail` (from the interpreter) takes them; floats stay as they are."""
    if detail["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def dequantize(values: np.ndarray, detail: dict) -> np.ndarray:
    """The float32 values of a tensor with `detail` (from the interpreter)."""
    if detail["dtype"] == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


# ---- either kind, to be evaluated ----


def keras_scores(model) -> Scores:
    """Scores of a Keras model, computed in batches."""
    from backend import tf

    compiled = tf.function(lambda features: model(features, training=False), reduce_retracing=True)

    def scores(features):
        parts = [compiled(features[i : i + CLIPS_AT_ONCE]) for i in range(0, len(features), CLIPS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, model.output_shape[-1]), np.float32)

    return scores


def load(path, args) -> tuple[Scores, Settings]:
    """A checkpoint, SavedModel or TFLite file ready to run, and its settings."""
    path = Path(path)
    if path.suffix == ".tflite" or path.is_file() and _is_tflite(path.read_bytes()):
        return load_tflite(path, args)
    model, settings = load_checkpoint(path, args)
    return keras_scores(model), settings


def load_tflite(path, args) -> tuple[Scores, Settings]:
    """A TFLite file ready to run, and its settings; those of the flags in `args` where it has none."""
    model = TFLiteModel(path)
    settings = resolve(args, read_settings(path), str(path))
    model.check_fits(settings, path)
    return model, settings
