"""Measure what the C module costs on emulated microcontrollers: the tables in c/README.md.

    python benchmarks/board.py              # prints them
    python benchmarks/board.py --write      # replaces those in c/README.md

--data_dir adds the table that takes recordings: features in fixed point beside those in float.
Needs make, arm-none-eabi-gcc and qemu-system-arm (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi,
qemu-system-arm).
"""

import contextlib
import ctypes
import io
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kws.audio.recordings import read_audio
from kws.base.errors import UserError, run
from kws.base.files import write_text
from kws.base.flags import new_parser
from kws.board.c_folder import write_c_folder
from kws.board.layers import read_network

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "c" / "README.md"
BOARDS = {"m4": "M4", "m55": "M55", "m3": "M3", "m0plus": "M0+"}  # targets of c/Makefile
SHIPPED = {"dnn_small": "DNN Small", "ds_cnn_small": "DS-CNN Small", "stream_cnn_small": "`stream_cnn_small`"}
FORMS = {}, {"fixed_point": True}  # of features
CLIPS = 500
# what `make BOARD count_BOARD` prints; a network whose layers stream says what it takes in a second
PRINTED = {
    "flash": r"^ +(\d+)\t +\d+\t",
    "classification": r"(\d+) instructions for a classification",
    "macs": r"for each of (\d+) multiply",
    "frame": r"(\d+) instructions for the \w+ of a frame",
    "network": r"instructions for a second of audio, (\d+) of them",
    "push": r"(\d+) instructions for the longest kws_push",
    "stride": r"longest kws_push of (\d+) samples",
    "detector": r"(\d+) bytes of RAM",
    "stream": r"RAM for a detector, (\d+) of them",
}


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="Speech Commands")
    parser.add_argument("--write", action="store_true", help="replace the tables in c/README.md")
    return parser.parse_args()


def main():
    args = parse_arguments()
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory() as work:
        for table in tables(Measurements(Path(work)), args.data_dir):
            print(f"{table}\n")
            text = text.replace(table_like(table, text), table)
    if args.write:
        write_text(PAGE, text)


