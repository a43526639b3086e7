"""The optimiser for hidden kernels."""

import numpy as np
import pytest

import models
from conftest import FLOAT32_TOLERANCE, train


@pytest.fixture(scope="module")
def muon():
    from kws.model import extensions as muon

    return muon


@pytest.mark.parametrize("shape", [(250, 144), (144, 144), (20, 90)])
def test_singular_values_come_near_one_and_singular_vectors_stay(muon, shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = muon.orthogonalised(matrix).numpy()
    assert found.shape == shape
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    scaled = left.T @ found @ right.T
    assert np.abs(scaled - np.diag(np.diag(scaled))).max() < 1e-3
    well_conditioned = values > 0.05 * np.linalg.norm(values)
    assert 0.6 < np.diag(scaled)[well_conditioned].min() <= np.diag(scaled).max() < 1.3


def test_hidden_kernels_move_by_the_same_amount_in_all_directions_and_the_rest_as_with_adam(muon, dnn_small):
    from kws.base.quiet_tf import keras

    moved = {}
    for optimizer in (muon.Muon(0.01), keras.optimizers.Adam(0.01)):
        model = models.build_model(dnn_small)
        gradients = [
            np.random.default_rng(1).normal(size=variable.shape).astype(np.float32)
            for variable in model.trainable_variables
        ]
        before = model.get_weights()
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        moved[type(optimizer).__name__] = [
            new - old for new, old in zip(model.get_weights(), before, strict=True)
        ]
    hidden = {0, 2, 4}
    for number, (ours, adams) in enumerate(zip(moved["Muon"], moved["Adam"], strict=True)):
        if number in hidden:
            assert np.linalg.cond(ours) < 0.5 * np.linalg.cond(adams)
            assert 0.1 < np.std(ours) / 0.01 < 0.3  # the size that Adam's updates have in a long training
        else:
            np.testing.assert_allclose(ours, adams, atol=FLOAT32_TOLERANCE)


def test_muon_trains_and_resumes(tmp_path):
    flags = ("--optimizer", "muon", "--batch_norm", "--learning_rate", "0.01,0.001")
    flags += ("--how_many_training_steps", "200,50")
    output = train(tmp_path, *flags).stdout
    losses = [
        float(line.split("loss ")[1].split(",")[0]) for line in output.splitlines() if ", loss " in line
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert "resuming after step 250 of 250" in train(tmp_path, *flags).stdout
