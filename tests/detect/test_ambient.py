"""False alarms on recordings without words beside misses, and thresholds chosen for both."""

import itertools
import json
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import models
from conftest import DATA, RATE, SHIPPED_INT8, assert_one_clear_line, call, call_here, spoken
from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX, Settings
from kws.data.clips import Clips
from kws.detect import held_out, measure
from kws.detect.labelled_streams import (
    RATIOS_DB,
    SHORTEST_PART_S,
    Condition,
    LabelledStream,
    mixed_streams,
    read_stream,
    recorded_noise,
)
from kws.detect.measure import Measured, Point, Track
from kws.detect.streaming import DEFAULTS, DetectorOptions, Smoothed, detector_parameters
from kws.model import checkpoints

YES, NO = 2, 3
HOP_S = 0.04


def track(name, firing, hours, settings):
    """A Track that fires at {seconds: (label, score)} and is silent else."""
    windows = int(hours * 3600 / HOP_S)
    labels, scores = np.zeros(windows, np.int8), np.full(windows, 0.9, np.float32)
    for seconds, (label, score) in firing.items():
        labels[round(seconds / HOP_S)], scores[round(seconds / HOP_S)] = label, score
    seconds = (HOP_S * np.arange(windows)).astype(np.float32)
    return Track(name, Smoothed(labels, scores, seconds), hours)


@pytest.fixture
def measured(dnn_small):
    """Half an hour with false alarms of `yes` at .95 and of `no` at .5; a stream where `no` scores little."""
    radio = track("radio", {10: (YES, 0.95), 20: (NO, 0.5), 30: (NO, 0.55), 40: (1, 1.0)}, 0.5, dnn_small)
    stream = track("words", {5: (YES, 0.97), 10: (YES, 0.98), 15: (NO, 0.62), 20: (NO, 0.7)}, 0.1, dnn_small)
    words = LabelledStream("words", np.zeros(0, np.int16), [(5.0, YES), (10.0, YES), (15.0, NO), (20.0, NO)])
    return Measured([radio], stream, words, dnn_small, DEFAULTS)


@pytest.mark.fast
def test_false_alarms_and_misses_are_counted_at_a_threshold(measured):
    assert measured.point(0.4) == Point(0.4, 6.0, 0.0)
    assert measured.point(0.6) == Point(0.6, 2.0, 0.0)
    assert measured.point(0.96) == Point(0.96, 0.0, 0.5)
    assert measured.false_alarms(0.4)[0][[YES, NO]].tolist() == [1, 2]


@pytest.mark.fast
def test_a_recording_on_disk_is_scored_in_less_memory_than_it_takes(tmp_path):
    minutes = 5
    sound = np.random.default_rng(0).integers(-99, 99, 60 * minutes * RATE).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", sound, RATE)
    (tmp_path / "x.csv").write_text("30,yes\n")
    model = models.load(SHIPPED_INT8)
    tracemalloc.start()
    stream = read_stream(tmp_path / "x.wav", tmp_path / "x.csv", model.settings)
    measured = measure.measure([], stream, model, DetectorOptions())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sound.nbytes / 2
    assert measured.hours == minutes / 60
    np.testing.assert_array_equal(np.concatenate([*stream.blocks(RATE)]), sound)


@pytest.mark.fast
def test_thresholds_are_tried_in_finer_steps_than_are_printed(measured):
    points = measure.sweep(measured)
    assert measure.operating_point(points, 2) == Point(0.56, 2.0, 0.0)  # above a false alarm at 0.55
    header, *rows = measure.text(measured, points, 2, 0.56).splitlines()[1 : len(measure.SHOWN) + 3]
    (chosen,) = [row for row in rows if "<-" in row]
    assert "0.5600" in chosen and rows.index(chosen) == 9 and "by word" not in rows[-1]


