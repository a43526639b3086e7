"""Store what a pretrained trunk computes of audio without the words, for train.py's --trunk_negatives.

    python model_archive/negatives.py --volume_change_db 6 --background_volume 0.2 --reverb_percentage 50 \\
        --colour_db 6 --level_db -40 0 --data_dir DIR --negatives_dir NEGATIVES --streams OTHERS \\
        --said orders_en almond americano brown cappuccino coffee cream dark double drip espresso house \\
        iced large latte light lots medium milk mocha ounce roast shot single sixteen skim small soy sugar \\
        sweetener triple twelve twenty whole \\
        --start_from model_archive/model_source/pretrained_stream \\
        --output model_archive/model_source/pretrained_stream/negatives.npz

Windows to learn from are of recordings in NEGATIVES and of the words in --data_dir, augmented as the other
flags say. These are the ones of recipes/own_words.txt but for its noise floor, as recordings by people have
noise of their own. Recordings in OTHERS are stored whole: thresholds are chosen on them, but for words
that are often said there. training_data.md says whose audio is in the file of the archive.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import input_data  # noqa: E402
import models  # noqa: E402
from kws.audio.recordings import audio_blocks, open_audio  # noqa: E402
from kws.base.errors import UserError, run  # noqa: E402
from kws.base.features import mfcc  # noqa: E402
from kws.base.flags import bounded, new_parser, options_from  # noqa: E402
from kws.base.settings import SILENCE_INDEX, Settings  # noqa: E402
from kws.base.text import folded  # noqa: E402
from kws.data.augmentation import Augmentation, augment, draw_variations  # noqa: E402
from kws.data.dataset import DataOptions  # noqa: E402
from kws.data.negatives import open_long_recordings, recordings_below  # noqa: E402
from kws.model import checkpoints  # noqa: E402
from kws.model.inspection import output_hop  # noqa: E402
from kws.model.transfer import load_start, trunk_layers  # noqa: E402
from kws.trunk.outputs import LEVELS, StoredOutputs, fingerprint_of, levels_of, predictor, split  # noqa: E402

AT_ONCE = 200  # windows
WINDOW_MS, STREAM_MS = 2400, 20000  # a window that is learnt from, and a part of a recording
LARGEST = 0.999  # the share of outputs that are in range


def parse_arguments():
    parser = new_parser(__doc__)
    input_data.add_arguments(parser)
    input_data.add_training_arguments(parser)
    add = parser.add_argument
    add("--start_from", metavar="PATH", required=True, help="the checkpoint of the trunk")
    add("--streams", metavar="DIR", nargs="+", default=[], help="recordings to choose thresholds on")
    said = "words that are often said in the recording NAME of --streams"
    add("--said", metavar=("NAME", "WORD"), nargs="+", action="append", default=[], help=said)
    add("--windows", type=bounded(int, 1), default=18000, metavar="N", help="of --negatives_dir")
    add("--words", type=bounded(int, 1), default=8000, metavar="N", help="clips of words in --data_dir")
    add("--output", metavar="FILE", required=True)
    return parser.parse_args()


def main():
    args = parse_arguments()
    options, variation = options_from(DataOptions, args), options_from(Augmentation, args)
    settings = checkpoints.read_settings(args.start_from)
    files = [file for folder in args.streams for file in recordings_below(Path(folder))]
    names = [file.stem for file in files]
    said = {name: " ".join(map(folded, of_name)) for name, *of_name in args.said}
    if unknown := said.keys() - set(names):
        raise UserError(f"--said {min(unknown)}: --streams has no recording of this name")
    rng = np.random.default_rng(0)
    data = input_data.open_data(options, settings)

    # 1. Windows of the same number from each folder, and words at any place of a window.
    window = replace(settings, clip_duration_ms=WINDOW_MS)
    long = open_long_recordings(options.negatives_dir, window.front_end)
    chosen = np.concatenate(
        [rng.integers(r.start, r.stop, args.windows // len(long.of_folders)) for r in long.of_folders]
    )
    clips = rng.choice(np.flatnonzero(data.training.label != SILENCE_INDEX), args.words, replace=False)
    words = [""] * len(chosen) + [data.training.names[clip].split("/")[0] for clip in clips]
    audio = np.zeros((len(words), window.clip_samples), np.int16)
    for row, number in zip(audio, chosen, strict=False):
        long.read(int(number), row)
    for row, clip in zip(audio[len(chosen) :], clips, strict=True):
        start = rng.integers(0, window.clip_samples - settings.clip_samples, endpoint=True)
        row[start : start + settings.clip_samples] = data.training.samples(int(clip))

    # 2. What the trunk computes of them, augmented: [windows, outputs, channels].
    trunk = trunk_of(args.start_from, window)
    outputs = predictor(trunk)
    parts = []
    for start in range(0, len(audio), AT_ONCE):
        part = audio[start : start + AT_ONCE]
        drawn = draw_variations(variation, np.zeros(len(part), bool), window.front_end, rng)
        drawn = drawn._replace(shift=np.zeros_like(drawn.shift))
        varied = augment(part, drawn, data.noise, settings.sample_rate)
        parts.append(outputs(mfcc(varied, window.front_end)))
    windows = np.concatenate(parts)
    step = np.maximum(np.quantile(windows, LARGEST, axis=(0, 1)) / LEVELS, 1e-6).astype(np.float32)

    # 3. The recordings to choose thresholds on, whole.
    whole = trunk_of(args.start_from, replace(settings, clip_duration_ms=STREAM_MS))
    streams = [levels_of(outputs_of_recording(file, whole, settings), step) for file in files]
    stored = StoredOutputs(
        fingerprint_of(trunk),
        step,
        levels_of(windows, step),
        np.array(words),
        streams,
        names,
        [said.get(name, "") for name in names],
    )
    stored.write(args.output)
    hop_s = output_hop(trunk, settings.front_end) / settings.sample_rate
    print(
        f"wrote {args.output}: {Path(args.output).stat().st_size:,} bytes, {len(windows):,} windows and "
        f"{sum(map(len, streams)) * hop_s / 3600:.2f} hours"
    )


def trunk_of(path, settings: Settings):
    """Return the trunk in the checkpoint `path`, with inputs of another length."""
    network = models.build_model(settings)
    frozen = trunk_layers(checkpoints.read_settings(path), settings)
    load_start(network, settings, path)
    return split(network, frozen)[0]


def outputs_of_recording(path, trunk, settings: Settings) -> np.ndarray:
    """Return what `trunk`, with inputs of STREAM_MS, computes of a recording: float32 [outputs, channels]."""
    with open_audio(path) as file:
        samples = np.concatenate(list(audio_blocks(file, settings.sample_rate)))
    long = replace(settings, clip_duration_ms=STREAM_MS).front_end
    hop = output_hop(trunk, settings.front_end)
    count = trunk.output_shape[1]  # outputs of one part
    needed = long.clip_samples - (count - 1) * hop  # samples of one output
    total = max(0, len(samples) - needed) // hop + 1
    outputs, parts = predictor(trunk), []
    for start in range(0, total * hop, count * hop):
        part = np.zeros(long.clip_samples, np.int16)
        piece = samples[start : start + long.clip_samples]
        part[: len(piece)] = piece
        parts.append(outputs(mfcc(part[None], long))[0])
    return np.concatenate(parts)[:total]


if __name__ == "__main__":
    run(main)
