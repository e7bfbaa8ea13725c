"""A process that has loaded what every command loads, and becomes a new process for each command.

Most of a small command's time is Python reading the service's modules. Here they are read once: `Loaded` starts this file as a
script, and for each command it forks. The command is a process of its own all the same, with its own arguments, environment,
folder, output, exit code and end; it only does not start from nothing.

The messages go over sockets that keep their bounds: a request is a JSON object with three open files (standard output, standard
error, and a line on which the exit code comes back).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LOADED = ("dunwell_server.cli.app", "dunwell_server.cli.session")
_REQUEST_BYTES = 128 * 1024


class Loaded:
    """The process, from the side of the tests. Commands may run at the same time, from several threads."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=dict(environment), pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        """End it; commands that still run go on."""
        self._line.close()
        self._process.wait(20)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Exit code (negative: the signal that ended it), standard output and standard error of a command.

        Ends when the command has ended and nobody holds its output open any more. TimeoutExpired after so many seconds, and
        the command is killed.
        """
        request = json.dumps({"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)})
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._line, [request.encode()], [out_end, err_end, theirs.fileno()])
        finally:
            theirs.close()
            os.close(out_end)
            os.close(err_end)
        with answers, open(out, "rb", buffering=0) as out_pipe, open(err, "rb", buffering=0) as err_pipe:
            pid = answers.recv(64)
            assert pid, "the process that forks has died"
            try:
                code, said, complained = _read_to_end([answers.fileno(), out_pipe.fileno(), err_pipe.fileno()], timeout)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        return int(code), said.decode(), complained.decode()


def _read_to_end(files: Sequence[int], timeout: float) -> list[bytes]:
    """What comes out of each file until all have ended. TimeoutError after so many seconds."""
    read = dict.fromkeys(files, b"")
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                read[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
    return [read[file] for file in files]


def serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for every request; returns the request in each process that shall become its command, and None at the end."""
    assert threading.active_count() == 1, "a process with threads cannot be copied"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the processes between.
    while True:
        message, files, _, _ = socket.recv_fds(line, _REQUEST_BYTES, 3)
        if not message:
            return None
        out, err, answers = files
        if os.fork():
            for each in files:
                os.close(each)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        line.close()
        pid = os.fork()
        if pid:
            os.close(out)
            os.close(err)
            _tell(pid, answers)
        os.close(answers)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        request: dict[str, Any] = json.loads(message)
        return request


def _tell(pid: int, answers: int) -> NoReturn:
    """The process between: it tells the command's number and, when it has ended, its exit code."""
    os.write(answers, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    os.write(answers, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Be the command, as `python -m dunwell_server` in that folder with that environment."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    runpy.run_module("dunwell_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in LOADED:
        __import__(name)
    gc.collect()
    gc.freeze()  # What is loaded stays: a collector that went over it would copy its memory into each process.
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        become(wanted)