def tables(measured, data_dir: Path | None = None) -> list[str]:
    """Return the tables of c/README.md, in Markdown; the one on recordings only with `data_dir`."""
    parts = [shipped_files(measured), packed(measured), fixed_point(measured), verified(measured)]
    if data_dir:
        parts.append(fixed_point_on_clips(measured, validation_clips(data_dir)))
    return ["\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in parts]


def table_like(table: str, page: str) -> str:
    """Return the table of a page with the heading of another one; UserError if there is none."""
    heading = table.split("\n")[0]
    lines = page.split("\n")
    if heading not in lines:
        raise UserError(f"{PAGE} has no table that begins with {heading}")
    begin = lines.index(heading)
    return "\n".join(lines[begin : lines.index("", begin)])


# ---- measuring ----


class Measurements:
    """What modules cost on a board; each is exported, built and run once."""

    def __init__(self, work: Path):
        self.work = work
        self.of = cache(self.of)
        self.folder = cache(self.folder)

    def folder(self, path, **options) -> Path:
        """Return the folder to which a TFLite file was exported."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        with contextlib.redirect_stdout(io.StringIO()):
            write_c_folder(path, folder, **options)
        return folder

    def of(self, path, board: str, **options) -> dict[str, int]:
        """Return what a module costs on a board, by the names of PRINTED, and its stack in bytes."""
        folder = self.folder(path, **options)
        command = ["make", "-j2", "-C", folder, board, f"count_{board}", "CFLAGS=-fcallgraph-info=su"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"{' '.join(map(str, command))} failed: {made.stderr.strip()}")
        found = {name: re.search(pattern, made.stdout, re.M) for name, pattern in PRINTED.items()}
        costs = {name: int(match[1]) for name, match in found.items() if match}
        costs.setdefault("network", costs["classification"] * 25)  # scored each 40 ms
        return costs | {"stack": stack(folder.glob(f"kws_{board}.o-*.ci"))}


def stack(graphs) -> int:
    """Return the bytes of stack of kws_push and all that it calls, from the compiler's graphs of calls."""
    text = "".join(path.read_text() for path in graphs)
    own = {name: int(size) for name, size in re.findall(r'title: "(\S+)" label: ".*\\n(\d+) bytes', text)}
    calls = re.findall(r'sourcename: "(\S+)" targetname: "(\S+)"', text)

    @cache
    def deepest(function):
        called = {target for source, target in calls if source == function}
        return own.get(function, 0) + max(map(deepest, called), default=0)

    return deepest("kws_push")


def shipped(name: str) -> Path:
    (path,) = (ROOT / "model_archive" / "TFLite").glob(f"*/{name}.tflite")
    return path


def with_half_the_values(path, work: Path) -> Path:
    """Return a copy of a TFLite file with half of the distinct weights in each layer."""
    content = path.read_bytes()
    for layer in read_network(content, path).layers:
        values = np.unique(layer.weights)[::2]
        places = np.searchsorted(values, layer.weights).clip(max=len(values) - 1)
        content = content.replace(layer.weights.tobytes(), values[places].tobytes())
    copy = work / "half.tflite"
    copy.write_bytes(content)
    return copy


def validation_clips(data_dir: Path) -> np.ndarray:
    """Return CLIPS recordings of the validation partition, int16 [CLIPS, 16000], drawn by a fixed seed."""
    listed = (data_dir / "validation_list.txt").read_text().split()
    present = [data_dir / name for name in sorted(listed) if (data_dir / name).exists()]
    chosen = np.random.default_rng(0).permutation(present)[:CLIPS]
    clips = [read_audio(path, 16000)[0][:16000] for path in chosen]
    return np.stack([np.pad(clip, (0, 16000 - len(clip))) for clip in clips])


def computed(folder: Path, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features [clips, inputs] and scores [clips, labels] as a module computes them here, int8."""
    sources = [folder / f"kws_{name}.c" for name in ("features", "nn", "model")]
    command = ["cc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", folder / "kws.so", *sources, "-lm"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(folder / "kws.so"))
    stream = np.zeros(2**20, np.int8)  # more than any kws_stream
    sizes = dict(re.findall(r"define KWS_(\w+) (\d+)\n", (folder / "kws_model.h").read_text()))
    inputs = int(sizes["FRAMES"]) * int(sizes["COEFFICIENTS"])
    features = np.zeros((len(clips), inputs), np.int8)
    scores = np.zeros((len(clips), int(sizes["LABELS"])), np.int8)
    for clip, given, found in zip(clips, features, scores, strict=True):
        library.kws_features(stream.ctypes, clip.ctypes, given.ctypes)
        library.kws_classify(stream.ctypes, given.ctypes, found.ctypes)
    return features, scores


# ---- the tables, as rows of cells ----


def shipped_files(measured) -> list[list[str]]:
    """Return what each shipped network costs on both boards with a floating-point unit."""
    boards = "m4", "m55"
    networks = [[measured.of(shipped(f"{name}_int8"), board) for board in boards] for name in SHIPPED]
    costs = [cost for network in networks for cost in network]
    seconds = [16000 // network[0]["stride"] for network in networks]  # frames in each
    macs = "; ".join(f"{network[0]['macs']:,}" for network in networks)
    frames = f"{', '.join(map(str, seconds[:-1]))} and {seconds[-1]}"

    def row(name, cell):
        return [name, *map(cell, costs)]

    def features_of_a_second(cost):
        return f"{cost['frame'] * 16000 // cost['stride']:,}"

    heading = [text for name in SHIPPED.values() for text in (f"{name}, M4", "M55")]
    return [
        ["int8, the shipped files", *heading],
        ["---", *["---:"] * len(heading)],
        row("instructions for a classification", number("classification")),
        row(f"for each of its multiply-accumulates ({macs})", each),
        row("instructions for the features of a frame", number("frame")),
        row(f"for a second of audio: the features alone ({frames} frames)", features_of_a_second),
        row("the network, scored each 40 ms", number("network")),
        row("flash, bytes: code and tables", number("flash")),
        row("RAM, bytes: a detector (of which a stream)", lambda c: f"{c['detector']:,} ({c['stream']:,})"),
        row("stack, bytes: `kws_push` and all that it calls", number("stack")),
    ]


def packed(measured) -> list[list[str]]:
    """Return what DNN Small costs with few distinct weights."""
    clustered = [shipped(f"dnn_small_{name}_int8") for name in ("clustered", "clustered_16")]
    clustered.append(with_half_the_values(clustered[-1], measured.work))
    rows = [["DNN Small", "unpacked", "32 clusters", "16", "8"], ["---", *4 * ["---:"]]]
    instructions = "instructions for a classification (for each multiply-accumulate), "
    for what, cell, boards in (
        ("flash, bytes, ", number("flash"), BOARDS),
        (instructions, with_each, BOARDS),
        ("RAM, bytes: a detector, ", number("detector"), ["m4"]),
    ):
        for place, board in enumerate(boards):
            costs = [measured.of(shipped("dnn_small_int8"), board)]
            costs += [measured.of(path, board, packed=True) for path in clustered]
            rows.append([("" if place else what) + BOARDS[board], *map(cell, costs)])
    return rows


def fixed_point(measured) -> list[list[str]]:
    """Return what processors without a floating-point unit take, in float and in fixed point."""
    rows = [["without a floating-point unit", "float", "fixed point"], ["---", "---:", "---:"]]
    for what, cost, name in (
        ("instructions for the MFCCs of a frame, ", "frame", "dnn_small_int8"),
        ("for its log-mel energies, ", "frame", "stream_cnn_small_int8"),
        ("flash of DNN Small, bytes, ", "flash", "dnn_small_int8"),
    ):
        for first, board in ((what, "m0plus"), ("", "m3")):
            costs = [measured.of(shipped(name), board, **options) for options in FORMS]
            rows.append([first + BOARDS[board], *map(number(cost), costs)])
    return rows


def fixed_point_on_clips(measured, clips) -> list[list[str]]:
    """Return how far features in fixed point, and the scores from them, are from those in float."""
    names = ["fixed point beside float", "---", "most steps that a feature is off", "features one step off"]
    names += ["clips whose scores are all within 1/256", "largest difference of a score", "same label"]
    columns = [names]
    for name in ("dnn_small", "stream_cnn_small"):
        modules = [measured.folder(shipped(f"{name}_int8"), **options) for options in FORMS]
        (features, scores), (fixed_features, fixed_scores) = (computed(one, clips) for one in modules)
        steps = np.abs(features.astype(int) - fixed_features)
        apart = np.abs(scores.astype(int) - fixed_scores).max(1)  # [clips]
        same = scores.argmax(1) == fixed_scores.argmax(1)
        column = [SHIPPED[name], "---:", f"{steps.max()}", f"{100 * (steps > 0).mean():.3f} %"]
        column += [f"{100 * (apart <= 1).mean():.1f} %", f"{apart.max()}/256", f"{100 * same.mean():.1f} %"]
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def verified(measured) -> list[list[str]]:
    """Return what a verifier adds to the network before it."""
    boards = "m4", "m55"
    alone = [measured.of(shipped("dnn_small_int8"), board) for board in boards]
    verifier = shipped("ds_cnn_small_int8")
    both = [measured.of(shipped("dnn_small_int8"), board, verifier_path=verifier) for board in boards]

    def more(name):
        return [f"{two[name] - one[name]:,}" for one, two in zip(alone, both, strict=True)]

    return [
        ["DS-CNN Small behind DNN Small", "M4", "M55"],
        ["---", "---:", "---:"],
        ["flash, more bytes", *more("flash")],
        ["RAM, more bytes: a detector", *more("detector")],
        ["stack, more bytes", *more("stack")],
        ["instructions for the longest `kws_push` of a hop", *map(number("push"), both)],
    ]


def number(name):
    """Return a function that returns a cost as the text of a cell."""
    return lambda cost: f"{cost[name]:,}"


def each(cost) -> str:
    return f"{cost['classification'] / cost['macs']:.2f}"


def with_each(cost) -> str:
    return f"{cost['classification']:,} ({each(cost)})"


if __name__ == "__main__":
    run(main)
