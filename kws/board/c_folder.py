"""The folder of a C module: sources, model, vectors, and what it costs."""

import math
import shlex
import shutil
from pathlib import Path

import numpy as np

from kws.audio.folders import word_folders
from kws.audio.shards import decode_folders
from kws.base.errors import UserError
from kws.base.features import FrontEnd, mfcc_tables
from kws.base.files import write_text
from kws.base.settings import Settings
from kws.board import c_source, packing
from kws.board.c_source import detector_sizes, mel_bands
from kws.board.c_verifier import Verifier, read_verifier
from kws.board.layers import Network, read_network
from kws.board.library import write_library
from kws.model.tflite import TFLiteModel

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "c"
LICENSE = ROOT / "LICENSE"
SAMPLE_DATA = ROOT / "sample_data"
VECTORS = 3
SMALLEST_FFT = 16  # of the butterflies in kws_features.c


def write_c_folder(tflite_path, output, data_dir=SAMPLE_DATA, packed=False, verifier_path=None):
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
    write_text(folder / "kws_model.h", c_source.header(network, settings, verifier))
    write_text(folder / "kws_model.c", c_source.tables(network, settings, verifier))
    write_text(folder / "kws_cmsis_dsp.h", c_source.cmsis_dsp_tables(front_end))
    write_text(folder / "kws_vectors.h", c_source.VECTORS_HEADER.replace("COUNT", str(len(clips))))
    write_text(folder / "kws_vectors.c", c_source.vectors(clips, model, verifier))
    command = f"make -C {shlex.quote(str(folder))}"
    print(f"wrote {folder}: `{command}` builds it and checks it against {len(clips)} clips")
    if packed:
        print(packing.text(network.layers))
    print(cost_text(network, front_end))
    if verifier:
        print(verifier_cost(network, verifier, settings))


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
