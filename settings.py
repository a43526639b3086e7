"""What a model's numbers depend on, and how the scripts read flags and report errors.

A `Settings` travels with every model: beside a checkpoint, inside a SavedModel, a .keras file and a TFLite
file. So a script needs no flag to evaluate or convert a model, and a flag that contradicts the model is an
error.
"""

import argparse
import contextlib
import dataclasses
import glob
import itertools
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

SILENCE_LABEL = "_silence_"
UNKNOWN_LABEL = "_unknown_"
SILENCE_INDEX, UNKNOWN_INDEX = 0, 1  # in Settings.labels
MEL_CHANNELS = 40
MEL_LOWER_HZ, MEL_UPPER_HZ = 20.0, 4000.0


class UserError(Exception):
    """Something the user can put right: printed as one line, exit code 2."""


@dataclass(frozen=True)
class Settings:
    """The definition of a model from audio to labels; the defaults are those of the command line.

    Raises UserError where the values do not fit each other.
    """

    sample_rate: int = 16000
    clip_duration_ms: int = 1000
    window_size_ms: float = 30
    window_stride_ms: float = 10
    dct_coefficient_count: int = 40
    wanted_words: tuple[str, ...] = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
    validation_percentage: float = 10
    testing_percentage: float = 10
    model_architecture: str = "dnn"
    model_size_info: tuple[int, ...] = (128, 128, 128)

    def __post_init__(self):
        for problem, wrong in self._checks():
            if wrong:
                raise UserError(problem)

    def _checks(self):
        words = self.wanted_words
        yield (
            f"--window_size_ms {self.window_size_ms} and --window_stride_ms {self.window_stride_ms} "
            "must be finite",
            not math.isfinite(self.window_size_ms + self.window_stride_ms),
        )
        yield (
            f"--sample_rate {self.sample_rate}: at least {2 * MEL_UPPER_HZ:.0f} Hz are needed, since the "
            f"mel filters reach {MEL_UPPER_HZ:.0f} Hz",
            self.sample_rate < 2 * MEL_UPPER_HZ,
        )
        yield (
            f"--window_size_ms {show(self.window_size_ms)} and --window_stride_ms "
            f"{show(self.window_stride_ms)} must be at least one sample long",
            min(self.window_samples, self.stride_samples) < 1,
        )
        yield (
            f"--window_size_ms {show(self.window_size_ms)} does not fit into --clip_duration_ms "
            f"{self.clip_duration_ms}",
            self.window_samples > self.clip_samples,
        )
        yield (
            f"--dct_coefficient_count {self.dct_coefficient_count}: 1 to {MEL_CHANNELS} are possible",
            not 1 <= self.dct_coefficient_count <= MEL_CHANNELS,
        )
        yield f"--wanted_words {show(words)} holds an empty word", not words or not all(words)
        yield f"--wanted_words names a word twice: {show(words)}", len(set(words)) < len(words)
        yield (
            f"--wanted_words {show(words)}: a word is the name of a folder of recordings, and must not begin "
            "with '_' or '.' or hold a '/'",
            any(word[:1] in ("_", ".") or "/" in word for word in words),
        )
        yield (
            f"--validation_percentage {show(self.validation_percentage)} and --testing_percentage "
            f"{show(self.testing_percentage)} must not be negative and leave something to train on",
            min(self.validation_percentage, self.testing_percentage) < 0
            or self.validation_percentage + self.testing_percentage > 100,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each class score, in order."""
        return (SILENCE_LABEL, UNKNOWN_LABEL, *self.wanted_words)

    @property
    def clip_samples(self) -> int:
        return self.sample_rate * self.clip_duration_ms // 1000

    @property
    def window_samples(self) -> int:
        return int(self.sample_rate * self.window_size_ms / 1000)

    @property
    def stride_samples(self) -> int:
        return int(self.sample_rate * self.window_stride_ms / 1000)

    @property
    def frame_count(self) -> int:
        return 1 + (self.clip_samples - self.window_samples) // self.stride_samples

    @property
    def feature_count(self) -> int:
        """Length of the model's input: frame_count * dct_coefficient_count, frame by frame."""
        return self.frame_count * self.dct_coefficient_count

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes, source: str) -> "Settings":
        """The settings in `text`; UserError names `source` where they are damaged."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or set(values) != set(FIELDS):
                raise ValueError(f"expected an object with the keys {', '.join(FIELDS)}")
            return Settings(**{name: _checked(name, value) for name, value in values.items()})
        except (ValueError, RecursionError, OverflowError, UserError) as error:
            raise UserError(f"{source}: the settings in it are damaged: {error}") from None


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def _checked(name, value):
    """`value` as JSON gave it, in the type of the field `name`; ValueError where it does not fit."""
    default = FIELDS[name].default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        if isinstance(value, list) and all(type(item) is type(default[0]) for item in value):
            return tuple(value)
    elif isinstance(default, str):
        if isinstance(value, str):
            return value
    elif is_number and (FIELDS[name].type is float or isinstance(value, int)) and abs(value) < 1e9:
        return value
    raise ValueError(f"{name} is {value!r}")


def show(value) -> str:
    """`value` as it is written on the command line."""
    if isinstance(value, tuple):
        return (" " if value and isinstance(value[0], int) else ",").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def word_list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def number_list(kind):
    """A type for flags that take comma-separated positive numbers, such as --learning_rate."""

    def parse(text):
        values = tuple(kind(part) for part in text.split(","))
        if not all(0 < value < math.inf for value in values):
            raise ValueError
        return values

    parse.__name__ = f"comma-separated list of positive {kind.__name__}"
    return parse


def bounded(kind, lower, upper=1e9):
    """A type for flags that take one number from `lower` to `upper`."""

    def parse(text):
        value = kind(text)
        if not lower <= value <= upper:
            raise ValueError
        return value

    parse.__name__ = f"{kind.__name__} from {lower} to {upper:.10g}"
    return parse


class StoreTuple(argparse.Action):
    """For flags with several values, kept as a tuple."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Names only what must be given in the usage line, and each default as it would be given."""

    def add_usage(self, usage, actions, groups, prefix=None):
        needed = sorted((action for action in actions if action.required), key=lambda a: not a.option_strings)
        words = [[*action.option_strings, self._format_args(action, action.dest)] for action in needed]
        super().add_usage(" ".join(["%(prog)s", *itertools.chain(*words), "[flags]"]), [], [], prefix)

    def _get_help_string(self, action):
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        if action.default is None or isinstance(action.default, bool | list):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, without the list of all flags."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser that takes flags only as they are spelt in --help."""
    return OneLineParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def add_setting(group, name: str, help: str, **options):
    """Add the flag for the field `name` of Settings; the namespace holds it only where the user gave it."""
    default = show(FIELDS[name].default)
    group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=f"{help} (default: {default})", **options)


