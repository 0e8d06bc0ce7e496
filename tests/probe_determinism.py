"""Computes some problems on one backend and writes the results to a file.

Run by test_rolled_softmax_determinism.py in processes of their own, as the number of threads and
the instruction set are read once per process.
"""

import sys

import evaluation
import numpy as np
import problems

import fastneg

# Sizes that take several tasks and are worth several threads, with tails.
PROBLEMS = (
    problems.with_everything(problems.make(3030, 5, 70)),
    problems.with_everything(problems.make(515, 130, 24)),
    problems.make(260, 259, 70, "bfloat16"),
    problems.with_everything(problems.make(1100, 20, 25, "float64")),
)


def compute() -> dict[str, np.ndarray]:
    """All results, by problem and field; half types widened, which NumPy's files do not know."""
    arrays = {}
    for index, problem in enumerate(PROBLEMS):
        result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem)
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
