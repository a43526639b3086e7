"""Write a self-contained C99 module for an int8 TFLite model: features and network.

What the module computes from audio is what the model computes on the PC: features within rounding, scores
bit for bit. It uses no heap and no library but libm; vectors to check it with are part of it.
"""

import math
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.folders import word_folders
from kws.audio.shards import decode_folders
from kws.base.errors import UserError, run
from kws.base.features import MEL_CHANNELS, FrontEnd, mfcc, mfcc_tables
from kws.base.files import write_text
from kws.base.flags import new_parser
from kws.base.settings import SENSITIVITIES, UNKNOWN_INDEX, Settings
from kws.board import packing
from kws.board.c_verifier import Verifier, read_verifier
from kws.board.firmware import c_string
from kws.board.layers import Network, multiplier_and_shift, read_network
from kws.board.library import write_library
from kws.detect.streaming import DetectorOptions, detector_parameters, tuned_detector
from kws.model.tflite import TFLiteModel, quantize

SOURCES = Path(__file__).resolve().parent / "c"
LICENSE = Path(__file__).resolve().parent / "LICENSE"
SAMPLE_DATA = Path(__file__).resolve().parent / "sample_data"
VECTORS = 3
SMALLEST_FFT = 16  # of the butterflies in kws_features.c


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("tflite_path", metavar="MODEL", help="an int8 TFLite file, with its settings inside")
    parser.add_argument(
        "--verifier",
        metavar="MODEL",
        help="a second int8 TFLite file, for the same words: words that the first detects are reported where "
        "this one's scores agree",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write the module to")
    parser.add_argument(
        "--data_dir",
        default=str(SAMPLE_DATA),
        metavar="DIR",
        help="recordings to take the vectors from, one folder per word",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="weights of fully connected layers with at most 8, 16 or 32 distinct ones take 3, 4 or 5 bits",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    export(args.tflite_path, args.output, args.data_dir, args.packed, args.verifier)


def export(tflite_path, output, data_dir=SAMPLE_DATA, packed=False, verifier_path=None):
    """Write the module for a TFLite file into the folder `output`, with vectors of clips in `data_dir`.

    `packed`: weights of few distinct values become indices of 3 to 5 bits. `verifier_path` is that of a
    second TFLite file, which verifies the detections of the first. Prints what was written and what it
    costs. UserError where a file cannot be exported, or the recordings are missing.
    """
    model = TFLiteModel(tflite_path)
    settings, front_end = model.settings, model.settings.front_end
    network = read_network(model.content, f"{tflite_path} ({settings.model_architecture})")
    verifier = read_verifier(verifier_path, settings, network) if verifier_path else None
    if packed:
        network = packing.packed(network, tflite_path)
    clips = vector_clips(data_dir, settings)
    if mfcc_tables(front_end)[1] < SMALLEST_FFT:
        raise UserError(f"{tflite_path} has windows of {front_end.window_samples} samples: too few to export")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.iterdir()):
        if source.is_file():
            shutil.copy(source, folder / source.name)
    shutil.copy(LICENSE, folder / LICENSE.name)
    write_library(folder, settings, network.macs)
    write_text(folder / "kws_model.h", header(network, settings, verifier))
    write_text(folder / "kws_model.c", tables(network, settings, verifier))
    write_text(folder / "kws_cmsis_dsp.h", cmsis_dsp_tables(front_end))
    write_text(folder / "kws_vectors.h", VECTORS_HEADER.replace("COUNT", str(len(clips))))
    write_text(folder / "kws_vectors.c", vectors(clips, model, verifier))
    command = f"make -C {shlex.quote(str(folder))}"
    print(f"wrote {folder}: `{command}` builds it and checks it against {len(clips)} clips")
    if packed:
        print(packing.text(network.layers))
    print(cost_text(network, front_end))
    if verifier:
        print(verifier_cost(network, verifier, settings))


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
#if KWS_VERIFIER
    int8_t verifier_input[KWS_VERIFIER_INPUTS];
    int8_t verifier_scores[KWS_LABELS];
#endif
} kws_vector;

extern const kws_vector kws_vectors[KWS_VECTORS];

