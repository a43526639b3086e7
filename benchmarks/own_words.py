r"""Measure how well words are detected that were learnt from synthetic speech, on words of Speech Commands.

    python benchmarks/own_words.py marvin sheila house --data_dir DIR --ambient DIR \
        --work_dir DIR

The scripts are called as a user calls them. Of each word's own recordings the model learns from --real
ones, by few speakers of the training partition. With --other_words it learns other words from all speakers
of that partition. Misses are counted in two streams of the remaining recordings: by all speakers, and by
speakers of the validation and testing partitions alone, who also say the other words in both streams. False
alarms are counted in --ambient. The same command continues an interrupted run.
"""

import json
import re
import shlex
import subprocess
import sys
import time
import wave
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import input_data
from kws.audio.folders import NOISE_FOLDER
from kws.audio.shards import load_noise
from kws.base.errors import run
from kws.base.files import write_text
from kws.base.flags import new_parser
from kws.base.settings import UNKNOWN_LABEL
from kws.data.clips import speaker_of, which_partition
from kws.detect import labelled_streams
from kws.detect.measure import Point, operating_point
from kws.model import checkpoints

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 10.0, 10.0  # % of speakers for validation and for testing, as published
LEARNT_FROM, UNSEEN = {"training"}, {"validation", "testing"}
STREAMS = {"all speakers": LEARNT_FROM | UNSEEN, "speakers of whom nothing was learnt": UNSEEN}
RATES = 5.0, 2.0, 1.0, 0.5  # false alarms an hour, at which misses are printed


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("words", nargs="+", metavar="WORD", help="words of Speech Commands")
    parser.add_argument("--data_dir", required=True, metavar="DIR", help="Speech Commands")
    parser.add_argument("--negatives_dir", metavar="DIR", help="more audio without the words")
    parser.add_argument(
        "--ambient", required=True, metavar="DIR", help="other such audio, to count false alarms in"
    )
    parser.add_argument("--work_dir", required=True, metavar="DIR", help="folder for everything written")
    parser.add_argument(
        "--real",
        type=int,
        default=0,
        metavar="N",
        help="recordings of each word to learn from, by few speakers",
    )
    parser.add_argument(
        "--other_words", action="store_true", help="learn Speech Commands' other words as negatives, too"
    )
    parser.add_argument("--synthesize", default="", metavar="FLAGS", help="more flags of synthesize.py")
    parser.add_argument("--recipe", default="own_words", metavar="NAME", help="a recipe of train.py")
    parser.add_argument(
        "--train", default="", metavar="FLAGS", help="more flags of train.py, as in --train='@FILE ...'"
    )
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="length of the stream")
    return parser.parse_args()


def main():
    args = parse_arguments()
    data, work = Path(args.data_dir).resolve(), Path(args.work_dir).resolve()
    words, model = work / "words", work / "words.tflite"
    real = {word: some_of_few_speakers(data / word, args.real) for word in args.words}

    # from words to C, which is timed
    started = time.perf_counter()
    call("synthesize.py", *args.words, "--output", words, *shlex.split(args.synthesize))
    for word, recordings in real.items():
        link(recordings, words / word)
    negatives = [args.negatives_dir] if args.negatives_dir else []
    if args.other_words:
        negatives.append(link_other_words(data, args.words, LEARNT_FROM, work / "other_words"))
    call(
        "train.py", f"@{ROOT / 'recipes' / args.recipe}.txt", "--data_dir", words,
        "--train_dir", work / "trained", *(["--negatives_dir", *negatives] if negatives else []),
        *shlex.split(args.train),
    )  # fmt: skip
    checkpoint = work / "trained/best"
    call(
        "convert_to_tflite.py", "--checkpoint", checkpoint, "--data_dir", words, "--inference_type", "int8",
        "--output", model,
    )  # fmt: skip
    call("export_c.py", model, "--output", work / "firmware")
    minutes = (time.perf_counter() - started) / 60
    print(f"from words to C in {minutes:.1f} minutes")

    # a stream of each group of speakers, without the recordings that were learnt
    for speakers, partitions in STREAMS.items():
        tested = work / f"tested on {speakers}"
        for word in args.words:
            link(sorted({*by_speakers_for(data / word, partitions)} - {*real[word]}), tested / word)
        link_other_words(data, args.words, UNSEEN, tested / UNKNOWN_LABEL)
        count = sum(len([*(tested / word).iterdir()]) for word in args.words)
        stream = work / f"stream of {speakers}"
        write_stream(tested, data, model, args.minutes, stream)
        misses = misses_at_rates(model, stream, args.ambient, work / f"report of {speakers}.json")
        print(f"{speakers}, {count} recordings: misses at false alarms an hour: {misses}", flush=True)


def misses_at_rates(model: Path, stream: Path, ambient: str, report: Path) -> str:
    """Return the share of the words in STREAM.wav that `model` misses at each of RATES, as text."""
    call(
        "evaluation.py", "--tflite_path", model, "--ambient", ambient,
        "--stream_wav", stream.with_suffix(".wav"), "--stream_words", stream.with_suffix(".csv"),
        "--write_detector", "--json", report,
    )  # fmt: skip
    (measured,) = json.loads(report.read_text()).values()
    points = [Point(**point) for point in measured["points"]]
    return ", ".join(f"{100 * operating_point(points, rate).miss_rate:.1f} % at {rate:g}" for rate in RATES)


def some_of_few_speakers(folder: Path, count: int) -> list[Path]:
    """Return `count` recordings by the speakers of the training partition that have most."""
    of_speakers = defaultdict(list)
    for path in by_speakers_for(folder, LEARNT_FROM):
        of_speakers[speaker_of(path.name)].append(path)
    by_number = sorted(of_speakers.values(), key=len, reverse=True)
    chosen = [path for recordings in by_number for path in recordings][:count]
    if len(chosen) < count:
        sys.exit(f"{folder} has {len(chosen)} recordings of speakers for training")
    return chosen


def by_speakers_for(folder: Path, partitions: set[str]) -> list[Path]:
    """Return the recordings by speakers of these partitions, sorted."""
    return sorted(path for path in folder.iterdir() if which_partition(path.name, *PARTITIONS) in partitions)


def link(recordings: list[Path], folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for path in recordings:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)


def link_other_words(data: Path, words: list[str], partitions: set[str], folder: Path) -> Path:
    """Link recordings of words not in `words`, by speakers of these partitions, in `folder`; return it."""
    for other in sorted(data.iterdir()):
        if other.is_dir() and other.name not in (*words, NOISE_FOLDER) and not other.name.startswith("."):
            folder.mkdir(parents=True, exist_ok=True)
            for path in by_speakers_for(other, partitions):
                target = folder / re.sub("_nohash_", f"_nohash_{other.name}_", path.name)
                if not target.exists():
                    target.symlink_to(path)
    return folder


def write_stream(tested: Path, data: Path, model: Path, minutes: float, target: Path):
    """Write a stream as TARGET.wav, and the words in it as TARGET.csv."""
    settings = checkpoints.read_settings(model)
    clips = input_data.open_test_dir(tested, settings)
    noise = load_noise(data, settings.front_end)
    stream = labelled_streams.make_stream("stream", clips, noise, minutes, [0, 0], settings)
    with wave.open(str(target.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(settings.sample_rate)
        file.writeframes(stream.samples.tobytes())
    lines = [f"{seconds:.3f},{settings.labels[label]}" for seconds, label in stream.words]
    write_text(target.with_suffix(".csv"), "\n".join(lines))


def call(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    print("python", script, shlex.join(command[2:]), flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    run(main)
