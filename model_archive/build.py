"""Write model_archive/ from a checkpoint and its clustered form: source forms, TFLite files, definitions and
regression vectors.

    python model_archive/build.py --checkpoint PATH --clustered PATH --data_dir DIR --test_dir DIR

Every figure in the definitions is read from a file, measured by evaluation.py, or comes from TensorFlow Lite
Micro and Arm's vela (pip install -r tests/firmware_requirements.txt). Regression vectors come from the
synthetic clips in sample_data, one for each label.
"""

import bisect
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

ARCHIVE = Path(__file__).resolve().parent
ROOT = ARCHIVE.parent
sys.path.insert(0, str(ROOT))
import input_data  # noqa: E402
import models  # noqa: E402
from input_data import DataOptions  # noqa: E402
from kws import checkpoints, firmware  # noqa: E402
from kws.cli import new_parser, run  # noqa: E402
from kws.files import write_text  # noqa: E402
from kws.settings import SettingsFlags  # noqa: E402
from kws.tflite import TFLiteModel, operator_names, operator_versions, quantize, zipped_size  # noqa: E402

NAME = "dnn_small"
KINDS = {
    "fp32": ["--no-quantize"],
    "int8": ["--inference_type", "int8"],
    "int16": ["--inference_type", "int16"],
    "clustered_int8": ["--inference_type", "int8"],
}
NPU = "ethos-u55-128"
PAPER = "Y. Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv:1711.07128, 2017"


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="PATH")
    parser.add_argument("--clustered", required=True, metavar="PATH", help="checkpoint of optimisations.py")
    parser.add_argument("--test_dir", required=True, metavar="DIR", help="the canonical test set")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    weights = write_sources(args.checkpoint, SettingsFlags.from_arguments(args))
    data = ["--data_dir", args.data_dir, "--data_url", args.data_url]
    for kind, flags in KINDS.items():
        path = tflite_path(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = args.clustered if kind.startswith("clustered") else weights
        call("convert_to_tflite.py", "--checkpoint", source, "--output", path, *flags, *data)
    paths = [tflite_path(kind) for kind in KINDS]
    measured = evaluate(["--tflite_path", *paths], args.test_dir, data)
    for kind, path in zip(KINDS, paths, strict=True):
        write_vectors(path)
        write_definition(path, describe(path, kind) | {"accuracy": measured[str(path)]})
    (source_accuracy,) = evaluate(["--checkpoint", weights], args.test_dir, data).values()
    source = {
        "name": f"{NAME}, source",
        "format": "TensorFlow checkpoint, SavedModel and .keras file",
        "parameters": int(sum(v.size for layer in checkpoints.read_weights(weights) for v in layer.values())),
        "settings": settings_of(weights),
        "paper": PAPER,
        "accuracy": source_accuracy,
    }
    write_definition(ARCHIVE / "model_source" / "definition", source)


def call(script, *arguments):
    subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], check=True)


def tflite_path(kind):
    return ARCHIVE / "TFLite" / f"tflite_{kind}" / f"{NAME}_{kind}.tflite"


def write_sources(checkpoint, flags):
    """Copy the checkpoint, and export its other forms; the folder of the weights."""
    model, settings = checkpoints.load_checkpoint(checkpoint, flags)
    source = ARCHIVE / "model_source"
    shutil.rmtree(source / "weights", ignore_errors=True)
    checkpoints.save_checkpoint(model, settings, source / "weights" / f"{NAME}.ckpt")
    checkpoints.export_saved_model(model, settings, source / "saved_model")
    checkpoints.export_keras_file(model, settings, source / f"{NAME}.keras")
    return source / "weights"