@pytest.mark.fast
def test_without_negatives_what_matches_no_word_of_the_stream_is_a_false_alarm(measured, dnn_small):
    fired = {5: (YES, 0.97), 7: (NO, 0.8), 10: (YES, 0.98), 12: (YES, 0.6), 14: (1, 1.0), 20: (NO, 0.7)}
    alone = replace(measured, negatives=[], track=track("words", fired, 0.1, dnn_small))
    assert alone.hours == 0.1
    assert alone.false_alarms(0.5)[:, [YES, NO]].tolist() == [[1, 1]]
    assert alone.point(0.5) == Point(0.5, 20.0, 0.25)
    assert alone.point(0.65) == Point(0.65, 10.0, 0.25)
    text = measure.text(alone, measure.sweep(alone), 10, 0.65)
    assert text.startswith("words, 6.0 minutes with 4 words") and "by word: yes 0, no 1, " in text
    assert "no threshold has at most 0 false alarms" not in text


@pytest.mark.fast
def test_where_no_threshold_has_few_enough_false_alarms_a_line_says_so(measured, dnn_small):
    always = track("radio", {10: (YES, 1.0)}, 0.5, dnn_small)
    measured = replace(measured, negatives=[always])
    text = measure.text(measured, measure.sweep(measured), 1, 1.0)
    assert "no threshold has at most 1 false alarms an hour" in text and "<-" not in text


@pytest.mark.fast
def test_the_operating_point_has_no_more_false_alarms_than_allowed():
    points = [Point(0.5, 9.0, 0.1), Point(0.7, 4.0, 0.2), Point(0.9, 1.0, 0.4)]
    assert measure.operating_point(points, 5) == points[1]
    assert measure.operating_point(points, 0.5) == Point(1.0, 0.0, 1.0)
    ties = [Point(0.9, 2.0, 0.2), Point(0.8, 1.0, 0.2), Point(0.7, 1.0, 0.2)]
    assert measure.operating_point(ties, 5) == ties[2]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0, 3.69), (1, 0.03, 5.57), (5, 1.62, 11.67), (100, 81.4, 121.6)]
)
def test_the_interval_of_a_count_is_that_of_poisson(count, low, high):
    assert measure.poisson_interval(count) == pytest.approx((low, high), abs=0.1)  # exact ones, of Garwood


@pytest.mark.fast
def test_the_sensitivities_are_ordered_and_say_what_they_were_measured_at(measured, dnn_small):
    detector = held_out.detector_settings(measured, held_out.by_kind(measured, measure.sweep(measured)), 2)
    for name, rate in (("low", 0.4), ("normal", 2), ("high", 8)):
        one = getattr(detector, name)
        point = measured.point(one.threshold)
        assert one.false_alarms_per_hour == point.false_alarms_per_hour <= rate
        assert one.miss_rate == point.miss_rate
        text = held_out.sensitivities_text(detector)
        assert f"--sensitivity {name}: threshold {one.threshold:g}, " in text
    nothing_found = replace(detector, low=replace(detector.low, miss_rate=1.0))
    assert "no threshold has so few and finds any" in held_out.sensitivities_text(nothing_found)


@pytest.fixture
def kinds():
    """Three kinds of an hour each. One fires more often, above 0.7 too."""
    rates = [(0.5, 20, 0.1), (0.7, 6, 0.2), (0.8, 3, 0.3), (0.9, 1, 0.4), (0.95, 0, 0.5)]
    counts = np.array([[4, 4, 52], [2, 2, 14], [1, 1, 7], [0, 0, 3], [0, 0, 0]])
    return held_out.Kinds([Point(*rate) for rate in rates], ["talk", "music", "noise"], np.ones(3), counts)


@pytest.mark.fast
def test_each_kind_is_held_out_at_the_threshold_that_the_others_choose(kinds):
    # at 20 an hour the others of noise choose 0.5, the others of talk and of music 0.7
    one = held_out.choose(replace(kinds, points=kinds.points[:2], false_alarms=kinds.false_alarms[:2]), 20)
    assert one.held_out.tolist() == [2, 2, 52] and one.false_alarms.tolist() == [4, 4, 52]
    lines = held_out.text(kinds, one, 20).splitlines()
    assert "noise: 52 false alarms in 60.0 minutes; held out 52.0 false alarms an hour (95 %" in lines[2]
    assert "each kind held out once: 18.7 false alarms an hour (95 %" in lines[3]
    assert "cannot be promised" not in lines[3]


