"""Flags of the scripts: types, the parser, and options as typed values."""

import argparse
import codecs
import dataclasses
import itertools
import math
import shlex
import sys
from pathlib import Path

from kws.base.text import composed

# ---- types for flags ----


def word_list(text: str) -> tuple[str, ...]:
    """Return comma-separated words; a type for flags."""
    return tuple(composed(word.strip()) for word in text.split(","))


def number_list(number_type):
    """Return a type for flags that take comma-separated positive numbers, such as --learning_rate."""

    def parse(text):
        values = tuple(number_type(part) for part in text.split(","))
        if not all(0 < value < math.inf for value in values):
            raise ValueError
        return values

    # argparse prints the name in errors
    parse.__name__ = f"comma-separated list of positive {number_type.__name__}"
    return parse


def bounded(number_type, lower, upper=1e9):
    """Return a type for flags that take one number from `lower` to `upper`."""

    def parse(text):
        value = number_type(text)
        # not a number is in no range
        if not lower <= value <= upper:
            raise ValueError
        return value

    # argparse prints the name in errors
    parse.__name__ = f"{number_type.__name__} from {lower} to {upper:.10g}"
    return parse


class StoreTuple(argparse.Action):
    """The action of a flag with several values, kept as a tuple."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


# ---- the parser ----


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows only positional and required arguments in the usage line, and each default as it is typed."""

    def add_usage(self, usage, actions, groups, prefix=None):
        # argparse would list all of up to 40 flags, which hides the few that a script cannot do without
        if usage:  # as argparse keeps it while it parses intermixed arguments
            super().add_usage(usage, [], [], prefix)
            return
        required = [action for action in actions if action.required or not action.option_strings]
        required.sort(key=lambda action: not action.option_strings)
        words = [[*action.option_strings, self._format_args(action, action.dest)] for action in required]
        super().add_usage(" ".join(["%(prog)s", *itertools.chain(*words), "[flags]"]), [], [], prefix)

    def _get_help_string(self, action):
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        # a switch's default says nothing, nor does an empty list
        if action.default is None or isinstance(action.default, bool | list):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a wrong flag in one line, and reads flags from `@FILE`."""

    # argparse prints the usage as well, which fills the terminal
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def parse_known_args(self, typed=None, namespace=None):
        typed = sys.argv[1:] if typed is None else typed
        return super().parse_known_args(self._with_files(typed, Path()), namespace)

    def _with_files(self, words, folder: Path) -> list[str]:
        """Return `words` with the words in FILE in place of each `@FILE`.

        A file may name other files, relative to its own folder; argparse would look in the current one.
        """
        found = []
        for word in words:
            if not word.startswith("@"):
                found.append(word)
                continue
            file = folder / word[1:]
            # as a shell splits: quotation marks hold a value together, # begins a comment
            try:
                found += self._with_files(flags_in(file), file.parent)
            except OSError as error:
                self.error(f"{file}: {error.strerror}")
            except ValueError as error:
                self.error(f"{file}: {error}")
        return found


def flags_in(file: Path) -> list[str]:
    """Return the words in a file of flags, without comments.

    The file is UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it. Raises ValueError if it is
    neither, or if a quotation mark is not closed.
    """
    content, encoding = file.read_bytes(), "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
        print(f"{file} is read as UTF-16", file=sys.stderr)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without a mark passes for UTF-8 with zeros
    if "\0" in text:
        raise ValueError("is no text in UTF-8: save it as UTF-8")
    return shlex.split(text, comments=True)


def new_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that takes flags as they are spelled in --help, typed or in files.

    `@recipes/dnn_small.txt` stands for the flags in that file; later flags override earlier ones. A path
    behind `@` in such a file is relative to the file.
    """
    # an abbreviation would change its meaning when a flag is added
    return OneLineParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def add_model(parser, help: str):
    """Add the model that a script reads, as MODEL or as --checkpoint; `parse_with_model` reads them."""
    parser.add_argument("model_path", metavar="MODEL", nargs="?", help=help)
    parser.add_argument("--checkpoint", metavar="MODEL", help="the same as MODEL")


def parse_with_model(parser) -> argparse.Namespace:
    """Parse the command line; the model is in `checkpoint`. An error unless there is exactly one."""
    # intermixed, as MODEL may follow flags
    args = parser.parse_intermixed_args()
    given = [path for path in (args.model_path, args.checkpoint) if path is not None]
    if len(given) != 1:
        parser.error("one MODEL is needed" if not given else f"two models are given: {', '.join(given)}")
    args.checkpoint = given[0]
    return args


# ---- options: flags as typed values ----


def flag_adder(group, options_class):
    """Return a function that adds the flag of a field of `options_class` (a dataclass) to `group`.

    The field's default is the flag's, so that a library call and a command line agree.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options_class)}

    def add(name, help, **options):
        group.add_argument(f"--{name}", default=defaults[name], help=help, **options)

    return add


def options_from(options_class, namespace: argparse.Namespace):
    """Return the parsed flags as `options_class`; fields without a flag in the script keep their defaults."""
    names = {field.name for field in dataclasses.fields(options_class)}
    return options_class(**{name: value for name, value in vars(namespace).items() if name in names})
