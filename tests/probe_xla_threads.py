"""Losses inside XLA of sizes that several threads work on.

What `test_xla_programs.py` runs in processes of their own, with FASTNEG_NUM_THREADS set.
"""

import os
from typing import Any

import numpy as np
import pool
import small_cases
import tensorflow as tf
from case_gradients import DIFFERENTIABLE, arguments_of, with_gradients

import fastneg

# Beyond what is left to one thread, `WorthwhileThreads` of every loss, with two threads already.
_CASES = small_cases.make(2048, 16, 32)


def run(path: str) -> None:
    """Writes all losses to a file, and where there are several threads compares XLA's with them.

    There each loss is computed alone, which has to wake threads, and all of them in one program.
    """
    threads = int(os.environ["FASTNEG_NUM_THREADS"])
    assert fastneg.build_info()["native_threads_from"] == "FASTNEG_NUM_THREADS"
    losses = {name: with_gradients(name, _CASES) for name in DIFFERENTIABLE}
    tensors = {
        name: [tf.constant(value) for value in arguments_of(name, cases=_CASES)] for name in losses
    }
    outside = {name: loss(*tensors[name]) for name, loss in losses.items()}
    np.savez(path, *tf.nest.flatten(outside))
    if threads > 1:
        for name, loss in losses.items():
            before = pool.rests()
            _assert_same(tf.function(loss, jit_compile=True)(*tensors[name]), outside[name])
            pool.wait_for_more_than(before)
        program = tf.function(
            lambda: {name: loss(*tensors[name]) for name, loss in losses.items()}, jit_compile=True
        )
        for _ in range(5):
            _assert_same(program(), outside)
    assert len(pool.rests()) == threads - 1


def _assert_same(actual: Any, expected: Any) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)
