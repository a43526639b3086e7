"""Give firmware a TFLite file as a C array, or compiled for Arm's Ethos-U NPUs."""

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kws.base.errors import UserError
from kws.base.files import write_bytes

VELA_TARGETS = tuple(
    "ethos-u55-32 ethos-u55-64 ethos-u55-128 ethos-u55-256 ethos-u65-256 ethos-u65-512 ethos-u85-128 "
    "ethos-u85-256 ethos-u85-512 ethos-u85-1024 ethos-u85-2048".split()
)
# pip puts vela beside python, which need not be in PATH
VELA_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def vela_is_installed() -> bool:
    return shutil.which("vela", path=VELA_PATH) is not None


# keywords of C and C++, and names that compilers predefine
TAKEN_NAMES = set(
    """
    alignas alignof and and_eq arm asm auto bitand bitor bool break case catch char class compl concept
    const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default
    delete do double dynamic_cast else enum explicit export extern false float for friend goto if i386
    import inline int linux long main module mutable namespace new noexcept not not_eq nullptr operator
    or or_eq private protected public register reinterpret_cast requires restrict return short signed
    sizeof static static_assert static_cast struct switch template this thread_local throw true try
    typedef typeid typename typeof typeof_unqual union unix unsigned using virtual void volatile wchar_t
    while xor xor_eq
    """.split()
)


def c_string(text: str) -> str:
    """Return `text` in UTF-8 as a string of C or C++; special and non-ASCII bytes become octal numbers.

    An octal number has three digits, so that it takes no digit after it.
    """
    # names of files may hold bytes that are not UTF-8
    content = text.encode("utf-8", "surrogateescape")
    # two question marks may begin a trigraph
    special = b'"\\?'
    shown = (chr(byte) if 32 <= byte < 127 and byte not in special else f"\\{byte:03o}" for byte in content)
    return f'"{"".join(shown)}"'


def c_name(stem: str) -> str:
    """Return a name for C and C++ that is like `stem`, the name of a file."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() or name in TAKEN_NAMES or not name else name


def c_array(stem: str, content: bytes) -> str:
    """Return C or C++ source of an array named after `stem`, and of its length.

    The array is aligned as TensorFlow Lite Micro asks.
    """
    name = c_name(stem)
    rows = (content[start : start + 20] for start in range(0, len(content), 20))
    lines = "\n".join(f"    {', '.join(map(str, row))}," for row in rows)
    return (
        "#ifdef __cplusplus\n"
        f'extern "C" {{\nextern const unsigned char {name}[];\nextern const unsigned int {name}_len;\n}}\n'
        "#endif\n\n"
        f"__attribute__((aligned(16))) const unsigned char {name}[] = {{\n{lines}\n}};\n"
        f"const unsigned int {name}_len = {len(content)};\n"
    )


def resolver(operators: list[str]) -> str:
    """Return the lines of C++ that register `operators` in TensorFlow Lite Micro.

    `operators` are names of the TFLite schema, such as CONV_2D; Custom is what vela compiles to.
    """
    # CONV_2D becomes Conv2D
    names = ["".join(part.capitalize() for part in name.split("_")) for name in operators]
    names = [re.sub(r"(\d)d$", r"\1D", name) for name in names]
    # vela puts all that runs on the NPU into one custom operator
    names = ["EthosU" if name == "Custom" else name for name in names]
    lines = [f"resolver.Add{name}();" for name in names]
    return "\n".join([f"tflite::MicroMutableOpResolver<{len(lines)}> resolver;", *lines])


class NpuCost(NamedTuple):
    """Vela's estimates of what a model needs on an NPU, with the target's default system and memory."""

    operators_on_npu: float  # in %
    sram_kib: float
    dram_kib: float
    flash_kib: float
    cycles: int  # for one inference

    def __str__(self):
        return (
            f"{self.operators_on_npu:g} % of the operators on the NPU, "
            f"SRAM {self.sram_kib:.2f} KiB, DRAM {self.dram_kib:.2f} KiB, flash {self.flash_kib:.2f} KiB, "
            f"{self.cycles:,} cycles an inference"
        )


def compile_for_npu(path: Path, target: str) -> tuple[Path, NpuCost]:
    """Compile a TFLite file with vela into <name>_vela.tflite beside it.

    Return the path and the cost of the compiled file. UserError if vela cannot compile it.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["vela", "--accelerator-config", target, "--output-dir", folder, str(path)]
        environment = os.environ | {"PATH": VELA_PATH}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        compiled = Path(folder) / f"{path.stem}_vela.tflite"
        if result.returncode or not compiled.exists():
            problem = (result.stderr or result.stdout).strip().splitlines()
            raise UserError(f"vela cannot compile {path}: {problem[-1] if problem else 'no reason given'}")
        output = path.with_name(compiled.name)
        write_bytes(output, compiled.read_bytes())
        # vela writes its estimates as a table of one row
        (summary,) = Path(folder).glob("*_summary_*.csv")
        with open(summary, newline="") as file:
            (figures,) = csv.DictReader(file)
    on_npu = re.search(r"NPU operators = \d+ \((.*)%\)", result.stdout)
    return output, NpuCost(
        operators_on_npu=float(on_npu[1]) if on_npu else 0.0,
        sram_kib=float(figures["sram_memory_used"]),
        dram_kib=float(figures["dram_memory_used"]),
        flash_kib=float(figures["off_chip_flash_memory_used"]),
        cycles=round(float(figures["cycles_total"])),
    )
