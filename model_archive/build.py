"""Write model_archive/ from what recreate_model.sh made: source forms, TFLite files, definitions, vectors.

    bash recreate_model.sh --train --negatives_dir DIR --ambient DIR
    python model_archive/build.py --recreated work/recreated/speech_commands_v0.02/trained

Files that are not in that folder stay as they are in the archive, such as the microphone's after a training
without --negatives_dir. The --pretrained network is made by
recipes/pretraining_stream.txt, and what it computes of negatives by negatives.py.

Every figure in the definitions is read from a file, was measured by evaluation.py in recreate_model.sh, or
comes from TensorFlow Lite Micro and Arm's vela (pip install -r tests/firmware_requirements.txt). Regression
vectors come from the synthetic clips in sample_data, one for each label.
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
from kws.base.errors import UserError, run  # noqa: E402
from kws.base.files import write_text  # noqa: E402
from kws.base.flags import new_parser  # noqa: E402
from kws.board import firmware  # noqa: E402
from kws.data.dataset import DataOptions  # noqa: E402
from kws.model import checkpoints, tflite  # noqa: E402
from kws.model.tflite import TFLiteModel  # noqa: E402

NAME = "dnn_small"
MICROPHONE = "microphone_fp32", "microphone_int8"
VERIFIER = "ds_cnn_small_fp32", "ds_cnn_small_int8"
STREAM = "stream_cnn_small_fp32", "stream_cnn_small_int8"
KINDS = (
    "fp32",
    "int8",
    "int16",
    "clustered_int8",
    "clustered_16_int8",
    "entropy_int8",
    *MICROPHONE,
    *VERIFIER,
    *STREAM,
)
WEIGHTS_STAGE = "quantized"
# folders of model_source: the stage of recreate_model.sh whose best checkpoint goes there
STAGES = {
    "weights": WEIGHTS_STAGE,
    "microphone": "microphone_int8",
    "verifier": "verifier_3",
    "stream": "stream_int8",
}
NPU = "ethos-u55-128"
PAPER = "Y. Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv:1711.07128, 2017"
HOW_TO_OPEN = {  # the source forms; the keras that TensorFlow comes with is Keras 3, and they are of Keras 2
    "weights": "--checkpoint of every script; models.load_checkpoint",
    "saved_model": "--checkpoint of every script; tf.saved_model.load; load_model of tf_keras; in Keras 3 "
    "keras.layers.TFSMLayer with call_endpoint='serving_default'",
    f"{NAME}.keras": "load_model of tf_keras; Keras 3 could not locate its class 'Functional'",
    "microphone": "a checkpoint like weights, of the model for open microphones",
    "verifier": "a checkpoint like weights, of ds_cnn_small",
    "stream": "likewise, of stream_cnn_small",
    "pretrained_stream": "for own words: --start_from of train.py; stream_cnn_small, its convolutions alone",
}
LARGEST_ARENA = 256 * 1024  # bytes; more than any shipped file needs


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--recreated", metavar="DIR", help="folder that recreate_model.sh --train made")
    parser.add_argument("--pretrained", metavar="PATH", help="the network whose trunk own words start from")
    return parser.parse_args()


def main():
    args = parse_arguments()
    if args.recreated:
        take_models(Path(args.recreated))
    if args.pretrained:
        copy_checkpoint(args.pretrained, "pretrained_stream")


def take_models(recreated: Path):
    """Copy the models in `recreated` into the archive, and describe each."""
    figures = recreated / "accuracy.json"
    if not figures.exists():
        raise UserError(f"{figures} is missing: recreate_model.sh --train has to reach its end")
    accuracy = {Path(path): measured for path, measured in json.loads(figures.read_text()).items()}
    accuracy = {path.name if path.suffix else path.parent.name: sets for path, sets in accuracy.items()}
    if WEIGHTS_STAGE not in accuracy:
        raise UserError(f"{recreated} is not of {NAME}, or was not made with --train")
    for folder, stage in STAGES.items():
        if (recreated / stage / "best").exists():
            copy_checkpoint(recreated / stage / "best", folder)
    export_sources()
    source = describe_source() | {"accuracy": accuracy[WEIGHTS_STAGE]}
    write_definition(ARCHIVE / "model_source", source)
    for kind in KINDS:
        path = tflite_path(kind)
        made = recreated / path.name
        if made.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, path)
            write_vectors(path)
            measured = {"accuracy": accuracy[path.name]} | read_detection(made, kind)
            write_definition(path.parent, describe(path, kind) | measured)


# ---- the files ----


def copy_checkpoint(checkpoint, name: str):
    """Write the checkpoint's weights and settings alone into the folder `name` of model_source."""
    network, settings = models.load_checkpoint(checkpoint)
    folder = ARCHIVE / "model_source" / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints.save_checkpoint(network, settings, folder / f"{network_of(settings)}.ckpt")


