"""Custom calls on memory that the host must not touch, as a GPU's: whoever does dies.

What `test_cuda_device_scalars.py` runs in a process of its own.
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ffi_frames
import numpy as np

_BYTES = 1 << 20


class HiddenMemory:
    """Arrays in pages that nobody but the kernels may touch while `run` is at work."""

    def __init__(self, kernels: Path, library: Path) -> None:
        self._kernels = ctypes.CDLL(str(kernels))
        self._library = ctypes.CDLL(str(library))
        assert self._library.FastnegLoadCuda(str(kernels).encode()) == 0
        self._pages = mmap.mmap(-1, _BYTES)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self._used = 0

    def place(self, values: Any) -> np.ndarray:
        """A copy of an array there."""
        values = np.asarray(values)
        begin = self._used
        self._used += -(-values.nbytes // 64) * 64 + 64
        copy = np.frombuffer(self._pages, values.dtype, values.size, begin).reshape(values.shape)
        copy[...] = values
        return copy

    def hide(self, hidden: bool) -> None:
        """Hides the pages, or shows them again."""
        pages = (self._address, _BYTES) if hidden else (None, 0)
        self._kernels.FastnegCudaOnHostSetHidden(ctypes.c_void_p(pages[0]), pages[1])

    def run(
        self,
        op: str,
        inputs: list[Any],
        shapes: list[tuple[int, ...]],
        attributes: Mapping[str, Any],
        dtype: Any,
    ) -> list[np.ndarray]:
        """The results of an operation on arrays that are placed here."""
        placed = [self.place(value) for value in inputs]
        results = [self.place(np.full(shape, np.nan, dtype)) for shape in shapes]
        handler = self._library.FastnegXlaCudaOnHostHandler
        self.hide(True)
        ffi_frames.call(handler, f"Fastneg>{op}", placed, results, attributes)
        self.hide(False)
        assert self._kernels.FastnegCudaOnHostNumWaits() == 0
        return [result.copy() for result in results]

    def check_that_it_hides(self) -> None:
        """A child that reads dies."""
        array = self.place(np.ones(4))
        self.hide(True)
        child = os.fork()
        if child == 0:
            os._exit(int(array[0]))
        status = os.waitpid(child, 0)[1]
        self.hide(False)
        assert os.WTERMSIG(status) == signal.SIGSEGV


def check_rolled(memory: HiddenMemory) -> None:
    """Every scalar is on the device; results are the truth's."""
    import oracle
    import problems

    problem = problems.with_everything(problems.make(40, 9, 32, "float64"))
    scalars = {name: problem.options[name] for name in ("gamma", "margin", "t")}
    weights, probability, ids = (
        problem.options[name]
        for name in ("weights", "candidate_sampling_probability", "candidate_ids")
    )
    for options in ({}, {"positive_in_softmax": False, "negative_weight": 1.3}):
        attributes = {
            "with_grad": True,
            "with_scalar_grad": True,
            "positive_in_softmax": options.get("positive_in_softmax", True),
            **dict.fromkeys(("num_weights", "num_sampling_probabilities", "num_candidate_ids"), 1),
        }
        inputs = [problem.user_emb, problem.item_emb, problem.labels, problem.shifts]
        inputs += [np.float64(value) for value in scalars.values()]
        inputs += [np.float64(options.get("negative_weight", 1)), weights, probability, ids]
        shapes = [(), (40, 32), (40, 32), (40,), (3,)]
        results = memory.run("RolledSoftmax", inputs, shapes, attributes, np.float64)
        truth = oracle.rolled_softmax(
            problem.user_emb,
            problem.item_emb,
            problem.labels,
            problem.shifts,
            **{**problem.options, **options},
        )
        scalar_grads = np.array([truth.grad_gamma, truth.grad_margin, truth.grad_t])
        expected = [truth.loss, truth.grad_user, truth.grad_item, truth.grad_weights, scalar_grads]
        _assert_near(results, expected)
    inputs[7] = np.float64(1.3)
    results = memory.run(
        "RolledSoftmax", inputs, shapes, {**attributes, "positive_in_softmax": True}, np.float64
    )
    assert all(np.all(np.isnan(result)) for result in results)
    empty = [np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)]
    flags = {"with_grad": True, "with_scalar_grad": True}
    results = memory.run(
        "RolledSoftmax",
        [*empty, *[np.float64(1)] * 4],
        [(), (0, 4), (0, 4), (0,), (3,)],
        flags,
        np.float64,
    )
    assert results[0] == 0
    assert not np.any(results[4])


def check_shuffled(memory: HiddenMemory) -> None:
    """Likewise."""
    import oracle

    rng = np.random.default_rng(0)
    query, doc = rng.normal(size=(2, 33, 24))
    permutations = np.stack([rng.permutation(33) for _ in range(7)])
    inputs = [query, doc, permutations, np.float64(15), np.float64(1)]
    flags = {"with_grad": True, "with_scalar_grad": True}
    shapes = [(), (33, 24), (33, 24), (3,)]
    results = memory.run("ShuffledCosine", inputs, shapes, flags, np.float64)
    truth = oracle.shuffled_cosine(query, doc, permutations, scale=15.0)
    results[3] = results[3][:1]
    _assert_near(results, [truth.loss, truth.grad_user, truth.grad_item, [truth.grad_gamma]])


def check_sv_softmax(memory: HiddenMemory) -> None:
    """Likewise."""
    import oracle_sv_softmax

    rng = np.random.default_rng(0)
    pos, neg, weights = rng.normal(size=30) + 1, rng.normal(size=(30, 9)), rng.random(30)
    scalars = {"smooth": 3.0, "margin": 0.1, "t": 1.2, "threshold": 0.05}
    inputs = [pos, neg, *map(np.float64, scalars.values()), weights]
    flags = {"with_grad": True, "with_scalar_grad": True, "num_weights": 1}
    shapes = [(), (30,), (30, 9), (30,), (3,), (0,), (0,)]
    results = memory.run("SvSoftmax", inputs, shapes, flags, np.float64)[:5]
    truth = oracle_sv_softmax.sv_softmax(pos, neg, weights=weights, **scalars)
    scalar_grads = [truth.grad_smooth, truth.grad_margin, truth.grad_t]
    expected = [truth.loss, truth.grad_pos, truth.grad_neg, truth.grad_weights, scalar_grads]
    _assert_near(results, expected)


def _assert_near(results: list[np.ndarray], expected: list[Any]) -> None:
    for result, exact in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-11, atol=1e-13 * np.max(np.abs(exact)))
