"""Quantizers of weights, and training through them."""

import numpy as np
import pytest

import models

ROWS, COLUMNS = 60, 50


@pytest.fixture
def kernel():
    return np.random.default_rng(0).laplace(size=(ROWS, COLUMNS)).astype(np.float32)


def clustered(kernel, importance, count=32, eight_bits=False):
    from kws.model.quantizers import Clusters

    return Clusters(kernel, np.asarray(importance, np.float32)[:, None], count, eight_bits)(kernel).numpy()


def bits(values):
    """Entropy of a weight in bits."""
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    return -(share * np.log2(share)).sum()


def test_clusters_are_few_and_their_price_saves_bits(kernel, monkeypatch):
    from kws.model import quantizers

    values = clustered(kernel, np.ones(ROWS))
    assert 16 <= len(np.unique(values)) <= 32
    monkeypatch.setattr(quantizers, "PRICE_OF_A_BIT", 0)
    without_price = clustered(kernel, np.ones(ROWS))
    assert 16 <= len(np.unique(without_price)) <= 32
    assert bits(values) < bits(without_price) - 0.3
    assert ((values - kernel) ** 2).mean() > ((without_price - kernel) ** 2).mean()


def test_there_are_no_more_clusters_than_asked_for(kernel):
    assert 4 <= len(np.unique(clustered(kernel, np.ones(ROWS), count=8))) <= 8


def test_clusters_cost_less_than_equal_steps_of_the_same_error(kernel):
    values = clustered(kernel, np.ones(ROWS))
    error = ((values - kernel) ** 2).mean()
    step = np.sqrt(12 * error)
    assert bits(values) < bits(np.round(kernel / step)) + 0.1
    assert len(np.unique(np.round(kernel / step))) > 32


def test_weights_of_loud_inputs_are_rounded_more_finely(kernel):
    loud = np.repeat([1, 100], ROWS // 2)
    kernel[loud == 100] /= 10
    errors = ((clustered(kernel, loud) - kernel) ** 2).mean(1)
    assert errors[loud == 100].mean() < errors[loud == 1].mean() / 5


def test_clusters_of_eight_bits_are_multiples_of_one_scale(kernel):
    values = clustered(kernel, np.ones(ROWS), eight_bits=True)
    steps = values / (np.abs(values).max() / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_a_cluster_that_empties_leaves_the_scale_to_the_others(kernel):
    from kws.model.quantizers import Clusters

    clusters = Clusters(kernel, np.ones((ROWS, 1), np.float32), count=32, eight_bits=True)
    for _ in range(3):
        values = clusters(kernel / 3).numpy()
    steps = values / (np.abs(values).max() / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_a_step_moves_latent_weights_and_the_model_keeps_quantized_ones(dnn_small):
    from kws.model.quantizers import EightBitValues, LatentWeights

    model = models.build_model(dnn_small)
    kernel, bias = model.layers[1].weights
    weights = LatentWeights(model, {kernel.ref(): EightBitValues()})
    before = kernel.numpy()
    step = np.abs(before).max() / 127
    np.testing.assert_allclose(before / step, np.round(before / step), atol=1e-3)
    assert weights.variables_to_train[1] is bias

    place = np.unravel_index(np.abs(before).argmin(), before.shape)
    for move, expected in ((0.4, 0), (0.4, 1)):  # in steps: the first is too small to show, both are not
        latent = weights.variables_to_train[0].numpy()
        latent[place] = move * step if expected == 0 else latent[place] + move * step
        weights.variables_to_train[0].assign(latent)
        weights.quantize_into_model()
        assert kernel.numpy()[place] == pytest.approx(expected * step, abs=1e-6)