#ifdef __cplusplus
}
#endif
"""


def header(network: Network, settings: Settings, verifier: Verifier | None = None) -> str:
    networks = [network, verifier.network] if verifier else [network]
    _, fft_length, filters, _ = mfcc_tables(settings.front_end)
    bands = mel_bands(filters)
    sizes = {
        "SAMPLE_RATE": settings.sample_rate,
        "CLIP": settings.clip_samples,
        "WINDOW": settings.front_end.window_samples,
        "STRIDE": settings.front_end.stride_samples,
        "FRAMES": settings.frame_count,
        "COEFFICIENTS": settings.dct_coefficient_count,
        "MEL_CHANNELS": MEL_CHANNELS,
        "FFT": fft_length,
        "FIRST_BIN": bands.first,
        "BINS": len(bands.weights),
        "LABELS": len(settings.labels),
        "LAYERS": len(network.layers),
        "MACS": network.macs,
        "CONVOLUTIONS": int(any(layer.kind != "FULLY_CONNECTED" for one in networks for layer in one.layers)),
        "PATCH": max(1, *(one.patch_size for one in networks)),
        "EVEN": max(one.buffers[0] for one in networks),
        "ODD": max(one.buffers[1] for one in networks),
        "INPUT_SCALE": _float(network.input[0]),
        "INPUT_ZERO": network.input[1],
        "SCORE_SCALE": _float(network.scores[0]),
        "SCORE_ZERO": network.scores[1],
    }
    layers = [layer for one in networks for layer in one.layers]
    sizes |= packing.sizes(layers) | detector_sizes(settings, verifier)
    sizes["VERIFIER"] = int(verifier is not None)
    if verifier:
        more = verifier.sizes(sizes["HOP_STRIDES"] * sizes["STRIDE"])
        more["INPUT_SCALE"] = _float(verifier.network.input[0])
        sizes |= {f"VERIFIER_{name}": value for name, value in more.items()}
    lines = [f"#define KWS_{name} {value}" for name, value in sizes.items()]
    return "\n".join(["/* Sizes in samples, values or labels. */", *lines, ""])


def detector_sizes(settings: Settings, verifier: Verifier | None = None) -> dict:
    """What the detector (kws_detect.c) is made of; the hop is rounded to whole strides of frames."""
    chosen = detector_parameters(DetectorOptions(), settings, verifier and verifier.settings)
    stride = settings.front_end.stride_samples
    hop = max(1, round(chosen.hop_samples(settings) / stride))
    hop_ms = 1000 * hop * stride / settings.sample_rate
    return {
        "HOP_STRIDES": hop,
        "CLIP_STRIDES": -(-settings.clip_samples // stride),
        "SMOOTHED": 1 + int(chosen.smoothing_ms / hop_ms),
        "HOP_S": repr(hop * stride / settings.sample_rate),
        "CLIP_S": repr(settings.clip_samples / settings.sample_rate),
        "REFRACTORY_S": repr(chosen.refractory_ms / 1000),
        "FIRST_WORD": UNKNOWN_INDEX + 1,
        **({"GATE": repr(float(chosen.gate))} if verifier else {}),
    }


def thresholds(settings: Settings, verifier: Verifier | None = None) -> str:
    """Return the threshold of each sensitivity as initialisers; all the same if none were chosen."""
    models = settings, verifier and verifier.settings
    names = SENSITIVITIES if tuned_detector(*models) else [None] * len(SENSITIVITIES)
    chosen = [detector_parameters(DetectorOptions(sensitivity=name), *models).threshold for name in names]
    return ", ".join(repr(float(value)) for value in chosen)


def tables(network: Network, settings: Settings, verifier: Verifier | None = None) -> str:
    window, fft_length, filters, dct = mfcc_tables(settings.front_end)
    bands = mel_bands(filters)
    angles = 2 * np.pi * np.arange(fft_length // 2) / fft_length
    twiddle = np.stack([np.cos(angles), np.sin(angles)], 1)
    parts = ['#include "kws.h"\n']
    names = ", ".join(map(c_string, settings.labels))
    parts.append(f"const char *const kws_labels[KWS_LABELS] = {{{names}}};\n")
    parts.append(f"const double kws_thresholds[3] = {{{thresholds(settings, verifier)}}};\n")
    parts += network_tables(network)
    if verifier:
        parts += network_tables(verifier.network, "verifier_")
    for declaration, values in (
        ("kws_window[KWS_WINDOW]", window / np.float32(2 * 32768)),  # halved: see magnitude in kws_features.c
        ("kws_twiddle[KWS_FFT / 2][2]", twiddle),
        ("kws_mel_weights[KWS_BINS][2]", bands.weights),
        ("kws_dct[KWS_COEFFICIENTS][KWS_MEL_CHANNELS / 2]", dct.T[:, : MEL_CHANNELS // 2]),
    ):
        parts.append(f"const float {declaration} = {{\n{_numbers(values)}}};\n")
    parts.append(f"const int16_t kws_mel_ends[KWS_MEL_CHANNELS + 1] = {{\n{_numbers(bands.ends)}}};\n")
    return "\n".join(parts)


def network_tables(network: Network, prefix: str = "") -> list[str]:
    """The layers and the softmax of a network; `prefix` tells the names of a second one from the first's."""
    layers = [(f"{prefix}{number}", layer) for number, layer in enumerate(network.layers)]
    parts = [_layer_tables(name, layer) for name, layer in layers]
    entries = "".join(_layer_entry(name, layer) for name, layer in layers)
    size = f"KWS_{prefix}LAYERS".upper()
    parts.append(f"const kws_layer kws_{prefix}layers[{size}] = {{\n{entries}}};\n")
    distances = np.exp(-np.float32(network.logits[0]) * np.arange(256, dtype=np.float32))
    parts.append(f"const float kws_{prefix}softmax[256] = {{\n{_numbers(distances)}}};\n")
    return parts


