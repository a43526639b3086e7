"""Find the words in recordings: one label for a recording of up to three clips, that of its loudest clip, and
detections for a longer one. A folder stands for the recordings in it.

MODEL is a checkpoint or a TFLite file. A FILE - stands for standard input; like every FILE it may be a pipe.
What comes through one without a header is raw: 16-bit little-endian mono samples, such as
`arecord -t raw -f S16_LE -r 16000 | python label_wav.py MODEL -` gives. Words are detected while they come.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
from kws.audio.folders import list_recordings
from kws.audio.pipes import open_pipe
from kws.audio.recordings import LOWEST_RATE, BadAudio, audio_blocks, clip_start, one_clip, open_audio
from kws.base.errors import complain, run
from kws.base.features import mfcc
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import UNKNOWN_INDEX, UNKNOWN_LABEL
from kws.detect import streaming
from kws.detect.detected_audio import BEFORE_S, DetectionFolder, RecentAudio
from kws.detect.live import LiveScores, paced
from kws.detect.streaming import Detector, DetectorOptions, padded, smoothed_scores

# Of a recording that gets one label. Between the taps with which a phone records a word pass up to three
# seconds: of 600 validation clips in 1.5, 2 and 3 s of faint noise 91 % get the right label, while 80 to 84 %
# give the right detection alone. In more there is room for a second word.
LONGEST_IN_CLIPS = 3


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("model_path", metavar="MODEL", help="a checkpoint, SavedModel or TFLite file")
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="recordings, folders of them, or - for standard input"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--clip", action="store_true", help="one label for each recording, however long")
    mode.add_argument("--stream", action="store_true", help="detections in each recording, however short")
    mode.add_argument(
        "--live",
        action="store_true",
        help="as --stream, with scores as bars in the terminal; files at the pace of their recording",
    )
    parser.add_argument(
        "--raw_rate",
        type=bounded(int, LOWEST_RATE),
        metavar="HZ",
        help="sample rate of raw samples (default: the model's)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead")
    parser.add_argument(
        "--save_detections",
        metavar="DIR",
        help=f"keep the audio of each detection in DIR/<word>: what was scored, and {BEFORE_S:g} s before. "
        "Those of false ones are --negatives_dir of train.py; missed words belong into their word's folder",
    )
    streaming.add_threshold(parser)
    streaming.add_arguments(parser)
    args = parser.parse_args()
    if args.live and args.json:
        parser.error("argument --json: not allowed with argument --live")
    return args


def main():
    args = parse_arguments()
    model = models.load(args.model_path)
    verifier = models.load(args.verifier) if args.verifier else None
    options = options_from(DetectorOptions, args).for_model(model.settings, verifier and verifier.settings)
    Detector(options, model.settings)  # a wrong flag is an error before any recording is read
    sys.stdout.reconfigure(errors="surrogateescape")  # names of files may hold bytes that are no text
    files, problems = find_recordings(args.files)
    for problem in problems:
        complain(problem)
    folder = args.save_detections and DetectionFolder(args.save_detections, model.settings.sample_rate)
    with new_screen(model, options, verifier) if args.live else contextlib.nullcontext() as screen:
        for file in files:
            try:
                label_recording(file, args, model, options, verifier, folder, screen)
            except BrokenPipeError:
                raise
            except (BadAudio, OSError) as error:
                name = "standard input" if file == "-" else file
                problems.append(_unreadable(error, name) if isinstance(error, OSError) else f"{name} {error}")
                complain(problems[-1])
    if problems:
        sys.exit(2)


def new_screen(model, options, verifier) -> LiveScores:
    """Of the first stage's scores, where there is a verifier: the mark is where that one is asked."""
    thresholds = Detector(options, model.settings).thresholds
    if verifier:
        thresholds[UNKNOWN_INDEX + 1 :] = options.gate
    return LiveScores(model.settings.labels, thresholds)


def label_recording(file: str, args, model, options: DetectorOptions, verifier, folder, screen):
    """Print what is found in a recording or pipe, or show it on the screen; save the audio of detections."""
    rate, hop = model.settings.sample_rate, options.hop_samples(model.settings)
    with open_recording(file, args.raw_rate or rate, options.hop_ms) as (recording, is_raw):
        blocks, watch = audio_blocks(recording, rate), None
        if screen:
            watch = functools.partial(screen.show, file)
            blocks = paced(blocks, rate, hop) if os.path.isfile(file) else blocks
        longest = longest_clip(args, is_raw, model.settings)
        for finding in findings(blocks, longest, model, options, verifier, watch):
            if screen:
                screen.add(finding_text(file, finding), finding.detected)
            else:
                print(finding_json(file, finding) if args.json else finding_text(file, finding), flush=True)
            if folder and finding.detected and finding.label in model.settings.labels[UNKNOWN_INDEX + 1 :]:
                folder.save(file, finding.seconds, finding.label, finding.score, finding.samples)


