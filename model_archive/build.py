"""Write model_archive/ from a checkpoint and its clustered forms: source forms, TFLite files, definitions and
regression vectors.

    python model_archive/build.py --checkpoint CKPT --clustered CKPT --entropy CKPT --microphone CKPT \
        --verifier CKPT --pretrained CKPT --ambient D --data_dir D --test_dir D

Forms of a checkpoint that is not given stay as they are. The detectors of the model for microphones and of
its verifier are chosen on validation clips and on --ambient, recordings without the words.

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

import models

ARCHIVE = Path(__file__).resolve().parent
ROOT = ARCHIVE.parent
sys.path.insert(0, str(ROOT))
import input_data  # noqa: E402
from kws.base.errors import run  # noqa: E402
from kws.base.files import write_text  # noqa: E402
from kws.base.flags import new_parser, options_from  # noqa: E402
from kws.base.settings import SettingsFlags  # noqa: E402
from kws.board import firmware  # noqa: E402
from kws.data.dataset import DataOptions  # noqa: E402
from kws.model import checkpoints, tflite  # noqa: E402
from kws.model.tflite import TFLiteModel  # noqa: E402

NAME = "dnn_small"
CONVERSION_FLAGS = {  # of convert_to_tflite.py
    "fp32": ["--no-quantize"],
    "int8": ["--inference_type", "int8"],
    "int16": ["--inference_type", "int16"],
}
KINDS = {  # of files, by the flag that gives their checkpoint
    "checkpoint": ("fp32", "int8", "int16"),
    "clustered": ("clustered_int8",),  # clusters of tensorflow-model-optimization
    "entropy": ("entropy_int8",),
    "microphone": ("microphone_fp32", "microphone_int8"),
    "verifier": ("ds_cnn_small_fp32", "ds_cnn_small_int8"),
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
    "pretrained": "for own words: --start_from of train.py; ds_cnn_small of 198 words",
    "pretrained_dnn": "likewise, dnn_small",
}
LARGEST_ARENA = 256 * 1024  # bytes; more than any shipped file needs


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--checkpoint", metavar="PATH")
    parser.add_argument("--clustered", metavar="PATH", help="what --method clustering made")
    parser.add_argument("--entropy", metavar="PATH", help="what --method entropy made")
    parser.add_argument("--microphone", metavar="PATH", help="DNN Small for an open microphone")
    parser.add_argument("--verifier", metavar="PATH", help="ds_cnn_small, which verifies what that detects")
    parser.add_argument(
        "--pretrained", nargs="+", default=[], metavar="PATH", help="networks of many words, for --start_from"
    )
    parser.add_argument("--ambient", nargs="+", metavar="DIR", help="validation recordings without the words")
    parser.add_argument("--test_dir", required=True, metavar="DIR", help="the canonical test set")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    args = parser.parse_args()
    if (args.microphone or args.verifier) and not args.ambient:
        parser.error("--microphone and --verifier need --ambient, on which their detectors are chosen")
    return args


def main():
    args = parse_arguments()
    data_options, flags = options_from(DataOptions, args), SettingsFlags.from_arguments(args)
    given = {flag: getattr(args, flag) for flag in KINDS if getattr(args, flag)}
    for flag in given.keys() & {"microphone", "verifier"}:
        given[flag] = write_weights(given[flag], ARCHIVE / "model_source" / flag, flags)
    for path in args.pretrained:
        architecture = checkpoints.read_settings(path).model_architecture
        name = "pretrained_dnn" if architecture == "dnn" else "pretrained"
        write_weights(path, ARCHIVE / "model_source" / name, flags)
    if args.checkpoint:
        given["checkpoint"] = write_sources(args.checkpoint, flags)
    paths = {kind: tflite_path(kind) for flag in given for kind in KINDS[flag]}
    for flag, checkpoint in given.items():
        for kind in KINDS[flag]:
            convert(checkpoint, kind, data_options)
    detectors = {
        kind: choose_detector(kind, args.ambient, data_options)
        for kind in paths
        if kind in KINDS["microphone"] + KINDS["verifier"]
    }
    accuracy = evaluate(["--tflite_path", *paths.values()], args.test_dir, data_options) if paths else {}
    for kind, path in paths.items():
        write_vectors(path)
        measured = {"accuracy": accuracy[str(path)]} | detectors.get(kind, {})
        write_definition(path.parent, describe(path, kind) | measured)
    if args.checkpoint:
        weights = given["checkpoint"]
        (of_source,) = evaluate(["--checkpoint", weights], args.test_dir, data_options).values()
        write_definition(ARCHIVE / "model_source", describe_source(weights) | {"accuracy": of_source})


# ---- the files ----


def write_sources(checkpoint, flags: SettingsFlags) -> Path:
    """Copy the checkpoint, and export its other forms; returns the folder of the weights."""
    network, settings = models.load_checkpoint(checkpoint, flags)
    source = ARCHIVE / "model_source"
    write_weights(checkpoint, source / "weights", flags)
    checkpoints.export_saved_model(network, settings, source / "saved_model")
    checkpoints.export_keras_file(network, settings, source / f"{NAME}.keras")
    return source / "weights"


def write_weights(checkpoint, folder: Path, flags: SettingsFlags) -> Path:
    """Copy the checkpoint into `folder`, which is returned."""
    network, settings = models.load_checkpoint(checkpoint, flags)
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints.save_checkpoint(network, settings, folder / f"{network_of(settings)}.ckpt")
    return folder


def network_of(settings) -> str:
    return NAME if settings.model_architecture == "dnn" else "ds_cnn_small"


def tflite_path(kind: str) -> Path:
    name = kind if kind in KINDS["verifier"] else f"{NAME}_{kind}"
    return ARCHIVE / "TFLite" / f"tflite_{kind}" / f"{name}.tflite"


def choose_detector(kind: str, ambient: list[str], data_options: DataOptions) -> dict:
    """Have evaluation.py write the detector of a kind of file into it; its DET curve, for the definition."""
    first = second = tflite_path(kind)
    if kind in KINDS["verifier"]:
        first = tflite_path(kind.replace("ds_cnn_small", "microphone"))
    verifier = [] if first == second else ["--verifier", second]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        flags = "--ambient", *ambient, "--stream_minutes", "60", "--write_detector", "--json", report
        call("evaluation.py", "--tflite_path", first, *verifier, *flags, *data_flags(data_options))
        (measured,) = json.loads(report.read_text()).values()
    points = [{name: round(value, 4) for name, value in point.items()} for point in measured["points"]]
    role = "verifier of dnn_small_microphone" if verifier else "alone"
    return {"detection": {"role": role, "hours_without_words": round(measured["hours"], 3), "points": points}}


def convert(checkpoint, kind: str, data_options: DataOptions):
    path = tflite_path(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = "--checkpoint", checkpoint, "--output", path
    call(
        "convert_to_tflite.py", *files, *CONVERSION_FLAGS[kind.rpartition("_")[2]], *data_flags(data_options)
    )


def evaluate(which: list, test_dir: str, data_options: DataOptions) -> dict[str, list[dict]]:
    """What evaluation.py measures: {path: [figures of one set, ...]}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        call("evaluation.py", *which, "--test_dir", test_dir, "--json", report, *data_flags(data_options))
        return json.loads(report.read_text())


