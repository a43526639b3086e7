"""Convert a checkpoint to a TFLite file with its settings inside, and evaluate what was written.

By default the weights and activations become int8. The batch is fixed to 1, and every tensor but a
convolution's kernel has one scale, so that kernels for microcontrollers take the file as it is.
"""

import argparse
import tempfile
from pathlib import Path

import input_data
import models
from kws.base.errors import run
from kws.base.files import errors_name, write_bytes, write_text
from kws.base.flags import add_model, bounded, new_parser, options_from, parse_with_model
from kws.base.quiet_tf import quiet, tf
from kws.base.settings import SettingsFlags
from kws.board import firmware
from kws.data.dataset import DataOptions
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel, embed_settings, operator_names
from kws.report.reports import Report, protocol_of
from kws.train import calibration

ACCEPTED_LOSS = 0.005  # of accuracy
# Share of labels that may change if clips hold much digital silence. No microphone gives it, so accuracy says
# little there; but some networks tell silence by nothing else.
ACCEPTED_CHANGES = 0.1
WORTH_A_WARNING = 2  # points of accuracy


def parse_arguments():
    parser = new_parser(__doc__)
    add_model(parser, "model to convert: a checkpoint, a folder of checkpoints, or a SavedModel")
    add = parser.add_argument
    add(
        "--inference_type",
        choices=("fp32", "int8", "int16"),
        default="fp32",
        help="quantized input and output: fp32 (floats around int8 weights and activations), int8 "
        "throughout, or int16 activations",
    )
    add(
        "--quantize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--no-quantize keeps float weights and activations",
    )
    add(
        "--output",
        metavar="FILE",
        help="file to write (default: work/ARCHITECTURE_quantized.tflite, or without _quantized); x.c, "
        "x.cc or x.cpp stands for x.tflite and an array of it",
    )
    add(
        "--vela",
        choices=firmware.VELA_TARGETS,
        help="compile for this Ethos-U NPU with Arm's vela (pip install ethos-u-vela), and print the cost",
    )
    add(
        "--seed",
        type=bounded(int, 0, 2**32 - 1),
        default=0,
        metavar="N",
        help="chooses the calibration clips",
    )
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    args = parse_with_model(parser)
    kind = args.inference_type
    if not args.quantize and kind != "fp32":
        parser.error(f"--inference_type {kind} needs a quantized model: leave out --no-quantize")
    if args.vela and kind == "fp32":
        parser.error("--vela needs an integer model: --inference_type int8 or int16")
    if args.vela and not firmware.vela_is_installed():
        parser.error("--vela needs Arm's compiler: pip install ethos-u-vela")
    return args


def main():
    args = parse_arguments()
    # 1. The network; rounding changes scores, so thresholds that were chosen for them go. A stream_cnn has as
    # few false alarms at them as before: docs/own_words.md.
    network, settings = models.load_checkpoint(args.checkpoint, SettingsFlags.from_arguments(args))
    if args.quantize and settings.model_architecture != "stream_cnn":
        settings = checkpoints.without_detector(settings, args.checkpoint)

    # 2. The files to write; a path that cannot be written is known before minutes of calibration.
    data_options = options_from(DataOptions, args)
    data = input_data.open_data(data_options, settings)
    suffix = "_quantized" if args.quantize else ""
    output = Path(args.output or f"work/{settings.model_architecture}{suffix}.tflite")
    array = output if output.suffix in (".c", ".cc", ".cpp") else None
    output = output.with_suffix(".tflite") if array else output
    with errors_name(output):
        output.parent.mkdir(parents=True, exist_ok=True)

    # 3. Conversion, calibrated on validation clips if quantized.
    if args.quantize:
        content = quantized(network, settings, data.validation, args.inference_type, args.seed)
    else:
        content = convert(network, settings, None, args.inference_type)
    replaced = " in place of an earlier one" if output.exists() else ""
    write_bytes(output, embed_settings(content, settings))
    print(f"wrote {output}{replaced}: {output.stat().st_size:,} bytes")

    # 4. What was written, read back: its accuracy as a board computes it.
    scores = TFLiteModel(output).predict(input_data.features(data.testing, settings.front_end))
    name = f"{output}: testing, {protocol_of(data.testing, data_options)}"
    print(Report.from_scores(name, settings.labels, data.testing.label, scores).summary())
    if args.vela:
        output, npu_cost = firmware.compile_for_npu(output, args.vela)
        print(f"wrote {output} for {args.vela}: {npu_cost}")
    if array:
        write_text(array, firmware.c_array(array.stem, output.read_bytes()))
        print(f"wrote {array}, {output} as an array; its operators in TensorFlow Lite Micro:")
        print(firmware.resolver(operator_names(output.read_bytes())))


def quantized(network, settings, clips, inference_type: str, seed: int) -> bytes:
    """Return a Keras model quantized, calibrated on `clips` in the first way that costs little.

    If each way costs more than is accepted, the most accurate file is returned.
    """
    features = input_data.features(clips, settings.front_end)  # [clips, feature_count]
    labels = checkpoints.KerasModel(network, settings).predict(features).argmax(1)
    accuracy = (labels == clips.label).mean()
    much_silence = calibration.much_digital_silence(features, settings)
    tried = []
    for calibrated in calibration.calibrations(clips, settings, seed):
        content = convert(network, settings, calibrated, inference_type)
        labels_now = labels_by(content, settings, features)
        accuracy_now = (labels_now == clips.label).mean()
        if much_silence:
            accepted = (labels_now != labels).mean() <= ACCEPTED_CHANGES
        else:
            accepted = accuracy - accuracy_now <= ACCEPTED_LOSS
        if accepted:
            return content
        tried.append((accuracy_now, content))
    best, content = max(tried, key=lambda way: way[0])
    lost = 100 * (accuracy - best)
    if lost > WORTH_A_WARNING:
        print(
            f"{inference_type} costs {lost:.1f} points of validation accuracy: fine-tune the checkpoint with "
            "optimisations.py --method quantization (a dnn) or qat, which teaches it to bear the rounding"
        )
    return content


def labels_by(content: bytes, settings, features):
    """Return the labels, int [clips], that a TFLite model without settings gives [clips, feature_count]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tried.tflite"
        write_bytes(path, embed_settings(content, settings))
        return TFLiteModel(path).predict(features).argmax(1)


def convert(model, settings, calibration, inference_type) -> bytes:
    """Return a Keras model as a TFLite model; with floats if `calibration` is None.

    `calibration` is float32 [clips, feature_count]: the range of each tensor is taken from it.
    """
    # a fixed batch of 1, as boards take it
    model = models.unrolled(model)
    shape = tf.TensorSpec([1, settings.feature_count], tf.float32, name="input")
    function = tf.function(model).get_concrete_function(shape)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    if calibration is not None:
        operators = tf.lite.OpsSet
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in calibration)
        narrow = operators.TFLITE_BUILTINS_INT8
        wide = operators.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [wide if inference_type == "int16" else narrow]
        outside = tf.float32 if inference_type == "fp32" else tf.as_dtype(inference_type)
        converter.inference_input_type = converter.inference_output_type = outside
        # private, but the only way: per channel files are larger, and older kernels of boards refuse them
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    with quiet():
        return converter.convert()


if __name__ == "__main__":
    run(main)