def export_sources():
    """Export the other forms of model_source/weights."""
    source = ARCHIVE / "model_source"
    network, settings = models.load_checkpoint(source / "weights")
    checkpoints.export_saved_model(network, settings, source / "saved_model")
    checkpoints.export_keras_file(network, settings, source / f"{NAME}.keras")


def network_of(settings) -> str:
    return f"{settings.model_architecture}_small"


def tflite_path(kind: str) -> Path:
    name = kind if kind in VERIFIER + STREAM else f"{NAME}_{kind}"
    return ARCHIVE / "TFLite" / f"tflite_{kind}" / f"{name}.tflite"


def read_detection(made: Path, kind: str) -> dict:
    """Return the DET curve that recreate_model.sh measured for a file, or nothing if it has no detector."""
    if kind not in MICROPHONE + VERIFIER + STREAM or not made.with_suffix(".json").exists():
        return {}
    (measured,) = json.loads(made.with_suffix(".json").read_text()).values()
    points = [{name: round(value, 4) for name, value in point.items()} for point in measured["points"]]
    role = "verifier of dnn_small_microphone" if kind in VERIFIER else "alone"
    return {"detection": {"role": role, "hours_without_words": round(measured["hours"], 3), "points": points}}


def write_vectors(path: Path):
    """Write one input and output of the model for each label, in the types of its tensors."""
    model = TFLiteModel(path)
    settings = model.settings
    sample = input_data.open_data(DataOptions(data_dir=str(ROOT / "sample_data")), settings)
    labels = list(sample.testing.label)
    clips = sample.testing.take([labels.index(label) for label in range(len(settings.labels))])
    inputs, outputs = path.parent / "testing_input" / "input", path.parent / "testing_output" / "output"
    for folder in (inputs, outputs):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for number, features in enumerate(input_data.features(clips, settings.front_end)):
        input_tensor = tflite.quantize(features[None], model.input)
        np.save(inputs / f"{number}.npy", input_tensor)
        np.save(outputs / f"{number}.npy", model.run(input_tensor))


# ---- the definitions ----


def describe(path: Path, kind: str) -> dict:
    """Return a TFLite file's definition without its accuracy and its detections."""
    model = TFLiteModel(path)
    operators = tflite.operator_names(model.content)
    return {
        "name": f"{network_of(model.settings)}, {kind}",
        "format": "TFLite",
        "file": path.name,
        "bytes": len(model.content),
        "zipped_bytes": tflite.zipped_size(model.content),
        "sha256": hashlib.sha256(model.content).hexdigest(),
        "operators": operators,
        "input": describe_tensor(model.input),
        "output": describe_tensor(model.output) | {"labels": list(model.settings.labels)},
        "settings": as_dict(model.settings),
        "tensorflow_lite_micro": {
            "operator_versions": tflite.operator_versions(model.content),
            "resolver": firmware.resolver(operators).splitlines(),
            "arena_bytes": arena_size(path),
        },
        **({} if kind.endswith("fp32") else {NPU: npu_cost(path)}),
        "paper": PAPER,
    }


def describe_source() -> dict:
    """Return the definition of the source forms without their accuracy."""
    weights = ARCHIVE / "model_source" / "weights"
    arrays = [array for layer in checkpoints.read_weights(weights) for array in layer.values()]
    return {
        "name": f"{NAME}, source",
        "format": "TensorFlow checkpoint, SavedModel and .keras file",
        "how_to_open": HOW_TO_OPEN,
        "parameters": int(sum(array.size for array in arrays)),
        "settings": as_dict(checkpoints.read_settings(weights)),
        "paper": PAPER,
    }


def as_dict(settings) -> dict:
    """Return the settings in the types of JSON, which YAML has too."""
    return json.loads(settings.to_json())


def describe_tensor(detail: dict) -> dict:
    described = {"shape": detail["shape_signature"].tolist(), "type": np.dtype(detail["dtype"]).name}
    if np.issubdtype(detail["dtype"], np.integer):
        scale, zero_point = detail["quantization"]
        described |= {"scale": float(scale), "zero_point": int(zero_point)}
    return described


