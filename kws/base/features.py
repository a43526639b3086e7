"""The front end, the contract between PC and board. From one clip of audio to the numbers a model sees:

1. Cut it into frames of `window_samples`, one each `stride_samples`; what would pass the end is left out.
2. Multiply each frame by a periodic Hann window, append zeros up to a power of two, and take its FFT.
3. Magnitude |X[k]| (not power) of each bin k that a mel filter uses.
4. 40 triangular filters, evenly spaced in mel = 1127 ln(1 + f / 700 Hz) from 20 to 4000 Hz.
5. Natural logarithm, of at least 1e-12 (so silence is -27.6, not minus infinity).
6. DCT-II of the 40 logarithms; the first `dct_coefficient_count` coefficients, the MFCCs, are the frame's
   features. If the count is 0, the 40 logarithms are (log-mel energies).

Audio has full scale 1: int16 samples are divided by 32768. No pre-emphasis. TensorFlow's ops
AudioSpectrogram and Mfcc (tensorflow/core/kernels: spectrogram.cc, mfcc*.cc) compute the same up to rounding.
"""

import functools
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
    dct_coefficient_count: int  # MFCCs of a frame, 1 to MEL_CHANNELS; 0 for log-mel energies

    @property
    def frame_count(self) -> int:
        return 1 + (self.clip_samples - self.window_samples) // self.stride_samples

    @property
    def frame_features(self) -> int:
        """Return the number of features of a frame."""
        return self.dct_coefficient_count or MEL_CHANNELS

    @property
    def feature_count(self) -> int:
        return self.frame_count * self.frame_features


@functools.lru_cache
def mfcc_tables(front_end: FrontEnd) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Return window [window_samples], FFT length, mel filters [bins, 40] and DCT [40, coefficients]; float32.

    Row 0 of the filters is for bin 1 of the FFT: bin 0 (0 Hz) and bins above 4000 Hz are left out.
    """
    size = front_end.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)  # periodic: divided by size, not size - 1
    fft_length = 1 << (size - 1).bit_length()
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

    bins = spacing * np.arange(1, min(int(MEL_UPPER_HZ / spacing) + 1, fft_length // 2))  # Hz
    edges = np.linspace(to_mel(MEL_LOWER_HZ), to_mel(MEL_UPPER_HZ), MEL_CHANNELS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]  # [40]
    mel = to_mel(bins)[:, None]  # [bins, 1]
    filters = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
    filters[: int(0.5 + MEL_LOWER_HZ / spacing)] = 0  # the op begins at bin int(1.5 + 20 Hz / spacing)
    return filters


@functools.lru_cache
def _mel_bands(front_end):
    """Return the filters in groups of 8, as (channels, bins, weights): a group uses few bins."""
    filters = mfcc_tables(front_end)[2]
    bands = []
    for first in range(0, MEL_CHANNELS, 8):
        channels = slice(first, first + 8)
        used = np.flatnonzero(filters[:, channels].any(1))
        bins = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
        bands.append((channels, bins, np.ascontiguousarray(filters[bins, channels])))
    return bands


def _new_fft(shape, length):
    """Return a function from float32 rows, [..., n] of `shape`, to bins 1 to n / 2 - 1 of their FFT.

    A row is zero from `length` on. The FFT is OpenCV's, or, if that is not installed, numpy's: slower, and
    other last bits.
    """
    *rows, n = shape
    try:
        import cv2  # imported when needed: --help need not wait for it
    except ImportError:
        spectrum = np.empty((*rows, n // 2 + 1), np.complex64)
        # numpy takes a third of the time for rows that it pads itself
        return lambda padded: np.fft.rfft(padded[..., :length], n, out=spectrum)[..., 1:-1]
    cv2.setNumThreads(1)  # callers have threads of their own
    packed = np.empty(shape, np.float32)

    def fft(padded):
        # each row: real bin 0, then real and imaginary part of bin 1, of bin 2, ...
        cv2.dft(padded.reshape(-1, n), packed.reshape(-1, n), flags=cv2.DFT_ROWS)
        return packed[..., 1:-1].view(np.complex64)

    return fft


def mfcc(audio: np.ndarray, front_end: FrontEnd, out: np.ndarray | None = None) -> np.ndarray:
    """Return the features of clips: int16 or float32 [clips, clip_samples] -> float32 [clips, feature_count].

    They are in the order of frames, then coefficients or mel channels; they are written to `out` if it is
    given. A clip's features have the same bits whatever other clips are in the call. Most of it runs without
    Python's lock.
    """
    clips, frame_count = len(audio), front_end.frame_count
    out = np.empty((clips, front_end.feature_count), np.float32) if out is None else out
    window, fft_length, filters, dct = mfcc_tables(front_end)
    window = window / np.float32(32768 if audio.dtype == np.int16 else 1)  # a power of 2: no rounding
    cut = np.lib.stride_tricks.sliding_window_view(audio, len(window), axis=1)
    cut = cut[:, :: front_end.stride_samples]  # a view: [clips, frames, window_samples]
    # buffers are made once: fresh memory costs as much as the FFT
    at_once = max(1, min(clips, FRAMES_AT_ONCE // frame_count))
    padded = np.zeros((at_once, frame_count, fft_length), np.float32)  # beyond the window it stays 0
    fft = _new_fft(padded.shape, len(window))
    magnitudes = np.empty((at_once, frame_count, len(filters)), np.float32)
    mel = np.empty((at_once, frame_count, MEL_CHANNELS), np.float32)
    for first in range(0, clips, at_once):
        part, rows = slice(first, first + at_once), slice(0, min(at_once, clips - first))
        np.multiply(cut[part], window, out=padded[rows, :, : len(window)], dtype=np.float32)
        np.abs(fft(padded)[rows, :, : len(filters)], out=magnitudes[rows])
        # clip by clip, as BLAS may add in an order that depends on the number of rows
        for channels, bins, weights in _mel_bands(front_end):
            np.matmul(magnitudes[rows, :, bins], weights, out=mel[rows, :, channels])
        np.log(np.maximum(mel, LOG_FLOOR, out=mel), out=mel)
        features = out[part].reshape(-1, frame_count, front_end.frame_features)
        if front_end.dct_coefficient_count:
            np.matmul(mel[rows], dct, out=features)
        else:
            features[:] = mel[rows]
    return out