def evaluate(which, test_dir, data):
    """What evaluation.py measures: {path: [figures of one set, ...]}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        call("evaluation.py", *which, "--test_dir", test_dir, "--json", report, *data)
        return json.loads(report.read_text())


def settings_of(path):
    return json.loads(checkpoints.read_settings(path).to_json())


def describe(path, kind) -> dict:
    """What can be read off a TFLite file."""
    content = path.read_bytes()
    model = TFLiteModel(path)
    return {
        "name": f"{NAME}, {kind}",
        "format": "TFLite",
        "file": path.name,
        "bytes": len(content),
        "zipped_bytes": zipped_size(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "operators": operator_names(content),
        "input": tensor(model.input),
        "output": tensor(model.output) | {"labels": list(checkpoints.read_settings(path).labels)},
        "settings": settings_of(path),
        "tensorflow_lite_micro": {
            "operator_versions": operator_versions(content),
            "resolver": firmware.resolver(operator_names(content)).splitlines(),
            "arena_bytes": arena_size(path),
        },
        **({} if kind == "fp32" else {NPU: npu_cost(path)}),
        "paper": PAPER,
    }


def arena_size(path) -> int:
    """Bytes of working memory with which TensorFlow Lite Micro runs a file; on a 64-bit PC, whose pointers
    make it larger than on a microcontroller.
    """
    importlib.import_module("tflite_micro")  # else no size would do
    program = (
        "import sys; from tflite_micro import runtime; "
        "runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()"
    )

    def runs(size):  # in a process of its own: too small an arena may end it
        return not subprocess.run(
            [sys.executable, "-c", program, str(path), str(size)], capture_output=True
        ).returncode

    units = range(1, 64 * 1024 // 16)  # of 16 bytes
    return 16 * units[bisect.bisect_left(units, True, key=lambda unit: runs(16 * unit))]


def npu_cost(path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        return firmware.compile_for_npu(copy, NPU)[1]._asdict()


def tensor(detail) -> dict:
    found = {"shape": detail["shape_signature"].tolist(), "type": np.dtype(detail["dtype"]).name}
    if np.issubdtype(detail["dtype"], np.integer):
        found |= {"scale": float(detail["quantization"][0]), "zero_point": int(detail["quantization"][1])}
    return found


def write_vectors(path):
    """One input and output of the model for each label, as the model takes and gives them."""
    model = TFLiteModel(path)
    settings = model.settings
    sample = input_data.open_data(DataOptions(data_dir=str(ROOT / "sample_data")), settings)
    clips = sample.testing.take(
        [list(sample.testing.label).index(label) for label in range(len(settings.labels))]
    )
    folders = [path.parent / "testing_input" / "input", path.parent / "testing_output" / "output"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for number, row in enumerate(input_data.features(clips, settings.front_end)):
        input_tensor = quantize(row[None], model.input)
        for folder, values in zip(folders, (input_tensor, model.run(input_tensor)), strict=True):
            np.save(folder / f"{number}.npy", values)


def needs_on_boards(definition) -> list[str]:
    """Lines for README.md."""
    micro = definition["tensorflow_lite_micro"]
    lines = [
        f"TensorFlow Lite Micro runs it in an arena of {micro['arena_bytes']:,} bytes (on a 64-bit PC), with",
        "",
        *(f"    {line}" for line in micro["resolver"]),
        "",
    ]
    if NPU in definition:
        lines += [f"Compiled by Arm's vela for {NPU}: {firmware.NpuCost(**definition[NPU])}.", ""]
    return lines


def write_definition(path, definition):
    """definition.yaml and README.md beside `path`."""
    text = yaml.safe_dump(definition, sort_keys=False, width=110, default_flow_style=None)
    write_text(path.with_name("definition.yaml"), text)
    lines = [
        f"# {definition['name']}",
        "",
        f"Settings, figures and confusion matrices: `definition.yaml`. {PAPER}.",
    ]
    if "file" in definition:
        lines += [
            "",
            f"`{definition['file']}`: {definition['bytes']:,} bytes ({definition['zipped_bytes']:,} zipped), "
            f"SHA-256 `{definition['sha256']}`, operators {', '.join(definition['operators'])}.",
            "",
            f"Input `{definition['input']}`, frame after frame of MFCCs. Output: one score for each of "
            f"{', '.join(definition['output']['labels'])}.",
            "",
            *needs_on_boards(definition),
            "`testing_input/` and `testing_output/` hold what goes in and what must come out, one pair for "
            "each label, from synthetic clips.",
        ]
    lines += ["", "| set | N | accuracy | 95 % interval |", "| --- | ---: | ---: | --- |"]
    for figures in definition["accuracy"]:
        low, high = (100 * bound for bound in figures["interval_95"])
        accuracy = f"{100 * figures['accuracy']:.2f} % | {low:.2f} to {high:.2f}"
        lines.append(f"| {figures['set']} | {figures['N']:,} | {accuracy} |")
    lines += ["", (ARCHIVE / "training_data.md").read_text()]
    write_text(path.with_name("README.md"), "\n".join(lines))


if __name__ == "__main__":
    run(main)
