"""`steer` in a process of its own that need not load torch for two seconds: a fork of one that has loaded it.

As a script it is the server of such forks, or a client that stands for the command: the fork has the client's
folder, environment and open files, gets its signals, and gives it its exit code.
"""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import NoReturn

COMMAND = "import sys; sys.argv[0] = 'steer'; from steer_cli.cli import main; main()"


def python(code: str, *arguments: object) -> list[str]:
    """The words that run `code` as `python -c` does, on Linux in a fork: elsewhere those may hang."""
    # An interpreter that only asks starts without site-packages.
    asking = ["-ISB", __file__, "ask", _server()] if sys.platform == "linux" else ["-c"]
    return [sys.executable, *asking, code, *map(str, arguments)]


@functools.cache
def _server() -> str:
    """The socket of this process's server, which ends with it."""
    import atexit
    import subprocess
    import tempfile
    from pathlib import Path

    path = str(Path(tempfile.mkdtemp(prefix="steer")) / "socket")
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **one_thread},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout and server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)  # its standard input ends, and so does it
    return path


def ask(path: str, code: str, *arguments: str) -> int:
    """Have `code` run; the exit code."""
    wanted = json.dumps([code, arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"%9d" % len(wanted)], [0, 1, 2])
        server.sendall(wanted)
        answers = server.makefile()
        process = int(answers.readline())
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda signum, _: os.kill(process, signum))
        code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(path: str) -> None:
    """Answer clients until standard input ends: each by a fork, whose fork is the command."""
    import steer_cli.cli
    import steer_cli.models.load  # torch too
    import steer_cli.run_plan  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            asking, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                return become(asking)
            asking.close()
    os.unlink(path)
    os.rmdir(os.path.dirname(path))


def wait(asking: socket.socket, command: int, files: list[int]) -> NoReturn:
    """Tell the client how the command ends, or end the command when the client is killed."""
    for file in files:
        os.close(file)

    def kill_with_client() -> None:
        with contextlib.suppress(OSError):
            if not asking.recv(1):
                os.kill(command, signal.SIGKILL)

    asking.sendall(b"%d\n" % command)
    threading.Thread(target=kill_with_client, daemon=True).start()
    status = os.waitpid(command, 0)[1]
    with contextlib.suppress(BrokenPipeError):
        asking.sendall(b"%d\n" % status)
    os._exit(0)


def become(asking: socket.socket) -> None:
    """Do what the client asks for, in a fork that has its folder, environment and open files."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, *_ = socket.recv_fds(asking, 9, 3)
    with asking.makefile("rb") as stream:
        code, arguments, folder, environment = json.loads(stream.read(int(size)))
    if command := os.fork():
        wait(asking, command, files)
    asking.close()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    sys.exit({"ask": ask, "serve": serve}[sys.argv[1]](*sys.argv[2:]))
