"""Rooms and microphones around a word before it is recorded: impulse responses, colouring, level."""

import functools

import numpy as np

SPEED_OF_SOUND = 343.0  # m/s
ROOMS = 200  # impulse responses that are made, once in a process
RESPONSE_SECONDS = 0.4  # length of an impulse response; what follows is hardly heard
EARLY_SECONDS = 0.06  # of image sources; later echoes overlap and are as good as noise
SMALLEST_ROOM, LARGEST_ROOM = (2.5, 2.0, 2.2), (9.0, 7.0, 3.5)  # m
DECAY_SECONDS = 0.15, 0.8  # time to fall by 60 dB: a furnished bedroom to a tiled kitchen
FROM_WALL = 0.4  # m: nobody speaks from inside a wall
COLOUR_HZ = (100, 250, 500, 1000, 2000, 3000, 4000, 7000)  # each with a random gain, joined by lines
HIGH_PASS_HZ, LOW_PASS_HZ = (40, 300), (3000, 8000)  # corners of a microphone's band, of second order
COLOUR_NUMBERS = len(COLOUR_HZ) + 2


def room_response(size, source, microphone, decay: float, rate: int, rng) -> np.ndarray:
    """Return the impulse response of a box-shaped room, float64 [samples], from its direct sound on.

    `size`, `source` and `microphone` are in m, `decay` is the time in s to fall by 60 dB. The first
    EARLY_SECONDS are image sources, to the nearest sample (Allen and Berkley, J. Acoust. Soc. Am. 65(4),
    1979), with one reflection coefficient by Eyring's formula. Noise that decays likewise follows.
    """
    size, source, microphone = np.array(size), np.array(source), np.array(microphone)
    length, early = int(RESPONSE_SECONDS * rate), int(EARLY_SECONDS * rate)
    coefficient = _reflection(size, decay)
    farthest = np.linalg.norm(source - microphone) + EARLY_SECONDS * SPEED_OF_SOUND  # m
    delays, gains = image_sources(size, source, microphone, coefficient, farthest)
    # the direct sound is sample 0
    place = np.rint((delays - delays.min()) * rate).astype(int)
    response = np.bincount(place, gains, minlength=length)[:length]
    response[early:] = 0
    late = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / rate / decay)
    # as strong as the images are at their end
    before = slice(early // 2, early)
    late *= np.sqrt(np.mean(response[before] ** 2) / np.mean(late[before] ** 2))
    response[early:] = late[early:]
    return response


def image_sources(size, source, microphone, coefficient: float, farthest: float):
    """Return (delays in s, gains) of the sound from all images of a source in a room within `farthest` m."""
    counts = np.ceil(farthest / (2 * size)).astype(int)
    axes = [np.arange(-count, count + 1) for count in counts]
    room = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3)  # which copy of two rooms
    mirrored = np.array(list(np.ndindex(2, 2, 2)))[None]  # [1, 8, 3]: whether mirrored along each axis
    images = (1 - 2 * mirrored) * source + 2 * room * size
    reflections = np.abs(room - mirrored).sum(-1) + np.abs(room).sum(-1)
    distances = np.linalg.norm(images - microphone, axis=-1)
    near = distances <= farthest
    return distances[near] / SPEED_OF_SOUND, coefficient ** reflections[near] / distances[near]


def _reflection(size, decay):
    """Return the reflection coefficient of walls with which sound falls by 60 dB in `decay` s, by Eyring."""
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorbed = 1 - np.exp(-24 * np.log(10) / SPEED_OF_SOUND * np.prod(size) / (surface * decay))
    return np.sqrt(1 - absorbed)


@functools.lru_cache(maxsize=4)
def room_responses(rate: int) -> np.ndarray:
    """Return ROOMS impulse responses of random rooms, float32 [ROOMS, samples], each of unit energy.

    They are the same in every process, so that a resumed training gets the same clips.
    """
    rng = np.random.default_rng(1979)
    responses = []
    for _ in range(ROOMS):
        size = rng.uniform(SMALLEST_ROOM, LARGEST_ROOM)
        source, microphone = rng.uniform(FROM_WALL, size - FROM_WALL, (2, 3))
        response = room_response(size, source, microphone, rng.uniform(*DECAY_SECONDS), rate, rng)
        responses.append(response / np.linalg.norm(response))
    return np.array(responses, np.float32)


