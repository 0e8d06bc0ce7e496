"""The matrix registers (AMX) that multiply bfloat16, which a process has to ask for."""

import in_batch_problems
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
from processes import assert_survives_fork, run_python

_core = pytest.importorskip("fastneg._core", exc_type=ImportError)

pytestmark = pytest.mark.skipif(
    "x86-64-v4-amx" not in _core.available_isas(), reason="This machine has no matrix registers."
)

_LOSS = """
import hashlib
import in_batch_problems
from fastneg import _core
problem = in_batch_problems.make(200, 300, 40, "bfloat16")
def loss(isa="x86-64-v4-amx"):
    _core.set_isa(isa)
    result = _core.in_batch_softmax(problem.query, problem.candidate, num_threads=2)
    return hashlib.sha256(result["grad_candidate"].tobytes()).hexdigest()
"""

# A stack for signals that is too small for the registers: the system then refuses them.
_SMALL_STACK = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(6000)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
"""


def test_without_permission() -> None:
    """Float's products serve where the system refuses."""
    run_python(_LOSS + _SMALL_STACK + "assert loss() == loss('x86-64-v4')")
    run_python(_LOSS + "assert loss() != loss('x86-64-v4')")


def test_fork_after_use() -> None:
    assert_survives_fork(_LOSS)


@pytest.mark.parametrize("embedding_dim", [1, 15, 16, 31, 32, 33, 64, 100, 300])
@pytest.mark.parametrize(("batch_size", "num_candidates"), [(128, 256), (145, 273), (270, 320)])
def test_tails_of_tiles(batch_size: int, num_candidates: int, embedding_dim: int) -> None:
    """Rows, candidates and dimensions that do not fill the last registers."""
    problem = in_batch_problems.make(batch_size, num_candidates, embedding_dim, "bfloat16")
    exact = oracle.in_batch_softmax(problem.query, problem.candidate)
    before = _core.active_isa()
    _core.set_isa("x86-64-v4-amx")
    try:
        result = _core.in_batch_softmax(problem.query, problem.candidate)
    finally:
        _core.set_isa(before)
    np.testing.assert_allclose(result["loss"], exact.loss, rtol=1e-5)
    for name in ("grad_query", "grad_candidate"):
        expected = getattr(exact, name)
        error = np.max(np.abs(result[name] - expected))
        assert error <= 1e-2 * np.max(np.abs(expected)), name
