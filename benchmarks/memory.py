"""Peak memory of one call beyond its inputs, measured in a process of its own.

`python memory.py B,K,D[,dtype] CONTENDER` prints the peak in bytes. It is the high-water mark of
the resident set during three calls, less the resident set before them. Every allocation of 64 KiB
or more is made to return to the system when freed, so that nothing hides in memory kept from
earlier calls. The kernel counts resident pages in batches: expect an error of a quarter MiB.

fastneg is measured against the resident set from before the first call of this size (the step is
traced with an unknown batch size and tried on a small batch), so that anything a backend keeps
between calls counts. A baseline is measured after it has been compiled and run once at its size:
what compilation leaves behind is not held against it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def peak_extra_bytes(workload_name: str, contender_name: str) -> int | None:
    """Runs this file on one workload and one contender; None where the system cannot tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    process = subprocess.run(
        [sys.executable, __file__, workload_name, contender_name],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(process.stdout)


def _measure(workload_name: str, contender_name: str) -> int:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)

    from contenders import all_contenders, as_tensors, fastneg_loss, make_step
    from workloads import make_inputs, select

    (workload,) = select(workload_name, quick=False)
    inputs = make_inputs(workload)
    (contender,) = [c for c in all_contenders() if c.name == contender_name]
    if contender.kind == "fastneg":
        step = make_step(fastneg_loss(contender.name.removeprefix("fastneg ")))
        arguments = as_tensors(workload, inputs)
        traced = step.get_concrete_function(
            *(tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in arguments[:3]),
            tf.TensorSpec(arguments[3].shape, arguments[3].dtype),
        )
        rows = min(2 * workload.num_negatives + 2, workload.batch_size)
        small = (*(x[:rows] for x in arguments[:3]), arguments[3] % (rows - 1) + 1)
        traced(*small)

        def run(calls: int):
            for _ in range(calls):
                result = traced(*arguments)
            return result
    else:
        run = contender.build(workload, inputs)
        run(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM to VmRSS.
    for _ in range(3):
        run(1)
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status must have {field}.")


if __name__ == "__main__":
    print(_measure(*sys.argv[1:]))
