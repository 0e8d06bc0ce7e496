"""Python code in a process of its own."""

import atexit
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import Protocol

import forking_server

_TESTS = pathlib.Path(__file__).parent

_FORK = """
expected = loss()
child = os.fork()
if child == 0:
    os._exit(0 if loss() == expected == loss() else 3)
status = os.waitpid(child, 0)[1]
assert status == 0, status
assert loss() == expected
"""


class _Process(Protocol):
    """What of `subprocess.Popen` is needed here."""

    returncode: int | None

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


class _Fork:
    """A process that has TensorFlow from the start."""

    def __init__(self, code: str, environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._pid = _asked(
            {
                "code": code,
                "environment": {**os.environ, **environment},
                "path": ["", str(_TESTS), *sys.path],
                "folder": os.getcwd(),
            },
            [1, 2],
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked({"poll": self._pid})
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.01)


def _asked(request: dict[str, object], descriptors: list[int] | None = None) -> int | None:
    channel = _channel()
    message = json.dumps(request).encode()
    assert len(message) < forking_server.MESSAGE_BYTES
    socket.send_fds(channel, [message], descriptors or [])
    answer = channel.recv(forking_server.MESSAGE_BYTES)
    assert answer, "The server has ended."
    return json.loads(answer)


@functools.cache
def _channel() -> socket.socket:
    """To a server of this process, which is started by whoever needs it first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = theirs.fileno()
    server = subprocess.Popen(
        [sys.executable, forking_server.__file__, str(descriptor)], pass_fds=[descriptor]
    )
    theirs.close()
    atexit.register(server.wait)
    atexit.register(ours.close)  # Runs first.
    return ours


def _fresh(code: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(_TESTS), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **environment}
    )


def run_python(code: str, **environment: str) -> None:
    """Runs code that finds what this process finds, and the modules of this folder.

    In a process that has imported TensorFlow before it has the environment, and nothing else.
    """
    run_together([code], **environment)


def run_fresh_python(code: str, **environment: str) -> None:
    """The same in a process that has imported nothing, which takes seconds more."""
    _wait_for([_fresh(textwrap.dedent(code), environment)])


def run_together(codes: list[str], **environment: str) -> None:
    """Runs several processes at the same time, and ends all of them when one fails."""
    _wait_for([_Fork(textwrap.dedent(code), environment) for code in codes])


def _wait_for(processes: list[_Process]) -> None:
    deadline = time.monotonic() + 300
    try:
        while any(process.poll() is None for process in processes):
            assert time.monotonic() < deadline, "The processes take more than 300 seconds."
            _check(processes)
            time.sleep(0.05)
        _check(processes)
    finally:
        for process in processes:
            process.kill()


def _check(processes: list[_Process]) -> None:
    for process in processes:
        assert not process.returncode, f"A process must end well. Received: {process.returncode}"


def assert_survives_fork(setup: str) -> None:
    """Threads do not survive a fork; a child must neither hang nor die of missing ones.

    Args:
        setup: code that defines `loss()`, which returns the same bytes or number at each call.
    """
    run_python("import os\n" + textwrap.dedent(setup) + _FORK)
