"""The MFCC front end, the contract between PC and board. From one clip of audio to the numbers a model sees:

1. Cut it into frames of `window_samples`, one each `stride_samples`; what would pass the end is left out.
2. Multiply each frame by a periodic Hann window, append zeros up to a power of two, and take its DFT.
3. Magnitude |X[k]| (not power) of each bin k that a mel filter uses.
4. 40 triangular filters, evenly spaced in mel = 1127 ln(1 + f / 700 Hz) from 20 to 4000 Hz.
5. Natural logarithm, of at least 1e-12 (so silence is -27.6, not minus infinity).
6. DCT-II of the 40 logarithms; the first `dct_coefficient_count` coefficients are the frame's features.

Audio has full scale 1: int16 samples are divided by 32768. No pre-emphasis. TensorFlow's ops
AudioSpectrogram and Mfcc (tensorflow/core/kernels: spectrogram.cc, mfcc*.cc) compute the same up to rounding.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

MEL_CHANNELS = 40
MEL_LOWER_HZ, MEL_UPPER_HZ = 20.0, 4000.0
LOG_FLOOR = np.float32(1e-12)  # the Mfcc op's kFilterbankFloor
FRAMES_AT_ONCE = 500  # with fewer, threads wait for Python's lock


@dataclass(frozen=True)
class FrontEnd:
    """The settings that the features of a clip depend on."""

    sample_rate: int  # Hz
    clip_samples: int  # length of a clip
    window_samples: int  # length of a frame
    stride_samples: int  # from the start of a frame to the start of the next
    dct_coefficient_count: int  # features of a frame, 1 to MEL_CHANNELS

    @property
    def frame_count(self) -> int:
        return 1 + (self.clip_samples - self.window_samples) // self.stride_samples

    @property
    def feature_count(self) -> int:
        return self.frame_count * self.dct_coefficient_count


@functools.lru_cache
def mfcc_tables(front_end: FrontEnd) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Return window [window_samples], FFT length, mel filters [bins, 40] and DCT [40, coefficients]; float32.

    Row 0 of the filters is for bin 1 of the DFT: bin 0 (0 Hz) and bins from 4000 Hz on have no weight.
    """
    size = front_end.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)  # periodic: divided by size, not size - 1
    fft_length = max(2, 1 << (size - 1).bit_length())
    orders = np.arange(front_end.dct_coefficient_count)
    angles = np.pi / MEL_CHANNELS * np.outer(np.arange(MEL_CHANNELS) + 0.5, orders)
    # the orthogonal DCT-II, but order 0 lacks its factor of sqrt(1 / 2), as in the Mfcc op
    dct = np.sqrt(2 / MEL_CHANNELS) * np.cos(angles)
    filters = _mel_filters(front_end.sample_rate / fft_length, fft_length)
    return window.astype(np.float32), fft_length, filters.astype(np.float32), dct.astype(np.float32)


