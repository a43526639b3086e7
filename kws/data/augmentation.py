"""Variation of training clips: time, speed, volume, noise, noise floor; rooms, microphones and distance."""

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kws.audio.recordings import word_end
from kws.base.errors import UserError
from kws.base.features import FrontEnd
from kws.base.flags import StoreTuple, bounded, flag_adder
from kws.data.acoustics import COLOUR_NUMBERS, ROOMS, colour, in_room, microphones, set_level

FLOOR_FREQUENCY = 0.4  # ratio of clips with a noise floor in place of background noise
NOISE_FLOOR_DB = -40.0  # of full scale, as phones have; good microphones have -60 and less
DIGITAL_SILENCE_DB = -110.0  # noise that int16 rounds to zeros


@dataclass(frozen=True)
class Augmentation:
    """How training clips are varied: the flags of `add_arguments`, in their units."""

    background_volume: float = 0.1
    background_frequency: float = 0.8
    time_shift_ms: float = 100
    speed_change: float = 0
    volume_change_db: float = 0
    silence_volume: float | None = None  # background_volume if None
    noise_floor_db: float | None = None  # if None: NOISE_FLOOR_DB without background noise, else off
    reverb_percentage: float = 0
    colour_db: float = 0
    level_db: tuple[float, ...] = ()  # lowest and highest; as recorded if empty
    word_end_ms: float = 0  # most between a word's end and the clip's; 0 to shift clips instead

    def __post_init__(self):
        if self.level_db and self.level_db[0] > self.level_db[1]:
            raise UserError(f"--level_db {self.level_db[0]:g} {self.level_db[1]:g}: the lowest comes first")

    def with_noise_floor(self, background: bool) -> "Augmentation":
        """Return these with a noise floor if none is asked for and the data set has no `background` noise.

        Training would else know no silence but digital silence.
        """
        if background or self.noise_floor_db is not None:
            return self
        return replace(self, noise_floor_db=NOISE_FLOOR_DB)

    @property
    def uses_noise(self) -> bool:
        """Return whether recordings of background noise are needed."""
        return bool(self.background_frequency and max(self.background_volume, self.silence_volume or 0))


def add_arguments(parser):
    """Add the flags of Augmentation, and return their group."""
    group = parser.add_argument_group("augmentation (training clips only)")
    add = flag_adder(group, Augmentation)
    ratio = bounded(float, 0, 1)
    add("background_volume", "loudest background noise, 0 to 1", type=ratio, metavar="V")
    add("background_frequency", "ratio of clips that get background noise", type=ratio, metavar="P")
    shift = "clips are moved by up to this much, either way"
    add("time_shift_ms", shift, type=bounded(float, 0), metavar="MS")
    speed = "clips are played faster or slower by up to P %%, which changes their pitch too"
    add("speed_change", speed, type=bounded(float, 0, 50), metavar="P")
    volume = "clips are made louder or quieter by up to this much"
    add("volume_change_db", volume, type=bounded(float, 0, 60), metavar="DB")
    silence = "loudest background noise in clips of silence; --background_volume if not given"
    add("silence_volume", silence, type=ratio, metavar="V")
    add(
        "noise_floor_db",
        "loudest noise floor, in dB of full scale, of clips of silence and of what shifts leave empty, with "
        f"--word_end_ms of all clips; if not given, {NOISE_FLOOR_DB:g} without background noise, else none",
        type=bounded(float, DIGITAL_SILENCE_DB, 0),
        metavar="DB",
    )
    rooms = "clips that sound as in a room, in %%: one of 200 box-shaped rooms by the image method"
    add("reverb_percentage", rooms, type=bounded(float, 0, 100), metavar="P")
    end = "words end up to this much before the clip does, as in a stream, whatever --time_shift_ms is"
    add("word_end_ms", end, type=bounded(float, 0), metavar="MS")
    gains = "clips sound as by other microphones: gains of up to this much over frequency, and a limited band"
    add("colour_db", gains, type=bounded(float, 0, 40), metavar="DB")
    add(
        "level_db",
        "peaks of clips, noise included, lie between these, 0 being full scale (such as -45 0); as recorded "
        "if not given",
        type=bounded(float, -90, 0),
        nargs=2,
        action=StoreTuple,
        metavar=("LOW", "HIGH"),
    )
    return group


