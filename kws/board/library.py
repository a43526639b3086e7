"""Make a folder of C sources a library of CMake, Zephyr, ESP-IDF, Arduino and PlatformIO."""

import json
import re
from pathlib import Path

from kws.base.errors import UserError
from kws.base.files import write_text
from kws.base.settings import Settings
from kws.board.firmware import c_name

TEMPLATES = Path(__file__).resolve().parents[2] / "c" / "library"
VERSION = "2.0.0"  # of the functions in the headers: major.minor.patch, https://semver.org
QUOTED = ".json", ".yml"  # files with JSON's strings, which YAML takes too
PROGRAMS = ".ino", ".c", ".h"  # an example and starting points, which call the module
# Names of the module in C, which begin with this unless the user says otherwise.
PREFIX = "kws"
# Strings hold words of the user, but #include names a file of the module.
STRINGS_AND_NAMES = re.compile(r'(?<!#include )"(?:[^"\\\n]|\\.)*"|\b(kws|KWS)(?=[_.])')


def write_library(folder: Path, settings: Settings, macs: int, prefix: str):
    """Write the files of the build systems, filled in, beside the sources in the folder of a module.

    The module stays flat: Arduino takes sources beside library.properties, too. Programs lie in folders of
    their own, where no build system looks for sources.
    """
    values = library_values(settings, macs, prefix)
    for template in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        path = folder / template.relative_to(TEMPLATES)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = filled(template.read_text(), values, template.suffix in QUOTED)
        write_text(path, renamed(text, prefix) if template.suffix in PROGRAMS else text)


def library_values(settings: Settings, macs: int, prefix: str) -> dict[str, str]:
    """Return what replaces the names between two @ in the templates."""
    return {
        "NAME": prefix,
        "CAPITALS": prefix.upper(),
        "VERSION": VERSION,
        "AUTHOR": "DNN Small maintainers",
        "URL": "https://arxiv.org/abs/1711.07128",
        "SENTENCE": f"Detects the words {', '.join(settings.wanted_words)} in audio.",
        "PARAGRAPH": f"From audio to detections with a network of {macs:,} multiply-accumulates "
        f"({settings.model_architecture}) in 8 bits; no heap and no other library.",
    }


def filled(template: str, values: dict[str, str], quoted: bool) -> str:
    """Return a template with its @NAMES@ replaced; `quoted` escapes values as in JSON's strings."""

    def value(found):
        # words may hold any character, but a value is one line
        text = " ".join(values[found[1]].split())
        return json.dumps(text, ensure_ascii=False)[1:-1] if quoted else text

    return re.sub(r"@([A-Z]+)@", value, template)


def check_prefix(prefix: str):
    """Raise UserError if names in C cannot begin with `prefix`."""
    if not re.fullmatch("[a-z][a-z0-9_]*", prefix) or c_name(prefix) != prefix:
        raise UserError(f"--prefix {prefix}: names in C cannot begin so; take small letters, such as door")


def renamed(text: str, prefix: str) -> str:
    """Return C source, or the name of a file, with `prefix` for kws and its capitals for KWS in all names."""

    def name(found):
        return found[0] if not found[1] else prefix if found[1] == PREFIX else prefix.upper()

    return STRINGS_AND_NAMES.sub(name, text)
