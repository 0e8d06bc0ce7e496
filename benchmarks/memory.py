"""Peak memory of a call beyond its inputs, results included.

A plain TensorFlow form, and everything on a GPU: what TensorFlow's allocator counts, which on most
processors leaves out pieces under 256 KiB. Its memory stays with the allocator when freed, so the
resident set would say nothing after the first call.

fastneg may also allocate outside TensorFlow. Its backends are measured in a process of their own,
`python memory.py LOSS WORKLOAD BACKEND`, which prints bytes: the growth of the resident set over
the first calls of this size. (TensorFlow's allocator rounds its pieces up, large ones by a third or
more; what nobody touches is not resident.) The step is traced for unknown sizes and tried on a
small batch before, so anything that a backend keeps between calls counts. The kernel counts
resident pages in batches: expect an error of a quarter MiB or so.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from suite import Suite, Workload, load_suite, make_step

CALLS = 3
REGION_BYTES = 1 << 28
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",  # Freed memory goes back to the system at once.
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def allocator_peak(call: Callable[[], object]) -> int | None:
    """Peak bytes in TensorFlow's allocator during a call; None if it keeps no statistics."""
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    try:
        tf.config.experimental.reset_memory_stats(device)
        before = tf.config.experimental.get_memory_info(device)["current"]
        call()
        return tf.config.experimental.get_memory_info(device)["peak"] - before
    except ValueError:
        return None


def backend_peak(suite: Suite, workload: Workload, backend: str) -> int | None:
    """Peak bytes of one of fastneg's backends; None where the system cannot tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    paths = os.pathsep.join(filter(None, sys.path))
    process = subprocess.run(
        [sys.executable, __file__, suite.stem, workload.name, backend],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(process.stdout)


def _measure(stem: str, workload_name: str, backend: str) -> int:
    suite = load_suite(stem)
    workload = suite.workload(workload_name)
    step = make_step(suite.fastneg_loss(backend), suite.num_differentiated)
    tensors, few = (suite.make_tensors(w, suite.make_inputs(w)) for w in (workload, workload.small))
    traced = step.get_concrete_function(*map(_spec_of_both, tensors, few))
    traced(*few)
    # TensorFlow's allocator keeps books on the regions that it asks the system for, up to 16 MiB of
    # them: it gets one beforehand that is large enough, and that nobody touches.
    tf.raw_ops.Empty(shape=[REGION_BYTES], dtype=tf.uint8)

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    resident = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM to VmRSS.

    for _ in range(CALLS):
        traced(*tensors)
    return _status_bytes("VmHWM") - resident


def _spec_of_both(one: tf.Tensor, other: tf.Tensor) -> tf.TensorSpec:
    sizes = zip(one.shape, other.shape, strict=True)
    return tf.TensorSpec([a if a == b else None for a, b in sizes], one.dtype)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status must have {field}.")


if __name__ == "__main__":
    print(_measure(*sys.argv[1:]))