def _mel_filters(spacing, fft_length):
    """Return the weights [bins, 40] of the magnitudes of bins that are `spacing` Hz apart.

    A filter rises linearly in mel from 0 at the middle of the filter below to 1 at its own middle, and falls
    to 0 at the middle of the filter above. Areas are not normalised. A filter too narrow to have a bin gives
    LOG_FLOOR.
    """

    def to_mel(hz):
        return 1127 * np.log1p(hz / 700)

    bins = spacing * np.arange(1, min(math.ceil(MEL_UPPER_HZ / spacing), fft_length // 2))  # Hz
    edges = np.linspace(to_mel(MEL_LOWER_HZ), to_mel(MEL_UPPER_HZ), MEL_CHANNELS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]  # [40]
    mel = to_mel(bins)[:, None]  # [bins, 1]
    filters = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
    filters[: int(0.5 + MEL_LOWER_HZ / spacing)] = 0  # the op begins at bin int(1.5 + 20 Hz / spacing)
    return filters


@functools.lru_cache
def _dft_tables(front_end):
    """Return the DFT of a frame as two matrices, and the mel filters for the bins in their order; float32.

    With n = p * q, Cooley and Tukey write bin j + p * k of the samples x[0] to x[n - 1] as

        sum over b of exp(-2 pi i b (j + p k) / n) * (sum over a of exp(-2 pi i a j / p) * x[q a + b])

    The first matrix [(j, 2), a] gives the real and imaginary parts of the inner sums, the second
    [j, (2, b), (k, 2)] the bins. The filters are [5, (j, k), 8], eight mel channels each.
    """
    window, n, filters, _ = mfcc_tables(front_end)
    q = 2 << max(0, n.bit_length() - 5) // 2  # about sqrt(n) / 2: longer sums over b round more
    p = n // q
    # Samples are real, so bins m and n - m have one magnitude: j ends at p / 2, and k is low or high.
    j = np.arange(p // 2 + 1)
    low = 1 + len(filters) // p
    bins = j[:, None] + p * np.r_[:low, q - low : q]  # [j, k]
    inner = np.exp(-2j * np.pi / p * np.outer(j, np.arange(math.ceil(len(window) / q))))  # [j, a]
    inner = np.stack([inner.real, inner.imag], axis=1).reshape(2 * len(j), -1)
    outer = np.exp(-2j * np.pi / n * np.arange(q)[:, None] * bins[:, None])  # [j, b, k]
    # (x + iy) w = x w + y iw
    outer = np.stack([outer, 1j * outer], axis=1).astype(np.complex64).view(np.float32)  # [j, 2, b, 2k]
    filters = np.pad(filters, [(1, n // 2 - len(filters)), (0, 0)])[np.minimum(bins, n - bins)]  # [j, k, 40]
    filters[[0, -1], low:] = 0  # if j is 0 or p / 2, the high k repeat the bins of the low ones
    filters = filters.reshape(-1, MEL_CHANNELS // 8, 8).swapaxes(0, 1)
    return inner.astype(np.float32), outer.reshape(len(j), 2 * q, -1), np.ascontiguousarray(filters)


def mfcc(audio: np.ndarray, front_end: FrontEnd, out: np.ndarray | None = None) -> np.ndarray:
    """Return the features of clips: int16 or float32 [clips, clip_samples] -> float32 [clips, feature_count].

    They are in the order of frames, then coefficients; they are written to `out` if it is given. A clip's
    features have the same bits whatever other clips are in the call. Most of it runs without Python's lock.
    """
    clips, frame_count, coefficients = len(audio), front_end.frame_count, front_end.dct_coefficient_count
    out = np.empty((clips, frame_count * coefficients), np.float32) if out is None else out
    dct = mfcc_tables(front_end)[3]  # [40, coefficients]
    cut = np.lib.stride_tricks.sliding_window_view(audio, front_end.window_samples, axis=1)
    cut = cut[:, :: front_end.stride_samples]  # a view: [clips, frames, window_samples]
    at_once = max(1, FRAMES_AT_ONCE // frame_count)
    for first in range(0, clips, at_once):
        part = slice(first, first + at_once)
        mel = _mel_spectrum(cut[part], front_end)  # [clips, frames, 40]
        np.log(np.maximum(mel, LOG_FLOOR, out=mel), out=mel)
        np.matmul(mel, dct, out=out[part].reshape(-1, frame_count, coefficients))
    return out


def _mel_spectrum(frames, front_end):
    """Return the outputs of the mel filters, float32 [clips, frames, 40].

    `frames` are int16 or float32 [clips, frames, window_samples]. The two products that are the DFT take a
    third of the time of numpy's FFT. Products are of one clip each and small, since how BLAS adds may depend
    on the number of rows and of its threads.
    """
    window = mfcc_tables(front_end)[0] / np.float32(32768 if frames.dtype == np.int16 else 1)  # not rounded
    inner, outer, filters = _dft_tables(front_end)
    clips, count, _ = frames.shape
    j_count, q = len(outer), outer.shape[1] // 2
    windowed = np.zeros((clips, count, inner.shape[1] * q), np.float32)
    np.multiply(frames, window, out=windowed[..., : len(window)], dtype=np.float32)
    sums = inner @ windowed.reshape(clips, count, -1, q)  # [clips, frames, (j, 2), b]
    sums = sums.reshape(clips, count, j_count, 2 * q).swapaxes(1, 2)  # [clips, j, frames, (2, b)]
    spectrum = np.empty((clips, count, j_count, outer.shape[2]), np.float32)  # [clips, frames, j, (k, 2)]
    np.matmul(sums, outer, out=spectrum.swapaxes(1, 2))
    magnitudes = np.abs(spectrum.view(np.complex64)).reshape(
        clips, 1, count, -1
    )  # [clips, 1, frames, (j, k)]
    return (magnitudes @ filters).swapaxes(1, 2).reshape(clips, count, MEL_CHANNELS)
