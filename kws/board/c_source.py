"""A model as C source: the text of kws_model.h, kws_model.c, kws_cmsis_dsp.h and kws_vectors.c."""

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.base.features import MEL_CHANNELS, FrontEnd, mfcc, mfcc_tables
from kws.base.settings import SENSITIVITIES, UNKNOWN_INDEX, Settings
from kws.board import incremental, packing
from kws.board.firmware import c_string
from kws.board.layers import Layer, Network
from kws.board.library import VERSION
from kws.board.packing import ROWS
from kws.board.second_network import SecondNetwork
from kws.detect.held_out import sensitivities_text
from kws.detect.streaming import DetectorOptions, detector_parameters, tuned_detector
from kws.detect.verifier import ASK_MEAN, ASK_MOST, ask_every
from kws.model.tflite import TFLiteModel, quantize

# with fixed point: bits after the point of tables, and of the steps in a feature of 1
FIXED_BITS = {"window": 15, "twiddle": 14, "mel_weights": 16, "logarithms": 16, "dct": 17, "steps": 29}

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


# What fills a row of weights up to a whole word.
FILL = "FILL"
TABLES_HEADER = f"""\
#include "kws.h"

#ifdef KWS_CMSIS_NN
#define {FILL} /* it takes rows as they are */
#else
#define {FILL} 0,
#endif
"""


def provenance(model: TFLiteModel, verifier: SecondNetwork | None) -> str:
    """Return the begin of kws_model.h: what the module was made of. Without a date it is always the same."""
    values = {"VERSION": VERSION}
    for role, one in (("MODEL", model), ("VERIFIER_MODEL", verifier and verifier.model)):
        if one:
            values |= {role: Path(one.path).name, f"{role}_SHA256": hashlib.sha256(one.content).hexdigest()}
    chosen = tuned_detector(model.settings, verifier and verifier.settings)
    measured = sensitivities_text(chosen).split("\n") if chosen else ["No threshold was chosen for it."]
    labels = f"Labels: {', '.join(map(c_string, model.settings.labels))}"
    text = "\n".join([labels, *accuracies(model, values["MODEL_SHA256"]), *measured])
    # a label may hold the signs of comments
    text = text.replace("*/", "* /").replace("/*", "/ *").replace("\n", "\n * ")
    macros = "".join(f"#define KWS_{name} {c_string(value)}\n" for name, value in values.items())
    return f"/* {text} */\n{macros}\n"


def accuracies(model: TFLiteModel, sha256: str) -> list[str]:
    """Return a line for each accuracy that a definition.yaml beside a TFLite file states of that file."""
    path = Path(model.path).parent / "definition.yaml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if f"sha256: {sha256}\n" not in text:
        return []
    stated = re.findall(r"^- set: (.*)\n  N: (\d+)\n  correct: (\d+)$", text, re.M)
    return [f"Accuracy, {where}: {100 * int(right) / int(n):.2f} %, N = {n}" for where, n, right in stated]


def header(
    network: Network, settings: Settings, verifier: SecondNetwork | None = None, fixed_point: bool = False
) -> str:
    """Return kws_model.h: the sizes of the front end, the networks and the detector."""
    networks = [network, verifier.network] if verifier else [network]
    # a function in C is compiled if either network needs it
    layers = [layer for one in networks for layer in one.layers]
    _, fft_length, filters, _ = mfcc_tables(settings.front_end)
    bands = mel_bands(filters)
    sizes = {
        "SAMPLE_RATE": settings.sample_rate,
        "CLIP": settings.clip_samples,
        "WINDOW": settings.front_end.window_samples,
        "STRIDE": settings.front_end.stride_samples,
        "FRAMES": settings.frame_count,
        "COEFFICIENTS": settings.front_end.frame_features,
        "DCT": settings.dct_coefficient_count,
        "DCT_ROWS": dct_rows(settings, verifier),
        "MEL_CHANNELS": MEL_CHANNELS,
        "FFT": fft_length,
        "FIRST_BIN": bands.first,
        "BINS": len(bands.weights),
        "LABELS": len(settings.labels),
        "LAYERS": len(network.layers),
        "MACS": network.macs,
        "CONVOLUTIONS": int(any(layer.convolves for layer in layers)),
        # both networks compute in the same buffers
        "PATCH": max(1, *(one.patch_size for one in networks)),
        # the most values under a depthwise kernel, and words of inputs with the DSP extension
        "TAPS": max([1, *(len(layer.weights) for layer in layers if layer.kind == "DEPTHWISE")]),
        "WIDE": max([1, *(layer.wide_words for layer in layers)]),
        # with CMSIS-NN: bytes that its functions compute in, and the most scales of a layer
        "SCRATCH": max(1, *(layer.scratch for layer in layers)),
        "SCRATCH_HELIUM": max(1, *(layer.scratch_helium for layer in layers)),
        "SCALES": max(layer.to_shape.channels for layer in layers),
        "EVEN": max(one.buffers[0] for one in networks),
        "ODD": max(one.buffers[1] for one in networks),
        **input_sizes(network.input, fixed_point),
        "SCORE_SCALE": _float(network.scores[0]),
        "SCORE_ZERO": network.scores[1],
        "SCORE_STEPS": round(1 / network.scores[0]),
    }
    sizes |= packing.sizes(layers) | detector_sizes(settings, verifier)
    sizes |= incremental.sizes(network, settings.frame_count, sizes["CLIP_STRIDES"])
    sizes["VERIFIER"] = int(verifier is not None)
    if verifier:
        hop = sizes["HOP_STRIDES"] * sizes["STRIDE"]
        every = ask_every(hop / settings.sample_rate)
        sizes |= {"ASK_EVERY": every, "ASK_MEAN": ASK_MEAN, "ASK_MOST": ASK_MOST}
        more = verifier.sizes(every * hop)
        more |= input_sizes(verifier.network.input, fixed_point)
        sizes |= {f"VERIFIER_{name}": value for name, value in more.items()}
    sizes["FIXED_POINT"] = int(fixed_point)
    lines = [f"#define KWS_{name} {value}" for name, value in sizes.items()]
    return "\n".join(["/* Sizes in samples, values or labels. */", *lines, ""])


