"""Errors that the user can put right, and scripts that report them in one line."""

import codecs
import contextlib
import io
import os
import signal
import sys
from pathlib import Path


class UserError(Exception):
    """An error that the user can put right: printed as one line, exit code 2."""


def run(main):
    """Run a script's `main`; an error that the user can put right ends in one line and exit code 2."""
    script = Path(sys.argv[0]).name
    codecs.register_error("printable", _printable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="printable")
    try:
        with _remembering_interrupts(), as_interrupt():
            main()
            stop_if_interrupted()
        # a full disk or a closed pipe shows here, not at exit
        sys.stdout.flush()
    except UserError as error:
        sys.exit(complain(str(error)))
    except BrokenPipeError:
        # the reader of our output, such as `head`, has enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # a shell's code for a process ended by SIGPIPE
    except ModuleNotFoundError as error:
        sys.exit(complain(f"{error.name} is missing: python -m pip install -r requirements.txt"))
    # of a file: a full disk, no permission
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(complain(f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        print(f"\n{script}: stopped", file=sys.stderr)
        sys.exit(130)  # a shell's code for a process ended by SIGINT


def _printable(error: UnicodeEncodeError) -> tuple[str | bytes, int]:
    """Replace letters that the terminal does not have by \\uXXXX; bytes that are no text stay as they are."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return codecs.backslashreplace_errors(error)


def complain(message: str) -> int:
    """Print an error that the user can put right as one line, and return its exit code."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


_interrupted = False  # whether Ctrl-C was pressed, even if the exception got lost


def stop_if_interrupted():
    """Raise the KeyboardInterrupt of a Ctrl-C that other code dropped."""
    if _interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def as_interrupt():
    """Turn the exception that a Ctrl-C has become back into a KeyboardInterrupt."""
    try:
        yield
    except Exception:
        stop_if_interrupted()
        raise


@contextlib.contextmanager
def _remembering_interrupts():
    """Have Ctrl-C raise KeyboardInterrupt as ever, and remember it.

    If it comes during a callback, such as TensorFlow's, the exception is dropped or becomes another one.
    """
    global _interrupted
    _interrupted = False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        # a shell that runs us with & has the signal ignored
        yield
        return

    def interrupt(*_):
        global _interrupted
        _interrupted = True
        raise KeyboardInterrupt

    # an exception dropped in a callback is printed with its traceback; ours is raised later
    def report(unraisable, otherwise=sys.unraisablehook):
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            otherwise(unraisable)

    with contextlib.ExitStack() as afterwards:
        afterwards.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        afterwards.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = report
        yield
