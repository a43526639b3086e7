"""Make a folder of C sources a library of CMake, Zephyr, ESP-IDF, Arduino and PlatformIO."""

import json
import re
from pathlib import Path

from kws.base.files import write_text
from kws.base.settings import Settings

TEMPLATES = Path(__file__).resolve().parents[2] / "c" / "library"
VERSION = "1.0.0"  # of the functions in the headers: major.minor.patch, https://semver.org
QUOTED = ".json", ".yml"  # files with JSON's strings, which YAML takes too


def write_library(folder: Path, settings: Settings, macs: int):
    """Write the files of the build systems, filled in, beside the sources in the folder of a module.

    The folder stays flat: Arduino takes sources beside library.properties, too.
    """
    values = library_values(settings, macs)
    for template in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        path = folder / template.relative_to(TEMPLATES)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, filled(template.read_text(), values, template.suffix in QUOTED))


def library_values(settings: Settings, macs: int) -> dict[str, str]:
    """Return what replaces the names between two @ in the templates."""
    return {
        # the prefix of all names in the headers; a program can have one such module
        "NAME": "kws",
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
