"""Errors that the user can put right, and running a script that reports them in one line."""

import contextlib
import os
import signal
import sys
from pathlib import Path


class UserError(Exception):
    """Something the user can put right: printed as one line, exit code 2."""


def run(main):
    """Run a script's `main`; what the user can put right ends in one line and exit code 2."""
    script = Path(sys.argv[0]).name
    try:
        with _remembering_interrupts(), as_interrupt():
            main()
            stop_if_interrupted()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(complain(str(error)))
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        sys.exit(141)  # what a shell reports for a process ended by SIGPIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(complain(f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        print(f"\n{script}: stopped", file=sys.stderr)
        sys.exit(130)


def complain(message: str) -> int:
    """Print what the user can put right as one line; returns the exit code for it."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


_interrupted = False


def stop_if_interrupted():
    """Raise the KeyboardInterrupt of a Ctrl-C that was lost in code called by ours."""
    if _interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def as_interrupt():
    """What a Ctrl-C has ended in becomes the KeyboardInterrupt that it was."""
    try:
        yield
    except Exception:
        stop_if_interrupted()
        raise


@contextlib.contextmanager
def _remembering_interrupts():
    """Ctrl-C raises KeyboardInterrupt as ever, and is remembered.

    Where it meets a callback, such as those of TensorFlow, the exception is dropped or ends in another one.
    """
    global _interrupted
    _interrupted = False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # ignored from the start, as a shell does for what it runs with &: it stays so
        return

    def interrupt(*_):
        global _interrupted
        _interrupted = True
        raise KeyboardInterrupt

    def report(unraisable, otherwise=sys.unraisablehook):
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            otherwise(unraisable)

    with contextlib.ExitStack() as afterwards:
        afterwards.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        afterwards.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = report
        yield
