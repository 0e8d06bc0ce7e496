"""The core of sampled_softmax_loss on arrays: instruction sets, numbers of threads, bad arrays."""

from typing import Any

import numpy as np
import oracle_sampled_softmax as oracle
import problems
import pytest
import sampled_problems

_core = pytest.importorskip("fastneg._core", exc_type=ImportError)

# Tails of rows, candidates and dimensions, several blocks of rows, and several rounds of blocks.
SHAPES = (
    (7, 3, 17, 20, 2),
    (130, 117, 33, 400, 1),
    (520, 300, 64, 2000, 1),
    (1030, 65, 150, 500, 3),
    (1100, 4500, 8, 9000, 1),
)


def _run(problem: sampled_problems.Problem, **arguments: Any) -> dict[str, np.ndarray]:
    return _core.sampled_softmax(
        problem.weights,
        problem.biases,
        problem.labels,
        problem.inputs,
        problem.sampled,
        problem.true_expected_count,
        problem.sampled_expected_count,
        remove_accidental_hits=problem.remove_accidental_hits,
        row_weights=problem.upstream,
        **arguments,
    )


def _assert_close(result: dict[str, np.ndarray], truth: oracle.Truth, tolerance: float) -> None:
    ids = result["ids"]
    assert len(set(ids.tolist())) == len(ids)
    for name, exact in (
        ("loss", truth.loss),
        ("grad_inputs", truth.grad_inputs),
        ("grad_rows", truth.grad_weights[ids]),
        ("grad_biases", truth.grad_biases[ids]),
    ):
        error = np.max(np.abs(result[name] - exact))
        assert error <= tolerance * np.max(np.abs(exact)), (name, error)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_instruction_sets(isa: str, shape: tuple[int, ...], dtype: str) -> None:
    problem = sampled_problems.make(*shape, dtype=dtype, upstream=True, scale=0.3)
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    _assert_close(_run(problem), sampled_problems.truth(problem), tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1030, 65, 150, 500, 3), (1100, 4500, 8, 9000, 1)], ids=str)
def test_number_of_threads(isa: str, shape: tuple[int, ...], dtype: str) -> None:
    problem = sampled_problems.make(*shape, dtype=dtype)
    one = _run(problem, num_threads=1)
    for num_threads in (1, 2, 8, 64):
        several = _run(problem, num_threads=num_threads)
        for name, value in one.items():
            np.testing.assert_array_equal(several[name], value, err_msg=f"{name} {num_threads}")


def test_without_gradients() -> None:
    problem = sampled_problems.make(130, 117, 33, 400)
    result = _run(problem, gradients=False)
    assert set(result) == {"loss", "ids"}
    np.testing.assert_array_equal(result["loss"], _run(problem)["loss"])


def test_rows_may_lie_apart() -> None:
    problem = sampled_problems.make(40, 20, 10, 90)
    wide = np.full((40, 25), np.nan, np.float32)
    wide[:, 3:13] = problem.inputs
    expected = _run(problem)
    result = _core.sampled_softmax(
        problem.weights,
        problem.biases,
        problem.labels,
        wide[:, 3:13],
        problem.sampled,
        problem.true_expected_count,
        problem.sampled_expected_count,
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value, err_msg=name)


def test_bad_arrays() -> None:
    good = sampled_problems.make(6, 3, 4, 9)
    arguments = {
        "weights": good.weights,
        "biases": good.biases,
        "labels": good.labels,
        "inputs": good.inputs,
        "sampled": good.sampled,
        "true_expected_count": good.true_expected_count,
        "sampled_expected_count": good.sampled_expected_count,
    }
    cases = {
        "weights": [good.weights[:, :3], good.weights[0]],
        "biases": [good.biases[:4]],
        "labels": [good.labels[:4], good.labels[:, 0], np.full((6, 1), 9), np.full((6, 1), -1)],
        "inputs": [good.inputs[0], good.inputs[:, :2]],
        "sampled": [np.array([0, 1, 9]), np.array([-1, 0, 1]), np.zeros((3, 1)), np.arange(0)],
        "true_expected_count": [np.ones(6), np.ones((6, 2))],
        "sampled_expected_count": [np.ones(2)],
    }
    _core.sampled_softmax(**arguments)
    for name, values in cases.items():
        for value in values:
            with pytest.raises(ValueError, match="must"):
                _core.sampled_softmax(**{**arguments, name: value})
    with pytest.raises(TypeError, match="`weights` must have the dtype of `inputs`"):
        _core.sampled_softmax(**{**arguments, "weights": good.weights.astype(np.float64)})