ROWS = 4  # of kws_nn.c


def _layer_tables(number, layer):
    """Weights, bias and scales of a layer; at least ROWS rows."""
    if layer.kind == "AVERAGE":
        return ""
    kernel = layer.packed
    missing = max(0, ROWS - len(layer.bias)) if layer.kind != "DEPTHWISE" else 0
    weights = [("int8_t weights", np.pad(layer.weights, [(0, missing), (0, 0)]))]
    if kernel:
        weights, missing = packing.arrays(kernel), -len(layer.bias) % ROWS
    arrays = (
        *weights,
        ("int32_t bias", np.pad(layer.folded_bias, (0, missing))),
        ("float scales", layer.scales),
    )
    parts = [f"static const {name}_{number}[] = {{\n{_numbers(values)}}};\n" for name, values in arrays]
    return "\n".join([*parts, packing.structure(kernel, number)] if kernel else parts)


def _layer_entry(number, layer):
    """A layer for the array of them, its values in the order of kws_layer."""
    has_weights = layer.kind != "AVERAGE"
    names = [f"{name}_{number}" if has_weights else "0" for name in ("weights", "bias", "scales")]
    if layer.packed:
        names[0] = "0"
    inputs = layer.weights.shape[0 if layer.kind == "DEPTHWISE" else 1]
    output_min = layer.output_zero if layer.relu else -128
    values = [
        *(
            f"KWS_{layer.kind}",
            *names,
            f"&packed_{number}" if layer.packed else "0",
            int(len(layer.scales) > 1),
            inputs,
            layer.to_shape.channels,
        ),
        *(layer.input_zero, layer.output_zero, output_min, *multiplier_and_shift(float(layer.scales[0]))),
        *(f"{{{', '.join(map(str, shape))}}}" for shape in (layer.from_shape, layer.to_shape)),
        *(*layer.kernel, *layer.strides, *layer.padding),
    ]
    return f"    {{{', '.join(map(str, values))}}},\n"


class MelBands(NamedTuple):
    """The mel filters by bins of the FFT; a bin counts in at most two channels, one above the other."""

    first: int  # bin that is used
    weights: np.ndarray  # [bins, 2], of a bin in its channel and in the one above
    ends: np.ndarray  # [MEL_CHANNELS + 1], how many bins are below channel 0, below 1, ..., or in the last


