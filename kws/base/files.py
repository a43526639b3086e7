"""Files that appear when they are complete, locks between processes, and what killed processes leave."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP  # errors of file systems without locks, as some NFS


@contextlib.contextmanager
def appears_complete(path, sweep: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or folder to; it becomes `path` on success.

    Its name holds the process number, so that leftovers of killed processes are known and deleted. That lists
    the folder: callers that write thousands of files call delete_leftovers once and give `sweep` False.
    System errors, such as a full disk, name `path`.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial-{os.getpid()}{path.suffix}")
    if sweep:
        delete_leftovers(path)
    try:
        with errors_name(path):
            yield partial
            # os.replace cannot replace a folder that is not empty
            if partial.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            # atomic on one file system, and `partial` is beside `path`
            os.replace(partial, path)
    finally:
        _delete(partial)


def delete_leftovers(path: Path):
    """Delete what killed processes left of `path` under temporary names; the stem `*` means any."""
    stem = "*" if path.stem == "*" else glob.escape(path.stem)
    for leftover in path.parent.glob(f"{stem}.partial-*{glob.escape(path.suffix)}"):
        process = leftover.name.rsplit(".partial-", 1)[1].removesuffix(path.suffix)
        if process.isdecimal() and not _is_running(int(process)):
            _delete(leftover)


def _delete(path):
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_running(process: int) -> bool:
    if fcntl is None:
        return True  # on Windows os.kill would end the process
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def write_text(path, text: str):
    """Write a text file, in UTF-8, that appears when it is complete."""
    write_bytes(path, text.encode())


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_bytes(path, content: bytes, sweep: bool = True):
    """Write a file that appears when it is complete; `sweep` as in appears_complete."""
    with appears_complete(path, sweep) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def errors_name(path):
    """Have the system's errors, such as a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def lock(path, waiting: str | None = None):
    """Hold the lock file `path` for this process.

    If another process holds it, print `waiting` and wait; without that text raise BlockingIOError. The file
    stays, as another process may be waiting for it. On a file system without locks nothing is held, and on
    Windows neither, as a printed line says.
    """
    if fcntl is None:
        print(
            f"no locks on this system: start no second run that writes to {Path(path).parent}",
            file=sys.stderr,
        )
        yield
        return
    with errors_name(path):
        # not "w": another process may hold it
        file = open(path, "a")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            print(waiting, file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield  # closing the file unlocks it


def fingerprint(files) -> str:
    """Return a short digest of the contents of `files`."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]