class Variations(NamedTuple):
    """The numbers drawn for each clip: arrays whose first axis is the clips'."""

    shift: np.ndarray  # int [clips]: samples, later if positive
    speed: np.ndarray  # float [clips]: 1 is unchanged
    gain: np.ndarray  # float32 [clips]
    noise_volume: np.ndarray  # float32 [clips]: 0 for no noise
    noise_place: np.ndarray  # float [clips, 2]: recording of noise, and place in it; 0 to 1
    floor: np.ndarray | None = None  # float32 [clips]: root mean square of the noise floor; 0 for none
    floor_everywhere: np.ndarray | None = None  # bool [clips]: not only in what a shift leaves empty
    room: np.ndarray | None = None  # int [clips]: which room's echoes, -1 for none
    colour: np.ndarray | None = None  # float [clips, COLOUR_NUMBERS]: of acoustics.microphones
    level: np.ndarray | None = None  # float32 [clips]: dB of full scale
    end: np.ndarray | None = None  # int [clips]: samples from the word's end to the clip's, in place of shift

    def of(self, rows: slice) -> "Variations":
        """Return the numbers of some clips."""
        return Variations(*(None if values is None else values[rows] for values in self))


def draw_variations(
    augmentation: Augmentation, is_silence: np.ndarray, front_end: FrontEnd, rng: np.random.Generator
) -> Variations:
    """Draw the variations of clips: uniform within the limits, either way, independently for each clip.

    `is_silence`, bool [clips], says which clips are generated silence. Every number is drawn, even if a
    limit is 0, so that switching off one variation leaves the others as they are.
    """
    count = len(is_silence)
    largest = min(int(augmentation.time_shift_ms * front_end.sample_rate / 1000), front_end.clip_samples)
    shift = rng.integers(-largest, largest, count, endpoint=True)
    silence_volume = augmentation.silence_volume
    if silence_volume is None:
        silence_volume = augmentation.background_volume
    loudest = np.where(is_silence, silence_volume, augmentation.background_volume)
    noise_volume = (loudest * rng.random(count)).astype(np.float32)
    noise_volume *= rng.random(count) < augmentation.background_frequency
    noise_place = rng.random((count, 2))
    speed, decibels = rng.uniform(-1, 1, (2, count))
    # drawn after all of the above: clips without a noise floor are as they were before there was one
    wanted = augmentation.noise_floor_db is not None
    has_floor = rng.random(count) < (FLOOR_FREQUENCY if wanted else 0)
    loudest = augmentation.noise_floor_db if wanted else DIGITAL_SILENCE_DB
    decibels_of_floor = rng.uniform(DIGITAL_SILENCE_DB, loudest, count)
    floor = np.where(has_floor, 10 ** (decibels_of_floor / 20), 0).astype(np.float32)
    has_echo, room, level = rng.random((3, count))
    colouring = rng.random((count, COLOUR_NUMBERS))
    in_rooms = np.where(has_echo < augmentation.reverb_percentage / 100, (room * ROOMS).astype(int), -1)
    low, high = augmentation.level_db or (0, 0)
    latest = int(augmentation.word_end_ms * front_end.sample_rate / 1000)
    end = rng.integers(0, latest, count, endpoint=True) if latest else None
    return Variations(
        shift=shift,
        speed=1 + augmentation.speed_change / 100 * speed,
        gain=(10 ** (augmentation.volume_change_db * decibels / 20)).astype(np.float32),
        noise_volume=np.where(has_floor, np.float32(0), noise_volume),
        noise_place=noise_place,
        floor=floor if wanted else None,
        # in a stream it is behind the words too
        floor_everywhere=is_silence | (latest > 0) if wanted else None,
        room=in_rooms if augmentation.reverb_percentage else None,
        colour=microphones(colouring, augmentation.colour_db) if augmentation.colour_db else None,
        level=(low + (high - low) * level).astype(np.float32) if augmentation.level_db else None,
        end=end,
    )