def input_sizes(quantization: tuple[float, int], fixed_point: bool) -> dict:
    """Return the scale and the zero point of a network's input; in fixed point, steps in a feature of 1."""
    scale, zero = quantization
    bits = max(0, FIXED_BITS["steps"] - max(0, math.ceil(math.log2(1 / scale)))) if fixed_point else 0
    value = round(2**bits / scale) if fixed_point else _float(scale)
    return {"INPUT_SCALE": value, "INPUT_BITS": bits, "INPUT_ZERO": zero}


def dct_rows(settings: Settings, verifier: SecondNetwork | None) -> int:
    """Return how many coefficients of the DCT the two networks use: one has the first ones of the other."""
    models = (settings, verifier.settings) if verifier else (settings,)
    return max(one.dct_coefficient_count for one in models)


def detector_sizes(settings: Settings, verifier: SecondNetwork | None) -> dict:
    """Return the sizes and times of the detector in kws_detect.c, by name.

    Its hop is the model's, rounded to whole strides of frames.
    """
    chosen = detector_parameters(DetectorOptions(), settings, verifier and verifier.settings)
    # in strides, samples and ten-thousandths, as kws_detect.c counts
    stride = settings.front_end.stride_samples
    hop = max(1, round(chosen.hop_samples(settings) / stride))
    hop_ms = 1000 * hop * stride / settings.sample_rate
    return {
        "HOP_STRIDES": hop,
        "CLIP_STRIDES": -(-settings.clip_samples // stride),
        "SMOOTHED": 1 + int(chosen.smoothing_ms / hop_ms),
        "REFRACTORY": round(chosen.refractory_ms * settings.sample_rate / 1000),
        "FIRST_WORD": UNKNOWN_INDEX + 1,
        **({"GATE": ten_thousandths(chosen.gate)} if verifier else {}),
    }


def thresholds(settings: Settings, verifier: SecondNetwork | None) -> str:
    """Return the threshold of each sensitivity as initialisers; all the same if none were chosen."""
    models = settings, verifier and verifier.settings
    names = SENSITIVITIES if tuned_detector(*models) else [None] * len(SENSITIVITIES)
    chosen = [detector_parameters(DetectorOptions(sensitivity=name), *models).threshold for name in names]
    return ", ".join(str(ten_thousandths(value)) for value in chosen)


def ten_thousandths(score: float) -> int:
    """Return a threshold as kws_detect.c has it; evaluation.py chooses thresholds of 4 decimals."""
    return max(1, round(10_000 * score))


def tables(
    network: Network, settings: Settings, verifier: SecondNetwork | None = None, fixed_point: bool = False
) -> str:
    """Return kws_model.c: labels, thresholds, the layers, and the tables of the front end."""
    rows = dct_rows(settings, verifier)
    front_end = replace(settings.front_end, dct_coefficient_count=rows)
    window, fft_length, filters, dct = mfcc_tables(front_end)
    bands = mel_bands(filters)
    # [KWS_FFT / 2, 2]: cosine and sine
    angles = 2 * np.pi * np.arange(fft_length // 2) / fft_length
    twiddle = np.stack([np.cos(angles), np.sin(angles)], 1)
    parts = [TABLES_HEADER]
    names = ", ".join(map(c_string, settings.labels))
    parts.append(f"const char *const kws_labels[KWS_LABELS] = {{{names}}};\n")
    parts.append(f"const int16_t kws_thresholds[3] = {{{thresholds(settings, verifier)}}};\n")
    parts += network_tables(network)
    if verifier:
        parts += network_tables(verifier.network, "verifier_")
    arrays = [
        # float ones are halved: see magnitude in kws_features.c
        ("weight kws_window[KWS_WINDOW]", window if fixed_point else window / np.float32(2 * 32768)),
        ("factor kws_twiddle[KWS_FFT / 2][2]", twiddle),
    ]
    if fixed_point:
        numbers = np.arange(len(bands.weights))
        upper = np.where(numbers < bands.ends[0], bands.weights[:, 1], 1 - bands.weights[:, 0])
        arrays.append(("weight kws_mel_weights[KWS_BINS]", upper))
        arrays.append(("weight kws_logarithms[129]", np.log(np.arange(128, 257) / 128)))
    else:
        arrays.append(("factor kws_mel_weights[KWS_BINS][2]", bands.weights))
    if rows:
        arrays.append(("factor kws_dct[KWS_DCT_ROWS][KWS_MEL_CHANNELS / 2]", dct.T[:, : MEL_CHANNELS // 2]))
    for declaration, values in arrays:
        if fixed_point:
            kind, name = re.match(r"(\w+) kws_(\w+)", declaration).groups()
            limits = np.iinfo(np.uint16 if kind == "weight" else np.int16)
            values = np.rint(values * 2.0 ** FIXED_BITS[name]).clip(limits.min, limits.max).astype(int)
        parts.append(f"const kws_{declaration} = {{\n{_numbers(values)}}};\n")
    parts.append(f"const int16_t kws_mel_ends[KWS_MEL_CHANNELS + 1] = {{\n{_numbers(bands.ends)}}};\n")
    return "\n".join(parts)


def network_tables(network: Network, prefix: str = "") -> list[str]:
    """Return the arrays of a network's layers and its softmax.

    `prefix` begins the names of a second network's arrays.
    """
    # (name, layer), such as verifier_0
    layers = [(f"{prefix}{number}", layer) for number, layer in enumerate(network.layers)]
    parts = [_layer_tables(name, layer) for name, layer in layers]
    entries = "".join(_layer_entry(name, layer) for name, layer in layers)
    size = f"KWS_{prefix}LAYERS".upper()
    parts.append(f"const kws_layer kws_{prefix}layers[{size}] = {{\n{entries}}};\n")
    # exp of each distance that a logit of 8 bits can have from the highest one
    distances = np.exp(-np.float32(network.logits[0]) * np.arange(256, dtype=np.float32))
    parts.append(f"const float kws_{prefix}softmax[256] = {{\n{_numbers(distances)}}};\n")
    return parts


def _layer_tables(number: str, layer: Layer) -> str:
    """Return the arrays of a layer: weights, bias and scales; they have at least ROWS rows."""
    if layer.kind == "AVERAGE":
        return ""
    outputs = len(layer.bias)
    # kws_nn.c computes ROWS rows at a time; only its depthwise() takes fewer
    missing, fill = 0, 0
    if layer.kind != "DEPTHWISE":
        missing, fill = max(0, ROWS - outputs), layer.row_bytes - layer.weights.shape[1]
    arrays = [("KWS_ALIGNED int8_t weights", _rows(np.pad(layer.weights, [(0, missing), (0, 0)]), fill))]
    if layer.packed:
        missing = -outputs % ROWS
        arrays = [(name, _numbers(values)) for name, values in packing.arrays(layer.packed)]
    bias = _numbers(np.pad(layer.folded_bias, (0, missing)))
    if layer.padded:
        # CMSIS-NN subtracts the zero point, so that zeros lie beyond the edges
        bias = f"#ifdef KWS_CMSIS_NN\n{_numbers(np.pad(layer.bias, (0, missing)))}#else\n{bias}#endif\n"
    arrays.append(("int32_t bias", bias))
    # a scale for each row of bias, or one for all
    scales = np.pad(layer.scales, (0, missing if len(layer.scales) > 1 else 0))
    arrays.append(("float scales", _numbers(scales)))
    parts = [f"static const {name}_{number}[] = {{\n{text}}};\n" for name, text in arrays]
    if layer.packed:
        parts.append(packing.structure(layer.packed, number))
    return "\n".join(parts)


def _layer_entry(number: str, layer: Layer) -> str:
    """Return the initialiser of a kws_layer, its values in the order of the fields in kws.h."""
    names = "weights", "bias", "scales"
    arrays = ["0" if layer.kind == "AVERAGE" else f"{name}_{number}" for name in names]
    if layer.packed:
        arrays[0] = "0"
    values = [f"KWS_{layer.kind}", *arrays, f"&packed_{number}" if layer.packed else "0"]
    values.append(int(len(layer.scales) > 1))
    values += [layer.weights.shape[0 if layer.kind == "DEPTHWISE" else 1], layer.to_shape.channels]
    # ReLU is the lowest value that an output may have
    values += [layer.input_zero if layer.padded else 0, layer.output_zero]
    values.append(layer.output_zero if layer.relu else -128)
    values += [f"{{{', '.join(map(str, shape))}}}" for shape in (layer.from_shape, layer.to_shape)]
    values += [*layer.kernel, *layer.strides, *layer.padding]
    return f"    {{{', '.join(map(str, values))}}},\n"


# ---- front end ----


class MelBands(NamedTuple):
    """The mel filters by bins of the FFT; a bin counts in at most two channels, one above the other."""

    first: int  # the first bin with a weight
    weights: np.ndarray  # float [bins, 2]: in a channel and in the channel above
    ends: np.ndarray  # int [MEL_CHANNELS + 1]: number of bins whose lower channel is below 0, 1, ...


def mel_bands(filters: np.ndarray) -> MelBands:
    """Return the bands of mfcc_tables' filters [bins, MEL_CHANNELS], whose row 0 is bin 1 of the FFT."""
    used = np.flatnonzero(filters.any(1))
    rows = filters[used[0] : used[-1] + 1]
    # two more channels, below and above, in which nothing counts: [bins, MEL_CHANNELS + 2]
    wide = np.pad(rows, [(0, 0), (1, 1)])
    # the lower channel of each bin; -1 if only the upper one exists, as below the middle of channel 0
    lower = (rows != 0).argmax(1)
    lower -= (np.count_nonzero(rows, axis=1) == 1) & (lower == 0) & (rows[:, 0] < 1)
    numbers = np.arange(len(rows))
    weights = np.stack([wide[numbers, lower + 1], wide[numbers, lower + 2]], 1)
    assert weights.sum() == rows.sum() or np.isclose(weights.sum(), rows.sum(), rtol=1e-6)
    ends = np.searchsorted(lower, np.arange(filters.shape[1] + 1) - 1, "right")
    return MelBands(1 + int(used[0]), weights, ends)


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
    """Return kws_cmsis_dsp.h: the tables that CMSIS-DSP's arm_mfcc_init_f32 takes."""
    window, fft_length, filters, dct = mfcc_tables(front_end)
    louder = 1e6  # the header says why
    padded = np.pad(louder * window, (0, fft_length - len(window)))
    # CMSIS-DSP wants each channel's first bin, its number of bins, and all their weights in a row
    bins = [np.flatnonzero(channel) for channel in filters.T]
    first = [used[0] if len(used) else 0 for used in bins]
    last = [used[-1] + 1 if len(used) else 0 for used in bins]
    weights = [filters[start:stop, i] for i, (start, stop) in enumerate(zip(first, last, strict=True))]
    packed = np.concatenate(weights)
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
    """Return the values of an array as lines of an initialiser; rows of a matrix not of int8 in braces."""
    values = np.asarray(values)
    text = _float if values.dtype.kind == "f" else str
    if values.ndim == 2 and values.dtype != np.int8:
        return "".join(f"    {{{', '.join(map(text, row))}}},\n" for row in values)
    shown = list(map(text, values.ravel()))
    return "".join(f"    {', '.join(shown[start : start + 16])},\n" for start in range(0, len(shown), 16))


def _rows(weights: np.ndarray, fill: int) -> str:
    """Return int8 weights as lines of an initialiser, with `fill` zeros behind each row."""
    if not fill:
        return _numbers(weights)
    end = " ".join([FILL] * fill)
    return "".join(f"    {', '.join(map(str, row))}, {end}\n" for row in weights)


def _float(value) -> str:
    """Return `value` as a float of C, with the 9 digits that tell any two float32 apart."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


# ---- vectors ----


def vectors(clips, model: TFLiteModel, verifier: SecondNetwork | None) -> str:
    """Return kws_vectors.c: of each clip (name, samples) what the PC computes from it."""
    parts = []
    for name, samples in clips:
        values = [samples]
        # the input and the scores of each network
        for one in (model, verifier.model) if verifier else (model,):
            input_tensor = quantize(mfcc(samples[None], one.settings.front_end), one.input)
            values += [input_tensor[0], one.run(input_tensor)[0]]
        arrays = (f"    {{\n{_numbers(value)}    }},\n" for value in values)
        parts.append(f"    {{{c_string(name)},\n{''.join(arrays)}    }},\n")
    start = '#include "kws_vectors.h"\n\nconst kws_vector kws_vectors[KWS_VECTORS] = {\n'
    return f"{start}{''.join(parts)}}};\n"
