"""Python code in a process of its own."""

import os
import pathlib
import subprocess
import sys
import textwrap

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
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path]),
            **environment,
        },
        check=True,
        timeout=300,
    )


def assert_survives_fork(setup: str) -> None:
    """Threads do not survive a fork; a child must neither hang nor die of missing ones.

    Args:
        setup: code that defines `loss()`, which returns the same bytes or number at each call.
    """
    run_python("import os\n" + textwrap.dedent(setup) + _FORK)
