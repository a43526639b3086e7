"""Variation of training clips: shifts, speed, volume, noise, rooms and microphones, as the flags say."""

import hashlib

import numpy as np
import pytest

from conftest import ON_OFF, RATE
from kws.base.errors import UserError
from kws.data import acoustics
from kws.data.augmentation import Augmentation, Variations, augment, draw_variations
from kws.data.batches import Batching, training_batches

pytestmark = pytest.mark.fast


def augmented(data, chosen, variation, front_end):
    """Return the clips `chosen`, augmented, float32 [chosen, clip_samples]."""
    silence = data.training.label[chosen] == 0
    drawn = draw_variations(variation, silence, front_end, np.random.default_rng(0))
    return augment(data.training.audio(chosen), drawn, data.noise)


FRONT_END = ON_OFF.front_end


def varied(clip, count=200, noise=(), is_silence=False, **flags):
    """Augment `clip`, [clip_samples], `count` times; without noise and shifts unless `flags` say so."""
    variation = Augmentation(**({"time_shift_ms": 0, "background_frequency": 0} | flags))
    drawn = draw_variations(variation, np.full(count, is_silence), FRONT_END, np.random.default_rng(0))
    return augment(np.tile(np.int16(clip), (count, 1)), drawn, list(noise))


def test_without_augmentation_the_audio_is_the_clip(sample, dnn_small):
    variation = Augmentation(time_shift_ms=0, background_frequency=0)
    audio = augmented(sample, np.array([3, 5]), variation, dnn_small.front_end)
    expected = np.stack([sample.training.samples(clip) for clip in (3, 5)]) / np.float32(32768)
    np.testing.assert_array_equal(audio, expected)


def test_shifts_go_both_ways_up_to_the_flag_and_fill_with_zeros():
    clip = np.arange(1, RATE + 1, dtype=np.int16)
    audio = varied(clip, 3000, time_shift_ms=100) * 32768
    shifts = []
    for moved in np.rint(audio).astype(int):
        start = np.flatnonzero(moved)[0]
        shift = start if start else 1 - moved[0]
        expected = np.zeros(RATE, int)
        expected[max(0, shift) : RATE + min(0, shift)] = clip[max(0, -shift) : RATE - max(0, shift)]
        np.testing.assert_array_equal(moved, expected)
        shifts.append(shift)
    assert min(shifts) in range(-1600, -1580) and max(shifts) in range(1580, 1601)
    assert abs(np.mean(shifts)) < 60


def test_noise_comes_as_often_and_as_loud_as_the_flags_say(sample, dnn_small):
    variation = Augmentation(time_shift_ms=0, background_frequency=0.6, background_volume=0.2)
    silence = np.flatnonzero(sample.training.label == 0)
    audio = augmented(sample, np.resize(silence, 2000), variation, dnn_small.front_end)
    noisy = audio.any(1)
    assert abs(noisy.mean() - 0.6) < 0.04
    loudest = max(np.abs(recording).max() for recording in sample.noise)
    assert 0.9 * 0.2 * loudest < np.abs(audio).max() <= 0.2 * loudest


def test_the_sum_of_clip_and_noise_is_clipped():
    noise = [np.ones(2 * RATE, np.float32)]
    audio = varied(np.full(RATE, 32767), 1, noise, background_volume=1.0, background_frequency=1.0)
    assert audio.max() == 1


def test_speed_changes_pitch_and_length_by_up_to_the_flag():
    time = np.arange(RATE) / RATE - 0.5
    tone = 10000 * np.sin(2 * np.pi * 400 * time) * (abs(time) < 0.2)
    audio = varied(tone, speed_change=10)
    hertz = np.abs(np.fft.rfft(audio)).argmax(1)  # 1 Hz a bin
    lengths = np.array([np.ptp(np.flatnonzero(clip)) for clip in audio]) / (0.4 * RATE)
    assert 358 <= hertz.min() <= 366 and 434 <= hertz.max() <= 442
    np.testing.assert_allclose(lengths * hertz / 400, 1, atol=0.02)


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (0.5, np.arange(-25, 25.5, 0.5)),
        (2, [0] * 25 + list(range(-50, 51, 2)) + [0] * 25),
    ],
)
def test_speed_keeps_the_middle_and_fills_the_ends_with_zeros(speed, expected):
    ramp = 100 * np.arange(-50, 51, dtype=np.int16)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    drawn = Variations(np.zeros(1, int), speed * one, one, zero, np.zeros((1, 2)))
    audio = augment(ramp[None], drawn, [])[0]
    np.testing.assert_allclose(audio * 32768 / 100, expected, atol=1e-5)


def test_volume_changes_by_up_to_the_flag():
    audio = varied(np.full(RATE, 1000), volume_change_db=6)
    decibels = 20 * np.log10(audio[:, 0] / (1000 / 32768))
    assert -6 < decibels.min() < -5.7 and 5.7 < decibels.max() < 6 and abs(decibels.mean()) < 0.6


