"""Count false positives and negatives in a stream like that of MLPerf Tiny's streaming wakeword benchmark.

    python benchmarks/streaming_wakeword.py MODEL --data_dir DIR --speech DIR --music DIR

MODEL knows `marvin`. The benchmark's stream (github.com/mlcommons/tiny, benchmark/training/
streaming_wakeword) has 20 minutes. 50 recordings of `marvin` by test speakers of Speech Commands are in its
first half, speech and music of MUSAN around them. Here speech and music are those of other folders, and the
words and their places are drawn anew. Levels, sections and the way of counting are the benchmark's.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import models
from kws.audio.recordings import read_audio
from kws.base.errors import UserError, run
from kws.base.flags import new_parser, options_from
from kws.data.clips import which_partition
from kws.data.negatives import recordings_below
from kws.detect import streaming
from kws.detect.streaming import Detector, DetectorOptions

WORD, WORDS, MINUTES, RATE = "marvin", 50, 20, 16000
MOST = 8  # false positives, and false negatives, that the rules allow
PARTITIONS = 10, 10  # % of speakers for validation and for testing, as published
# Seconds from and to, what is heard, how many of it at once, and the RMS of each; the first 100 s are silent.
SECTIONS = (
    (100, 300, "speech", 8, 0.05),
    (300, 450, "music", 1, 0.5),
    (450, 600, "music", 1, 0.5),
    (600, 900, "speech", 1, 0.75),
    (750, 900, "music", 1, 0.5),
    (900, 1200, "speech", 7, 0.2),
)
WORD_RMS = 0.5, 0.75  # lowest and highest of a word
SHORTEST_GAP_S, MEAN_MORE_S = 4, 7  # from word to word, before all are scaled to end at:
LAST_WORD_S = 570
QUIET = 0.05  # of a word's peak: what is quieter before and after it is cut off
LATE_S, IGNORED_S = 0.5, 1.0  # after a word: until then it is detected, and until then no detection is false


def parse_arguments():
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"a checkpoint or TFLite file that knows {WORD}")
    add("--data_dir", required=True, metavar="DIR", help="Speech Commands")
    add("--speech", required=True, metavar="DIR", help="recordings of speech without the word")
    add("--music", required=True, metavar="DIR", help="recordings of music")
    add(
        "--seed", type=int, default=0, metavar="N", help="chooses words, their places and parts of recordings"
    )
    streaming.add_threshold(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    model, options = models.load(args.model), options_from(DetectorOptions, args)
    if WORD not in model.settings.wanted_words or model.settings.sample_rate != RATE:
        raise UserError(f"{args.model} does not know {WORD} at {RATE} Hz")

    # 1. The stream, and from where to where each word is heard in it.
    rng = np.random.default_rng(args.seed)
    audio = {"speech": audio_below(args.speech), "music": audio_below(args.music)}
    samples, words = make_stream(words_of_test_speakers(args.data_dir), audio, rng)

    # 2. When each detection is made: at the end of the windows that are averaged.
    parameters = streaming.detector_parameters(options, model.settings)
    known_after = Detector(parameters, model.settings).scored_s / 2
    label = model.settings.labels.index(WORD)
    found = [
        one.seconds + known_after
        for one in streaming.detections_in([samples], model, options)
        if one.label == label
    ]

    # 3. Counted as the benchmark does.
    missed, late, false = count(found, words)
    print(f"{args.model}, threshold {parameters.threshold:g}, {len(words)} words in {MINUTES} minutes")
    print(f"false positives {false} (the rules allow {MOST})")
    print(f"false negatives {missed} (the rules allow {MOST}); {late} of them were detected too late")
    print("not a result of MLPerf Tiny: other speech and music, and other draws of words and places")


def audio_below(folder) -> np.ndarray:
    """Return all recordings in a folder and below it, one after the other: float32 [samples]."""
    parts = [read_audio(path, RATE)[0] for path in recordings_below(Path(folder))]
    if not parts:
        raise UserError(f"{folder} has no recordings")
    return np.concatenate(parts) / np.float32(32768)


def words_of_test_speakers(data_dir) -> list[np.ndarray]:
    """Return the word as test speakers say it, float [samples] each; if they are few, validation's too."""
    paths = sorted(path for path in Path(data_dir, WORD).glob("*.*") if path.is_file())
    by = {path: which_partition(path.name, *PARTITIONS) for path in paths}
    chosen = [path for path in paths if by[path] == "testing"]
    # a part of the data set may have few
    if len(chosen) < WORDS:
        print(f"only {len(chosen)} recordings of {WORD} by test speakers: taking those for validation too")
        chosen += [path for path in paths if by[path] == "validation"]
    if len(chosen) < WORDS:
        raise UserError(f"{Path(data_dir, WORD)} has {len(chosen)} recordings by such speakers, not {WORDS}")
    return [trimmed(read_audio(path, RATE)[0].astype(float)) for path in chosen]


def trimmed(samples) -> np.ndarray:
    """Return a word without what is quiet before and after it, at an RMS of 1."""
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    word = samples[loud[0] : loud[-1] + 1]
    return word / word.std()


def make_stream(recordings, audio, rng):
    """Return a stream, int16 [samples], of words in speech and music, and (start, end) of each word in s."""
    stream = np.zeros(MINUTES * 60 * RATE, np.float32)
    for start, end, kind, voices, level in SECTIONS:
        for _ in range(voices):
            first = rng.integers(len(audio[kind]))
            part = audio[kind].take(np.arange(first, first + (end - start) * RATE), mode="wrap")
            stream[start * RATE : end * RATE] += np.float32(level) * part / part.std()
    starts = np.cumsum(SHORTEST_GAP_S + rng.exponential(MEAN_MORE_S, WORDS))
    starts *= LAST_WORD_S / starts[-1]
    words = []
    for start, chosen in zip(starts, rng.choice(len(recordings), WORDS, replace=False), strict=True):
        first, word = int(start * RATE), recordings[chosen]
        stream[first : first + len(word)] += rng.uniform(*WORD_RMS) * word
        words.append((first / RATE, (first + len(word)) / RATE))
    return (stream / np.abs(stream).max() * 32767).astype(np.int16), words


def count(found, words) -> tuple[int, int, int]:
    """Return the words that are missed, those of them that are detected late, and the false detections.

    `found` are the times of detections in s, at least as far apart as the benchmark counts one.
    """
    in_time = [any(start <= at <= end + LATE_S for at in found) for start, end in words]
    by_then = [any(start <= at <= end + IGNORED_S for at in found) for start, end in words]
    of_words = [any(start <= at <= end + IGNORED_S for start, end in words) for at in found]
    return len(words) - sum(in_time), sum(by_then) - sum(in_time), len(found) - sum(of_words)


if __name__ == "__main__":
    run(main)
