"""Computes some cases on one backend and writes the results to a file.

Run by test_sv_softmax_determinism.py in processes of their own, as the number of threads and the
instruction set are read once per process.
"""

import sys

import numpy as np
import sv_softmax_cases as cases

import fastneg

# Sizes that take several tasks and are worth several threads, with tails.
CASES = (
    cases.with_weights(cases.make(30011, 5)),
    cases.with_weights(cases.make(3030, 70)),
    cases.make(515, 1030, "bfloat16"),
    cases.make(7, 20011),
    cases.with_weights(cases.make(1100, 250, "float64")),
    cases.make(20011, 3, "float64", smooth=90.0),
)


def compute() -> dict[str, np.ndarray]:
    """All results, by case and field; half types widened, which NumPy's files do not know."""
    arrays = {}
    for index, case in enumerate(CASES):
        result = cases.run(fastneg.support_vector_guided_softmax_loss, case)
        for name, value in zip(result._fields, result, strict=True):
            if value is not None:
                wide = value.astype(np.float32) if value.dtype.itemsize == 2 else value
                arrays[f"{index}.{name}"] = wide
    return arrays


def write(backends: list[str], directory: str) -> None:
    """A file for each backend; a second computation has to give the same bits."""
    for backend in backends:
        with fastneg.use_backend(backend):
            first, second = compute(), compute()
        for key, value in first.items():
            if not np.array_equal(value, second[key]):
                sys.exit(f"{backend}: {key} differs from one call to the next.")
        np.savez(f"{directory}/{backend}.npz", **first)