def test_silence_has_a_volume_of_its_own(sample, dnn_small):
    variation = Augmentation(silence_volume=0.9, background_volume=0, time_shift_ms=0)
    chosen = np.arange(len(sample.training))
    audio = augmented(sample, chosen, variation, dnn_small.front_end) * 32768
    loud = [
        (np.abs(now - sample.training.samples(clip)) > 1).any()
        for clip, now in zip(chosen, audio, strict=True)
    ]
    assert np.mean(np.array(loud)[sample.training.label == 0]) > 0.5
    assert not np.any(np.array(loud)[sample.training.label > 0])


def test_silence_has_a_noise_floor_of_every_level_and_sometimes_none():
    silence = np.zeros(RATE, np.int16)
    audio = varied(silence, 1000, is_silence=True, noise_floor_db=-40)
    level = 20 * np.log10(np.maximum(audio.std(1), 1e-7))
    np.testing.assert_array_equal(np.rint(audio * 32768), audio * 32768)
    assert -42 < level.max() < -38.5
    assert 0.57 < (level < -139).mean() < 0.72  # 0.6 without, and some whose noise is rounded to zeros
    for loudest in (-80, -60, -40):
        assert 0.06 < ((loudest - 20 < level) & (level <= loudest)).mean() < 0.17
    background = [np.ones(2 * RATE, np.float32)]
    flags = {"background_frequency": 1, "background_volume": 1, "noise_floor_db": -40}
    audio = varied(silence, 1000, background, True, **flags)
    constant = np.ptp(audio, axis=1) == 0  # the background, or zeros
    assert 0.25 < 1 - constant.mean() < 0.45 and 0.55 < (constant & audio.any(1)).mean() < 0.65


def test_where_a_shift_leaves_a_clip_empty_there_is_the_noise_floor():
    clip = np.full(RATE, 9000, np.int16)
    audio = varied(clip, 300, time_shift_ms=100, noise_floor_db=-40) * 32768
    shifted = (audio != 9000).any(1)
    of_the_clip = (audio == 9000).mean(1)
    assert (of_the_clip >= 0.9).all() and shifted.mean() > 0.95
    with_floor = ((audio != 9000) & (audio != 0)).any(1)
    assert 0.25 < with_floor.mean() < 0.45


def test_in_a_stream_the_noise_floor_is_behind_the_words_too():
    # a word of 0.5 s, whose digital silence is the recording's
    clip = np.zeros(RATE, np.int16)
    clip[4000:12000:2] = 9000
    for end, expected in ((300, True), (0, False)):
        audio = varied(clip, 300, time_shift_ms=0, word_end_ms=end, noise_floor_db=-40) * 32768
        gaps = ((audio != 9000) & (audio != 0)).mean(1)
        assert (0.25 < (gaps > 0.4).mean() < 0.45) == expected and gaps.any() == expected


def test_without_background_noise_there_is_a_noise_floor_and_with_it_where_it_is_asked_for():
    quiet = np.zeros(RATE, np.int16)
    assert not varied(quiet, is_silence=True).any()
    assert Augmentation().with_noise_floor(background=False).noise_floor_db == -40
    for loudest, expected in ((None, False), (-60, True)):
        flags = vars(Augmentation(noise_floor_db=loudest).with_noise_floor(background=True))
        assert varied(quiet, is_silence=True, **flags).any() == expected


# ---- rooms, microphones, distance ----


def test_without_the_newer_flags_clips_have_the_bits_that_they_had_before_there_were_any():
    clips = np.random.default_rng(1).integers(-9000, 9000, (20, RATE)).astype(np.int16)
    noise = [np.random.default_rng(2).integers(-9000, 9000, 40000).astype(np.float32) / 32768]
    variation, rng = Augmentation(speed_change=10), np.random.default_rng(3)
    drawn = draw_variations(variation, np.arange(20) % 5 == 0, FRONT_END, rng)
    digest = hashlib.sha256(augment(clips, drawn, noise).tobytes()).hexdigest()
    assert digest.startswith("35aab003753b46e1")  # of the commit before


def test_the_newer_flags_leave_what_the_others_draw_as_it_is():
    def drawn(**flags):
        return draw_variations(Augmentation(**flags), np.zeros(9, bool), FRONT_END, np.random.default_rng(0))

    with_all = drawn(reverb_percentage=50, colour_db=6, level_db=(-45, 0))
    for before, now in zip(drawn()[:5], with_all[:5], strict=True):
        np.testing.assert_array_equal(before, now)