@functools.lru_cache(maxsize=4)
def _response_spectra(rate: int, length: int):
    """Return the spectra of `room_responses`, complex64 [ROOMS, bins], and the length of the FFT."""
    responses = room_responses(rate)
    size = fft_length(length + responses.shape[1])
    return np.fft.rfft(responses, size).astype(np.complex64), size


def fft_length(least: int) -> int:
    """Return the smallest even product of 2, 3 and 5 from `least` on: an FFT of that length is fast."""
    size = least + least % 2
    # 30 ** 64 has every product of 2, 3 and 5 below 2 ** 64 as a factor, and no other number
    while pow(30, 64, size):
        size += 2
    return size


def in_room(samples: np.ndarray, room: int, rate: int) -> np.ndarray:
    """Add the echoes of a room, 0 to ROOMS - 1, to float32 [samples]; those after the end are cut off."""
    spectra, size = _response_spectra(rate, len(samples))
    return np.fft.irfft(np.fft.rfft(samples, size) * spectra[room], size)[: len(samples)]


def microphones(drawn: np.ndarray, decibels: float) -> np.ndarray:
    """Turn random numbers from 0 to 1 into microphones, float [clips, COLOUR_NUMBERS] both.

    The numbers of a microphone are gains in dB at COLOUR_HZ, up to `decibels` either way, and the corners in
    Hz of a high-pass and a low-pass filter.
    """
    chosen = decibels * (2 * drawn - 1)
    for column, (low, high) in zip((-2, -1), (HIGH_PASS_HZ, LOW_PASS_HZ), strict=True):
        chosen[:, column] = low * (high / low) ** drawn[:, column]
    return chosen


def colour(audio: np.ndarray, chosen: np.ndarray, rate: int) -> None:
    """Filter clips in place, float32 [clips, samples], each by its own row of `microphones`.

    Straight lines over the logarithm of frequency join the gains. The corners are of second order
    (Butterworth). Phases stay as they are, since the features do not see them.
    """
    # zeros in between keep the ringing of the end from reaching the beginning
    size = fft_length(audio.shape[1] + rate // 20)
    place, fraction, square = _colour_grid(size, rate)
    for samples, numbers in zip(audio, chosen, strict=True):
        gains = (numbers[:-2] * (np.log(10) / 20)).astype(np.float32)
        gains = gains[place] + fraction * (gains[np.minimum(place + 1, len(COLOUR_HZ) - 1)] - gains[place])
        low, high = np.float32(numbers[-2] ** 4), np.float32(numbers[-1] ** 4)
        response = np.exp(gains) / np.sqrt((1 + low / square) * (1 + square / high))
        samples[:] = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)]


@functools.lru_cache(maxsize=4)
def _colour_grid(size, rate):
    """Return for each bin of an FFT its place in COLOUR_HZ, whole and fraction, and its Hz**4."""
    hertz = np.fft.rfftfreq(size, 1 / rate)
    hertz[0] = hertz[1]
    position = np.interp(np.log(hertz), np.log(COLOUR_HZ), np.arange(len(COLOUR_HZ)))
    place = position.astype(int)
    fraction = (position - place).astype(np.float32)
    return place, fraction, (hertz**4).astype(np.float32)


def set_level(audio: np.ndarray, decibels: np.ndarray) -> None:
    """Scale clips in place, float32 [clips, samples], to peaks of `decibels` [clips], 0 being full scale.

    Clips of zeros stay zeros.
    """
    peaks = np.abs(audio).max(1)
    gains = 10 ** (decibels / 20) / np.maximum(peaks, np.float32(1e-9))
    audio *= np.where(peaks > 0, gains, 1).astype(np.float32)[:, None]