@pytest.mark.fast
def test_the_lowest_threshold_is_chosen_at_which_the_kinds_held_out_have_as_few_as_allowed(kinds):
    assert measure.operating_point(kinds.points, 6).threshold == 0.7
    # for 6 an hour the others choose 0.5, which gives 52 in noise: 3 times as many in all; for 3, 0.7
    one = held_out.choose(kinds, 6)
    assert one.held_out.tolist() == [0, 0, 14]
    assert (one.threshold, one.miss_rate) == (0.8, 0.3)


@pytest.mark.fast
def test_what_is_stored_is_what_the_kinds_held_out_gave(measured, kinds):
    detector = held_out.detector_settings(measured, kinds, 20)
    assert detector.normal.threshold == held_out.choose(kinds, 20).threshold
    assert detector.normal.false_alarms_per_hour == 20.0


@pytest.mark.fast
def test_if_no_threshold_can_be_promised_the_text_says_so(kinds):
    # nothing is learnt from kinds that never fire
    silent = replace(kinds, false_alarms=kinds.false_alarms * [0, 0, 1])
    one = held_out.choose(silent, 6)
    assert one.held_out.tolist() == [0, 0, 52] and one.threshold == 0.7
    assert held_out.text(silent, one, 6).endswith("6 cannot be promised from these kinds")


@pytest.mark.fast
def test_one_kind_alone_cannot_be_held_out(measured):
    one_kind = held_out.by_kind(measured, measure.sweep(measured))
    one = held_out.choose(one_kind, 2)
    assert one.threshold == 0.56 and one.held_out.tolist() == one.false_alarms.tolist() == [1]
    assert held_out.text(one_kind, one, 2).endswith("none can be held out, others may have more")


def test_a_chosen_detector_travels_in_the_file_and_is_used(tmp_path):
    """evaluation.py writes it, label_wav.py and kws.detect.streaming find it."""
    model = tmp_path / "model.tflite"
    model.write_bytes(SHIPPED_INT8.read_bytes())
    (tmp_path / "radio").mkdir()
    noise = 0.1 * np.random.default_rng(0).normal(size=60 * RATE)
    soundfile.write(tmp_path / "radio" / "x.flac", noise, RATE)
    flags = ["--ambient", tmp_path / "radio", "--ambient_test", tmp_path / "radio", "--stream_minutes", "1"]
    output = ("--json", tmp_path / "x.json", "--plots", tmp_path / "plots", "--write_detector")
    text = call("evaluation.py", "--tflite_path", model, *DATA, *flags, *output).stdout
    assert "0.02 hours without the words in 1 recordings" in text and "on other recordings" in text
    assert (tmp_path / "plots" / "det.png").stat().st_size > 10_000
    (result,) = json.loads((tmp_path / "x.json").read_text()).values()
    before, after = (checkpoints.read_settings(path) for path in (SHIPPED_INT8, model))
    assert before.detector is None and after.detector.hop_ms == 40
    normal = after.detector.normal.threshold
    assert result["held_out"].keys() == {str(tmp_path / "radio" / "x.flac")}
    assert normal == result["threshold"] in {point["threshold"] for point in result["points"]}
    assert result["test"]["threshold"] == normal
    assert detector_parameters(DetectorOptions(), after).threshold == normal
    high = detector_parameters(DetectorOptions(sensitivity="high"), after)
    assert high.threshold == after.detector.high.threshold
    np.testing.assert_array_equal(
        models.load(model).predict(np.ones((1, 250), np.float32)),
        models.load(SHIPPED_INT8).predict(np.ones((1, 250), np.float32)),
    )


