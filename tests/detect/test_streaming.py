"""Words in long recordings: windows, detections, and how good they are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import RATE
from kws.base.errors import UserError
from kws.base.features import mfcc
from kws.base.settings import DetectorSettings, Sensitivity
from kws.detect import labelled_streams, streaming
from kws.detect.streaming import DEFAULTS, DetectorOptions, DetectorParameters, Smoothed, detector_parameters

pytestmark = pytest.mark.fast


YES, NO = 2, 3


def parameters(**changes):
    return DetectorParameters(**({"hop_ms": 100, "smoothing_ms": 0} | changes))


def predicted(*labels, score=0.9):
    """Scores of windows with these labels predicted."""
    scores = np.full((len(labels), 12), (1 - score) / 11, np.float32)
    scores[np.arange(len(labels)), labels] = score
    return scores


def detected(settings, scores, threshold=0.5, **changes):
    found = streaming.Detector(parameters(threshold=threshold, **changes), settings).detect(scores)
    return [(round(detection.seconds, 2), detection.label) for detection in found]


def test_a_word_is_detected_in_the_middle_of_the_first_window_that_predicts_it(dnn_small):
    scores = predicted(0, 0, 0, YES, YES, 1, 1, NO)
    assert detected(dnn_small, scores, refractory_ms=0) == [(0.8, YES), (0.9, YES), (1.2, NO)]
    assert detected(dnn_small, scores, threshold=0.95) == []


def test_silence_and_unknown_words_are_not_detected(dnn_small):
    assert detected(dnn_small, predicted(0, 1, 0, 1), refractory_ms=0) == []


def test_nothing_is_detected_in_the_refractory_time(dnn_small):
    scores = predicted(*[YES] * 25)
    assert detected(dnn_small, scores) == [(0.5, YES), (1.5, YES), (2.5, YES)]


def test_smoothed_scores_are_means_over_the_last_windows(dnn_small):
    scores = predicted(0, 0, 0, YES, YES, YES, 0, 0, 0, 0)
    assert detected(dnn_small, scores, threshold=0.6, smoothing_ms=300) == [(0.5 + 0.35, YES)]
    assert detected(dnn_small, scores, threshold=0.8, smoothing_ms=300) == []


def test_the_best_word_is_kept_even_where_nothing_is_detected(dnn_small):
    detector = streaming.Detector(parameters(threshold=0.95), dnn_small)
    for scores in (predicted(0, YES, score=0.6), predicted(NO, 0), predicted(YES, score=0.8)):
        assert detector.detect(scores) == []
    assert (round(detector.best.seconds, 2), detector.best.label) == (0.7, NO)
    assert detector.best.score == pytest.approx(0.9)


def test_scores_that_come_one_by_one_give_what_all_at_once_give(dnn_small):
    scores = np.random.default_rng(0).dirichlet(np.full(12, 0.1), 200).astype(np.float32)
    smoothed = parameters(smoothing_ms=300, threshold=0.4)
    at_once = streaming.Detector(smoothed, dnn_small).detect(scores)
    detector = streaming.Detector(smoothed, dnn_small)
    one_by_one = [detection for row in scores for detection in detector.detect(row[None])]
    assert len(at_once) == 5
    assert [detection[:2] for detection in one_by_one] == [detection[:2] for detection in at_once]


@pytest.mark.parametrize("hop_ms", [40, 100, 1500])
def test_windows_are_the_same_however_the_recording_comes(dnn_small, hop_ms):
    samples = np.random.default_rng(0).integers(-9000, 9000, 5 * RATE + 77).astype(np.int16)
    hop = parameters(hop_ms=hop_ms).hop_samples(dnn_small)
    echo = SimpleNamespace(predict=lambda features: features, settings=dnn_small, frames_between=None)

    def features(block_samples):
        blocks = [samples[start : start + block_samples] for start in range(0, len(samples), block_samples)]
        return np.concatenate([*streaming.window_scores(blocks, echo, hop)])

    starts = range(0, len(samples) - RATE + 1, hop)
    windows = np.stack([samples[start : start + RATE] for start in starts])
    expected = mfcc(windows / np.float32(32768), dnn_small.front_end)
    for block_samples in (hop, 1000, RATE, len(samples)):
        np.testing.assert_allclose(features(block_samples), expected, atol=1e-4)


def test_each_word_is_matched_once_by_a_detection_of_it_near_by():
    words = [(1.0, YES), (3.0, NO), (9.0, YES)]
    found = [
        streaming.Detection(seconds, label, 1.0) for seconds, label in [(1.5, YES), (1.6, YES), (3.1, YES)]
    ]
    assert labelled_streams.matches(found, words) == [True, False, False]
    assert labelled_streams.matches([streaming.Detection(2.4, NO, 1.0)], words) == [True]
    assert labelled_streams.matches([streaming.Detection(2.2, NO, 1.0)], words) == [False]


# ---- what is asked for, and what a model carries ----


def tuned(settings, threshold=0.6, gate=None):
    """Settings with a detector of this threshold, less for high and more for low sensitivity."""
    sensitivities = [Sensitivity(threshold + more, 1, 0.1) for more in (0.1, 0, -0.1)]
    return replace(settings, detector=DetectorSettings(20, 300, 500, *sensitivities, gate))


def test_a_model_has_its_own_detector_and_the_user_chooses_the_threshold(dnn_small):
    own = tuned(dnn_small)
    assert detector_parameters(DetectorOptions(), dnn_small) == DEFAULTS
    assert detector_parameters(DetectorOptions(), own) == DetectorParameters(20, 300, 500, 0.6)
    for asked, threshold in (({"sensitivity": "high"}, 0.5), ({"threshold": 0.3}, 0.3)):
        found = detector_parameters(DetectorOptions(**asked), own)
        assert found == DetectorParameters(20, 300, 500, threshold)


def test_what_was_chosen_for_two_models_is_not_for_one_nor_the_other_way_round(dnn_small):
    alone, pair = tuned(dnn_small), tuned(dnn_small, gate=0.3)
    both = detector_parameters(DetectorOptions(), dnn_small, pair)
    assert both == DetectorParameters(20, 300, 500, 0.6, gate=0.3)
    assert detector_parameters(DetectorOptions(gate=0.2), dnn_small, pair).gate == 0.2
    assert detector_parameters(DetectorOptions(), pair) == DEFAULTS
    assert detector_parameters(DetectorOptions(), dnn_small, alone) == replace(DEFAULTS, gate=0.5)


@pytest.mark.parametrize("scores", ["scores", "verified"])
def test_a_score_is_compared_in_double_precision_as_on_a_board(dnn_small, scores):
    below = np.float32(0.63)  # 0.629999995...
    assert float(below) < 0.63
    # a verifier has to answer three times
    hops = np.arange(14)
    smoothed = Smoothed(np.full(14, YES), np.full(14, 0.7, np.float32), 1 + 0.04 * hops)
    smoothed = smoothed._replace(**{scores: np.full(14, below)})
    for threshold, count in ((0.63, 0), (float(below), 1)):
        detector = streaming.Detector(parameters(threshold=threshold, gate=0.5), dnn_small)
        assert len(detector.detections(smoothed)) == count


def test_a_stream_without_clips_cannot_be_made(dnn_small, sample):
    with pytest.raises(UserError, match="no clips"):
        labelled_streams.make_stream(
            "x", sample.testing.take(np.array([], int)), sample.noise, 1, [0], dnn_small
        )