# ---- recordings ----


def find_recordings(paths: list[str]) -> tuple[list[str], list[str]]:
    """The files that the paths mean, those of a folder sorted, and what is wrong with folders."""
    files, problems = [], []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            found = [os.path.join(path, name) for name, *_ in list_recordings(Path(path))]
        except OSError as error:
            problems.append(_unreadable(error))
            continue
        if not found:
            problems.append(f"folder {path} holds no recordings")
        files += found
    return files, problems


def _unreadable(error: OSError, path=None):
    return f"{path or error.filename} cannot be read: {error.strerror or error}"


@contextlib.contextmanager
def open_recording(path: str, raw_rate: int, block_ms: float):
    """A file or pipe, for `audio_blocks`, and whether it is a pipe of raw samples."""
    if path == "-":
        with open_pipe(sys.stdin.buffer, raw_rate, block_ms) as opened:
            yield opened
    elif path.lower().endswith(".raw") or os.path.exists(path) and not os.path.isfile(path):
        with open(path, "rb") as file, open_pipe(file, raw_rate, block_ms) as (recording, is_raw):
            yield recording, is_raw and not os.path.isfile(path)
    else:
        with open_audio(path) as recording:
            yield recording, False


def longest_clip(args, is_raw: bool, settings) -> float:
    """Samples of the longest recording that gets one label; raw samples from a pipe are a microphone's."""
    if args.clip or args.stream or args.live:
        return math.inf if args.clip else -1
    return settings.clip_samples * (1 if is_raw else LONGEST_IN_CLIPS)


# ---- labels ----


class Finding(NamedTuple):
    """What a line says."""

    seconds: float  # the middle of the clip, or of the windows that were averaged
    label: str
    score: float
    detected: bool  # False for the best word of a recording in which none was detected
    samples: np.ndarray | None = None  # int16: what was scored, and BEFORE_S before


def findings(
    blocks, longest: float, model, options: DetectorOptions, verifier=None, watch=None
) -> Iterator[Finding]:
    """The label of a recording no longer than `longest` samples; of a longer one the detections as they are
    made, or the best word where there are none.

    watch(seconds, scores) is called with the smoothed scores, float [labels], whenever there are new ones.
    """
    first = []
    while sum(map(len, first)) <= longest and (block := next(blocks, None)) is not None:
        first.append(block)
    samples = np.concatenate([np.zeros(0, np.int16), *first])
    if len(samples) <= longest:
        yield label_clip(samples, model, verifier)
        return
    settings, detector = model.settings, Detector(options, model.settings)
    recent = RecentAudio(detector.scored_s, settings.sample_rate)
    blocks = recent.passing(padded(itertools.chain([samples], blocks), settings.clip_samples))
    nothing = True
    for smoothed in smoothed_scores(blocks, detector, model, verifier):
        for seconds, label, score in detector.detections(smoothed):
            nothing = False
            yield Finding(seconds, settings.labels[label], score, True, recent.scored_around(seconds))
        if watch:
            watch(recent.seconds, detector.latest)
    if nothing:
        best = detector.best
        yield Finding(best.seconds, settings.labels[best.label], best.score, False)


def label_clip(samples: np.ndarray, model, verifier=None) -> Finding:
    """The label of the loudest clip, which is what a model is trained on; the verifier's, where that is a
    word to the model.
    """
    if not len(samples):  # a few at a rate far higher
        raise BadAudio("is too short")
    settings = model.settings
    length, start = settings.clip_samples, clip_start(samples, settings.clip_samples)
    clip = one_clip(samples, length)
    scores = model.predict(mfcc(clip[None], settings.front_end))[0]
    label = settings.labels[scores.argmax()]
    if verifier and label in settings.wanted_words:
        scores = verifier.predict(mfcc(clip[None], verifier.settings.front_end))[0]
        label = verifier.settings.labels[scores.argmax()]
        label = label if label in settings.labels else UNKNOWN_LABEL  # a word that only the verifier knows
    led_up = samples[max(0, start - int(BEFORE_S * settings.sample_rate)) : start]
    return Finding(
        (start + length / 2) / settings.sample_rate,
        label,
        float(scores.max()),
        True,
        np.concatenate([led_up, clip]),
    )


def finding_json(name: str, finding: Finding) -> str:
    content = {
        "file": name,
        "seconds": round(finding.seconds, 3),
        "label": finding.label if finding.detected else None,
        "best": finding.label,
        "score": round(finding.score, 4),
    }
    return json.dumps(content)


def finding_text(name: str, finding: Finding) -> str:
    nothing = "" if finding.detected else "nothing detected, best "
    return f"{name}: {finding.seconds:.1f} s  {nothing}{finding.label} {finding.score:.2f}"


if __name__ == "__main__":
    run(main)
