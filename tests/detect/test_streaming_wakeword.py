"""The stream that is like MLPerf Tiny's, and how detections are counted in it."""

import numpy as np
import pytest

import streaming_wakeword
from streaming_wakeword import RATE


@pytest.mark.fast
def test_the_stream_has_the_words_and_levels_of_the_benchmark():
    rng = np.random.default_rng(0)
    recordings = [streaming_wakeword.trimmed(rng.normal(size=RATE // 2)) for _ in range(60)]
    audio = {"speech": rng.normal(size=90 * RATE), "music": rng.normal(size=40 * RATE)}
    samples, words = streaming_wakeword.make_stream(recordings, audio, rng)
    assert len(samples) == 20 * 60 * RATE and len(words) == 50
    assert words[-1][0] == pytest.approx(570) and np.diff([start for start, _ in words]).min() > 2

    def rms(start, end):
        return samples[int(start * RATE) : int(end * RATE)].std(dtype=float)

    # the second half has no words: one voice, a voice in music, seven voices
    assert rms(750, 900) / rms(600, 750) == pytest.approx(np.hypot(0.75, 0.5) / 0.75, rel=0.02)
    assert rms(900, 1200) / rms(600, 750) == pytest.approx(0.2 * 7**0.5 / 0.75, rel=0.02)
    # the first words are in silence
    heard = [rms(start, end) / rms(600, 750) * 0.75 for start, end in words if end < 100]
    assert heard and min(heard) >= 0.5 and max(heard) <= 0.76


@pytest.mark.fast
def test_the_silence_around_a_word_is_cut_off():
    word = np.random.default_rng(0).normal(size=RATE // 2)
    padded = np.concatenate([np.zeros(1000), word, 0.001 * word])
    assert len(streaming_wakeword.trimmed(padded)) == pytest.approx(len(word), abs=20)
    assert streaming_wakeword.trimmed(padded).std() == pytest.approx(1)


@pytest.mark.fast
def test_a_detection_counts_until_half_a_second_after_the_word_and_is_false_after_a_second():
    words = [(10.0, 10.6), (20.0, 20.6), (30.0, 30.6), (40.0, 40.6)]
    # in time; too late; before the word; (nothing); elsewhere
    assert streaming_wakeword.count([11.0, 21.4, 29.9, 50.0], words) == (3, 1, 2)
    assert streaming_wakeword.count([], words) == (4, 0, 0)