def mel_bands(filters: np.ndarray) -> MelBands:
    """The filters of mfcc_tables [bins, MEL_CHANNELS], row 0 for bin 1, without bins of no weight."""
    used = np.flatnonzero(filters.any(1))
    rows = filters[used[0] : used[-1] + 1]
    wide = np.pad(rows, [(0, 0), (1, 1)])  # a channel below and one above, in which nothing counts
    lower = (rows != 0).argmax(1)
    # a bin that counts in channel 0 alone is below its middle, unless it is there
    lower -= (np.count_nonzero(rows, axis=1) == 1) & (lower == 0) & (rows[:, 0] < 1)
    numbers = np.arange(len(rows))
    weights = np.stack([wide[numbers, lower + 1], wide[numbers, lower + 2]], 1)
    assert weights.sum() == rows.sum() or np.isclose(weights.sum(), rows.sum(), rtol=1e-6)
    return MelBands(
        1 + int(used[0]), weights, np.searchsorted(lower, np.arange(filters.shape[1] + 1) - 1, "right")
    )


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


def vectors(clips, model, verifier: Verifier | None = None) -> str:
    parts = []
    for name, samples in clips:
        values = [samples]
        for one in (model, verifier.model) if verifier else (model,):
            input_tensor = quantize(mfcc(samples[None], one.settings.front_end), one.input)
            values += [input_tensor[0], one.run(input_tensor)[0]]
        arrays = (f"    {{\n{_numbers(value)}    }},\n" for value in values)
        parts.append(f"    {{{c_string(name)},\n{''.join(arrays)}    }},\n")
    return (
        f'#include "kws_vectors.h"\n\nconst kws_vector kws_vectors[KWS_VECTORS] = {{\n{"".join(parts)}}};\n'
    )


# ---- what it costs ----


def cost_text(network: Network, front_end: FrontEnd) -> str:
    """Flash, RAM and multiply-accumulates of the module, in words."""
    window, fft_length, filters, dct = mfcc_tables(front_end)
    float_size, bands = 4, mel_bands(filters)  # bytes
    weights = sum((layer.packed or layer.weights).size for layer in network.layers)
    weights += sum(4 * (layer.bias.size + layer.scales.size) for layer in network.layers)
    softmax_table = 256
    tables = float_size * (softmax_table + len(window) + fft_length + dct.size // 2 + bands.weights.size)
    tables += 2 * len(bands.ends)
    overlapping = front_end.window_samples > front_end.stride_samples
    stream = front_end.feature_count + 2 * (front_end.window_samples if overlapping else 1)
    memory = (
        max(float_size * fft_length, packing.memory(network.layers))
        + sum(network.buffers)
        + network.patch_size
        + stream
    )
    stages = (
        int(math.log2(fft_length // 2)) - 2
    ) // 2  # of radix 4, after the first, which multiplies little
    of_frame = len(window) + dct.size // 2
    of_frame += stages * 3 * 4 * fft_length // 8  # three complex products for each four points
    of_frame += (4 + 2 + 2) * len(bands.weights)  # unpacking the real FFT; magnitudes; into two filters
    frames = front_end.sample_rate / front_end.stride_samples
    return (
        f"flash: {weights:,} bytes of weights, biases and scales, {tables:,} of other tables, and code\n"
        f"RAM: {memory:,} bytes (FFT buffer, layers, the stream), and stack\n"
        f"multiply-accumulates: {frames * of_frame:,.0f} for the features of a second of audio, "
        f"{network.macs:,} each time a clip is classified"
    )


def verifier_cost(network: Network, verifier: Verifier, settings: Settings) -> str:
    """What the verifier adds, in words."""
    sizes, front_end = detector_sizes(settings, verifier), verifier.settings.front_end
    samples = sizes["CLIP_STRIDES"] + (sizes["SMOOTHED"] - 1) * sizes["HOP_STRIDES"]
    samples *= settings.front_end.stride_samples
    ours, theirs = ((*one.buffers, one.patch_size) for one in (network, verifier.network))
    memory = sum(max(0, their - our) for our, their in zip(ours, theirs, strict=True))
    memory += front_end.feature_count + 2 * front_end.window_samples
    memory += sizes["SMOOTHED"] * (len(settings.labels) + 1)  # scores
    layers = verifier.network.layers
    weights = sum(layer.weights.size + 4 * (layer.bias.size + layer.scales.size) for layer in layers)
    return (
        f"verifier: {weights:,} bytes of flash, {memory:,} of RAM and {2 * samples:,} for the latest audio; "
        f"where the first network detects a word up to {sizes['SMOOTHED']} times {verifier.network.macs:,} "
        "multiply-accumulates"
    )


if __name__ == "__main__":
    run(main)
