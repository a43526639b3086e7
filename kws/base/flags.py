"""Flags of the scripts: types, the parser, and options as typed values."""

import argparse
import dataclasses
import itertools
import math
import shlex

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
    """Help with only the required arguments in the usage line, and each default as it would be typed."""

    def add_usage(self, usage, actions, groups, prefix=None):
        # argparse would list all flags, which hides the few that are required
        required = sorted(
            (action for action in actions if action.required), key=lambda a: not a.option_strings
        )
        words = [[*action.option_strings, self._format_args(action, action.dest)] for action in required]
        super().add_usage(" ".join(["%(prog)s", *itertools.chain(*words), "[flags]"]), [], [], prefix)

    def _get_help_string(self, action):
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        if action.default is None or isinstance(action.default, bool | list):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a wrong flag in one line, and reads flags from `@FILE`."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def convert_arg_line_to_args(self, arg_line):
        return shlex.split(arg_line, comments=True)


def new_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that takes flags as they are spelled in --help, typed or in files.

    `@recipes/dnn_small.txt` stands for the flags in that file; later flags override earlier ones.
    """
    return OneLineParser(
        description=description,
        formatter_class=HelpFormatter,
        # an abbreviation would change its meaning when a flag is added
        allow_abbrev=False,
        fromfile_prefix_chars="@",
    )


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
