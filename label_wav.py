"""Find the words in recordings, and print them with their times. A folder stands for the recordings in it.

A recording of up to three clips gets the label of its loudest clip. In longer ones words are detected.
MODEL is a checkpoint or a TFLite file. A FILE - stands for standard input; like every FILE it may be a pipe.
What comes through a pipe without a header is raw: 16-bit little-endian mono samples or --raw_format, such as
`arecord -t raw -f S16_LE -r 16000 | python label_wav.py MODEL -` gives. Words are detected while they come.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
from kws.audio.folders import list_recordings, report_left_out
from kws.audio.pipes import open_pipe
from kws.audio.raw import TYPES, RawFormat
from kws.audio.recordings import LOWEST_RATE, BadAudio, audio_blocks, clip_start, one_clip, open_audio
from kws.base.errors import complain, run
from kws.base.features import mfcc
from kws.base.flags import bounded, new_parser, options_from
from kws.base.settings import UNKNOWN_LABEL
from kws.detect import streaming
from kws.detect.detected_audio import BEFORE_S, DetectionFolder, history, scored_audio
from kws.detect.live import LiveScores, paced
from kws.detect.recent_audio import RecentAudio
from kws.detect.streaming import Detector, DetectorOptions, DetectorParameters

# Clips in a recording that gets one label: a word that is recorded by hand has that much around it.
LONGEST_IN_CLIPS = 3


def parse_arguments():
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("model_path", metavar="MODEL", help="a checkpoint, SavedModel or TFLite file")
    add("files", metavar="FILE", nargs="+", help="recordings, folders of them, or - for standard input")
    add_mode = parser.add_mutually_exclusive_group().add_argument
    add_mode("--clip", action="store_true", help="one label for each recording, however long")
    add_mode("--stream", action="store_true", help="detections in each recording, however short")
    live = "as --stream, with scores as bars in the terminal; files at the pace of their recording"
    add_mode("--live", action="store_true", help=live)
    raw = "sample rate of raw samples (default: the model's)"
    add("--raw_rate", type=bounded(int, LOWEST_RATE), metavar="HZ", help=raw)
    formats = f"type of raw samples: {', '.join(TYPES)} or arecord's names, and :CHANNELS, such as s16le:2 "
    formats += "(default: guessed from the first second)"
    add("--raw_format", type=RawFormat.parse, metavar="FORMAT", help=formats)
    lines = "write one JSON object a line to this file; - for standard output instead of text"
    add("--json", metavar="FILE", help=lines)
    # what is saved can be --negatives_dir of train.py, or data of a word
    kept = f"keep the audio of each detection, and {BEFORE_S:g} s before it, in DIR/<word>"
    add("--save_detections", metavar="DIR", help=kept)
    streaming.add_threshold(parser)
    streaming.add_arguments(parser)
    args = parser.parse_args()
    if args.live and args.json == "-":
        parser.error("argument --json -: not allowed with argument --live")
    return args


def main():
    args = parse_arguments()
    model = models.load(args.model_path)
    verifier = models.load(args.verifier) if args.verifier else None
    options = options_from(DetectorOptions, args)
    parameters = streaming.detector_parameters(options, model.settings, verifier and verifier.settings)
    files, problems = find_recordings(args.files)
    for problem in problems:
        complain(problem)
    nothing = f"nothing detected at threshold {parameters.threshold:g}"
    tuned = streaming.tuned_detector(model.settings, verifier and verifier.settings)
    if tuned and tuned.high.threshold < parameters.threshold:
        nothing += f" ({tuned.high.threshold:g} with --sensitivity high)"
    # bars show the first stage's scores, so a verifier's gate is the line that they have to reach
    mark = parameters.gate if verifier else parameters.threshold
    live = LiveScores(model.settings.labels, mark) if args.live else contextlib.nullcontext()
    to_stdout = args.json in (None, "-")
    with live as screen, contextlib.nullcontext(sys.stdout) if to_stdout else open(args.json, "w") as out:
        outputs = output_functions(args, model.settings, screen, out, nothing)
        for file in files:
            try:
                for finding in findings_in(file, args, model, parameters, verifier, screen):
                    for take in outputs:
                        take(file, finding)
            except BadAudio as error:
                problems.append(f"{'standard input' if file == '-' else file} {error}")
                complain(problems[-1])
    if problems:
        sys.exit(2)


def output_functions(args, settings, screen, json_file, nothing) -> list[Callable]:
    """Return the functions that print, draw, write or save a finding: they take a file's name and it."""
    functions, text = [], functools.partial(finding_text, nothing)
    if screen:
        functions.append(lambda name, finding: screen.add(text(name, finding), finding.detected))
    elif args.json != "-":
        functions.append(lambda name, finding: print(text(name, finding), flush=True))
    if args.json:
        functions.append(lambda name, finding: print(finding_json(name, finding), file=json_file, flush=True))
    if args.save_detections:
        folder = DetectionFolder(args.save_detections, settings.sample_rate)

        # _silence_ and _unknown_ are no detections, though clips get them as labels
        def save(name, finding):
            if finding.detected and finding.label in settings.wanted_words:
                folder.save(name, finding.seconds, finding.label, finding.score, finding.samples)

        functions.append(save)
    return functions


