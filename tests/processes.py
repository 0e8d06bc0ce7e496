"""Python code in a process of its own."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time

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


def run_python(code: str, **environment: str) -> None:
    """Runs code that finds what this process finds, and the modules of this folder."""
    run_together([code], **environment)


def run_together(codes: list[str], **environment: str) -> None:
    """Runs several processes at the same time, and ends all of them when one fails."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path]),
                **environment,
            },
        )
        for code in codes
    ]
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
            process.wait()


def _check(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def assert_survives_fork(setup: str) -> None:
    """Threads do not survive a fork; a child must neither hang nor die of missing ones.

    Args:
        setup: code that defines `loss()`, which returns the same bytes or number at each call.
    """
    run_python("import os\n" + textwrap.dedent(setup) + _FORK)
