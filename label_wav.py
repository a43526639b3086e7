"""Name the words in recordings: one label for a recording no longer than a clip, detections for a longer one.

MODEL is a checkpoint or a TFLite file. A FILE - stands for standard input: raw 16-bit little-endian mono PCM
at the model's sample rate, such as `arecord -t raw -f S16_LE -r 16000 | python label_wav.py MODEL -` gives.
"""

import itertools
import json
import sys

import numpy as np

import input_data
import models
import streaming
from settings import UserError, bounded, new_parser, run


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("model_path", metavar="MODEL", help="a checkpoint, SavedModel or TFLite file")
    parser.add_argument("files", metavar="FILE", nargs="+", help="recordings, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead")
    parser.add_argument(
        "--threshold",
        type=bounded(float, 0, 1),
        default=0.7,
        metavar="S",
        help="lowest smoothed score of a detection in a long recording",
    )
    streaming.add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    models.required_settings(args.model_path)
    scores, settings = models.load(args.model_path, args)
    for file in args.files:
        if file == "-":
            hop = streaming.hop_samples(args, settings)
            label_stream(file, standard_input(hop), scores, settings, args)
        else:
            label_file(file, scores, settings, args)


def label_file(path, scores, settings, args):
    """Print the label of a short recording, or the detections in a longer one."""
    try:
        with input_data.open_audio(path) as file:
            blocks = input_data.audio_blocks(file, settings.sample_rate)
            if file.frames / file.samplerate - settings.clip_duration_ms / 1000 >= args.hop_ms / 1000:
                label_stream(path, blocks, scores, settings, args)
                return
            samples = np.concatenate([*blocks])
    except input_data.BadAudio as error:
        raise UserError(f"{path} {error}") from None
    clip = input_data.one_clip(samples, settings.clip_samples).astype(np.float32)
    heard = scores(input_data.mfcc(clip[None], settings, full_scale=32768))[0]
    say(path, settings, int(heard.argmax()), float(heard.max()), None, args)


def label_stream(name, blocks, scores, settings, args):
    """Print the detections in a recording as they are made; say so where there were none."""
    detector = streaming.Detector(args, settings, args.threshold)
    detections = (
        detection
        for heard in streaming.window_scores(blocks, scores, settings, streaming.hop_samples(args, settings))
        for detection in detector(heard)
    )
    first = next(detections, None)
    if first is None and not args.json:
        print(f"{name}: nothing detected")
    for detection in itertools.chain([first] if first else [], detections):
        say(name, settings, detection.label, detection.score, detection.seconds, args)


def standard_input(block_samples):
    """Standard input in blocks, int16 [samples], until it ends."""
    while block := sys.stdin.buffer.read(2 * block_samples):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2")


def say(name, settings, label, score, seconds, args):
    if args.json:
        content = {"file": name, "label": settings.labels[label], "score": round(score, 4)}
        if seconds is not None:
            content["seconds"] = round(seconds, 3)
        print(json.dumps(content), flush=True)
    else:
        when = "" if seconds is None else f"{seconds:.1f} s  "
        print(f"{name}: {when}{settings.labels[label]} {score:.2f}", flush=True)


if __name__ == "__main__":
    run(main)
