"""Find the words in recordings: one label for a recording no longer than a clip, detections for a longer one.

MODEL is a checkpoint or a TFLite file. A FILE - stands for standard input: raw 16-bit little-endian mono PCM
at the model's sample rate, such as `arecord -t raw -f S16_LE -r 16000 | python label_wav.py MODEL -` gives.
"""

import itertools
import json
import sys

import numpy as np

from kws import streaming
from kws.checkpoints import load
from kws.cli import UserError, new_parser, options_from, run
from kws.features import mfcc
from kws.recordings import BadAudio, audio_blocks, one_clip, open_audio
from kws.streaming import DetectorOptions


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("model_path", metavar="MODEL", help="a checkpoint, SavedModel or TFLite file")
    parser.add_argument("files", metavar="FILE", nargs="+", help="recordings, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead")
    streaming.add_threshold(parser)
    streaming.add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = options_from(DetectorOptions, args)
    model = load(args.model_path)
    options = options.for_model(model.settings)
    for file in args.files:
        if file == "-":
            blocks = standard_input(options.hop_samples(model.settings))
            label_stream(file, blocks, model, options, args.json)
        else:
            label_file(file, model, options, args.json)


def label_file(path, model, options, as_json):
    """Print the label of a short recording, or the detections in a longer one."""
    settings = model.settings
    try:
        with open_audio(path) as file:
            blocks = audio_blocks(file, settings.sample_rate)
            longer_ms = 1000 * file.frames / file.samplerate - settings.clip_duration_ms
            if longer_ms >= options.hop_ms:  # more than one window fits
                label_stream(path, blocks, model, options, as_json)
                return
            samples = np.concatenate([*blocks])
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None
    clip = one_clip(samples, settings.clip_samples)
    scores = model.predict(mfcc(clip[None], settings.front_end))[0]
    print_label(path, settings.labels[scores.argmax()], float(scores.max()), None, as_json)


def label_stream(name, blocks, model, options, as_json):
    """Print the detections in a recording as they are made, or that there were none."""
    detections = streaming.detections_in(blocks, model, options)
    first = next(detections, None)
    if first is None and not as_json:
        print(f"{name}: nothing detected")
    for detection in itertools.chain([first] if first else [], detections):
        label = model.settings.labels[detection.label]
        print_label(name, label, detection.score, detection.seconds, as_json)


def standard_input(block_samples):
    """Standard input in blocks, int16 [samples], until it ends."""
    while block := sys.stdin.buffer.read(2 * block_samples):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2")


def print_label(name, label, score, seconds, as_json):
    if as_json:
        content = {"file": name, "label": label, "score": round(score, 4)}
        if seconds is not None:
            content["seconds"] = round(seconds, 3)
        print(json.dumps(content), flush=True)
    else:
        when = "" if seconds is None else f"{seconds:.1f} s  "
        print(f"{name}: {when}{label} {score:.2f}", flush=True)


if __name__ == "__main__":
    run(main)
