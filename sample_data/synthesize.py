"""Make the recordings in this folder, with which everything runs without a download.

    python sample_data/synthesize.py work/teacher/best

The argument is a model that judges: a clip is kept if it is sure of the word. It must not be a model that is
tested here; recipes/teacher.txt makes it. The folder has the ten words of Speech Commands, eight others and
noise, in the same layout: <word>/<speaker>_nohash_0.opus. It needs espeak-ng, flite and the natural voices
(apt-get install espeak-ng flite; pip install -r requirements-own-words.txt), whose recordings may be shared.
README.md says what the figures of this folder are worth. synthesize.py at the top is for words of your own.
"""

import csv
import hashlib
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import models  # noqa: E402
from kws.audio.folders import NOISE_FOLDER  # noqa: E402
from kws.audio.recordings import read_audio  # noqa: E402
from kws.base.errors import run  # noqa: E402
from kws.base.features import mfcc  # noqa: E402
from kws.base.flags import new_parser  # noqa: E402
from kws.base.settings import UNKNOWN_LABEL, Settings  # noqa: E402
from kws.data.clips import which_partition  # noqa: E402
from kws.synth.engines import ENGINES, Utterance, finished, installed_voices  # noqa: E402

# clips of each word
OF_WANTED = {"training": 100, "validation": 20, "testing": 40}
OF_UNKNOWN = {"training": 40, "validation": 10, "testing": 20}
UNKNOWN_WORDS = ("bird", "cat", "five", "happy", "house", "seven", "tree", "wow")
SYNTHESISERS = ("hibari", "piper", "flite", "espeak-ng")  # drawn equally often
SPEEDS, PITCHES = (0.8, 1.2), (0.85, 1.2)  # factors of a voice's own
SURE = 0.99  # least score of the word by the judge
NOISE_DB = -52, -32  # of what a microphone adds, below full scale
RATE = Settings.sample_rate
# of libsndfile for Opus, 16 kbit/s: 1 is 6 kbit/s, 0 is 256
COMPRESSION = 0.96


def main():
    parser = new_parser(__doc__)
    parser.add_argument("judge", metavar="MODEL", help="checkpoint of the network that judges the clips")
    judge = models.load(parser.parse_args().judge)
    voices = installed_voices(SYNTHESISERS, "en")
    rng = np.random.default_rng(1)

    # 1. What is wanted: clips left to make of each word, by partition.
    left = {word: dict(OF_WANTED) for word in Settings.wanted_words}
    left |= {word: dict(OF_UNKNOWN) for word in UNKNOWN_WORDS}
    for name in (*left, NOISE_FOLDER):
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()

    # 2. One speaker after the other says the words that its partition lacks.
    speakers = {}
    total = sum(sum(of_word.values()) for of_word in left.values())
    with tqdm(total=total, desc="speaking", unit=" clips") as progress:
        while progress.n < total:
            name, voice, said = draw_speaker(voices, rng)
            partition = which_partition(name, Settings.validation_percentage, Settings.testing_percentage)
            words = [word for word in left if left[word][partition]]
            if name in speakers or not words:
                continue
            kept = understood(words, clips_of(words, voice, said, rng), judge)
            for word, content in kept.items():
                (HERE / word / f"{name}_nohash_0.opus").write_bytes(content)
                left[word][partition] -= 1
            speakers[name] = name, partition, voice, said["speed"], said["pitch"], len(words), len(kept)
            progress.update(len(kept))

    # 3. Who said them, and noise.
    with open(HERE / "speakers.csv", "w", newline="") as file:
        columns = "speaker", "partition", "voice", "speed", "pitch", "words_said", "words_kept"
        csv.writer(file, lineterminator="\n").writerows([columns, *sorted(speakers.values())])
    write_noise(rng)


def draw_speaker(voices, rng):
    """Return a speaker's name, which decides the partition, its Voice, and its Utterance's numbers."""
    of_engine = voices[rng.choice(SYNTHESISERS)]
    voice = of_engine[rng.integers(len(of_engine))]
    said = {"speed": round(rng.uniform(*SPEEDS), 2), "pitch": round(rng.uniform(*PITCHES), 2)}
    return hashlib.sha1(f"{voice} {said}".encode()).hexdigest()[:8], voice, said


def clips_of(words, voice, said, rng):
    """Yield a clip of each word as the content of an Opus file, or None if the voice says nothing."""
    spoken = ENGINES[voice.engine].speak([Utterance(word, voice, **said) for word in words])
    for samples, rate in spoken:
        samples = finished(samples, rate, RATE)
        yield None if samples is None else encoded(placed(samples, rng))


def placed(samples, rng):
    """Return a word at a random loudness around the middle of a second with a microphone's noise."""
    samples = samples[:RATE] * rng.uniform(0.3, 0.9) / np.abs(samples).max()
    room = RATE - len(samples)
    start = int(room * rng.uniform(0.3, 0.7))
    loudness = 10 ** (rng.uniform(*NOISE_DB) / 20)
    return np.clip(np.pad(samples, (start, room - start)) + loudness * pink(RATE, rng), -1, 1)


def encoded(samples):
    """Return float [samples] as the content of an Opus file."""
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION)
    return content.getvalue()


def understood(words, contents, judge):
    """Return {word: content of its file} of the words that the judge is sure of, as they are decoded."""
    contents = {word: content for word, content in zip(words, contents, strict=True) if content}
    if not contents:
        return {}
    audio = np.stack([read_audio(io.BytesIO(content), RATE)[0] for content in contents.values()])
    scores = judge.predict(mfcc(audio, judge.settings.front_end))  # [words, labels]
    labels = dict(zip(judge.settings.labels, scores.T, strict=True))  # {label: float [words]}
    return {
        word: content
        for number, (word, content) in enumerate(contents.items())
        if labels.get(word, labels[UNKNOWN_LABEL])[number] >= SURE
    }


def pink(count, rng):
    """Return pink noise with a peak of 1, float [count]."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    samples = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), count)
    return samples / np.abs(samples).max()


def write_noise(rng):
    """Write four seconds each of white and pink noise and of a humming machine."""
    count = 4 * RATE
    white, time = rng.normal(size=count), np.arange(count) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * n * time + rng.uniform(0, 7)) / n for n in range(1, 12))
    for name, samples in {
        "white_noise": white,
        "pink_noise": pink(count, rng),
        "humming_machine": hum,
    }.items():
        samples = 0.3 * samples / np.abs(samples).max()
        soundfile.write(HERE / NOISE_FOLDER / f"{name}.flac", samples, RATE, subtype="PCM_16")


if __name__ == "__main__":
    run(main)
