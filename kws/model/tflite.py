"""TFLite files: the settings inside, what they compute, and what they cost."""

import functools
import io
import math
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kws.base.errors import UserError
from kws.base.quiet_tf import quiet
from kws.base.settings import Settings, SettingsFlags, settings_to_use

METADATA_NAME = "keyword_spotting_settings"
CLIPS_AT_ONCE = 500  # of a call of the interpreter, or of Keras; more gain nothing
ALIGNMENT = 16  # bytes; the schema asks for it, and kernels on microcontrollers need it


def is_tflite(content: bytes) -> bool:
    """Return whether `content` begins like a TFLite file."""
    return content[4:8] == b"TFL3"  # after four bytes, the place of the root table


def parse(content: bytes):
    """Return a TFLite model as a ModelT, flatbuffers' tree of objects; UserError if it is damaged."""
    try:
        return schema.ModelT.InitFromPackedBuf(content)
    except Exception as error:  # flatbuffers checks nothing, so damage shows as any exception
        raise UserError(f"the TFLite model is damaged: {error}") from None


def operator_versions(content: bytes) -> dict[str, int]:
    """Return the operators that a TFLite model uses: {name in the schema: version}."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return {names[code.builtinCode]: code.version for code in parse(content).operatorCodes}


def operator_names(content: bytes) -> list[str]:
    """Return the names of the operators that a TFLite model uses, sorted."""
    return sorted(operator_versions(content))


# ---- settings inside ----


def embed_settings(content: bytes, settings: Settings) -> bytes:
    """Return a TFLite model with the settings in a metadata buffer, in place of other metadata.

    Tensors between input and output lose their names: an unrolled network has hundreds of them.
    """
    model = parse(content)
    for entry in model.metadata or ():
        model.buffers[entry.buffer].data = None
        if entry.name == METADATA_NAME.encode() and entry.buffer == len(model.buffers) - 1:
            # the buffer of earlier settings
            model.buffers.pop()
    # names of inputs and outputs stay, since programs look them up
    for graph in model.subgraphs:
        for number in {*range(len(graph.tensors))} - {*graph.inputs, *graph.outputs}:
            graph.tensors[number].name = ""
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers)
    model.metadata = [entry]
    model.buffers.append(schema.BufferT(data=np.frombuffer(settings.to_json().encode(), np.uint8)))
    return _packed(model)


def _packed(model) -> bytes:
    """Return the bytes of a ModelT, which has other buffers after that."""
    # flatbuffers packs whatever has a method Pack
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Aligned(NamedTuple):
    """A buffer of a TFLite model, packed at a multiple of ALIGNMENT; flatbuffers alone aligns to 4."""

    buffer: object

    def Pack(self, builder):  # noqa: N802  (the name that flatbuffers calls)
        data = self.buffer.data
        has_data = data is not None and len(data)
        if has_data:
            builder.StartVector(1, len(data), ALIGNMENT)
            # as Builder.CreateByteVector does, which offers no choice of alignment
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = bytes(data)
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if has_data:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def settings_text(content: bytes) -> bytes | None:
    """Return the JSON of the settings in a TFLite model, None if there is none."""
    try:
        model = schema.Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == METADATA_NAME.encode():
                return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    except Exception:  # damaged; the interpreter says how
        return None
    return None


def _has_graph(content):
    try:
        model = schema.Model.GetRootAs(content, 0)
        return model.SubgraphsLength() > 0 and model.BuffersLength() > 0
    except Exception:  # damaged
        return False


# ---- inputs of other lengths ----


def for_batches(content: bytes) -> bytes:
    """Return a TFLite model that keeps the clips of a batch apart.

    A RESHAPE to [1, -1, ...], as of a number of frames that Keras infers, would put them one after the other.
    """
    model = parse(content)
    to_change = [
        operator
        for operator, code in _operators(model)
        if code == schema.BuiltinOperator.RESHAPE and (_shape_given(model, operator)[1:] < 0).any()
    ]
    for operator in to_change:
        _set_shape(model, operator, [-1, *_shapes(model, operator)[1][1:]])
    return _packed(model) if to_change else content


def for_stretches(content: bytes, frame_count: int) -> tuple[bytes, int] | None:
    """Return a TFLite model for more frames than `frame_count`, and from how many it has scores; or None.

    It takes [1, frames * features of a frame], and computes once what windows share. Scores are of windows
    that begin at multiples of the number of frames that is returned, with integers the bits that each alone
    has. That needs convolutions one after the other, not padded over time, and then layers without time.
    """
    model, op = parse(content), schema.BuiltinOperator
    if any(tensor.shape is None for tensor in model.subgraphs[0].tensors):
        return None
    # frames that are left, None before they are an axis
    latest, frames, total_stride = model.subgraphs[0].inputs[0], None, 1
    for operator, code in _operators(model):
        source, target = _shapes(model, operator)
        stride = 1
        if code == op.RESHAPE and frames is None and len(target) == 4 and target[1] == frame_count:
            frames = frame_count
            _set_shape(model, operator, [1, -1, *target[2:]])
        elif code == op.RESHAPE and frames == 1:
            _set_shape(model, operator, [-1, *target[1:]])
        elif code in (op.CONV_2D, op.DEPTHWISE_CONV_2D, op.AVERAGE_POOL_2D) and frames is not None:
            stride, frames = _time_stride(model, operator), target[1]
        elif code not in (op.QUANTIZE, op.DEQUANTIZE) and (
            code not in (op.FULLY_CONNECTED, op.SOFTMAX) or frames != 1
        ):
            return None
        if stride is None or operator.inputs[0] != latest:
            return None
        latest, total_stride = operator.outputs[0], total_stride * stride
    return (_packed(model), total_stride) if frames == 1 else None


def _time_stride(model, operator):
    """Return the stride of a convolution or pooling over time; None if it is padded or leaves out places.

    A layer over all frames that are left goes on with the strides of the layers before: its own becomes 1.
    """
    (_, given, *_), (_, left, *_) = _shapes(model, operator)
    options = operator.builtinOptions
    if isinstance(options, schema.Pool2DOptionsT):
        length = options.filterHeight
    else:
        length = int(model.subgraphs[0].tensors[operator.inputs[1]].shape[1])
        length = 1 + (length - 1) * options.dilationHFactor
    if left == 1:
        options.strideH = 1
    padded = options.padding == schema.Padding.SAME and length > 1
    return None if padded or (left == 1 and length < given) else int(options.strideH)


def _operators(model):
    """Return the operators of a model, each with its code in the schema."""
    return [(one, model.operatorCodes[one.opcodeIndex].builtinCode) for one in model.subgraphs[0].operators]


def _shapes(model, operator):
    """Return the shapes of an operator's first input and its output, as lists."""
    numbers = operator.inputs[0], operator.outputs[0]
    return [list(map(int, model.subgraphs[0].tensors[number].shape)) for number in numbers]


