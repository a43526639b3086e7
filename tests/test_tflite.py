"""TFLite files: what they hold and compute."""

import re

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from conftest import DNN_SMALL_FLAGS, flags_of
from kws import checkpoints
from kws.cli import UserError
from kws.tflite import TFLiteModel, dequantize, quantize


def details(path):
    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_input_details(), interpreter.get_output_details(), interpreter.get_tensor_details()


@pytest.mark.parametrize(("kind", "io"), [("fp32", "float32"), ("int8 inside", "float32"), ("int8", "int8")])
def test_batch_is_one_and_fixed_and_the_input_is_named_input(tflite_files, kind, io):
    (features,), (scores,), _ = details(tflite_files[kind])
    assert features["shape"].tolist() == features["shape_signature"].tolist() == [1, 250]
    assert scores["shape"].tolist() == scores["shape_signature"].tolist() == [1, 12]
    assert np.dtype(features["dtype"]) == np.dtype(scores["dtype"]) == io
    assert "input" in features["name"]


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_an_integer_file_is_integer_throughout_with_one_scale_per_tensor(tflite_files, kind):
    _, _, tensors = details(tflite_files[kind])
    assert tensors and all(np.issubdtype(tensor["dtype"], np.integer) for tensor in tensors)
    assert all(len(tensor["quantization_parameters"]["scales"]) == 1 for tensor in tensors)
    activations = {np.dtype(tensor["dtype"]).name for tensor in tensors if tensor["shape"][:1] == [1]}
    assert activations == {kind}


def test_the_int8_file_is_small(tflite_files):
    assert tflite_files["int8"].stat().st_size <= 84_000


@pytest.mark.parametrize("kind", ["fp32", "int8 inside", "int8", "int16"])
def test_batches_give_what_clip_by_clip_gives(tflite_files, labelled_features, kind):
    features, _ = labelled_features
    model = TFLiteModel(tflite_files[kind])
    single = np.concatenate([model.predict(features[i : i + 1]) for i in range(len(features))])
    batched = TFLiteModel(tflite_files[kind]).predict(features)
    if kind == "fp32":
        np.testing.assert_allclose(batched, single, atol=1e-5)
    else:
        np.testing.assert_array_equal(batched, single)


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_integer_scores_are_those_of_the_reference_kernels(tflite_files, labelled_features, kind):
    reference = Interpreter(
        model_path=str(tflite_files[kind]), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    reference.allocate_tensors()
    (source,), (target,) = reference.get_input_details(), reference.get_output_details()
    features, _ = labelled_features
    scores = TFLiteModel(tflite_files[kind]).predict(features)
    for row, score in zip(features, scores, strict=True):
        reference.set_tensor(source["index"], quantize(row[None], source))
        reference.invoke()
        expected = dequantize(reference.get_tensor(target["index"]), target)[0]
        np.testing.assert_array_equal(score, expected)


@pytest.mark.parametrize("kind", ["fp32", "int8", "int16"])
def test_buffers_are_aligned(tflite_files, kind):
    content = tflite_files[kind].read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    starts = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) >= 9
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_a_file_without_settings_needs_flags_and_they_suffice(tflite_files, tmp_path, labelled_features):
    features, _ = labelled_features
    model = schema.ModelT.InitFromPackedBuf(tflite_files["int8"].read_bytes())
    model.metadata = []
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(builder.Output())
    assert checkpoints.read_settings(bare) is None
    with pytest.raises(UserError, match=re.escape("takes (250,) features")):
        TFLiteModel(bare, flags_of())
    with pytest.raises(UserError, match="carries no settings"):
        TFLiteModel(bare)
    with_flags, expected = TFLiteModel(bare, flags_of(*DNN_SMALL_FLAGS)), TFLiteModel(tflite_files["int8"])
    np.testing.assert_array_equal(with_flags.predict(features), expected.predict(features))


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\x00" * 1000])
def test_a_file_that_is_no_tflite_model_is_an_error(tmp_path, content):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.tflite is not a TFLite model"):
        TFLiteModel(path)
