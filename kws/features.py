"""MFCC features: the contract between the PC and the board (interim)."""

import functools
from dataclasses import dataclass

import numpy as np

MEL_CHANNELS = 40
MEL_LOWER_HZ, MEL_UPPER_HZ = 20.0, 4000.0
CLIPS_AT_ONCE = 20  # their frames fit into a core's cache


@dataclass(frozen=True)
class FrontEnd:
    """What the features of a clip depend on."""

    sample_rate: int
    clip_samples: int
    window_samples: int
    stride_samples: int
    dct_coefficient_count: int

    @property
    def frame_count(self) -> int:
        return 1 + (self.clip_samples - self.window_samples) // self.stride_samples

    @property
    def feature_count(self) -> int:
        return self.frame_count * self.dct_coefficient_count


@functools.lru_cache
def mfcc_tables(front_end: FrontEnd) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Window [window_samples], FFT length, mel filters [bins, 40] from bin 1 up, DCT [40, coefficients];
    float32.

    Periodic Hann window, FFT of the next power of two, triangles evenly spaced in mel = 1127 ln(1 + f / 700)
    between 20 and 4000 Hz, orthogonal DCT-II without the first row's extra factor: as in TensorFlow's
    AudioSpectrogram and Mfcc ops. Bins below and above the filters are left out.
    """
    size = front_end.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    fft_length = 1 << (size - 1).bit_length()

    def to_mel(hz):
        return 1127 * np.log1p(hz / 700)

    spacing = front_end.sample_rate / fft_length
    bins = spacing * np.arange(1, min(int(MEL_UPPER_HZ / spacing) + 1, fft_length // 2))
    edges = np.linspace(to_mel(MEL_LOWER_HZ), to_mel(MEL_UPPER_HZ), MEL_CHANNELS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    mel = to_mel(bins)[:, None]
    filters = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
    filters[: int(0.5 + MEL_LOWER_HZ / spacing)] = 0  # where the op's filters begin
    orders = np.arange(front_end.dct_coefficient_count)
    dct = np.sqrt(2 / MEL_CHANNELS) * np.cos(
        np.pi / MEL_CHANNELS * np.outer(np.arange(MEL_CHANNELS) + 0.5, orders)
    )
    return window.astype(np.float32), fft_length, filters.astype(np.float32), dct.astype(np.float32)


def mfcc(audio: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """MFCC features of clips: float32 or int16 [clips, clip_samples] from -full_scale to full_scale ->
    float32 [clips, feature_count].

    Frame by frame, coefficients in order. The numbers are those of TensorFlow's AudioSpectrogram
    (magnitude_squared) and Mfcc ops, up to float32 rounding.
    """
    parts = [
        _mfcc_part(audio[first : first + CLIPS_AT_ONCE], front_end)
        for first in range(0, len(audio), CLIPS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, front_end.feature_count), np.float32)


def _mfcc_part(audio, front_end):
    cv2 = _opencv()
    window, fft_length, filters, dct = mfcc_tables(front_end)
    window = window / np.float32(32768 if audio.dtype == np.int16 else 1)
    frames = np.lib.stride_tricks.sliding_window_view(audio, len(window), axis=1)[
        :, :: front_end.stride_samples
    ]
    padded = np.zeros((frames.shape[0] * frames.shape[1], fft_length), np.float32)
    windowed = padded.reshape(*frames.shape[:2], fft_length)[:, :, : len(window)]
    np.multiply(frames, window, out=windowed, dtype=np.float32)
    # of each row: bin 0, then real and imaginary part of bin 1, of bin 2, ...
    packed = cv2.dft(padded, padded, flags=cv2.DFT_ROWS)
    magnitudes = np.abs(packed[:, 1 : 1 + 2 * len(filters)].view(np.complex64))
    mel = np.empty((len(magnitudes), MEL_CHANNELS), np.float32)
    for channels, bins in _mel_bands(front_end):
        np.matmul(magnitudes[:, bins], filters[bins, channels], out=mel[:, channels])
    log_mel = np.log(np.maximum(mel, np.float32(1e-12)))
    return (log_mel @ dct).reshape(len(audio), -1)


@functools.lru_cache
def _mel_bands(front_end):
    """Groups of mel channels and the bins they take, as slices: less to multiply than all by all."""
    filters = mfcc_tables(front_end)[2]
    groups = [slice(first, first + 8) for first in range(0, MEL_CHANNELS, 8)]
    used = [np.flatnonzero(filters[:, channels].any(1)) for channels in groups]
    return [
        (channels, slice(bins[0], bins[-1] + 1) if len(bins) else slice(0, 0))
        for channels, bins in zip(groups, used, strict=True)
    ]


@functools.cache
def _opencv():
    """OpenCV, whose FFT of many rows of float32 is the fastest to be had from PyPI; on one thread."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