def _shape_buffer(model, reshape):
    return model.buffers[model.subgraphs[0].tensors[reshape.inputs[1]].buffer]


def _shape_given(model, reshape):
    """Return the constant that a RESHAPE takes its shape from, int32 [axes]; empty if there is none."""
    data = _shape_buffer(model, reshape).data if len(reshape.inputs) > 1 else None
    return np.frombuffer(bytes(() if data is None else data), "<i4")


def _set_shape(model, reshape, shape):
    _shape_buffer(model, reshape).data = np.frombuffer(np.array(shape, "<i4").tobytes(), np.uint8)


# ---- running ----


class TFLiteModel:
    """A TFLite file ready to run, in batches if its operators allow another batch size than 1.

    `settings` are in the file, or if it carries none they are the flags'; without either a UserError.
    `content` is its bytes; `input` and `output` are the interpreter's details of the two tensors.
    """

    def __init__(self, path, flags: SettingsFlags | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path} {'is not a file' if self.path.exists() else 'does not exist'}")
        self.content = self.path.read_bytes()
        # without a graph the interpreter would crash
        if not _has_graph(self.content):
            raise UserError(f"{path} is not a TFLite model that can run: it has no graph")
        try:
            self._interpreter = _interpreter(self.content)
            (self.input,) = self._interpreter.get_input_details()
            (self.output,) = self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not a TFLite model that can run: {error}") from None
        self._batch = int(self.input["shape"][0])
        self._for_batches, self._resizable = for_batches(self.content), True
        if self._for_batches is not self.content:
            self._interpreter = _interpreter(self._for_batches)
        text = settings_text(self.content)
        stored = None if text is None else Settings.from_json(text, str(path))
        self.settings = settings_to_use(stored, flags, path)
        self._check_shapes()
        self._of_stretches = None

    def _check_shapes(self):
        expected = [(self.settings.feature_count,), (len(self.settings.labels),)]
        found = [tuple(map(int, detail["shape"][1:])) for detail in (self.input, self.output)]
        if found != expected:
            raise UserError(
                f"{self.path} takes {found[0]} features and returns {found[1]} scores, but its settings or "
                f"the flags say {expected[0]} and {expected[1]}"
            )

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, float32 [clips, labels], for features float32 [clips, feature_count]."""
        self._resize(min(len(features), CLIPS_AT_ONCE))
        scores = []
        for start in range(0, len(features), self._batch):
            part = features[start : start + self._batch]
            padded = np.pad(part, ((0, self._batch - len(part)), (0, 0)))  # [batch, feature_count]
            output_tensor = self.run(quantize(padded, self.input))
            scores.append(dequantize(output_tensor, self.output)[: len(part)])
        return np.concatenate(scores) if scores else np.zeros((0, len(self.settings.labels)), np.float32)

    @functools.cached_property
    def frames_between(self) -> int | None:
        """Return the number of frames between the windows of predict_stretch; None if the model has none."""
        found = for_stretches(self.content, self.settings.frame_count)
        if found is None:
            return None
        content, frames_between = found
        self._of_stretches = _interpreter(content)
        return frames_between

    def predict_stretch(self, frames: np.ndarray) -> np.ndarray:
        """Return the scores, float32 [windows, labels], of windows that begin each `frames_between` frames.

        Each frame is computed once. `frames` are features, float32 [frames, features of a frame].
        """
        count = 1 + (len(frames) - self.settings.frame_count) // self.frames_between
        input_tensor = quantize(frames.reshape(1, -1), self.input)
        self._of_stretches.resize_tensor_input(self.input["index"], input_tensor.shape)
        self._of_stretches.allocate_tensors()
        output_tensor = self._invoke(self._of_stretches, input_tensor)
        return dequantize(output_tensor, self.output).reshape(-1, len(self.settings.labels))[:count]

    def run(self, input_tensor: np.ndarray) -> np.ndarray:
        """Return the output tensor for one batch of the input tensor, both in the types of the file."""
        return self._invoke(self._interpreter, input_tensor)

    def _invoke(self, interpreter, input_tensor):
        interpreter.set_tensor(self.input["index"], input_tensor)
        try:
            interpreter.invoke()
        except RuntimeError as error:
            raise UserError(f"{self.path} is not a TFLite model that can run: {error}") from None
        return interpreter.get_tensor(self.output["index"])

    def _resize(self, batch):
        """Have the interpreter take `batch` clips at a time, if the model allows it."""
        if batch in (0, self._batch) or not self._resizable:
            return
        shape = [batch, *map(int, self.input["shape"][1:])]
        self._interpreter.resize_tensor_input(self.input["index"], shape)
        try:
            with quiet():
                self._interpreter.allocate_tensors()
            self._batch = batch
        except RuntimeError:
            # the model reshapes to a batch of its own: back to the size that it has
            self._interpreter, self._resizable = _interpreter(self._for_batches), False

    def cost(self) -> "Cost":
        """Return the size of the file and the cost of the network."""
        parameters, macs = parameters_and_macs(self.content)
        return Cost(len(self.content), zipped_size(self.content), parameters, macs)


def _interpreter(content):
    """Return an interpreter with its tensors allocated.

    If the fast kernels refuse the model, as when a layer never responds, it has the reference kernels. The
    labels of integer models are the same, and nearly all scores.
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
    """Return float values in the type of the tensor of `detail`, from the interpreter."""
    if detail["dtype"] == np.float32:
        return values.astype(np.float32)
    # real value = scale * (integer - zero_point)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def dequantize(values: np.ndarray, detail: dict) -> np.ndarray:
    """Return the float32 values of a tensor of `detail`, from the interpreter."""
    if detail["dtype"] == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


