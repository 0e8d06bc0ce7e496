"""compute-sanitizer over the C++ test of the kernels."""

import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def check(
    program: Path, log: Any, *, seconds: float, deadline: float = math.inf
) -> Iterator[tuple[str, str]]:
    """Yields each tool and what came out; a tool may take `seconds`, all of them until `deadline`.

    The test runs by itself first: it also compares the kernels with the CPU core.
    """

    def allowed() -> float:
        return max(0.0, min(seconds, deadline - time.perf_counter()))

    yield "without a tool", _run([str(program)], log, allowed())
    command = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    for tool in TOOLS:
        if command is None:
            yield tool, "not run: there is no compute-sanitizer"
            continue
        options = ["--tool", tool, "--error-exitcode", "9"]
        yield tool, _run([command, *options, str(program), "few"], log, allowed())


def passed(outcome: str) -> bool:
    """Whether an outcome is a success."""
    return outcome == "passed"


def _run(command: list[str], log: Any, seconds: float) -> str:
    log.detail("$ " + " ".join(command))
    try:
        run = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        log.detail(output.decode(errors="replace") if isinstance(output, bytes) else output)
        return f"not finished after {seconds:.0f} s"
    log.detail(run.stdout)
    if run.returncode == 0:
        return "passed"
    last = run.stdout.strip().splitlines()[-1:] or ["no output"]
    return f"FAILED with exit status {run.returncode}: {last[0]}"
