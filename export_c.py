"""Write a self-contained C99 module for an int8 TFLite model of fully connected layers: features and network.

What the module computes from audio is what the model computes on the PC: features within rounding, scores
bit for bit. It uses no heap and no library but libm; vectors to check it with are part of it.
"""

import math
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws import tflite
from kws.cli import UserError, new_parser, run
from kws.download import word_folders
from kws.features import MEL_CHANNELS, FrontEnd, mfcc, mfcc_tables
from kws.files import write_text
from kws.firmware import c_string
from kws.recordings import decode_folders
from kws.settings import Settings
from kws.tflite import TFLiteModel, quantize

SOURCES = Path(__file__).resolve().parent / "c"
SAMPLE_DATA = Path(__file__).resolve().parent / "sample_data"
VECTORS = 3


class Layer(NamedTuple):
    """A fully connected layer: real output = scale * (weights @ (input - input_zero) + bias)."""

    weights: np.ndarray  # int8 [outputs, inputs]
    bias: np.ndarray  # int32 [outputs]
    input_zero: int
    output_zero: int
    scale: float  # of the sums, in steps of the output
    relu: bool


class Network(NamedTuple):
    """What an int8 TFLite file of fully connected layers and softmax holds."""

    layers: list[Layer]
    input: tuple[float, int]  # scale and zero point
    logits: tuple[float, int]
    scores: tuple[float, int]


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("tflite_path", metavar="MODEL", help="an int8 TFLite file, with its settings inside")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write the module to")
    parser.add_argument(
        "--data_dir",
        default=str(SAMPLE_DATA),
        metavar="DIR",
        help="recordings to take the vectors from, one folder per word",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    model = TFLiteModel(args.tflite_path)
    settings, front_end = model.settings, model.settings.front_end
    network = read_network(model.content, args.tflite_path)
    clips = vector_clips(args.data_dir, settings)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.iterdir()):
        shutil.copy(source, folder / source.name)
    write_text(folder / "kws_model.h", header(network, settings))
    write_text(folder / "kws_model.c", tables(network, settings))
    write_text(folder / "kws_cmsis_dsp.h", cmsis_dsp_tables(front_end))
    write_text(folder / "kws_vectors.h", VECTORS_HEADER.replace("COUNT", str(len(clips))))
    write_text(folder / "kws_vectors.c", vectors(clips, model))
    command = f"make -C {shlex.quote(str(folder))}"
    print(f"wrote {folder}: `{command}` builds it and checks it against {len(clips)} clips")
    print(cost_text(network, front_end))


# ---- the model ----


def read_network(content: bytes, path) -> Network:
    """The layers of an int8 TFLite file; UserError naming `path` where it is of another kind, or damaged."""
    try:
        return _network(content, path)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _network(content, path):
    from ai_edge_litert import schema_py_generated as schema

    model = tflite.parse(content)
    graph, op = model.subgraphs[0], schema.BuiltinOperator
    if any(
        graph.tensors[number].type != schema.TensorType.INT8 for number in (*graph.inputs, *graph.outputs)
    ):
        raise UserError(f"{path} is not int8 throughout: convert it with --inference_type int8")
    found = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
    if set(found[:-1]) != {op.FULLY_CONNECTED} or found[-1] != op.SOFTMAX:
        raise UserError(
            f"{path} has the operators {', '.join(tflite.operator_names(content))}; only "
            "fully connected layers and a softmax can be exported, as in the architectures dnn and single_fc"
        )

    def scale_and_zero(tensor):
        quantization = graph.tensors[tensor].quantization
        if graph.tensors[tensor].type != schema.TensorType.INT8 or len(quantization.scale) != 1:
            raise UserError(f"{path} is not int8 throughout: convert it with --inference_type int8")
        return float(quantization.scale[0]), int(quantization.zeroPoint[0])

    def constant(tensor, dtype):
        return np.frombuffer(bytes(model.buffers[graph.tensors[tensor].buffer].data), dtype)

    layers = []
    for operator in graph.operators[:-1]:
        source, weights, bias = operator.inputs
        (in_scale, in_zero), (scale, _) = scale_and_zero(source), scale_and_zero(weights)
        out_scale, out_zero = scale_and_zero(operator.outputs[0])
        activation = operator.builtinOptions.fusedActivationFunction
        if activation not in (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU):
            raise UserError(f"{path} has an activation that cannot be exported: only ReLU can")
        kernel = constant(weights, np.int8).reshape(graph.tensors[weights].shape)
        layers.append(
            Layer(
                weights=kernel,
                bias=constant(bias, "<i4") if bias >= 0 else np.zeros(len(kernel), np.int32),
                input_zero=in_zero,
                output_zero=out_zero,
                scale=in_scale * scale / out_scale,
                relu=activation == schema.ActivationFunctionType.RELU,
            )
        )
    softmax = graph.operators[-1]
    return Network(
        layers, *(scale_and_zero(number) for number in (graph.inputs[0], softmax.inputs[0], graph.outputs[0]))
    )


