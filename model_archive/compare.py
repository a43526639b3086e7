"""Print the files that recreate_model.sh made, each beside its start and its figure on people's words."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from kws.base.errors import run  # noqa: E402
from kws.base.flags import new_parser  # noqa: E402
from kws.model.tflite import zipped_size  # noqa: E402

STATED = re.compile(r"^\| `(\S+\.tflite)` \|.*\| ([\d.]+ %) \| [\d.]+ % \|$", re.MULTILINE)
WORTH_A_LINE = 0.02  # of accuracy below the start


def main():
    parser = new_parser(__doc__)
    parser.add_argument("report", metavar="FILE", help="what evaluation.py --json wrote")
    report = Path(parser.parse_args().report)
    measured = {Path(path): sets for path, sets in json.loads(report.read_text()).items()}
    # {file: its figures on the testing partition}
    testing = {
        path: next(figures for figures in sets if figures["set"].startswith("testing"))
        for path, sets in measured.items()
        if path.suffix == ".tflite"
    }
    accuracy = {path.name: figures["accuracy"] for path, figures in testing.items()}
    stated = dict(STATED.findall((ROOT / "docs" / "accuracy.md").read_text()))
    count = max(figures["N"] for figures in testing.values())
    rows = [["file", "bytes", "zipped", f"here, N = {count:,}", "from its start", "on people, N = 2,717"]]
    worse = []
    for path in testing:
        name, start = path.name, start_of(path.name)
        change = accuracy[name] - accuracy[start] if start != name and start in accuracy else None
        sizes = [f"{size:,}" for size in (path.stat().st_size, zipped_size(path.read_bytes()))]
        moved = "" if change is None else f"{100 * change:+.1f} points"
        rows.append([name, *sizes, f"{100 * accuracy[name]:.2f} %", moved, stated.get(name, "-")])
        if change is not None and change < -WORTH_A_LINE:
            worse.append(f"{name} ends {-100 * change:.1f} points below {start}, where it began")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        print("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip())
    print(*worse, sep="\n", end="\n" if worse else "")


def start_of(name: str) -> str:
    """Return the file that holds the weights before: of a clustered one the other, of an int8 one fp32."""
    before = re.sub("_(clustered|entropy)(_16)?_", "_", name)
    return before if before != name else re.sub("_int(8|16)", "_fp32", name)


if __name__ == "__main__":
    run(main)