def augment(
    clips: np.ndarray, variations: Variations, noise: list[np.ndarray], sample_rate: int = 16000
) -> np.ndarray:
    """Vary clips and mix them with noise: int16 [clips, clip_samples] -> float32, -1 to 1.

    A shift or a higher speed leaves zeros at the ends, or a shift the noise floor. The room's echoes are the
    word's alone. The microphone and the level act on the sum of word and noise, which is clipped.
    """
    length = clips.shape[1]
    audio = np.zeros(clips.shape, np.float32)
    if variations.end is not None:
        shift = [length - end - word_end(clip) for clip, end in zip(clips, variations.end, strict=True)]
        variations = variations._replace(shift=np.array(shift))
    if variations.floor is not None:
        _write_noise_floor(audio, variations)
    # clip by clip: noise + room(speed(gain * clip)), shifted
    scaled = np.empty(length, np.float32)
    rooms = np.full(len(clips), -1) if variations.room is None else variations.room
    for out, clip, room, shift, speed, gain, volume, (recording, place) in zip(
        audio, clips, rooms, *variations[:5], strict=True
    ):
        if noise and volume:
            background = noise[int(recording * len(noise))]
            start = int(place * (len(background) - length))
            np.multiply(background[start : start + length], volume, out=out)
        np.multiply(clip, gain / np.float32(32768), out=scaled)
        changed = scaled if speed == 1 else _at_speed(scaled, speed)
        if room >= 0 and clip.any():
            changed = in_room(changed, room, sample_rate)
        out[max(0, shift) : length + min(0, shift)] += changed[max(0, -shift) : length - max(0, shift)]
    if variations.colour is not None:
        colour(audio, variations.colour, sample_rate)
    if variations.level is not None:
        set_level(audio, variations.level)
    np.clip(audio, -1, 1, out=audio)
    if any(drawn is not None for drawn in (variations.room, variations.colour, variations.level)):
        # to 16 bits, as a recording is: filters leave faint noise in digital silence, and a model must learn
        # from exact zeros
        np.rint(np.multiply(audio, 32768, out=audio), out=audio)
        audio /= 32768
    return audio


def _write_noise_floor(audio, variations):
    """Write the noise floor into clips of silence, and into what a shift leaves empty of the others."""
    length = audio.shape[1]
    noises = _floors(length)
    for clip in np.flatnonzero(variations.floor):
        colour, place = variations.noise_place[clip]
        start, shift = int(place * length), variations.shift[clip]
        noise = noises[int(colour * len(noises))][start : start + length]
        part = slice(0, shift) if shift > 0 else slice(length + shift, length)
        if variations.floor_everywhere[clip]:
            part = slice(None)
        # rounded, as a recording is: the quietest noise then has few values, or is zeros
        audio[clip, part] = np.rint(32768 * variations.floor[clip] * noise[part]) / 32768


@functools.lru_cache(maxsize=4)
def _floors(length):
    """Return white, pink and brown noise of root mean square 1, float32 [3, 2 * length]."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=(3, 2 * length)))
    spectrum[:, 0] = 0
    spectrum[:, 1:] /= np.arange(1, spectrum.shape[1]) ** np.array([[0], [0.5], [1]])
    noise = np.fft.irfft(spectrum, 2 * length)
    return (noise / noise.std(axis=1, keepdims=True)).astype(np.float32)


def _at_speed(samples, speed):
    """Play `samples` at `speed` times their speed around their middle; the number of samples stays.

    Linear interpolation is good enough, since the mel filters end at half the Nyquist frequency, and fast.
    """
    from_middle, middle = _from_middle(len(samples))
    position = from_middle * np.float32(speed) + np.float32(middle)
    whole = np.trunc(position)
    lower = whole.astype(np.intp)
    position -= whole  # from the sample before
    rises = np.empty_like(samples)  # from each sample to the next
    np.subtract(samples[1:], samples[:-1], out=rises[:-1])
    rises[-1] = 0
    resampled = np.take(samples, lower, mode="clip")
    position *= np.take(rises, lower, mode="clip")
    resampled += position
    missing = max(0, math.ceil(middle - middle / speed))  # samples at either end
    resampled[:missing] = resampled[len(resampled) - missing :] = 0
    return resampled


@functools.lru_cache(maxsize=4)
def _from_middle(length):
    """Return the distance of each of `length` samples from their middle, float32 [length], and the middle."""
    middle = (length - 1) / 2
    return np.arange(length, dtype=np.float32) - np.float32(middle), middle