def multiplier_and_shift(scale: float) -> tuple[int, int]:
    """`scale` as multiplier * 2^(shift - 31), the multiplier an int32 of 31 bits."""
    fraction, shift = math.frexp(scale)
    multiplier = round(fraction * 2**31)
    return (multiplier // 2, shift + 1) if multiplier == 2**31 else (multiplier, shift)


# ---- as C ----

VECTORS_HEADER = """\
#include "kws.h"

#define KWS_VECTORS COUNT

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;
    int16_t samples[KWS_CLIP];
    int8_t input[KWS_INPUTS];
    int8_t scores[KWS_LABELS];
} kws_vector;

extern const kws_vector kws_vectors[KWS_VECTORS];

#ifdef __cplusplus
}
#endif
"""


def header(network: Network, settings: Settings) -> str:
    _, fft_length, filters, _ = mfcc_tables(settings.front_end)
    sizes = {
        "SAMPLE_RATE": settings.sample_rate,
        "CLIP": settings.clip_samples,
        "WINDOW": settings.front_end.window_samples,
        "STRIDE": settings.front_end.stride_samples,
        "FRAMES": settings.frame_count,
        "COEFFICIENTS": settings.dct_coefficient_count,
        "MEL_CHANNELS": MEL_CHANNELS,
        "FFT": fft_length,
        "BINS": len(filters),
        "LABELS": len(settings.labels),
        "LAYERS": len(network.layers),
        "WIDEST": max(len(layer.bias) for layer in network.layers),
        "INPUT_SCALE": _float(network.input[0]),
        "INPUT_ZERO": network.input[1],
        "SCORE_SCALE": _float(network.scores[0]),
        "SCORE_ZERO": network.scores[1],
    }
    lines = [f"#define KWS_{name} {value}" for name, value in sizes.items()]
    return "\n".join(["/* Sizes in samples, values or labels. */", *lines, ""])


def tables(network: Network, settings: Settings) -> str:
    window, fft_length, filters, dct = mfcc_tables(settings.front_end)
    angles = 2 * np.pi * np.arange(fft_length // 2) / fft_length
    twiddle = np.stack([np.cos(angles), np.sin(angles)], 1)
    parts = ['#include "kws.h"\n']
    names = ", ".join(map(c_string, settings.labels))
    parts.append(f"const char *const kws_labels[KWS_LABELS] = {{{names}}};\n")
    entries = []
    for number, layer in enumerate(network.layers):
        multiplier, shift = multiplier_and_shift(layer.scale)
        outputs, inputs = layer.weights.shape
        parts.append(f"static const int8_t weights_{number}[] = {{\n{_numbers(layer.weights)}}};\n")
        bias = layer.bias - layer.input_zero * layer.weights.sum(axis=1, dtype=np.int32)
        parts.append(f"static const int32_t bias_{number}[] = {{\n{_numbers(bias)}}};\n")
        output_min = layer.output_zero if layer.relu else -128
        entries.append(
            f"    {{weights_{number}, bias_{number}, {inputs}, {outputs}, "
            f"{layer.output_zero}, {multiplier}, {shift}, {output_min}}},\n"
        )
    parts.append(f"const kws_layer kws_layers[KWS_LAYERS] = {{\n{''.join(entries)}}};\n")
    distances = np.exp(-np.float32(network.logits[0]) * np.arange(256, dtype=np.float32))
    for declaration, values in (
        ("kws_softmax[256]", distances),
        ("kws_window[KWS_WINDOW]", window / np.float32(32768)),
        ("kws_twiddle[KWS_FFT / 2][2]", twiddle),
        ("kws_dct[KWS_COEFFICIENTS][KWS_MEL_CHANNELS]", dct.T),
    ):
        parts.append(f"const float {declaration} = {{\n{_numbers(values)}}};\n")
    bins = "".join(
        f"    {{{_float(weight)}, {_float(above)}, {channel}}},\n"
        for weight, above, channel in mel_bins(filters)
    )
    parts.append(f"const kws_bin kws_bins[KWS_BINS] = {{\n{bins}}};\n")
    return "\n".join(parts)


def mel_bins(filters: np.ndarray) -> list[tuple[float, float, int]]:
    """Of each bin the mel channel it goes into, its weight there, and that in the channel above."""
    result = []
    for row in filters:
        used = np.flatnonzero(row)
        channel = int(used[0]) if len(used) else 0
        assert len(used) <= 2 and (len(used) < 2 or used[1] == channel + 1)
        result.append((row[channel], row[channel + 1] if channel + 1 < len(row) else 0, channel))
    return result


CMSIS_DSP_HEADER = """\
/* The front end for CMSIS-DSP's arm_mfcc_f32, in place of kws_stream_push:
 *
 *     arm_mfcc_init_FFT_LENGTH_f32(&mfcc, KWS_MEL_CHANNELS, KWS_COEFFICIENTS, kws_dsp_dct, kws_dsp_positions,
 *                            kws_dsp_lengths, kws_dsp_filters, kws_dsp_window);   once
 *     arm_mfcc_f32(&mfcc, frame, coefficients, temporary);
 *     coefficients[0] -= KWS_DSP_OFFSET;
 *     kws_stream_push_mfcc(&stream, coefficients);
 *
 * frame: KWS_WINDOW samples from -1 to 1, and zeros up to KWS_FFT; all of it is overwritten. temporary:
 * 2 KWS_FFT floats. arm_mfcc_f32 adds 1e-6 to the energy in each mel channel where TensorFlow takes at least
 * 1e-12, so the window makes all of it 1e6 times as large, which the offset takes back. */
#include <stdint.h>

#include "kws_model.h"

"""


def cmsis_dsp_tables(front_end: FrontEnd) -> str:
    """The tables that CMSIS-DSP's arm_mfcc_init_f32 takes, as a header."""
    window, fft_length, filters, dct = mfcc_tables(front_end)
    louder = 1e6
    padded = np.pad(louder * window, (0, fft_length - len(window)))
    bins = [np.flatnonzero(channel) for channel in filters.T]
    first = [used[0] if len(used) else 0 for used in bins]
    last = [used[-1] + 1 if len(used) else 0 for used in bins]
    packed = np.concatenate(
        [filters[start:stop, i] for i, (start, stop) in enumerate(zip(first, last, strict=True))]
    )
    offset = dct[:, 0].sum() * math.log(louder)
    arrays = (
        ("float kws_dsp_window[KWS_FFT]", padded),
        ("uint32_t kws_dsp_positions[KWS_MEL_CHANNELS]", np.add(first, 1)),  # the filters begin with bin 1
        ("uint32_t kws_dsp_lengths[KWS_MEL_CHANNELS]", np.subtract(last, first)),
        (f"float kws_dsp_filters[{len(packed)}]", packed),
        ("float kws_dsp_dct[KWS_COEFFICIENTS * KWS_MEL_CHANNELS]", dct.T.ravel()),
    )
    parts = [f"static const {declaration} = {{\n{_numbers(values)}}};\n" for declaration, values in arrays]
    explained = CMSIS_DSP_HEADER.replace("FFT_LENGTH", str(fft_length))
    return "\n".join([f"{explained}#define KWS_DSP_OFFSET {_float(offset)}\n", *parts])


def _numbers(values) -> str:
    """The values of an array for an initialiser, in lines; a row of a matrix in braces of its own."""
    values = np.asarray(values)
    if values.ndim == 2 and values.dtype != np.int8:
        return "".join(f"    {{{', '.join(map(_float, row))}}},\n" for row in values)
    shown = [_float(value) if values.dtype.kind == "f" else str(value) for value in values.ravel()]
    return "".join(f"    {', '.join(shown[start : start + 16])},\n" for start in range(0, len(shown), 16))


def _float(value) -> str:
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


# ---- vectors ----


def vector_clips(data_dir, settings) -> list[tuple[str, np.ndarray]]:
    """Names and samples, int16 [clip_samples], of a few recordings: of different words, wanted ones first."""
    folder = Path(data_dir)
    present = word_folders(folder)
    words = [word for word in settings.wanted_words if word in present]
    words = (words + [word for word in present if word not in words])[:VECTORS]
    if not words:
        raise UserError(f"{folder} has no recordings: expected {folder}/<word>/<clip>.wav")
    shards = decode_folders(folder, words, settings.front_end)
    clips = [(f"{word}/{shard.names[0]}", shard.pcm[0]) for word, shard in shards.items() if shard.names]
    return [*clips, ("silence", np.zeros(settings.clip_samples, np.int16))]


def vectors(clips, model) -> str:
    parts = []
    for name, samples in clips:
        features = mfcc(samples[None], model.settings.front_end)
        input_tensor = quantize(features, model.input)
        scores = model.run(input_tensor)
        arrays = (f"    {{\n{_numbers(values)}    }},\n" for values in (samples, input_tensor[0], scores[0]))
        parts.append(f"    {{{c_string(name)},\n{''.join(arrays)}    }},\n")
    return (
        f'#include "kws_vectors.h"\n\nconst kws_vector kws_vectors[KWS_VECTORS] = {{\n{"".join(parts)}}};\n'
    )


# ---- what it costs ----


def cost_text(network: Network, front_end: FrontEnd) -> str:
    """Flash, RAM and multiply-accumulates of the module, in words."""
    window, fft_length, filters, dct = mfcc_tables(front_end)
    float_size, bin_size = 4, 12  # bytes; kws_bin is two floats and an int
    weights = sum(layer.weights.size + 4 * layer.bias.size for layer in network.layers)
    softmax_table = 256
    tables = float_size * (softmax_table + len(window) + fft_length + dct.size) + bin_size * len(filters)
    widest = max(len(layer.bias) for layer in network.layers)
    overlap = max(
        0, front_end.window_samples - front_end.stride_samples
    )  # samples of the stream that are kept
    memory = float_size * fft_length + 2 * widest + front_end.feature_count + 2 * overlap
    stages = int(math.log2(fft_length // 2))
    of_frame = len(window) + dct.size
    of_frame += fft_length * stages  # radix 2: four for each of fft_length / 4 butterflies of a stage
    of_frame += 8 * len(filters) + 2 * len(filters)  # unpacking the real FFT; magnitudes into two filters
    frames = front_end.sample_rate / front_end.stride_samples
    return (
        f"flash: {weights:,} bytes of weights and biases, {tables:,} of other tables, and code\n"
        f"RAM: {memory:,} bytes (FFT buffer, layers, the stream), and stack\n"
        f"multiply-accumulates: {frames * of_frame:,.0f} for the features of a second of audio, "
        f"{sum(layer.weights.size for layer in network.layers):,} each time a clip is classified"
    )


if __name__ == "__main__":
    run(main)