def arena_size(path: Path) -> int:
    """Return the bytes of working memory with which TensorFlow Lite Micro runs a file.

    This is measured on a 64-bit PC, whose pointers make it larger than on a microcontroller.
    """
    # without it every size would seem too small
    importlib.import_module("tflite_micro")
    # TensorFlow Lite Micro aligns what it allocates to 16 bytes
    sizes = range(16, LARGEST_ARENA, 16)
    return sizes[bisect.bisect_left(sizes, True, key=lambda size: runs_in_arena(path, size))]


def runs_in_arena(path: Path, size: int) -> bool:
    """Return whether TensorFlow Lite Micro runs a file in `size` bytes of working memory."""
    program = (
        "import sys; from tflite_micro import runtime; "
        "runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()"
    )
    # in a process of its own: too small an arena may end it
    command = [sys.executable, "-c", program, str(path), str(size)]
    return subprocess.run(command, capture_output=True).returncode == 0


def npu_cost(path: Path) -> dict:
    """Return what a file costs on NPU, compiled by vela."""
    with tempfile.TemporaryDirectory() as folder:
        # vela's output goes beside its input
        copy = Path(shutil.copy(path, folder))
        return firmware.compile_for_npu(copy, NPU)[1]._asdict()


def write_definition(folder: Path, definition: dict):
    """Write a definition as definition.yaml for programs and README.md for people."""
    text = yaml.safe_dump(definition, sort_keys=False, width=110, default_flow_style=None)
    write_text(folder / "definition.yaml", text)
    write_text(folder / "README.md", readme(definition))


def readme(definition: dict) -> str:
    lines = [
        f"# {definition['name']}",
        "",
        f"Settings, figures and confusion matrices: `definition.yaml`. {PAPER}.",
        *(lines_about_file(definition) if "file" in definition else lines_about_source(definition)),
        "",
        *accuracy_table(definition["accuracy"]),
        "",
        *(sensitivity_table(definition) if "detection" in definition else []),
        (ARCHIVE / "training_data.md").read_text(),
    ]
    return "\n".join(lines)


def lines_about_source(definition: dict) -> list[str]:
    """Return the lines of README.md that say how each source form is opened."""
    rows = [f"| `{form}` | {how} |" for form, how in definition["how_to_open"].items()]
    return ["", "| form | how to open it |", "| --- | --- |", *rows]


def lines_about_file(definition: dict) -> list[str]:
    """Return the lines of README.md that say what a TFLite file is and what it needs on a board."""
    micro = definition["tensorflow_lite_micro"]
    features = "MFCCs" if definition["settings"]["dct_coefficient_count"] else "log-mel energies"
    lines = [
        "",
        f"`{definition['file']}`: {definition['bytes']:,} bytes ({definition['zipped_bytes']:,} zipped), "
        f"SHA-256 `{definition['sha256']}`, operators {', '.join(definition['operators'])}.",
        "",
        f"Input `{definition['input']}`, frame after frame of {features}. Output: one score for each of "
        f"{', '.join(definition['output']['labels'])}.",
        "",
        f"TensorFlow Lite Micro runs it in an arena of {micro['arena_bytes']:,} bytes (on a 64-bit PC), with",
        "",
        *(f"    {line}" for line in micro["resolver"]),
        "",
    ]
    if NPU in definition:
        lines += [f"Compiled by Arm's vela for {NPU}: {firmware.NpuCost(**definition[NPU])}.", ""]
    return [
        *lines,
        "`testing_input/` and `testing_output/` hold what goes in and what must come out, one pair for "
        "each label, from synthetic clips.",
    ]


def accuracy_table(accuracy: list[dict]) -> list[str]:
    rows = ["| set | N | accuracy | 95 % interval |", "| --- | ---: | ---: | --- |"]
    for figures in accuracy:
        low, high = (100 * bound for bound in figures["interval_95"])
        percent = f"{100 * figures['accuracy']:.2f} % | {low:.2f} to {high:.2f}"
        rows.append(f"| {figures['set']} | {figures['N']:,} | {percent} |")
    return rows


def sensitivity_table(definition: dict) -> list[str]:
    """Return the table of misses and false alarms of the file's detector, on validation recordings."""
    detector, detection = definition["settings"]["detector"], definition["detection"]
    title = f"Detections, {detection['role']}, {detection['hours_without_words']:.1f} hours without the words"
    lines = [f"{title}, validation:", ""]
    lines += ["| sensitivity | threshold | false alarms an hour | misses |", "| --- | ---: | ---: | ---: |"]
    for name in ("low", "normal", "high"):
        one = detector[name]
        alarms, missed = one["false_alarms_per_hour"], 100 * one["miss_rate"]
        lines.append(f"| {name} | {one['threshold']:g} | {alarms:.1f} | {missed:.1f} % |")
    return [*lines, ""]


if __name__ == "__main__":
    run(main)
