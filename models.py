"""The networks of "Hello Edge" (arXiv:1711.07128), one to listen all day, and one to teach them.

Each builder takes Settings and the size info. It returns a Keras model from `input` [batch, feature_count] to
class scores [batch, labels], or None if the size info does not fit the architecture. As a script this prints
what the networks of the paper cost, or the settings that a model carries.

In the comments on shapes, batch is left out: [frames, coefficients] is [batch, frames, coefficients].
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

from kws.base.errors import UserError, run
from kws.base.flags import StoreTuple, new_parser
from kws.base.quiet_tf import keras
from kws.base.settings import FIELDS, Settings, SettingsFlags, add_setting
from kws.base.text import show
from kws.model import checkpoints
from kws.model.inspection import memory, operations

# Beyond these, --model_size_info is more likely to hold numbers in the wrong order than a real network.
LARGEST = 65536  # units or channels of a layer
MOST_LAYERS = 16  # layers of GRUs


class Architecture(NamedTuple):
    """A kind of network."""

    build: Callable  # (settings, size) -> Keras model, or None if the size does not fit
    size_info: str  # the numbers that --model_size_info takes, in words
    # as typed: the paper's small, medium and large (its appendix A, the authors' code), or one example
    sizes: tuple[str, ...]


def add_arguments(parser):
    """Add the flags that choose the network."""
    group = parser.add_argument_group("model")
    network = "a network of the paper, such as dnn_small or ds_cnn_large; stands for five flags"
    group.add_argument("--model", type=preset, metavar="NAME", help=network)
    add_setting(group, "model_architecture", "kind of network", choices=sorted(ARCHITECTURES))
    size = {"type": int, "nargs": "*", "action": StoreTuple, "metavar": "N"}
    add_setting(group, "model_size_info", "its size; for dnn the units of each hidden layer", **size)


def build_model(settings: Settings):
    """Return a new Keras model from `input` [batch, feature_count] to softmax over Settings.labels.

    Softmax is a layer of its own, the last, so that training can use the logits before it. Raises UserError
    if the architecture is unknown or the size info does not fit it.
    """
    if settings.model_architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"--model_architecture {settings.model_architecture}: known are {known}")
    architecture = ARCHITECTURES[settings.model_architecture]
    size = settings.model_size_info
    fits = all(1 <= value <= LARGEST for value in size)
    model = architecture.build(settings, size) if fits else None
    if model is None:
        raise UserError(
            f"--model_size_info {show(size)} does not fit {settings.model_architecture}: "
            f"it takes {architecture.size_info}, for example {architecture.sizes[0]}"
        )
    return model


# ---- fully connected ----


def build_single_fc(settings, size):
    """Build one fully connected layer."""
    if size not in ((), FIELDS["model_size_info"].default):
        return None
    features = _input(settings)
    return _classifier(features, features, settings)


def build_dnn(settings, size):
    """Build fully connected layers with ReLU."""
    if not size:
        return None
    hidden = features = _input(settings)  # [feature_count]
    for number, count in enumerate(size, 1):
        hidden = keras.layers.Dense(count, activation="relu", name=f"hidden_{number}")(hidden)  # [count]
    return _classifier(features, hidden, settings)


def _input(settings):
    return keras.Input(shape=(settings.feature_count,), name="input")


def _frames(features, settings, *channels):
    """Return the features as [batch, frame_count, features of a frame, *channels]."""
    shape = settings.frame_count, settings.front_end.frame_features, *channels
    return keras.layers.Reshape(shape)(features)


def _classifier(features, hidden, settings):
    """Return the model from the input `features` to scores, with `hidden` as its last hidden layer."""
    logits = keras.layers.Dense(len(settings.labels), name="output")(hidden)  # [labels]
    scores = keras.layers.Activation("softmax", name="scores")(logits)
    return keras.Model(features, scores, name=settings.model_architecture)


# ---- convolutions ----


def build_cnn(settings, size):
    """Build two convolutions over time and frequency, a linear layer and a fully connected one.

    As in the authors' code, batch normalisation comes before each ReLU, and nothing is padded.
    """
    if len(size) != 12:
        return None
    layers = keras.layers
    features = _input(settings)
    x = _frames(features, settings, 1)
    for channels, height, width, *strides in (size[:5], size[5:10]):
        if height > x.shape[1] or width > x.shape[2]:
            return None
        # [frames, coefficients, channels]: fewer frames and coefficients each time
        x = _normalised_relu(layers.Conv2D(channels, (height, width), strides)(x))
    x = layers.Dense(size[10], name="linear")(layers.Flatten()(x))  # [linear units]
    x = _normalised_relu(layers.Dense(size[11], name="hidden")(x))  # [hidden units]
    return _classifier(features, x, settings)


def build_ds_cnn(settings, size):
    """Build a convolution, depthwise separable ones (arXiv:1704.04861), and the mean over all places."""
    if not size or len(size) != 1 + 5 * size[0]:
        return None
    layers = keras.layers
    features = _input(settings)
    x = _frames(features, settings, 1)
    for number in range(size[0]):
        channels, *kernel, time_stride, frequency_stride = size[1 + 5 * number :][:5]
        strides = time_stride, frequency_stride
        if number == 0:
            # [frames / time stride, coefficients / frequency stride, channels]
            x = _normalised_relu(layers.Conv2D(channels, kernel, strides, padding="same")(x))
        else:
            # over time and frequency within each channel, then over channels at each place
            x = _normalised_relu(layers.DepthwiseConv2D(kernel, strides, padding="same")(x))
            x = _normalised_relu(layers.Conv2D(channels, 1)(x))
    x = layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))  # [channels]
    return _classifier(features, x, settings)


def _normalised_relu(x):
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))


# ---- a network for streams ----


def build_stream_cnn(settings, size):
    """Build a convolution, depthwise separable ones, and a depthwise one over all their outputs.

    The numbers are as for ds_cnn. Nothing is padded: in a stream an output needs past frames alone, and each
    frame is computed once. A depthwise convolution and the one over channels have no ReLU between them, as in
    MatchboxNet (arXiv:2004.08531).
    """
    if not size or len(size) != 1 + 5 * size[0]:
        return None
    layers = keras.layers
    features = _input(settings)
    # [frames, features, 1]; as many frames as there are, so that the network fits a stream of any length
    x = layers.Reshape((-1, settings.front_end.frame_features, 1))(features)
    for number in range(size[0]):
        channels, *kernel, time_stride, frequency_stride = size[1 + 5 * number :][:5]
        strides = time_stride, frequency_stride
        if kernel[0] > x.shape[1] or kernel[1] > x.shape[2] or number and time_stride != frequency_stride:
            return None
        if number == 0:
            x = layers.Conv2D(channels, kernel, strides, use_bias=False)(x)
        else:
            x = layers.DepthwiseConv2D(kernel, strides, use_bias=False)(x)
            x = layers.Conv2D(channels, 1, use_bias=False)(layers.BatchNormalization()(x))
        x = _normalised_relu(x)  # [fewer frames, fewer features, channels]
    # at first the mean over all places
    mean = keras.initializers.Constant(1 / math.prod(x.shape[1:3]))
    x = layers.DepthwiseConv2D(x.shape[1:3], use_bias=False, depthwise_initializer=mean)(x)
    return _classifier(features, layers.Flatten()(layers.BatchNormalization()(x)), settings)


# ---- recurrent networks ----


def unrolled(model):
    """Return a model like `model`, with its weights, and recurrent layers unrolled over their frames.

    It is slow to train, but converts to TFLite without control flow or state. Each gate has a matrix product
    of its own, since TFLite cannot split a tensor of 8 bits into parts of other ranges.
    """

    def unroll(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.RNN):
            config["unroll"] = True
            cell_config = config["cell"]["config"] if "cell" in config else config
            cell_config["implementation"] = 1  # Keras' name for a matrix product for each gate
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=unroll)
    copy.set_weights(model.get_weights())
    return copy


def build_basic_lstm(settings, size):
    """Build an LSTM without peepholes or projection; its last output is classified."""
    if len(size) != 1:
        return None
    features = _input(settings)
    x = keras.layers.LSTM(size[0])(_frames(features, settings))  # [frames, coefficients] -> [cells]
    return _classifier(features, x, settings)


def build_lstm(settings, size):
    """Build an LSTM with peepholes and an output projection (Sak et al., arXiv:1402.1128)."""
    from kws.model.extensions import ProjectedLSTMCell

    if len(size) != 2:
        return None
    features = _input(settings)
    # [frames, coefficients] -> [projection]
    x = keras.layers.RNN(ProjectedLSTMCell(size[1], size[0]))(_frames(features, settings))
    return _classifier(features, x, settings)


def build_gru(settings, size):
    """Build layers of gated recurrent units, the reset gate before the product, as in arXiv:1406.1078."""
    if len(size) != 2 or size[0] > MOST_LAYERS:
        return None
    features = _input(settings)
    x = _gru_layers(_frames(features, settings), *size)  # [frames, coefficients] -> [units]
    return _classifier(features, x, settings)


def build_crnn(settings, size):
    """Build a convolution without padding, layers of GRUs over its outputs, and a fully connected layer."""
    if len(size) != 8:
        return None
    channels, height, width, *strides, layer_count, units, hidden = size
    if (
        layer_count > MOST_LAYERS
        or height > settings.frame_count
        or width > settings.front_end.frame_features
    ):
        return None
    layers = keras.layers
    features = _input(settings)
    # [frames, coefficients, channels] after the convolution, [frames, coefficients * channels] for the GRUs
    x = layers.Conv2D(channels, (height, width), strides, activation="relu")(_frames(features, settings, 1))
    x = _gru_layers(layers.Reshape((x.shape[1], x.shape[2] * channels))(x), layer_count, units)  # [units]
    x = layers.Dense(hidden, activation="relu", name="hidden")(x)  # [hidden]
    return _classifier(features, x, settings)


def _gru_layers(x, count, units):
    """Return the last output, [units], of `count` layers of GRUs over [frames, values]."""
    for number in range(1, count + 1):
        # all layers but the last give their outputs of every frame: [frames, units]
        x = keras.layers.GRU(units, reset_after=False, return_sequences=number < count)(x)
    return x


# ---- a teacher ----

TEACHER_DROPOUT = 0.3  # before the classifier, against overfitting of so large a network


def build_tc_resnet(settings, size):
    """Build convolutions over time with residual connections, after TC-ResNet (arXiv:1904.03814).

    The MFCCs of a frame are channels. The size info is the kernel length of the blocks in frames, the
    channels of the first convolution, and the channels of each block. Every other block, from the first on,
    halves the number of frames.
    """
    if len(size) < 3:
        return None
    layers = keras.layers
    kernel, first, *blocks = size

    def convolution(x, channels, length, stride=1):
        x = layers.Conv1D(channels, length, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    features = _input(settings)
    x = _frames(features, settings)
    # [frames, coefficients] -> [frames, first]
    x = layers.ReLU()(convolution(layers.BatchNormalization()(x), first, 3))
    for number, channels in enumerate(blocks):
        stride = 2 - number % 2  # 2, 1, 2, 1, ...
        y = layers.ReLU()(convolution(x, channels, kernel, stride))
        y = convolution(y, channels, kernel)  # [frames / stride, channels]
        if stride > 1 or x.shape[-1] != channels:
            # the shortcut in the shape of y
            x = convolution(x, channels, 1, stride)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dropout(TEACHER_DROPOUT)(layers.GlobalAveragePooling1D()(x))  # [channels]
    return _classifier(features, x, settings)


# ---- sizes ----

CONVOLUTION = "its channels, its kernel's frames and coefficients, and its strides in both"
ARCHITECTURES = {
    "single_fc": Architecture(build_single_fc, "no numbers", ("no --model_size_info at all",)),
    "dnn": Architecture(
        build_dnn,
        "the number of units of each hidden layer",
        ("144 144 144", "256 256 256", "436 436 436"),
    ),
    "cnn": Architecture(
        build_cnn,
        f"for each of two convolutions {CONVOLUTION}; the units of the linear layer and of the hidden one",
        (
            "28 10 4 1 1 30 10 4 2 1 16 128",
            "64 10 4 1 1 48 10 4 2 1 16 128",
            "60 10 4 1 1 76 10 4 2 1 58 128",
        ),
    ),
    "basic_lstm": Architecture(build_basic_lstm, "the number of memory cells", ("118", "214", "344")),
    "lstm": Architecture(
        build_lstm,
        "the size of the projection and the number of memory cells",
        ("98 144", "130 280", "188 500"),
    ),
    "gru": Architecture(build_gru, "the number of layers and of units in each", ("1 154", "1 250", "1 400")),
    "crnn": Architecture(
        build_crnn,
        f"for the convolution {CONVOLUTION}; the number of GRU layers and of units in each; the units of the "
        "hidden layer",
        ("48 10 4 2 2 2 60 84", "128 10 4 2 2 2 76 164", "100 10 4 2 1 2 136 188"),
    ),
    "ds_cnn": Architecture(
        build_ds_cnn,
        f"the number of convolutions, and for each {CONVOLUTION}",
        (
            "5 64 10 4 2 2" + 4 * " 64 3 3 1 1",
            "5 172 10 4 2 1 172 3 3 2 2" + 3 * " 172 3 3 1 1",
            "6 276 10 4 2 1 276 3 3 2 2" + 4 * " 276 3 3 1 1",
        ),
    ),
    "stream_cnn": Architecture(
        build_stream_cnn,
        f"the number of convolutions, and for each {CONVOLUTION}, from the second on equal",
        (
            "6 24 5 8 2 4 32 3 3 1 1 40 3 3 1 1 64 1 5 1 1 64 9 1 1 1 64 5 1 1 1",
            "6 32 5 8 2 4 48 3 3 1 1 64 3 3 1 1 96 1 5 1 1 128 9 1 1 1 128 5 1 1 1",
        ),
    ),
    "tc_resnet": Architecture(
        build_tc_resnet,
        "the kernel length, the channels of the first convolution and of each block",
        ("5 96 96 128 160 192",),
    ),
}
# Networks with a name: the paper's, whose strides of frames its appendix A gives, and those for streams.
EVERY_40_MS = ("dnn_small", "dnn_medium", "dnn_large", "lstm_small", "gru_small")
NAMES = {3: ("small", "medium", "large"), 2: ("small", "large")}
PRESETS = {
    f"{architecture}_{name}": {
        "model_architecture": architecture,
        "model_size_info": tuple(map(int, size.split())),
        # log-mel energies for streams
        "dct_coefficient_count": 0 if architecture == "stream_cnn" else 10,
        "window_size_ms": 40.0,
        "window_stride_ms": 40.0 if f"{architecture}_{name}" in EVERY_40_MS else 20.0,
    }
    for architecture, kind in ARCHITECTURES.items()
    for name, size in zip(NAMES.get(len(kind.sizes), ()), kind.sizes, strict=False)
}


def preset(name: str) -> dict:
    """Return the settings of a network of the paper, five of them; a type for --model."""
    if name not in PRESETS:
        raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


# ---- models that are stored ----


def load(path, flags: SettingsFlags | None = None):
    """Return a model in any form, ready to predict; see `kws.model.checkpoints.load`."""
    return checkpoints.load(path, build_model, flags)


def load_checkpoint(path, flags: SettingsFlags | None = None):
    """Return the Keras network of a checkpoint, and its Settings."""
    return checkpoints.load_checkpoint(path, build_model, flags)


# ---- the script ----


def main():
    parser = new_parser("Print what the networks of the paper cost, or the settings that a model carries.")
    parser.add_argument("path", metavar="MODEL", nargs="?", help="a model in any form")
    kind = "print the architecture of MODEL or --model alone, such as dnn"
    parser.add_argument("--architecture", action="store_true", help=kind)
    add_arguments(parser)
    args = parser.parse_args()
    flags = SettingsFlags.from_arguments(args)
    stored = checkpoints.read_settings(args.path) if args.path else None
    if args.path and stored is None and not flags.preset:
        raise UserError(f"{args.path} carries no settings: --model must say what it is")
    settings = flags.resolve(stored, args.path or "")
    if args.architecture:
        print(settings.model_architecture)
    elif args.path:
        print(settings.to_json())
    else:
        print_costs()


def print_costs():
    """Print a table of the presets: parameters, operations and memory."""
    print(f"{'--model':18}{'parameters':>11}{'operations, M':>15}{'memory, kB':>12}")
    for name, values in PRESETS.items():
        model = build_model(Settings(**values))
        weights = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        print(f"{name:18}{weights:11,}{operations(model) / 1e6:15.2f}{memory(model) / 1e3:12.1f}")


if __name__ == "__main__":
    run(main)
