"""Each method of optimisations.py: the network that it makes, before and after its fine-tuning."""

import numpy as np
import pytest

import networks
from conftest import FLOAT32_TOLERANCE
from convert_to_tflite import convert
from kws.base.errors import UserError
from kws.data.batches import Batch
from kws.model import checkpoints, inspection
from kws.model.batch_norm import fold_batch_norm_in_place
from kws.train import compression, loop
from kws.train.compression import CompressionOptions

CLUSTERS = 5
CLIPS = 64


def tuned(architecture, sample, steps=4, rate=0.01, start=None, **options):
    """Return a tiny network, the trainee after `steps` of what the options say, settings and features."""
    from kws.base.quiet_tf import keras
    from kws.model.quantizers import LatentWeights

    keras.utils.set_random_seed(0)
    settings, network, features, _ = networks.network(architecture, CLIPS)
    network = start or network
    fold_batch_norm_in_place(network)
    tuning = compression.fine_tuning(
        network, CompressionOptions(**options), steps, sample.validation, settings, seed=0
    )
    latent = tuning.latent or LatentWeights(tuning.network, {})
    optimizer = keras.optimizers.Adam()
    optimizer.build(latent.variables_to_train)
    train = loop.compiled_steps(tuning.network, latent, optimizer, CLIPS)
    labels = np.arange(CLIPS, dtype=np.int32) % len(settings.labels)
    batches = Batch(np.tile(features, (steps, 1, 1)), np.tile(labels, (steps, 1)))
    train(np.full(steps, rate, np.float32), batches)
    return network, tuning, settings, features


def kernels(network):
    """Return {layer's name: kernel} for all kernels that tfmot clusters."""
    return {
        f"{layer.name} {number}": kernel.numpy()
        for layer in network.layers
        if "depthwise" not in layer.name
        for number, kernel in enumerate(inspection.kernels(layer))
    }


def scores(network, features):
    return checkpoints.keras_predictor(network)(features)


def int8_kernels(network, settings, features):
    """Return each kernel in the int8 file, int8 [scales, weights of one scale]."""
    from ai_edge_litert import schema_py_generated as schema

    content = convert(network, settings, features, "int8")
    model = schema.ModelT.InitFromPackedBuf(content)
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.INT8 and data is not None and len(tensor.shape) > 1:
            values = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape)
            axis = tensor.quantization.quantizedDimension
            by_scale = np.moveaxis(values, axis, 0) if len(tensor.quantization.scale) > 1 else values[None]
            found.append(by_scale.reshape(len(by_scale), -1))
    return found


@pytest.mark.parametrize("architecture", ["dnn", "cnn", "ds_cnn", "basic_lstm", "gru", "crnn", "tc_resnet"])
def test_clustering_leaves_few_values_and_what_was_validated(architecture, sample):
    _, tuning, _, features = tuned(architecture, sample, clusters=CLUSTERS)
    plain = tuning.plain()
    np.testing.assert_allclose(
        scores(plain, features), scores(tuning.network, features), atol=FLOAT32_TOLERANCE
    )
    after = kernels(plain)
    assert len(after) == len(kernels(networks.network(architecture, 1)[1]))
    assert all(len(np.unique(kernel)) <= CLUSTERS for kernel in after.values())


def test_clustering_trains_the_centroids(sample):
    values = [
        set(np.unique(kernels(tuned("dnn", sample, steps=steps, clusters=CLUSTERS)[1].plain())["output 0"]))
        for steps in (1, 5)
    ]
    assert not values[0] & values[1]


def test_depthwise_kernels_stay_as_they_are(sample):
    _, tuning, *_ = tuned("ds_cnn", sample, clusters=3)
    depthwise = [layer for layer in tuning.plain().layers if "depthwise" in layer.name]
    assert depthwise and all(len(np.unique(layer.depthwise_kernel)) > 3 for layer in depthwise)


@pytest.mark.parametrize(
    ("architecture", "method", "named"),
    [
        ("lstm", "clustering", ["rnn", "ProjectedLSTMCell", "--method entropy"]),
        ("lstm", "pruning", ["rnn", "ProjectedLSTMCell"]),
        ("gru", "qat", ["gru", "GRU"]),
        ("basic_lstm", "cqat", ["lstm", "LSTM"]),
        ("tc_resnet", "qat", ["conv1d", "Conv1D"]),
    ],
)
def test_a_layer_that_tfmot_cannot_take_is_named(architecture, method, named, sample):
    with pytest.raises(UserError, match=".*".join(named)):
        tuned(architecture, sample, method=method)


@pytest.mark.parametrize("architecture", ["dnn", "cnn", "ds_cnn"])
def test_quantization_aware_training_ends_with_kernels_of_int8(architecture, sample):
    network, tuning, settings, features = tuned(architecture, sample, method="qat")
    plain = tuning.plain()
    for kernel in kernels(plain).values():
        axes = tuple(range(kernel.ndim - 1)) if kernel.ndim > 2 else None  # convolutions: one scale a channel
        steps = kernel / np.abs(kernel).max(axes, keepdims=True) * 127
        np.testing.assert_allclose(steps, np.round(steps), atol=0.01)
    difference = np.abs(scores(plain, features) - scores(tuning.network, features)).max()
    assert 0 < difference < 0.3  # activations are rounded in one and not in the other


@pytest.mark.parametrize("architecture", ["dnn", "cnn", "ds_cnn"])
def test_clusters_survive_cqat_and_int8(architecture, sample):
    _, clustered, settings, features = tuned(architecture, sample, clusters=CLUSTERS)
    _, tuning, *_ = tuned(architecture, sample, start=clustered.plain(), method="cqat")
    plain = tuning.plain()
    for name, kernel in kernels(plain).items():
        channels = kernel[None] if kernel.ndim == 2 else np.moveaxis(kernel, -1, 0)
        assert max(len(np.unique(channel)) for channel in channels) <= CLUSTERS, name
    for values in int8_kernels(plain, settings, features):
        depthwise = values.shape[1] == 9
        assert depthwise or max(len(np.unique(channel)) for channel in values) <= CLUSTERS


def test_pruning_zeroes_the_weights_and_clusters_keep_the_zeros(sample):
    _, pruned, _, features = tuned("dnn", sample, steps=40, method="pruning", sparsity=40)
    plain = pruned.plain()
    assert pruned.keep_from <= 21  # half of the steps
    zeros = {name: kernel == 0 for name, kernel in kernels(plain).items()}
    assert all(zero.mean() == pytest.approx(0.4, abs=0.5 / zero.size) for zero in zeros.values())
    np.testing.assert_array_equal(scores(plain, features), scores(pruned.network, features))

    _, clustered, *_ = tuned("dnn", sample, start=plain, clusters=CLUSTERS)
    plain = clustered.plain()
    _, quantized, *_ = tuned("dnn", sample, start=plain, method="cqat")
    for stage in (clustered, quantized):
        for name, kernel in kernels(stage.plain()).items():
            assert (kernel[zeros[name]] == 0).all() and len(np.unique(kernel)) <= CLUSTERS + 1


def test_few_zeros_such_as_rounding_to_int8_makes_are_not_kept(sample):
    _, network, *_ = networks.network("ds_cnn", 1)
    for layer, kernel in compression.kernels_to_compress(network):
        assert "depthwise" not in layer.name
        values = kernel.numpy()
        values.reshape(-1)[: values.size // 10] = 0
        kernel.assign(values)
    _, tuning, *_ = tuned("ds_cnn", sample, start=network, clusters=CLUSTERS)
    assert all(kernel.numpy().all() for _, kernel in compression.kernels_to_compress(tuning.plain()))