def test_a_room_echoes_from_its_six_walls_first():
    size, source, microphone = np.array([5, 4, 3]), np.array([1, 1.5, 1.2]), np.array([3.5, 2.8, 1.6])
    delays, gains = acoustics.image_sources(size, source, microphone, 0.5, 12)
    mirrored = [source]
    for axis in range(3):
        for wall in (0, size[axis]):
            image = source.copy()
            image[axis] = 2 * wall - source[axis]
            mirrored.append(image)
    metres = np.linalg.norm(np.array(mirrored) - microphone, axis=1)
    once = gains * delays * acoustics.SPEED_OF_SOUND  # the walls' part of it
    first = np.sort(delays[once > 0.4]) * acoustics.SPEED_OF_SOUND
    np.testing.assert_allclose(first, np.sort(metres), rtol=1e-9)


@pytest.mark.parametrize("decay", [0.2, 0.6])
def test_a_room_falls_silent_in_the_time_that_it_is_to_take(decay):
    rng = np.random.default_rng(0)
    response = acoustics.room_response((6, 4, 3), (1, 1.5, 1.2), (4, 2.8, 1.6), decay, RATE, rng)
    left = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1])  # Schroeder's decay curve
    start, end = np.argmax(left < left[0] - 5), np.argmax(left < left[0] - 20)
    assert 60 / 15 * (end - start) / RATE == pytest.approx(decay, rel=0.35)


def test_echoes_come_after_the_word_as_often_as_the_flag_says_and_stay_out_of_silence():
    click = np.zeros(RATE)
    click[4000] = 10000
    audio = varied(click, 400, reverb_percentage=30)
    echoes = np.count_nonzero(np.abs(audio) > 1e-5, axis=1) > 1
    assert abs(echoes.mean() - 0.3) < 0.07
    assert np.abs(audio[:, :4000]).max() < 1e-5
    assert not varied(np.zeros(RATE), 5, reverb_percentage=100).any()


def test_microphones_colour_by_up_to_the_flag_and_limit_the_band():
    time = np.arange(RATE) / RATE
    tones = {hertz: 3000 * np.sin(2 * np.pi * hertz * time) for hertz in (30, 1000)}
    decibels = {}
    for hertz, tone in tones.items():
        middle = varied(tone, colour_db=6)[:, 4000:12000]
        decibels[hertz] = 20 * np.log10(np.abs(middle).max(1) / (3000 / 32768))
    assert -6.5 < decibels[1000].min() < -5 and 5 < decibels[1000].max() < 6.2
    assert decibels[30].mean() < decibels[1000].mean() - 10


def test_levels_lie_between_those_of_the_flag_noise_included():
    noise = [np.random.default_rng(0).uniform(-1, 1, 3 * RATE).astype(np.float32)]
    clip = np.random.default_rng(1).integers(-3000, 3000, RATE)
    audio = varied(clip, noise=noise, background_frequency=1.0, level_db=(-45.0, -5.0))
    peaks = 20 * np.log10(np.abs(audio).max(1))
    assert -45.05 < peaks.min() < -43 and -7 < peaks.max() < -4.99
    assert not varied(np.zeros(RATE), 3, level_db=(-45.0, 0.0)).any()


def test_digital_silence_around_a_word_stays_digital_silence_through_a_microphone():
    clip = np.zeros(RATE)
    clip[RATE // 2 : RATE // 2 + 800] = np.random.default_rng(0).integers(-9000, 9000, 800)
    audio = varied(clip, 50, colour_db=8, level_db=(-45.0, 0.0))
    assert not audio[:, : RATE // 8].any() and audio.any(1).all()
    assert (np.rint(32768 * audio) == 32768 * audio).all()


def test_the_lowest_level_comes_first():
    with pytest.raises(UserError, match="--level_db 0 -45"):
        Augmentation(level_db=(0.0, -45.0))


def test_a_run_that_starts_in_the_middle_gets_the_same_rooms_and_microphones(sample, dnn_small):
    variation = Augmentation(speed_change=10, reverb_percentage=60, colour_db=6, level_db=(-45.0, 0.0))

    def batches(steps, rows=slice(None)):
        batching = Batching(batch_size=12, seed=5, steps=steps, rows=rows)
        made = training_batches(sample, variation, dnn_small.front_end, batching)
        return [batch.features for batch in made]

    whole = batches(range(4))
    np.testing.assert_array_equal(batches(range(2, 4)), whole[2:])
    np.testing.assert_array_equal(batches(range(1), slice(6, None))[0], whole[0][6:])


def test_words_end_up_to_the_flag_before_the_clip_wherever_they_were():
    clip = np.zeros(RATE, np.int16)
    clip[3000:7000] = 8000
    ends = [np.flatnonzero(moved)[-1] for moved in varied(clip, 300, time_shift_ms=500, word_end_ms=300)]
    assert RATE - 4800 - 40 <= min(ends) < RATE - 4500 and RATE - 300 < max(ends) <= RATE - 1
    silent = varied(np.zeros(RATE), 3, word_end_ms=300)
    assert not silent.any()