# ---- cost ----


class Cost(NamedTuple):
    """The resources that a model needs."""

    bytes: int  # size of its file, or of a checkpoint's files
    zipped: int  # bytes in a zip file
    parameters: int
    macs: int  # multiply-accumulates for one clip


def zipped_size(content: bytes) -> int:
    """Return the bytes that `content` takes in a zip file, and in an update over the air."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model", content)
    return len(packed.getvalue())


def parameters_and_macs(content):
    """Return the count of numbers in constant operands of arithmetic, and the multiply-accumulates.

    Equal tensors count once: an unrolled network repeats a gate's for each frame.
    """
    op = schema.BuiltinOperator
    products = op.FULLY_CONNECTED, op.CONV_2D, op.DEPTHWISE_CONV_2D
    model = parse(content)
    graph, constants, macs = model.subgraphs[0], {}, 0
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        # an operand that is left out, such as a bias, has the number -1
        operands = [graph.tensors[number] for number in operator.inputs if number >= 0]
        if code in products:
            # a kernel is applied at each place of its output [..., channels]
            *places, _ = graph.tensors[operator.outputs[0]].shape
            macs += math.prod(map(int, [*operands[1].shape, *places]))
        if code in (*products, op.ADD, op.SUB, op.MUL):
            for tensor in operands:
                data = model.buffers[tensor.buffer].data
                if data is not None and len(data):
                    shape = () if tensor.shape is None else tensor.shape
                    constants[bytes(data)] = math.prod(map(int, shape))
    return sum(constants.values()), macs
