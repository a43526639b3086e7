"""Two stages, where a larger model decides about what a small one detected; detection after a wake word."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import label_wav
import models
from conftest import DATA, RATE, SHIPPED_INT8, call, call_here
from kws.base.errors import UserError
from kws.detect import held_out, measure, streaming
from kws.detect.labelled_streams import LabelledStream, make_stream
from kws.detect.recent_audio import RecentAudio
from kws.detect.streaming import Detector, DetectorOptions, DetectorParameters, Smoothed, detector_parameters
from kws.detect.verifier import ASK_MEAN, ask_every
from kws.model import checkpoints

YES, NO = 2, 3
ASK_EVERY = ask_every(0.04)  # hops


@pytest.fixture(scope="module")
def stream(sample, dnn_small):
    return make_stream("words", sample.training, sample.noise, 1, [0], dnn_small)


@pytest.fixture(scope="module")
def model():
    return models.load(SHIPPED_INT8)


def that_scores(settings, *labels):
    """A model that is sure of each of these labels."""

    def predict(features):
        scores = np.zeros((len(features), len(settings.labels)), np.float32)
        scores[:, list(labels)] = 1
        return scores

    return SimpleNamespace(predict=predict, settings=settings, frames_between=None)


def detections(stream, model, verifier=None, **options):
    options = DetectorOptions(**({"threshold": 0.3} | options))
    return list(streaming.detections_in([stream.samples], model, options, verifier))


@pytest.mark.fast
def test_a_verifier_has_the_last_word(stream, model):
    settings = model.settings
    alone = detections(stream, model, threshold=0.5)
    assert len(alone) > 5 and len({found.label for found in alone}) > 2
    everything = that_scores(settings, *range(2, 12))
    agreed = detections(stream, model, everything, gate=0.5)
    # it agrees when it has been asked as often as answers are averaged, if the score is still up
    delay = (ASK_MEAN - 1) * ASK_EVERY * 0.04
    first = {round(found.seconds + delay, 3): found.label for found in alone}
    assert len(agreed) >= 0.7 * len(alone)
    assert {(round(found.seconds, 3), found.label) for found in agreed} <= first.items()
    assert {found.score for found in agreed} == {1.0}
    assert detections(stream, model, that_scores(settings, 1), gate=0.5) == []
    one = alone[0].label
    of_one = detections(stream, model, that_scores(settings, one), gate=0.5)
    assert of_one and {found.label for found in of_one} == {one}


@pytest.mark.fast
def test_a_verifier_scores_the_newest_windows(stream, model):
    """A model that verifies itself gives its own scores of windows, whatever blocks the audio comes in."""
    options, found = DetectorOptions(threshold=0.3, gate=0.3), []
    scores = np.concatenate([*streaming.window_scores([stream.samples], model, 640)])
    for block in (640, 10_000, len(stream.samples)):
        blocks = [stream.samples[start : start + block] for start in range(0, len(stream.samples), block)]
        found.append(list(streaming.detections_in(blocks, model, options, model)))
    assert found[0] == found[1] == found[2] and len(found[0]) > 5
    for seconds, label, score in found[0]:
        # 16 windows are averaged, so that the middle of the newest is 15 half hops later
        newest = round((seconds - 0.5 + 0.3) / 0.04)
        asked = newest - ASK_EVERY * np.arange(ASK_MEAN)
        assert score == pytest.approx(scores[asked, label].mean(), abs=0.01)


@pytest.mark.fast
def test_recent_audio_passes_blocks_on_and_keeps_the_latest():
    samples = np.arange(1000, dtype=np.int16)
    audio = RecentAudio((samples[start : start + 70] for start in range(0, 1000, 70)), kept=50)
    for number, block in enumerate(audio):
        np.testing.assert_array_equal(block, samples[70 * number : 70 * number + 70])
        start = max(0, 70 * number - 50)
        np.testing.assert_array_equal(audio.between(start, start + 60), samples[start : start + 60])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_duration_ms": 900}, "--clip_duration_ms must be the same, but are 900, not 1000"),
        ({"wanted_words": ("yes", "no")}, "does not know up, down"),
        ({"sample_rate": 16001}, "--sample_rate must be the same, but are 16001, not 16000"),
    ],
)
def test_a_verifier_that_does_not_fit_is_an_error(stream, model, changes, message):
    with pytest.raises(UserError, match=message):
        detections(stream, model, that_scores(replace(model.settings, **changes), 2))


@pytest.mark.fast
def test_a_sensitivity_that_nothing_was_tuned_to_is_refused(dnn_small):
    for verifier, which in ((None, "this model"), (dnn_small, "these two models")):
        with pytest.raises(UserError, match=f"--sensitivity low: no threshold was chosen for {which} yet"):
            detector_parameters(DetectorOptions(sensitivity="low"), dnn_small, verifier)


@pytest.mark.fast
def test_a_verifier_decides_about_a_clip_too(stream, model):
    word = next(found for found in detections(stream, model) if found.label == YES or found.label > NO)
    start = int((word.seconds - 0.5) * RATE)
    clip, words = stream.samples[start : start + RATE], model.settings.wanted_words
    alone = label_wav.label_clip(clip, model)
    assert alone.label in words
    other = that_scores(model.settings, model.settings.labels.index(alone.label) ^ 1)
    assert label_wav.label_clip(clip, model, other).label != alone.label
    of_more = that_scores(replace(model.settings, wanted_words=(*words, "sheila")), 12)
    assert label_wav.label_clip(clip, model, of_more).label == "_unknown_"
    assert label_wav.label_clip(0 * clip, model, of_more).label == "_silence_"  # it is not asked


@pytest.mark.fast
def test_other_words_count_only_for_a_while_after_the_wake_word(dnn_small):
    labels = np.array([NO, YES, NO, NO, NO, YES], np.int8)
    smoothed = Smoothed(labels, np.full(6, 0.9), np.array([1.0, 3.0, 5.0, 7.0, 9.0, 11.0]))
    options = DetectorOptions(threshold=0.5, wake_word="Yes", listen_ms=4000)
    found = Detector(detector_parameters(options, dnn_small), dnn_small).detections(smoothed)
    assert [each.seconds for each in found] == [3.0, 5.0, 7.0, 11.0]
    with pytest.raises(UserError, match="--wake_word hey is none of the model's words, yes, no, up"):
        detector_parameters(DetectorOptions(wake_word="hey"), dnn_small)


@pytest.mark.fast
def test_the_gate_is_the_highest_at_which_least_is_missed(dnn_small):
    def track(score, verified):
        count = 1 + ASK_EVERY * (ASK_MEAN - 1)  # windows until the mean of answers is known
        values = np.full(count, score), 1 + 0.04 * np.arange(count), np.full(count, verified)
        return measure.Track("", Smoothed(np.full(count, YES), *values), hours=0.1)

    # the verifier takes what is none for a word, but the first stage thinks little of it
    tracks = [track(0.31, 0.99)], track(0.46, 0.9)
    words = LabelledStream("words", np.zeros(0, np.int16), [(1.0, YES)])
    measured = measure.Measured(*tracks, words, dnn_small, DetectorParameters(gate=0.5))
    assert held_out.with_best_gate(measured, 5).parameters.gate == 0.45
    other = replace(measured, negatives=[track(0.2, 0.5)])
    assert held_out.with_best_gate(other, 5).parameters.gate == 0.45


def test_what_was_tuned_for_two_stages_is_in_the_verifiers_file(tmp_path, stream):
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    for path in (first, second):
        path.write_bytes(SHIPPED_INT8.read_bytes())
    (tmp_path / "radio").mkdir()
    soundfile.write(
        tmp_path / "radio" / "x.flac", 0.1 * np.random.default_rng(0).normal(size=60 * RATE), RATE
    )
    flags = ["--tflite_path", first, "--verifier", second, *DATA, "--stream_minutes", "1"]
    text = call_here("evaluation.py", *flags, "--ambient", tmp_path / "radio", "--write_detector").stdout
    assert f"detector written into {second}" in text
    assert checkpoints.read_settings(first).detector is None
    tuned = checkpoints.read_settings(second)
    assert tuned.detector.gate in measure.GATES
    pair = detector_parameters(DetectorOptions(), tuned, tuned)
    assert (pair.gate, pair.threshold) == (tuned.detector.gate, tuned.detector.normal.threshold)
    alone = detector_parameters(DetectorOptions(), tuned)
    assert (alone.gate, alone.threshold) == (None, 0.7)
    soundfile.write(tmp_path / "words.wav", stream.samples, RATE)
    lines = call("label_wav.py", first, tmp_path / "words.wav", "--verifier", second, "--json", "-").stdout
    expected = detections(stream, models.load(first), models.load(second), threshold=None)
    assert [json.loads(line)["seconds"] for line in lines.splitlines()] == [
        round(found.seconds, 3) for found in expected
    ]
    result = call_here("evaluation.py", "--tflite_path", first, *DATA, "--verifier", second, check=False)
    assert result.returncode == 2 and "--verifier needs --ambient or --stream_wav" in result.stderr