def resolve(args: argparse.Namespace, stored: Settings | None, source: str) -> Settings:
    """The settings to use: those `stored` in a model, or where it has none, those of the flags and --model.

    A flag that contradicts the stored value raises UserError naming both.
    """
    given = {name: value for name, value in vars(args).items() if name in FIELDS}
    of_model = getattr(args, "model", None) or {}
    for name in given.keys() & of_model.keys():
        if given[name] != of_model[name]:
            raise UserError(
                f"--{name} {show(given[name])} contradicts {show(of_model[name])}, part of --model"
            )
    given |= of_model
    if stored is None:
        return Settings(**given)
    for name, value in given.items():
        kept = getattr(stored, name)
        if value != kept:
            flag = f"--model with its {name}" if name in of_model else f"--{name}"
            raise UserError(
                f"{flag} {show(value)} contradicts {show(kept)}, stored in {source}; "
                "leave the flag out, the model carries its settings"
            )
    return stored


def write_text(path, text: str):
    """Write a file that appears under its name only when it is complete."""
    write_bytes(path, text.encode())


def write_bytes(path, content: bytes):
    """Write a file that appears under its name only when it is complete."""
    partial = partial_path(path)
    try:
        with errors_name(path):
            partial.write_bytes(content)
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def partial_path(path) -> Path:
    """A path beside `path` for what is to become it; what killed processes left at such paths goes."""
    path = Path(path)
    for left in path.parent.glob(f"{glob.escape(path.stem)}.partial-*{glob.escape(path.suffix)}"):
        process = left.name.removeprefix(f"{path.stem}.partial-").removesuffix(path.suffix)
        with contextlib.suppress(OSError):
            if process.isdecimal() and not _is_running(int(process)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{path.stem}.partial-{os.getpid()}{path.suffix}")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def errors_name(path):
    """Have the system's errors, such as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def quiet():
    """Keep off the terminal what C++ libraries print about themselves, past Python's own streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in enumerate(terminal, 1):
            os.dup2(kept, number)
            os.close(kept)
        os.close(nowhere)


def run(main):
    """Run a script's `main`; what the user can put right ends in one line and exit code 2."""
    script = Path(sys.argv[0]).name
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(_complain(script, str(error)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(script, f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        print(f"\n{script}: stopped", file=sys.stderr)
        sys.exit(130)


def _complain(script, message) -> int:
    print(f"{script}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