def test_misses_are_counted_in_a_recording_of_ones_own_too(tmp_path):
    rng = np.random.default_rng(0)
    word, _ = soundfile.read(spoken("yes"))
    pause = 0.001 * rng.normal(size=2 * RATE)
    soundfile.write(tmp_path / "mine.wav", np.concatenate([pause, word, pause]), RATE)
    (tmp_path / "mine.csv").write_text(f"{2 + len(word) / RATE / 2},yes")
    (tmp_path / "radio").mkdir()
    soundfile.write(tmp_path / "radio" / "x.flac", 0.1 * rng.normal(size=20 * RATE), RATE)
    flags = "--ambient", tmp_path / "radio", "--stream_wav", tmp_path / "mine.wav"
    model = "--tflite_path", SHIPPED_INT8, *flags, "--stream_words", tmp_path / "mine.csv"
    text = call("evaluation.py", *model, "--plots", tmp_path / "plots").stdout
    assert f"1 words in {tmp_path / 'mine.wav'}" in text and (tmp_path / "plots" / "det.png").exists()
    result = call("evaluation.py", *model, "--ambient_test", tmp_path / "radio", check=False)
    assert_one_clear_line(result, "--ambient_test does not go with --stream_wav")


def test_a_kind_is_a_recording_or_a_folder_directly_in_a_folder_of_negatives(tmp_path):
    noise = 0.1 * np.random.default_rng(0).normal(size=2 * RATE)
    for name in ("knock.wav", "radio/news.wav", "radio/night/music.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, noise, RATE)
    found = measure.tracks([tmp_path], models.load(SHIPPED_INT8), DEFAULTS)
    kinds = {one.name: one.kind for one in found}
    radio = str(tmp_path / "radio")
    assert kinds == {
        str(tmp_path / "knock.wav"): str(tmp_path / "knock.wav"),
        str(tmp_path / "radio/news.wav"): radio,
        str(tmp_path / "radio/night/music.wav"): radio,
    }


def test_flags_that_do_not_go_together(tmp_path):
    result = call("evaluation.py", "--tflite_path", SHIPPED_INT8, "--write_detector", check=False)
    assert result.returncode == 2 and "--ambient" in result.stderr
    ambient = ("--tflite_path", SHIPPED_INT8, *DATA, "--ambient")
    assert_one_clear_line(call_here("evaluation.py", *ambient, tmp_path, check=False), "has no recordings")
    result = call_here("evaluation.py", *ambient, tmp_path / "no", check=False)
    assert_one_clear_line(result, "is not a folder")
    result = call_here("evaluation.py", *ambient, tmp_path, "--wake_word", "yes", check=False)
    assert_one_clear_line(result, "--wake_word needs --stream_wav")


def test_each_recording_is_listened_to_once_short_ones_too_and_damaged_ones_are_named(tmp_path, capfd):
    (tmp_path / "radio").mkdir()
    noise = 0.1 * np.random.default_rng(0).normal(size=2 * RATE)
    soundfile.write(tmp_path / "knock.wav", noise[: RATE // 2], RATE)
    soundfile.write(tmp_path / "radio" / "news.wav", noise, RATE)
    (tmp_path / "radio" / "damaged.wav").write_bytes(b"RIFF" + bytes(100))
    model = models.load(SHIPPED_INT8)
    found = list(measure.tracks([tmp_path, tmp_path / "radio"], model, DEFAULTS))
    assert sorted(round(3600 * each.hours, 2) for each in found) == [0.5, 2]
    assert f"left out {tmp_path}/radio/damaged.wav: it " in capfd.readouterr().err
    (tmp_path / "radio" / "news.wav").unlink()
    with pytest.raises(UserError, match="no recordings that can be read"):
        list(measure.tracks([tmp_path / "radio"], model, DEFAULTS))


@pytest.mark.fast
def test_a_model_may_have_more_labels_than_a_byte_holds(dnn_small):
    settings = replace(dnn_small, wanted_words=tuple(f"w{number}" for number in range(200)))

    def predict(features):
        return np.eye(202, dtype=np.float32)[np.full(len(features), 201)]

    model = SimpleNamespace(settings=settings, predict=predict, frames_between=None)
    one = measure.track("x", [np.zeros(2 * RATE, np.int16)], model, DEFAULTS)
    assert {each.label for each in one.detections(replace(DEFAULTS, threshold=0.5), settings)} == {201}


# ---- in noise ----

NOISES = {
    # half of it is silence, as in speech
    "bursts": np.repeat(np.arange(600) % 10 < 5, RATE // 10)
    * np.random.default_rng(0).normal(size=60 * RATE),
    "hum": np.sin(np.arange(RATE // 2)),
    "off": np.zeros(9),
}


def mixed(sample, volume):
    """Streams of sample words, at this volume from 0 to 1, by Condition."""
    chosen = np.flatnonzero(sample.validation.label > UNKNOWN_INDEX)[:8]
    pcm = (volume * sample.validation.audio(chosen)).astype(np.int16)
    row = np.arange(len(chosen), dtype=np.int32)
    names = tuple(map(str, row))
    clips = Clips((pcm,), np.zeros_like(row), row, sample.validation.label[chosen], names)
    noises = {name: noise.astype(np.float32) for name, noise in NOISES.items()}
    return dict(mixed_streams(clips, noises, 0.5, [0], Settings()))


def ratios_db(stream, clean):
    """The signal-to-noise ratio of each word, whose share of the mixture is fitted."""
    for seconds, _ in clean.words:
        under = slice(round((seconds - 0.5) * RATE), round((seconds + 0.5) * RATE))
        word, heard = (each.samples[under].astype(float) for each in (clean, stream))
        share = heard @ word / (word @ word) * word
        yield 10 * np.log10((share**2).sum() / ((heard - share) ** 2).sum())


def test_each_word_has_the_signal_to_noise_ratio_that_its_stream_is_named_for(sample):
    # a loud word with its noise exceeds full scale
    for volume in (0.2, 1):
        streams = mixed(sample, volume)
        clean = streams.pop(Condition(None, None))
        assert streams.keys() == {Condition(*of) for of in itertools.product(("bursts", "hum"), RATIOS_DB)}
        for (_, ratio), stream in streams.items():
            assert stream.words == clean.words and len(clean.words) > 5
            np.testing.assert_allclose([*ratios_db(stream, clean)], ratio, atol=0.5)


def test_the_same_seed_mixes_the_same_streams(sample):
    for one, again in zip(mixed(sample, 1).values(), mixed(sample, 1).values(), strict=True):
        np.testing.assert_array_equal(one.samples, again.samples)


def test_the_beginnings_of_recordings_are_as_long_together_as_asked_for(tmp_path):
    for value in (1, 2, 3):
        soundfile.write(tmp_path / f"{value}.wav", np.full(60 * RATE, value, np.int16), RATE)
    paths = [str(path) for path in tmp_path.iterdir()]
    noise = recorded_noise(paths, 1.5, 0, RATE)
    values, counts = np.unique(noise * 32768, return_counts=True)
    assert values.tolist() == [1, 2, 3] and counts.tolist() == [30 * RATE] * 3
    assert len(recorded_noise(paths, 0.5, 0, RATE)) == 2 * SHORTEST_PART_S * RATE


def test_misses_in_noise_are_told_printed_and_drawn(tmp_path):
    (tmp_path / "radio").mkdir()
    noise = 0.1 * np.random.default_rng(0).normal(size=4 * 60 * RATE)
    soundfile.write(tmp_path / "radio" / "x.flac", noise, RATE)
    flags = [SHIPPED_INT8, *DATA, "--ambient", tmp_path / "radio", "--stream_minutes", "1"]
    text = call("evaluation.py", *flags, "--json", tmp_path / "x.json", "--plots", tmp_path).stdout
    (result,) = json.loads((tmp_path / "x.json").read_text()).values()
    clean, *in_noise = result["in_noise"]
    assert (clean["noise"], clean["ratio_db"]) == (None, None)
    assert [one["ratio_db"] for one in in_noise if one["noise"] == "--ambient"] == list(RATIOS_DB)
    # 5 minutes were heard; a quarter of them shared by 9 streams holds at least 8.3 s of words
    assert {one["words"] for one in in_noise} == {clean["words"]} and 2 <= clean["words"] <= 6
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["--ambient"]]
    rates = [clean, *(one for one in in_noise if one["noise"] == "--ambient")]
    assert line.split()[1::2] == [f"{100 * one['miss_rate']:.1f}" for one in rates]
    assert (tmp_path / "misses_in_noise.png").stat().st_size > 10_000
