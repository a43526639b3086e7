"""Batch normalisation folded into the layers around it."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import convert_to_tflite
import models
from conftest import FLOAT32_TOLERANCE
from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.data.batches import Batch
from kws.model import batch_norm, checkpoints
from kws.model.inspection import kernels
from kws.train import loop
from networks import features, network, tiny, with_random_weights


def test_folding_batch_norm_keeps_what_the_network_computes(dnn_small):
    rng = np.random.default_rng(0)
    seen = rng.normal(3, 20, (500, 250)).astype(np.float32)
    trained = batch_norm.with_batch_norm(models.build_model(dnn_small), seen)
    for layer in trained.layers[2:]:
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    folded = batch_norm.fold_batch_norm_into_plain_model(trained, dnn_small)
    plain = models.build_model(dnn_small)
    assert list(map(type, folded.layers)) == list(map(type, plain.layers))
    given = rng.normal(scale=20, size=(20, 250)).astype(np.float32)
    for layer in (trained.layers[-1], folded.layers[-1]):  # scores would be 0 or 1: compare what they are of
        layer.activation = lambda logits: logits
    expected = trained(given).numpy()
    np.testing.assert_allclose(folded(given).numpy(), expected, rtol=1e-4)
    assert expected.std() > 0


def test_a_training_with_batch_norm_that_starts_from_a_plain_model_computes_what_it_does(dnn_small):
    rng = np.random.default_rng(0)
    seen = rng.normal(3, 20, (500, 250)).astype(np.float32)
    plain = with_random_weights(models.build_model(dnn_small))
    trained = batch_norm.with_batch_norm(models.build_model(dnn_small), seen[:100])
    batch_norm.load_plain_weights(trained, plain, seen)
    folded = batch_norm.fold_batch_norm_into_plain_model(trained, dnn_small)
    for ours, expected in zip(folded.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)
    for model in (trained, plain):  # scores would be 0 or 1: compare what they are of
        model.layers[-1].activation = lambda logits: logits
    expected = plain(seen).numpy()
    difference = trained(seen, training=True).numpy() - expected
    assert np.abs(difference).max() < 1e-3 * expected.std()


@pytest.mark.parametrize("steps", [20, 60])
def test_a_short_training_is_validated_with_its_own_statistics(steps):
    """All clips in every batch: then validation on them is as good as training was."""
    from kws.base.quiet_tf import keras
    from kws.model.quantizers import LatentWeights

    keras.utils.set_random_seed(0)
    settings = tiny("ds_cnn")
    clips = features(settings, 64)
    labels = np.arange(64, dtype=np.int32) % len(settings.labels)
    model, optimizer = models.build_model(settings), keras.optimizers.Adam()
    batch_norm.fit_momentum(model, steps)
    latent = LatentWeights(model, {})
    optimizer.build(latent.variables_to_train)
    batches = Batch(np.tile(clips, (steps, 1, 1)), np.tile(labels, (steps, 1)))
    loop.compiled_steps(model, latent, optimizer, 64)(np.full(steps, 0.01, np.float32), batches)
    in_training = (model(clips, training=True).numpy().argmax(1) == labels).mean()
    validated = (checkpoints.keras_predictor(model)(clips).argmax(1) == labels).mean()
    assert in_training > 0.3 and validated > 0.9 * in_training, (in_training, validated)


@pytest.mark.parametrize("steps, momentum", [(1, 0), (100, 0.5), (5000, 0.99), (160_000, 0.99)])
def test_long_trainings_keep_the_usual_momentum(steps, momentum):
    model = models.build_model(tiny("ds_cnn"))
    batch_norm.fit_momentum(model, steps)
    assert {layer.momentum for layer in model.layers if hasattr(layer, "momentum")} == {momentum}


def test_batch_norm_around_other_layers_is_an_error():
    settings = Settings(model_architecture="tc_resnet", model_size_info=(3, 8, 8))
    with pytest.raises(UserError, match="--batch_norm"):
        batch_norm.with_batch_norm(models.build_model(settings), np.zeros((2, settings.feature_count)))


@pytest.mark.parametrize("architecture", ["cnn", "ds_cnn", "tc_resnet"])
def test_settled_batch_norm_changes_no_score_and_leaves_kernels_as_they_are(architecture):
    settings, model, given, expected = network(architecture, clips=20)
    batch_norm.fold_batch_norm_in_place(model)
    np.testing.assert_allclose(checkpoints.keras_predictor(model)(given), expected, atol=FLOAT32_TOLERANCE)
    for layer in model.layers:
        for kernel in kernels(layer):
            kernel.assign(np.round(kernel, 1))
    distinct = {len(np.unique(kernel)) for layer in model.layers for kernel in kernels(layer)}
    content = convert_to_tflite.convert(model, settings, None, "fp32")
    graph = schema.ModelT.InitFromPackedBuf(content)
    stored = [
        # rounded, as the converter multiplies channels by 1, on some processors but for the last bit
        np.unique(np.round(np.frombuffer(bytes(graph.buffers[tensor.buffer].data), np.float32), 5))
        for tensor in graph.subgraphs[0].tensors
        if len(tensor.shape) > 1 and graph.buffers[tensor.buffer].data is not None
    ]
    assert {len(values) for values in stored} == distinct
