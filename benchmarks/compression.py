r"""Compare methods of compression: the same starting weights, steps and seeds for each.

    python benchmarks/compression.py --checkpoint CKPT --recipe recipes/cluster.txt --data_dir DIR \
        --work_dir DIR

Prints a Markdown table with means over the seeds (lowest to highest), measured on the validation partition.
Needs Arm's vela (tests/firmware_requirements.txt). The same command continues an interrupted comparison.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import input_data
import models
from convert_to_tflite import quantized
from kws.base.errors import run
from kws.base.files import write_bytes, write_text
from kws.base.flags import new_parser, number_list, options_from
from kws.base.settings import SettingsFlags
from kws.board import firmware
from kws.data.dataset import DataOptions
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel, embed_settings, zipped_size

ROOT = Path(__file__).resolve().parent.parent
NPU = "ethos-u55-128"
CLUSTERS = 32, 16, 8


class Row(NamedTuple):
    """A line of the table: methods with their flags, one after the other."""

    name: str
    stages: tuple[str, ...]


def rows() -> list[Row]:
    """Return the lines of the table, from no compression to sparse clusters with fine-tuning."""
    found = [Row("none", ()), Row("QAT", ("qat",))]
    for count in CLUSTERS:
        clusters = f"clustering --clusters {count}"
        found.append(Row(f"{count} clusters", (clusters,)))
        found.append(Row(f"{count} clusters, CQAT", (clusters, "cqat")))
        found.append(Row(f"{count} clusters, entropy", (f"entropy --clusters {count}",)))
    for count in CLUSTERS:
        sparse = "pruning --sparsity 50", f"clustering --clusters {count}"
        found.append(Row(f"50 % zeros, {count} clusters", sparse))
        found.append(Row(f"50 % zeros, {count} clusters, PCQAT", (*sparse, "cqat")))
    return found


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="starting weights")
    parser.add_argument("--recipe", required=True, metavar="FILE", help="flags of each fine-tuning")
    parser.add_argument("--work_dir", required=True, metavar="DIR", help="folder of the trained models")
    parser.add_argument("--steps", default="4000", metavar="N", help="steps of each fine-tuning")
    parser.add_argument("--seeds", type=number_list(int), default=(1, 2, 3), metavar="N,N,...")
    input_data.add_arguments(parser)
    models.add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    data_options = options_from(DataOptions, args)
    _, settings = models.load_checkpoint(args.checkpoint, SettingsFlags.from_arguments(args))
    data = input_data.open_data(data_options, settings)
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    print("| method | fp32, % | int8, % | values | of a scale | zipped bytes | vela flash, KiB | cycles |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for row in rows():
        figures = []
        for seed in args.seeds:
            checkpoint, folder = args.checkpoint, work / f"seed {seed}"
            # each stage starts from the one before it
            for stage in row.stages:
                folder = folder / stage.replace("--", "")
                if not (folder / "done").exists():
                    tune(checkpoint, stage, folder, seed, args, data_options)
                    (folder / "done").touch()
                checkpoint = folder / "best"
            measured = folder / "measured.json" if row.stages else work / f"none {seed}.json"
            if not measured.exists():
                write_text(measured, json.dumps(measure(checkpoint, data, seed)))
            figures.append(json.loads(measured.read_text()))
        print(f"| {row.name} | {' | '.join(summary(figures, name) for name in figures[0])} |", flush=True)


def tune(checkpoint, stage: str, folder: Path, seed: int, args, data_options: DataOptions):
    """Fine-tune a checkpoint with a method and its flags into `folder`."""
    method, *flags = stage.split()
    command = [sys.executable, "optimisations.py", f"@{args.recipe}", "--method", method, *flags]
    command += ["--checkpoint", str(checkpoint), "--teacher", args.checkpoint, "--seed", str(seed)]
    command += ["--how_many_training_steps", args.steps, "--train_dir", str(folder)]
    command += ["--data_dir", data_options.data_dir, "--data_url", data_options.data_url]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def measure(checkpoint, data, seed: int) -> dict[str, float]:
    """Return the figures of a checkpoint, by name, converted to int8 and compiled for an NPU."""
    network, settings = models.load_checkpoint(checkpoint)
    labels, features = data.validation.label, input_data.features(data.validation, settings.front_end)

    def accuracy(model):
        return 100 * float((model.predict(features).argmax(1) == labels).mean())

    content = embed_settings(quantized(network, settings, data.validation, "int8", seed), settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tflite"
        write_bytes(path, content)
        _, npu = firmware.compile_for_npu(path, NPU)
        int8 = accuracy(TFLiteModel(path))
    kernel, scale = distinct_values(content)
    return {
        "fp32": accuracy(checkpoints.KerasModel(network, settings)),
        "int8": int8,
        "values": kernel,
        "of a scale": scale,
        "zipped": zipped_size(content),
        "flash": npu.flash_kib,
        "cycles": npu.cycles,
    }


def distinct_values(content: bytes) -> tuple[int, int]:
    """Return the most distinct values of any kernel, and of any part of a kernel with one scale."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    of_kernels, of_scales = [], []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.INT8 or data is None or len(tensor.shape) < 2:
            continue
        values = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape)
        # each channel by itself, if each has a scale
        axis = tensor.quantization.quantizedDimension
        channels = np.moveaxis(values, axis, 0) if len(tensor.quantization.scale) > 1 else values[None]
        of_kernels.append(len(np.unique(values)))
        of_scales.append(max(len(np.unique(channel)) for channel in channels))
    return max(of_kernels), max(of_scales)


def summary(figures: list[dict], name: str) -> str:
    """Return a cell of the table: the figure `name` over all seeds."""
    values = [each[name] for each in figures]
    if name in ("fp32", "int8"):
        return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    if name == "flash":
        return f"{np.mean(values):.1f}"
    return f"{max(values):,}" if name in ("values", "of a scale") else f"{np.mean(values):,.0f}"


if __name__ == "__main__":
    run(main)
