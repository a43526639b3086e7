"""Batch normalisation folded into the layers around it."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import convert_to_tflite
import models
from conftest import FLOAT32_TOLERANCE
from kws import batch_norm, checkpoints
from kws.cli import UserError
from kws.settings import Settings
from networks import network


def test_folding_batch_norm_keeps_what_the_network_computes(dnn_small):
    rng = np.random.default_rng(0)
    seen = rng.normal(3, 20, (500, 250)).astype(np.float32)
    trained = batch_norm.with_batch_norm(models.build_model(dnn_small), seen)
    for layer in trained.layers[2:]:
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    folded = batch_norm.fold_batch_norm_into_plain_model(trained, dnn_small)
    plain = models.build_model(dnn_small)
    assert list(map(type, folded.layers)) == list(map(type, plain.layers))
    features = rng.normal(scale=20, size=(20, 250)).astype(np.float32)
    for layer in (trained.layers[-1], folded.layers[-1]):  # scores would be 0 or 1: compare what they are of
        layer.activation = lambda logits: logits
    expected = trained(features).numpy()
    np.testing.assert_allclose(folded(features).numpy(), expected, rtol=1e-4)
    assert expected.std() > 0


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
        for kernel in models.kernels(layer):
            kernel.assign(np.round(kernel, 1))
    distinct = {len(np.unique(kernel)) for layer in model.layers for kernel in models.kernels(layer)}
    content = convert_to_tflite.convert(model, settings, None, "fp32")
    graph = schema.ModelT.InitFromPackedBuf(content)
    stored = [
        # rounded, as the converter multiplies channels by 1, on some processors but for the last bit
        np.unique(np.round(np.frombuffer(bytes(graph.buffers[tensor.buffer].data), np.float32), 5))
        for tensor in graph.subgraphs[0].tensors
        if len(tensor.shape) > 1 and graph.buffers[tensor.buffer].data is not None
    ]
    assert {len(values) for values in stored} == distinct