def findings_in(file, args, model, parameters, verifier, screen) -> Iterator["Finding"]:
    """Yield what is found in a recording or pipe, and draw the scores; BadAudio if it cannot be read."""
    rate, watch = model.settings.sample_rate, None
    try:
        raw = args.raw_rate or rate, parameters.hop_ms, args.raw_format
        with open_recording(file, *raw) as (recording, is_raw):
            blocks = audio_blocks(recording, rate)
            # a pipe comes at its own pace, a file as fast as it can be read
            if screen:
                watch = functools.partial(screen.show, file)
                is_file = os.path.isfile(file)
                blocks = paced(blocks, rate, parameters.hop_samples(model.settings)) if is_file else blocks
            longest = longest_clip(args, is_raw, model.settings)
            yield from findings(blocks, longest, model, parameters, verifier, watch)
    # the reader of our own output left; that is no fault of the recording
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadAudio(f"cannot be read: {error.strerror or error}") from None


# ---- recordings ----


def find_recordings(paths: list[str]) -> tuple[list[str], list[str]]:
    """Return the files that the paths mean, a folder's in order, and what is wrong with folders."""
    files, problems = [], []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        # a folder that cannot be read must not end a run over many others
        try:
            found = [os.path.join(path, name) for name, *_ in list_recordings(Path(path))]
        except OSError as error:
            problems.append(f"{error.filename} cannot be read: {error.strerror or error}")
            continue
        report_left_out(Path(path))
        if not found:
            problems.append(f"folder {path} holds no recordings")
        files += found
    return files, problems


@contextlib.contextmanager
def open_recording(path: str, *raw):
    """Open a file or pipe for `audio_blocks`; give it, and whether it is a pipe of raw samples.

    `raw` are `open_pipe`'s rate, block_ms and format.
    """
    if path == "-":
        with open_pipe(sys.stdin.buffer, *raw) as opened:
            yield opened
    # named pipes and /dev/fd/63 of a shell's <(...) may hold anything
    elif path.lower().endswith(".raw") or os.path.exists(path) and not os.path.isfile(path):
        with open(path, "rb") as file, open_pipe(file, *raw) as (recording, is_raw):
            yield recording, is_raw and not os.path.isfile(path)
    else:
        with open_audio(path) as recording:
            yield recording, False


def longest_clip(args, is_raw: bool, settings) -> float:
    """Return the samples of the longest recording that gets one label; a raw pipe is a microphone."""
    if args.clip or args.stream or args.live:
        return math.inf if args.clip else -1
    return settings.clip_samples * (1 if is_raw else LONGEST_IN_CLIPS)


# ---- labels ----


class Finding(NamedTuple):
    """The content of a line."""

    seconds: float  # the middle of the clip, or of the windows that were averaged
    label: str
    score: float
    detected: bool  # False for the best word of a recording in which none was detected
    samples: np.ndarray | None = None  # int16: what was scored, and BEFORE_S before


def findings(blocks, longest, model, parameters: DetectorParameters, verifier, watch) -> Iterator[Finding]:
    """Yield the label of a recording of up to `longest` samples; of a longer one the detections as they are
    made, or the best word if there are none.

    watch(seconds, scores) is called with the smoothed scores, float [labels], whenever there are new ones.
    """
    # 1. As much as decides whether there is one label or detections.
    first = []
    while sum(map(len, first)) <= longest and (block := next(blocks, None)) is not None:
        first.append(block)
    samples = np.concatenate([np.zeros(0, np.int16), *first])  # [samples]
    if len(samples) <= longest:
        yield label_clip(samples, model, verifier)
        return

    # 2. Detections while the audio comes; as much of it is kept as a detection may have been scored on.
    settings, rate = model.settings, model.settings.sample_rate
    detector, nothing = Detector(parameters, settings), True
    blocks = streaming.followed_by_silence(itertools.chain([samples], blocks), settings.clip_samples)
    recent = RecentAudio(blocks, history(detector.scored_s, rate))
    for smoothed in streaming.smoothed_scores(recent, detector, model, verifier):
        for seconds, label, score in detector.detections(smoothed):
            nothing = False
            scored = scored_audio(recent, seconds, detector.scored_s, rate)
            yield Finding(seconds, settings.labels[label], score, True, scored)
        if watch:
            watch(recent.received / rate, detector.latest)

    # 3. If there were none, the word that came nearest, as a hint for the threshold.
    if nothing:
        best = detector.best
        yield Finding(best.seconds, settings.labels[best.label], best.score, False)


def label_clip(samples: np.ndarray, model, verifier=None) -> Finding:
    """Return the label of the loudest clip, on which models are trained; the verifier's label, if the model's
    is a word.
    """
    if not len(samples):  # a few samples at a far higher rate
        raise BadAudio("is too short")
    settings = model.settings
    length, start = settings.clip_samples, clip_start(samples, settings.clip_samples)
    clip = one_clip(samples, length)  # [clip_samples]
    scores = model.predict(mfcc(clip[None], settings.front_end))[0]  # [labels]
    label = settings.labels[scores.argmax()]
    if verifier and label in settings.wanted_words:
        scores = verifier.predict(mfcc(clip[None], verifier.settings.front_end))[0]
        label = verifier.settings.labels[scores.argmax()]
        # a verifier may know more words
        label = label if label in settings.labels else UNKNOWN_LABEL
    led_up = samples[max(0, start - int(BEFORE_S * settings.sample_rate)) : max(0, start)]
    middle = max(0.0, (start + length / 2) / settings.sample_rate)
    return Finding(middle, label, float(scores.max()), True, np.concatenate([led_up, clip]))


def finding_json(name: str, finding: Finding) -> str:
    label = finding.label if finding.detected else None
    times = {"file": name, "seconds": round(finding.seconds, 3)}
    return json.dumps(times | {"label": label, "best": finding.label, "score": round(finding.score, 4)})


def finding_text(nothing: str, name: str, finding: Finding) -> str:
    best = "" if finding.detected else f"{nothing}, best "
    return f"{name}: {finding.seconds:.1f} s  {best}{finding.label} {finding.score:.2f}"


if __name__ == "__main__":
    run(main)
