"""Raw samples, which come without a header: their format, and a guess at it."""

import re
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import LOUDEST_FLOAT

# name -> type of a sample, its value at silence, and at full scale
TYPES = {
    "s16le": ("<i2", 0, 2**15),
    "s32le": ("<i4", 0, 2**31),
    "f32le": ("<f4", 0, 1),
    "u8": ("u1", 2**7, 2**7),
}
LEAST_TO_GUESS_FROM = 500  # 16-bit numbers above or below 0; chance decides with fewer
PARTS = 20
UNMISTAKABLE, SUSPICIOUS = 0.25, 0.6  # ratios of differences in two channels; in one channel they are near 1
UNIFORM_STD = 2**16 / 12**0.5  # of the low halves of 32-bit samples


class RawFormat(NamedTuple):
    """The type of raw samples, and how many channels take turns."""

    type: str = "s16le"  # of TYPES
    channels: int = 1

    def __str__(self):
        return self.type if self.channels == 1 else f"{self.type}:{self.channels}"

    @staticmethod
    def parse(text: str) -> "RawFormat":
        """Return the format that `text` names, such as s16le:2 or arecord's S16_LE; ValueError if none."""
        name, _, channels = text.lower().replace("_", "").replace("float", "f32").partition(":")
        if name not in TYPES or not re.fullmatch("([1-9][0-9]?)?", channels):
            raise ValueError(text)
        return RawFormat(name, int(channels or 1))

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one sample of each channel."""
        return self.channels * np.dtype(TYPES[self.type][0]).itemsize

    def samples(self, content: bytes) -> np.ndarray:
        """Return [frames, channels], float32 at full scale 1, or int16 if that is all that the content is."""
        dtype, silence, scale = TYPES[self.type]
        count = len(content) // self.frame_bytes
        block = np.frombuffer(content, dtype, count * self.channels).reshape(count, self.channels)
        if self == RawFormat():
            return block
        return (block.astype(np.float32) - np.float32(silence)) / np.float32(scale)


def guess(content: bytes) -> tuple[RawFormat, bool]:
    """Return the format that the first samples seem to have, and whether that is unmistakable."""
    content = content[: len(content) // 8 * 8]
    if np.count_nonzero(np.frombuffer(content, "<i2")) < LEAST_TO_GUESS_FROM:
        return RawFormat(), True
    sample_type = _type_of(content)
    ratio = _differences_in_two_channels(RawFormat(sample_type).samples(content)[:, 0])
    return RawFormat(sample_type, 2 if ratio < SUSPICIOUS else 1), not UNMISTAKABLE <= ratio < SUSPICIOUS


def _type_of(content):
    """Return the type of the samples, s16le unless they cannot be."""
    # of 16-bit samples that are not all loud, every second byte is near 0 or 255
    if np.mean(np.abs(np.frombuffer(content, np.uint8) - 128.0) < 64) > 0.9:
        return "u8"
    floats = np.abs(np.frombuffer(content, "<f4"))
    floats = floats[floats != 0]
    # 16-bit samples give exponents of all sizes
    if len(floats) and np.mean((floats > 1e-9) & (floats <= LOUDEST_FLOAT)) > 0.99:
        return "f32le"
    # the low and high halves of 32-bit samples, of up to two channels: [samples, halves]
    channels = [
        halves for halves in np.split(np.frombuffer(content, "<i2").reshape(-1, 4), 2, 1) if halves.any()
    ]
    return "s32le" if channels and all(map(_are_halves, channels)) else "s16le"


def _are_halves(halves):
    """Return whether these are low and high halves: the low ones are 0 or loud noise, the high ones not."""
    low, high = halves.T.astype(np.float64)
    if not low.any():
        return True
    is_noise = 0.9 < low.std() / UNIFORM_STD < 1.1 and abs(np.mean(low[1:] * low[:-1])) < 0.1 * low.var()
    return is_noise and high.std() < low.std() / 2


def _differences_in_two_channels(samples):
    """Return how much smaller differences are if there are two channels, than between neighbours, as a ratio.

    This ratio is about 1 or more if there is one channel.
    """
    # [parts, samples]: one jump in the recording decides about one part
    samples = samples[: len(samples) // (2 * PARTS) * 2 * PARTS].reshape(PARTS, -1).astype(np.float64)
    even, odd = samples[:, ::2], samples[:, 1::2]

    def power(differences):
        return np.square(differences).mean(1)

    sounding = np.mean(np.diff(samples) != 0, axis=1) > 0.1
    if np.mean(sounding) < 0.25:
        return 1.0
    # channels may be equal or opposite, one far louder, or differ more than each does in time
    changes = np.sort([power(np.diff(even)), power(np.diff(odd))], axis=0)
    pairs = [
        changes,
        (power(even - odd), power(odd[:, :-1] - even[:, 1:])),
        (power(even + odd), power(odd[:, :-1] + even[:, 1:])),
        (power(samples[:, 2:] - samples[:, :-2]), power(np.diff(samples))),
    ]
    ratios = [one[sounding] / np.maximum(other[sounding], 1e-20) for one, other in pairs]
    return float(np.median(ratios, axis=1).min())
