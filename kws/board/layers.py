"""Read the layers of an int8 TFLite file as numbers, to compute with them elsewhere."""

import math
from typing import NamedTuple

import numpy as np

from kws.base.errors import UserError
from kws.model import tflite

WORD = 4  # bytes
LANES = 16  # of a Helium vector
HELIUM_CHANNELS = 124  # that CMSIS-NN copies at a time
LONGEST_OF_FOUR = 128  # weights of a row, so that the inputs of four places take at most 1 kB


class Shape(NamedTuple):
    """The shape of a layer's input or output; 1 x 1 x inputs if it is a vector."""

    height: int  # frames
    width: int  # coefficients
    channels: int

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels


class PackedKernel(NamedTuple):
    """Weights as indices into a table of values, in the layout of kws/board/packing.py."""

    bits: int  # of an index
    values: np.ndarray  # int8 [2^bits], ascending, then zeros
    words: np.ndarray  # the lower bits of four pairs of indices
    tops: np.ndarray  # uint8: the bits above them; empty if indices have 4 bits

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.values.nbytes + self.words.nbytes + self.tops.nbytes


class Layer(NamedTuple):
    """A layer: real output = scales * (weights @ (inputs under the kernel - input_zero) + bias)."""

    kind: str  # a name of the enum in kws.h, without KWS_
    weights: np.ndarray  # int8 [outputs, inputs]; depthwise [inputs, outputs]
    bias: np.ndarray  # int32 [outputs]
    input_zero: int
    output_zero: int
    scales: np.ndarray  # float32 [outputs] or [1]: steps of the output in a step of the sum
    relu: bool
    from_shape: Shape
    to_shape: Shape
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)  # above and left
    packed: PackedKernel | None = None  # the same weights as indices, if few differ

    @property
    def macs(self) -> int:
        return self.weights.size * self.to_shape.height * self.to_shape.width

    @property
    def folded_bias(self) -> np.ndarray:
        """Return the bias for inputs that still have their zero point, int64 [outputs]."""
        sums = self.weights.sum(axis=0 if self.kind == "DEPTHWISE" else 1, dtype=np.int64)
        return self.bias - self.input_zero * sums

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row of weights in C: whole words, so that they can be loaded as words."""
        return -(-self.weights.shape[1] // WORD) * WORD

    @property
    def wide_words(self) -> int:
        """Return the words for inputs of 16 bits with the DSP extension: of four places if they are few."""
        row = self.row_bytes
        if self.packed or self.kind not in ("CONVOLUTION", "FULLY_CONNECTED"):
            return 0
        return 2 * row if self.kind == "CONVOLUTION" and row <= LONGEST_OF_FOUR else row // 2

    @property
    def patch_size(self) -> int:
        """Return the bytes copied for each place: values under the kernel, or beyond the edges."""
        source = self.from_shape
        if self.kind == "DEPTHWISE":
            return source.channels if self.padded else 0
        of_whole_rows = self.kernel[1] == source.width and self.to_shape.width == 1
        beside = self.kernel == (1, 1) or (of_whole_rows and not self.padded_in_time)
        return math.prod(self.kernel) * source.channels if self.kind == "CONVOLUTION" and not beside else 0

    @property
    def convolves(self) -> bool:
        """Return whether CMSIS-NN takes the layer as a convolution or a mean over places."""
        return self.kind != "FULLY_CONNECTED" or len(self.scales) > 1

    @property
    def scratch(self) -> int:
        """Return the bytes that CMSIS-NN computes the layer in, at most; without Helium."""
        if self.kind == "AVERAGE":
            return 4 * self.to_shape.channels
        if self.kind == "DEPTHWISE":
            of_its_own = self.kernel == (3, 3) and max(self.padding) <= 1
            return 0 if of_its_own else 2 * self.weights.size
        # inputs of two places, of 16 bits each
        return 4 * self.row_bytes if self.convolves else 0

    @property
    def scratch_helium(self) -> int:
        """Return the same with Helium: inputs of four places."""
        if self.kind == "DEPTHWISE":
            return 4 * HELIUM_CHANNELS * len(self.weights)
        row = -(-self.weights.shape[1] // LANES) * LANES
        return 4 * row if self.kind == "CONVOLUTION" else 0

    @property
    def padded(self) -> bool:
        return self.padded_in_time or self.padded_in_width

    @property
    def padded_in_time(self) -> bool:
        end = (self.to_shape.height - 1) * self.strides[0] + self.kernel[0]
        return self.padding[0] > 0 or end > self.from_shape.height

    @property
    def padded_in_width(self) -> bool:
        end = (self.to_shape.width - 1) * self.strides[1] + self.kernel[1]
        return self.padding[1] > 0 or end > self.from_shape.width

    @property
    def kept(self) -> int:
        """Return the number of inputs for one place in time of the output."""
        return self.kernel[0] * self.from_shape.width * self.from_shape.channels


class Network(NamedTuple):
    """The layers of an int8 TFLite file, one after the other, before its softmax."""

    layers: list[Layer]
    # scale and zero point of the input, and of what goes into the softmax and comes out
    input: tuple[float, int]
    logits: tuple[float, int]
    scores: tuple[float, int]
    # frames of a stream from one clip's scores to the next, if each layer computes a frame once; or 0
    frames_between: int = 0

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def buffers(self) -> tuple[int, int]:
        """Return the bytes that layers of even and of odd number write; the last writes the scores.

        A network that computes frame by frame writes to where the next layer keeps its inputs.
        """
        sizes = [] if self.frames_between else [layer.to_shape.size for layer in self.layers[:-1]]
        return max(sizes[::2], default=1), max(sizes[1::2], default=1)

    @property
    def patch_size(self) -> int:
        return max(layer.patch_size for layer in self.layers)


# ---- reading ----


def read_network(content: bytes, path) -> Network:
    """Return the layers of an int8 TFLite file, given as bytes.

    UserError naming `path` if the file is of another kind or damaged.
    """
    try:
        return _network(_Graph(content, path))
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


class _Graph:
    """The graph of a TFLite file, whose tensors are read by their number."""

    def __init__(self, content, path):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.path = path
        self._model = tflite.parse(content)
        self._graph = self._model.subgraphs[0]
        self.inputs = self._graph.inputs
        self.outputs = self._graph.outputs
        self.operators = self._graph.operators
        self.names = tflite.operator_names(content)

    def refused(self, what):
        return UserError(f"{self.path} has {what}: it cannot be exported")

    def code(self, operator):
        return self._model.operatorCodes[operator.opcodeIndex].builtinCode

    def shape(self, tensor) -> tuple[int, ...]:
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))

    def scales(self, tensor) -> np.ndarray:
        """Return the scales of an int8 tensor, float32 [1] or [channels]; UserError if it is not int8."""
        quantization = self._graph.tensors[tensor].quantization
        is_int8 = self._graph.tensors[tensor].type == self.schema.TensorType.INT8
        if not is_int8 or not len(quantization.scale):
            raise UserError(f"{self.path} is not int8 throughout: convert it with --inference_type int8")
        scales = np.asarray(quantization.scale, np.float32)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError("a scale is not a positive number")
        return scales

    def scale_and_zero(self, tensor) -> tuple[float, int]:
        (scale,), (zero,) = self.scales(tensor), self._graph.tensors[tensor].quantization.zeroPoint
        if not -128 <= zero <= 127:
            raise ValueError("a zero point is not of 8 bits")
        return float(scale), int(zero)

    def constant(self, tensor, dtype) -> np.ndarray:
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data
        return np.frombuffer(bytes(data), dtype).reshape(self.shape(tensor))


def _network(graph: _Graph) -> Network:
    # say of a float model that it is one, before its operators are looked at
    for tensor in (*graph.inputs, *graph.outputs):
        graph.scales(tensor)

    op = graph.schema.BuiltinOperator
    readers = {
        op.FULLY_CONNECTED: _fully_connected,
        op.CONV_2D: _convolution,
        op.DEPTHWISE_CONV_2D: _convolution,
        op.AVERAGE_POOL_2D: _average,
    }
    *codes, last = map(graph.code, graph.operators)
    if last != op.SOFTMAX or not set(codes) <= {*readers, op.RESHAPE}:
        raise UserError(
            f"{graph.path} has the operators {', '.join(graph.names)}; only fully connected layers, "
            "convolutions, an average over all places and a softmax can be exported, as in the architectures "
            "single_fc, dnn, cnn, ds_cnn and stream_cnn"
        )

    # each operator must read what the one before it wrote
    layers, latest = [], graph.inputs[0]
    for operator in graph.operators:
        if operator.inputs[0] != latest:
            raise graph.refused("layers that are not one after the other")
        latest = operator.outputs[0]
        # a reshape is no layer: values lie in the same order before and after it
        if graph.code(operator) in readers:
            layers.append(readers[graph.code(operator)](graph, operator))
    for before, after in zip(layers, layers[1:], strict=False):
        if before.to_shape.size != after.from_shape.size:
            raise ValueError("a layer takes what the one before does not give")
    ends = graph.inputs[0], graph.operators[-1].inputs[0], graph.outputs[0]
    return Network(layers, *map(graph.scale_and_zero, ends))


def _fully_connected(graph: _Graph, operator) -> Layer:
    weights = graph.constant(operator.inputs[1], np.int8)  # [outputs, inputs]
    outputs, inputs = weights.shape
    shapes = Shape(1, 1, inputs), Shape(1, 1, outputs)
    return _layer(graph, operator, "FULLY_CONNECTED", weights, shapes)


def _convolution(graph: _Graph, operator) -> Layer:
    """Return a CONV_2D or DEPTHWISE_CONV_2D; ValueError if its shapes do not fit each other."""
    options, kernel = operator.builtinOptions, graph.constant(operator.inputs[1], np.int8)
    # [outputs, height, width, inputs], or [1, height, width, channels] if depthwise
    outputs, *size, _ = kernel.shape
    source, target = _places(graph, operator)
    kind, weights = "CONVOLUTION", kernel.reshape(outputs, -1)
    if graph.code(operator) == graph.schema.BuiltinOperator.DEPTHWISE_CONV_2D:
        kind, weights = "DEPTHWISE", kernel.reshape(-1, kernel.shape[-1])
    if options.dilationHFactor != 1 or options.dilationWFactor != 1:
        raise graph.refused("a dilated convolution")
    if kind == "DEPTHWISE" and options.depthMultiplier != 1:
        raise graph.refused("a depthwise convolution with a multiplier")

    # height and width: TFLite pads above and left by half of what is missing, rounded down
    strides = int(options.strideH), int(options.strideW)
    same = options.padding == graph.schema.Padding.SAME
    padding, fits = [], []
    for given, count, stride, length in zip(source, target, strides, size, strict=False):
        missing = (count - 1) * stride + length - given
        padding.append(max(0, missing) // 2 if same else 0)
        fits.append(count == (-(-given // stride) if same else (given - length) // stride + 1))
    channels = source.channels if kind == "CONVOLUTION" else 1
    if not all(fits) or weights.size != math.prod(size) * channels * target.channels:
        raise ValueError("the shapes of a convolution do not fit")
    layer = _layer(graph, operator, kind, weights, (source, target))
    return layer._replace(kernel=tuple(size), strides=strides, padding=tuple(padding))


def _average(graph: _Graph, operator) -> Layer:
    options, (source, target) = operator.builtinOptions, _places(graph, operator)
    if (options.filterHeight, options.filterWidth) != source[:2] or target != (1, 1, source.channels):
        raise graph.refused("an average over a part of the places")
    _, zero = graph.scale_and_zero(operator.inputs[0])
    return Layer(
        kind="AVERAGE",
        weights=np.zeros((0, target.channels), np.int8),
        bias=np.zeros(0, np.int32),
        input_zero=zero,
        output_zero=zero,
        scales=np.ones(1, np.float32),
        relu=False,
        from_shape=source,
        to_shape=target,
        kernel=(source.height, source.width),
    )


def _places(graph: _Graph, operator) -> list[Shape]:
    """Return the shapes of the input and the output of an operator over images."""
    shapes = graph.shape(operator.inputs[0]), graph.shape(operator.outputs[0])
    if any(len(shape) != 4 or shape[0] != 1 or min(shape) < 1 for shape in shapes):
        raise ValueError("a convolution or pooling takes or gives other than one image")
    return [Shape(*shape[1:]) for shape in shapes]


def _layer(graph: _Graph, operator, kind, weights, shapes) -> Layer:
    """Return a layer with weights; ValueError if its sums or products could overflow in C."""
    source, kernel, bias = (*operator.inputs, -1)[:3]
    (in_scale, in_zero), (out_scale, out_zero) = map(graph.scale_and_zero, (source, operator.outputs[0]))
    outputs = shapes[1].channels
    # in float32 and in this order, as XNNPACK does, which runs the layers for LiteRT
    scales = np.float32(in_scale) * graph.scales(kernel) / np.float32(out_scale)
    activations = graph.schema.ActivationFunctionType
    activation = operator.builtinOptions.fusedActivationFunction
    if activation not in (activations.NONE, activations.RELU):
        raise UserError(f"{graph.path} has an activation that cannot be exported: only ReLU can")
    layer = Layer(
        kind=kind,
        weights=weights,
        bias=graph.constant(bias, "<i4").ravel() if bias >= 0 else np.zeros(outputs, np.int32),
        input_zero=in_zero,
        output_zero=out_zero,
        scales=scales,
        relu=activation == activations.RELU,
        from_shape=shapes[0],
        to_shape=shapes[1],
    )
    if len(layer.bias) != outputs or len(scales) not in (1, outputs) or not weights.size:
        raise ValueError("a layer's weights, bias and scales do not fit")

    if kind == "DEPTHWISE" and (weights == -128).any():
        raise ValueError("a depthwise weight is -128: C sums two products in 16 bits")
    # C sums in int32, and rounds products of sums and scales exactly up to 2^21
    inputs_axis = 0 if kind == "DEPTHWISE" else 1
    largest = np.abs(layer.folded_bias) + 128 * np.abs(weights.astype(np.int64)).sum(inputs_axis)
    if (largest >= 2**31).any() or (largest * scales.astype(float) >= 2**21).any():
        raise ValueError("the sums of a layer are too large")
    return layer