def call(script, *arguments):
    subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], check=True)


def data_flags(data_options: DataOptions) -> list[str]:
    return ["--data_dir", data_options.data_dir, "--data_url", data_options.data_url]


def write_vectors(path: Path):
    """One input and output of the model for each label, in the types of its tensors."""
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
    """All of a TFLite file's definition but its accuracy."""
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


def describe_source(weights: Path) -> dict:
    """All of the definition of the source forms but their accuracy."""
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
    """The settings in the types of JSON, which are those of YAML, too."""
    return json.loads(settings.to_json())


def describe_tensor(detail: dict) -> dict:
    described = {"shape": detail["shape_signature"].tolist(), "type": np.dtype(detail["dtype"]).name}
    if np.issubdtype(detail["dtype"], np.integer):
        scale, zero_point = detail["quantization"]
        described |= {"scale": float(scale), "zero_point": int(zero_point)}
    return described


def arena_size(path: Path) -> int:
    """Bytes of working memory with which TensorFlow Lite Micro runs a file; on a 64-bit PC, whose pointers
    make it larger than on a microcontroller.
    """
    importlib.import_module("tflite_micro")  # where it is missing, every size would seem too small
    sizes = range(16, LARGEST_ARENA, 16)  # TensorFlow Lite Micro aligns what it allocates to 16 bytes
    return sizes[bisect.bisect_left(sizes, True, key=lambda size: runs_in_arena(path, size))]


def runs_in_arena(path: Path, size: int) -> bool:
    """Whether TensorFlow Lite Micro runs a file in `size` bytes of working memory."""
    program = (
        "import sys; from tflite_micro import runtime; "
        "runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()"
    )
    # in a process of its own: too small an arena may end it
    command = [sys.executable, "-c", program, str(path), str(size)]
    return subprocess.run(command, capture_output=True).returncode == 0


def npu_cost(path: Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))  # vela's output goes beside it
        return firmware.compile_for_npu(copy, NPU)[1]._asdict()


def write_definition(folder: Path, definition: dict):
    """definition.yaml for programs, README.md for people."""
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
    """How each source form is opened."""
    rows = [f"| `{form}` | {how} |" for form, how in definition["how_to_open"].items()]
    return ["", "| form | how to open it |", "| --- | --- |", *rows]


def lines_about_file(definition: dict) -> list[str]:
    """What a TFLite file is, and what it needs on a board."""
    micro = definition["tensorflow_lite_micro"]
    lines = [
        "",
        f"`{definition['file']}`: {definition['bytes']:,} bytes ({definition['zipped_bytes']:,} zipped), "
        f"SHA-256 `{definition['sha256']}`, operators {', '.join(definition['operators'])}.",
        "",
        f"Input `{definition['input']}`, frame after frame of MFCCs. Output: one score for each of "
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
    """What the detector that is in the file was measured to give, on validation recordings."""
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
