"""Measure the MFCC front end beside other libraries' on the same clips.

    pip install -r benchmarks/requirements.txt
    python benchmarks/features.py

Prints a Markdown table with medians over --runs runs (lowest to highest). All libraries compute the same
number of frames, FFT points, mel channels and coefficients; they differ in details of the formulas. A
library that is not installed is left out. Nothing else should be running.
"""

import datetime
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import plain
from kws.base.errors import run
from kws.base.features import MEL_CHANNELS, MEL_LOWER_HZ, MEL_UPPER_HZ, FrontEnd, mfcc, mfcc_tables
from kws.base.flags import bounded, new_parser
from kws.base.settings import Settings

CLIPS_AT_ONCE = 100  # in one call
FRONT_ENDS = {
    "DNN Small: 25 frames, 10 coefficients": Settings(
        window_size_ms=40, window_stride_ms=40, dct_coefficient_count=10
    ).front_end,
    "defaults: 98 frames, 40 coefficients": Settings().front_end,
}
# (clips, front end, cores) -> clips per second
Rate = Callable[[np.ndarray, FrontEnd, int], float]


def parse_arguments():
    parser = new_parser(__doc__)
    count = bounded(int, 1)
    parser.add_argument("--runs", type=count, default=5, metavar="N", help="runs of each measurement")
    parser.add_argument("--clips", type=count, default=1000, metavar="N", help="clips of a run")
    return parser.parse_args()


def main():
    args = parse_arguments()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}")
    rates: dict[str, Rate] = {
        "TensorFlow's ops": plain.features_per_second,
        "kaldi-native-fbank": rate_of(kaldi_mfcc),
        "librosa": rate_of(librosa_mfcc),
        "ours": rate_of(mfcc),
    }
    for name, module in (("kaldi-native-fbank", "kaldi_native_fbank"), ("librosa", "librosa")):
        if importlib.util.find_spec(module) is None:
            print(f"{name} is left out: it is not installed")
            del rates[name]
    for title, front_end in FRONT_ENDS.items():
        noise = np.random.default_rng(0).normal(scale=0.1, size=(args.clips, front_end.clip_samples))
        print_table(title, measure(rates, noise.astype(np.float32), front_end, args.runs))


def rate_of(features: Callable[[np.ndarray, FrontEnd], np.ndarray]) -> Rate:
    """Return the Rate of a function that takes several clips, called by one thread a core."""

    def rate(audio, front_end, cores):
        parts = [audio[start : start + CLIPS_AT_ONCE] for start in range(0, len(audio), CLIPS_AT_ONCE)]
        with threadpool_limits(1), ThreadPoolExecutor(cores) as pool:
            start = time.perf_counter()
            for found in pool.map(lambda part: features(part, front_end), parts):
                assert found.shape[1] == front_end.feature_count
            return len(audio) / (time.perf_counter() - start)

    return rate


def measure(rates: dict[str, Rate], audio, front_end, runs) -> dict[str, dict[int, list[float]]]:
    """Return clips per second of each run, by library and number of cores; the libraries take turns."""
    cores = sorted({1, os.cpu_count()})
    measured = {name: {count: [] for count in cores} for name in rates}
    for number in range(runs + 1):
        for name, rate in rates.items():
            for count in cores:
                value = rate(audio, front_end, count)
                # the first run is a warm-up
                if number:
                    measured[name][count].append(value)
    return measured


def print_table(title, measured):
    """Print the rate of each library, and ours divided by each other one."""
    cores = list(next(iter(measured.values())))
    headings = [f"clips/s, {count} thread{'s'[: count > 1]}" for count in cores]
    print(f"\n| {title} | {' | '.join(headings)} |")
    print("| --- |" + " ---: |" * len(cores))
    for name, by_cores in measured.items():
        print(f"| {name} | " + " | ".join(spread(by_cores[count]) for count in cores) + " |", flush=True)
    for name, by_cores in measured.items():
        if name != "ours":
            pairs = [zip(measured["ours"][count], by_cores[count], strict=True) for count in cores]
            ratios = [spread([ours / theirs for ours, theirs in runs]) for runs in pairs]
            print(f"| ours / {name} | " + " | ".join(ratios) + " |")


def spread(values) -> str:
    """Return the median (lowest to highest) as text."""
    digits = ",.0f" if max(values) >= 1000 else ".3g"
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def kaldi_mfcc(audio: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Return MFCCs [clips, feature_count] by Kaldi's front end, which takes clip by clip."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.samp_freq = front_end.sample_rate
    options.frame_opts.frame_length_ms = 1000 * front_end.window_samples / front_end.sample_rate
    options.frame_opts.frame_shift_ms = 1000 * front_end.stride_samples / front_end.sample_rate
    options.frame_opts.dither = 0
    options.frame_opts.preemph_coeff = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = MEL_CHANNELS
    options.mel_opts.low_freq, options.mel_opts.high_freq = MEL_LOWER_HZ, MEL_UPPER_HZ
    options.num_ceps = front_end.dct_coefficient_count
    options.use_energy = False
    features = np.empty((len(audio), front_end.frame_count, front_end.dct_coefficient_count), np.float32)
    for clip, out in zip(audio, features, strict=True):
        front = kaldi_native_fbank.OnlineMfcc(options)
        front.accept_waveform(front_end.sample_rate, clip)
        front.input_finished()
        for frame in range(front_end.frame_count):
            out[frame] = front.get_frame(frame)
    return features.reshape(len(audio), -1)


def librosa_mfcc(audio: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Return MFCCs [clips, feature_count] by librosa, which takes all clips at once."""
    import librosa

    # its frames are as long as the FFT: the last one needs zeros at the end
    fft_length = mfcc_tables(front_end)[1]
    last = (front_end.frame_count - 1) * front_end.stride_samples
    audio = np.pad(audio, ((0, 0), (0, max(0, last + fft_length - audio.shape[1]))))
    features = librosa.feature.mfcc(
        y=audio,
        sr=front_end.sample_rate,
        n_mfcc=front_end.dct_coefficient_count,
        n_fft=fft_length,
        win_length=front_end.window_samples,
        hop_length=front_end.stride_samples,
        center=False,
        n_mels=MEL_CHANNELS,
        fmin=MEL_LOWER_HZ,
        fmax=MEL_UPPER_HZ,
        htk=True,
        norm=None,
    )
    return features[:, :, : front_end.frame_count].swapaxes(1, 2).reshape(len(audio), -1)


if __name__ == "__main__":
    run(main)
