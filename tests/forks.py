"""A `python` for tests whose processes need not import TensorFlow, which takes seconds.

`Interpreter().path` is an executable that runs `python SCRIPT ARGUMENTS` with its own arguments, folder,
environment and standard streams, in a process that is forked from one that has TensorFlow. What is no script
goes to the real python. Each process imports the repository's modules itself.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

NO_ANSWER = 70  # the exit code where the process with TensorFlow has ended
PROGRAM = """#!{python} -SE
import sys

sys.path.insert(0, {tests!r})
from forks import run

run({address!r}, {python!r})
"""


class Interpreter:
    """The executable `path`, and the process behind it, which ends with this one."""

    def __init__(self):
        folder = Path(tempfile.mkdtemp(prefix="kws-"))  # short, as names of sockets must be
        self.path, address = folder / "python", folder / "socket"
        text = PROGRAM.format(python=sys.executable, tests=str(Path(__file__).parent), address=str(address))
        self.path.write_text(text)
        self.path.chmod(0o755)
        alive, self._ours = os.pipe()  # reads as ended when this process has, however that happened
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}  # read when TensorFlow is imported
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(address), str(alive)],
            pass_fds=[alive],
            stdout=subprocess.PIPE,
            env=environment,
        )
        os.close(alive)
        assert self._server.stdout.readline() == b"ready\n"
        atexit.register(self.end)

    def end(self):
        os.close(self._ours)
        self._server.wait()
        self._server.stdout.close()


# ---- in the process that stands for python ----


def run(address, python):
    """Have the arguments of this process run, and end as they do."""
    if not (len(sys.argv) > 1 and sys.argv[1].endswith(".py")):
        os.execv(python, [python, *sys.argv[1:]])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(job).to_bytes(8, "little")], [0, 1, 2])
    connection.sendall(job)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    answer = connection.recv(4)
    code = int.from_bytes(answer, "little", signed=True) if answer else NO_ANSWER
    if code < 0:  # ended by a signal
        with contextlib.suppress(OSError):  # of one that cannot be handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# ---- in the process that has TensorFlow ----


def serve(address, alive):
    """Fork a process for each connection, until `alive` has ended; then delete the folder of `address`."""
    import_what_takes_long()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        while alive not in select.select([listener, alive], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(alive)
                supervise(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    shutil.rmtree(Path(address).parent)


def import_what_takes_long():
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # TensorFlow greets
    for name in (
        "tensorflow tf_keras tensorflow_model_optimization ai_edge_litert.interpreter soundfile soxr "
        "ai_edge_litert.schema_py_generated matplotlib.figure pooch scipy.signal threadpoolctl tqdm"
    ).split():
        importlib.import_module(name)


def supervise(connection):
    """Run what the connection asks for in one more process, hand signals on, and answer with its exit code.

    Where the other end is gone, killed, the script is too. This process has its standard streams open until
    then, so that whoever reads one to its end knows that the script has let go of all it held.
    """
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    job = b""
    while len(job) < int.from_bytes(size, "little"):
        job += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        execute(*json.loads(job), streams)
    ended = os.pidfd_open(child)
    while ended not in select.select([ended, connection], [], [])[0]:
        os.kill(child, (connection.recv(1) or bytes([signal.SIGKILL]))[0])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(code.to_bytes(4, "little", signed=True))
    os._exit(0)


def execute(arguments, folder, environment, streams):
    """What `python ARGUMENTS` does; does not return."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # as of a new process: these know whether they can seek, and the ones inherited were of another file
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job, as this may be, ignores it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
