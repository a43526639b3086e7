"""Make the recordings in this folder, with which everything runs without a download.

    python sample_data/synthesize.py

It needs espeak-ng (Debian: apt-get install espeak-ng) and SciPy. The folder has the ten words of Speech
Commands, four others and noise, in the same layout: <word>/<speaker>_nohash_<n>.flac. A speaker is a voice, a
speed and a pitch: 16 are for training, 4 each for validation and testing. Figures measured on this folder say
nothing about real speech. Recordings of your own words are made by synthesize.py at the top.
"""

import hashlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from input_data import which_partition  # noqa: E402
from kws.audio.folders import NOISE_FOLDER  # noqa: E402
from kws.base.settings import Settings  # noqa: E402

UNKNOWN_WORDS = ("bird", "happy", "seven", "tree")
SPEAKERS = {"training": 16, "validation": 4, "testing": 4}
# Accents of English, and variants of the voice, as espeak-ng names them. Speakers are drawn by position: the
# order matters.
BRITISH = ("en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
ACCENTS = ("en-us", *BRITISH, "en-029", "en-us-nyc")
MEN, WOMEN = [f"m{number}" for number in range(1, 9)], [f"f{number}" for number in range(1, 6)]
VARIANTS = (*MEN, *WOMEN, "Andy", "Annie", "Denis")
SAMPLE_RATE = Settings.sample_rate
CLIP_SAMPLES = SAMPLE_RATE


def main():
    rng = np.random.default_rng(1)
    words = (*Settings.wanted_words, *UNKNOWN_WORDS)
    for name in (*words, NOISE_FOLDER):
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()
    for name, voice in draw_speakers(rng).items():
        for word in words:
            write(HERE / word / f"{name}_nohash_0.flac", place(speak(word, **voice), rng))
    write_noise(rng)


def draw_speakers(rng):
    """{name: voice} with the wanted number of speakers in each partition, which the name decides."""
    speakers, left = {}, dict(SPEAKERS)
    while any(left.values()):
        voice = {
            "voice": f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}",
            "speed": int(rng.integers(120, 220)),
            "pitch": int(rng.integers(20, 80)),
        }
        name = hashlib.sha1(repr(voice).encode()).hexdigest()[:8]
        partition = which_partition(name, Settings.validation_percentage, Settings.testing_percentage)
        if left[partition] and name not in speakers:
            left[partition] -= 1
            speakers[name] = voice
    return speakers


def speak(word, voice, speed, pitch):
    """The word as espeak-ng says it, float [samples] at SAMPLE_RATE."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav))
    return scipy.signal.resample_poly(samples, SAMPLE_RATE, rate)


def place(samples, rng):
    """The word at a random loudness around the middle of a clip, float [CLIP_SAMPLES]."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1][:CLIP_SAMPLES]
    room = CLIP_SAMPLES - len(samples)
    start = int(room * rng.uniform(0.3, 0.7))
    return np.pad(samples * rng.uniform(0.2, 0.9) / np.abs(samples).max(), (start, room - start))


def write_noise(rng):
    """Four seconds each of white and pink noise and of a humming machine."""
    count = 4 * SAMPLE_RATE
    white = rng.normal(size=count)
    spectrum = np.fft.rfft(rng.normal(size=count))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    time = np.arange(count) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 50 * n * time + rng.uniform(0, 7)) / n for n in range(1, 12)) + 0.05 * white
    for name, samples in {"white_noise": white, "pink_noise": pink, "humming_machine": hum}.items():
        write(HERE / NOISE_FOLDER / f"{name}.flac", 0.3 * samples / np.abs(samples).max())


def write(path, samples):
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
