"""Write the folder of a C module, and say what the module costs."""

import math
import shlex
import shutil
from pathlib import Path

import numpy as np

from kws.audio.folders import word_folders
from kws.audio.shards import decode_folders
from kws.base.errors import UserError
from kws.base.features import mfcc_tables
from kws.base.files import write_text
from kws.base.settings import Settings
from kws.board import c_source, incremental, packing
from kws.board.c_source import detector_sizes, mel_bands
from kws.board.layers import Network, read_network
from kws.board.library import PREFIX, check_prefix, renamed, write_library
from kws.board.second_network import SecondNetwork, read_second_network
from kws.detect.verifier import ASK_MOST
from kws.model.tflite import TFLiteModel

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "c"
LICENSE = ROOT / "LICENSE"
SAMPLE_DATA = ROOT / "sample_data"
VECTORS = 3
SMALLEST_FFT = 16  # of the butterflies in kws_features.c
FLOAT_BYTES = 4


def write_c_folder(
    tflite_path,
    output,
    data_dir=SAMPLE_DATA,
    packed=False,
    verifier_path=None,
    prefix=PREFIX,
    fixed_point=False,
):
    """Write the C module of a TFLite file into the folder `output`, and print what the module costs.

    Vectors are made of recordings in `data_dir`. `packed` stores weights of few distinct values as indices
    of 3 to 5 bits. `verifier_path` is a second TFLite file that verifies what the first one detects. Names
    in C begin with `prefix`. `fixed_point` computes features in integers, for processors without a
    floating-point unit.
    UserError, before anything is written, if a file cannot be exported or there are no recordings.
    """
    # read and check everything first
    check_prefix(prefix)
    model = TFLiteModel(tflite_path)
    settings, front_end = model.settings, model.settings.front_end
    network = read_network(model.content, f"{tflite_path} ({settings.model_architecture})")
    verifier = read_second_network(verifier_path, settings, network) if verifier_path else None
    if packed:
        network = packing.packed(network, tflite_path)
    hop_frames = detector_sizes(settings, verifier)["HOP_STRIDES"]
    network = incremental.incremental(network, settings.frame_count, hop_frames)
    clips = vector_clips(data_dir, settings)
    if mfcc_tables(front_end)[1] < SMALLEST_FFT:
        raise UserError(f"{tflite_path} has windows of {front_end.window_samples} samples: too few to export")

    # the sources, which are the same for all models but for the prefix
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.iterdir()):
        if source.is_file():
            write_text(folder / renamed(source.name, prefix), renamed(source.read_text(), prefix))
    shutil.copy(LICENSE, folder / LICENSE.name)
    write_library(folder, settings, network.macs, prefix)

    # the model, and what the PC computes with it
    made = {
        "kws_model.h": c_source.provenance(model, verifier)
        + c_source.header(network, settings, verifier, fixed_point),
        "kws_model.c": c_source.tables(network, settings, verifier, fixed_point),
        "kws_vectors.h": c_source.VECTORS_HEADER.replace("COUNT", str(len(clips))),
        "kws_vectors.c": c_source.vectors(clips, model, verifier),
    }
    dsp_tables = "kws_cmsis_dsp.h"
    # CMSIS-DSP computes MFCCs, but not the logarithms alone
    if front_end.dct_coefficient_count and not fixed_point:
        made[dsp_tables] = c_source.cmsis_dsp_tables(front_end)
    else:
        (folder / renamed(dsp_tables, prefix)).unlink(missing_ok=True)
    for name, text in made.items():
        write_text(folder / renamed(name, prefix), renamed(text, prefix))

    command = f"make -C {shlex.quote(str(folder))}"
    print(f"wrote {folder}: `{command}` builds it and checks it against {len(clips)} clips")
    if packed:
        print(packing.text(network.layers))
    print(cost_text(network, settings))
    if verifier:
        print(verifier_cost(network, verifier, settings))


def vector_clips(data_dir, settings: Settings) -> list[tuple[str, np.ndarray]]:
    """Return names and samples, int16 [clip_samples], of a clip of up to three words, and of silence.

    Wanted words come first. UserError if `data_dir` has no recordings.
    """
    folder = Path(data_dir)
    present = word_folders(folder, settings.wanted_words)
    words = [word for word in settings.wanted_words if word in present]
    words = (words + [word for word in present if word not in words])[:VECTORS]
    if not words:
        raise UserError(f"{folder} has no recordings: expected {folder}/<word>/<clip>.wav")
    shards = decode_folders(folder, words, settings.front_end)
    clips = [(f"{word}/{shard.names[0]}", shard.pcm[0]) for word, shard in shards.items() if shard.names]
    return [*clips, ("silence", np.zeros(settings.clip_samples, np.int16))]


# ---- what it costs ----


def cost_text(network: Network, settings: Settings) -> str:
    """Return a text with the flash, the RAM and the multiply-accumulates of the module."""
    front_end = settings.front_end
    window, fft_length, filters, dct = mfcc_tables(front_end)
    bands = mel_bands(filters)

    # flash
    softmax_table = 256
    tables = FLOAT_BYTES * (softmax_table + len(window) + fft_length + dct.size // 2 + bands.weights.size)
    tables += 2 * len(bands.ends)

    # RAM: the FFT and the layers never run at once
    overlapping = front_end.window_samples > front_end.stride_samples
    stream = incremental.kept(network) or front_end.feature_count
    stream += 2 * (front_end.window_samples if overlapping else 1)
    layers = sum(network.buffers) + network.patch_size + packing.memory(network.layers)
    memory = max(FLOAT_BYTES * fft_length, layers) + stream

    # multiply-accumulates of a frame; the first FFT stage multiplies little, the others are of radix 4
    stages = (int(math.log2(fft_length // 2)) - 2) // 2
    macs = len(window) + dct.size // 2
    macs += stages * 3 * 4 * fft_length // 8  # three complex products for each four points
    macs += (4 + 2 + 2) * len(bands.weights)  # unpacking the real FFT; magnitudes; into two filters
    frames = front_end.sample_rate / front_end.stride_samples
    often = f"{network.macs:,} each time a clip is classified"
    if network.frames_between:
        often = f"{incremental.macs_of_a_second(network, settings):,.0f} for the network"
    return (
        f"flash: {weight_bytes(network):,} bytes of weights, biases and scales, {tables:,} of other tables, "
        "and code\n"
        f"RAM: {memory:,} bytes (the stream, and what it computes in), and stack\n"
        f"multiply-accumulates: {frames * macs:,.0f} for the features of a second of audio, "
        f"{often}"
    )


def verifier_cost(network: Network, verifier: SecondNetwork, settings: Settings) -> str:
    """Return a text with what the verifier adds to the cost of the first network."""
    front_end = verifier.settings.front_end
    # RAM: more of the memory that both networks compute in, and the input with a frame
    ours, theirs = (sum(one.buffers) + one.patch_size for one in (network, verifier.network))
    memory = max(0, theirs - ours) + front_end.feature_count + 2 * front_end.window_samples
    return (
        f"verifier: {weight_bytes(verifier.network):,} bytes of flash, {memory:,} of RAM and "
        f"{2 * settings.clip_samples:,} for the latest audio; asked up to {ASK_MOST} times about a word, for "
        f"{verifier.network.macs:,} multiply-accumulates each time"
    )


def weight_bytes(network: Network) -> int:
    """Return the bytes of a network's weights, biases and scales."""
    return sum(
        (layer.packed or layer.weights).size + 4 * (layer.bias.size + layer.scales.size)
        for layer in network.layers
    )
