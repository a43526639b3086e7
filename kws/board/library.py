"""What makes a folder of C sources a library of CMake, Zephyr, ESP-IDF, Arduino and PlatformIO: the files of
`c/library`, filled in.
"""

import json
import re
from pathlib import Path

from kws.base.files import write_text
from kws.base.settings import Settings

TEMPLATES = Path(__file__).resolve().parents[2] / "c" / "library"
VERSION = "1.0.0"  # of what the headers declare: major.minor.patch, https://semver.org
QUOTED = ".json", ".yml"  # files whose strings are written as in JSON, which YAML takes too


def write_library(folder: Path, settings: Settings, macs: int):
    """Write the files that the build systems want into the folder of a module, flat as it is.

    A sketch, a CMake project and a Makefile then have the same one folder of sources and headers. Arduino
    takes sources beside library.properties as it takes those in `src`.
    """
    values = library_values(settings, macs)
    for template in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        path = folder / template.relative_to(TEMPLATES)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, filled(template.read_text(), values, template.suffix in QUOTED))


def library_values(settings: Settings, macs: int) -> dict[str, str]:
    """What stands in the templates between two @."""
    return {
        "NAME": "kws",  # as the prefix of everything in the headers, and so of one module alone
        "VERSION": VERSION,
        "AUTHOR": "DNN Small maintainers",
        "URL": "https://arxiv.org/abs/1711.07128",
        "SENTENCE": f"Detects the words {', '.join(settings.wanted_words)} in audio.",
        "PARAGRAPH": f"From audio to detections with a network of {macs:,} multiply-accumulates "
        f"({settings.model_architecture}) in 8 bits; no heap and no other library.",
    }


def filled(template: str, values: dict[str, str], quoted: bool) -> str:
    def value(found):
        text = " ".join(values[found[1]].split())  # a line each, and words may hold any character
        return json.dumps(text, ensure_ascii=False)[1:-1] if quoted else text

    return re.sub(r"@([A-Z]+)@", value, template)
