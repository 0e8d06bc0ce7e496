"""The row options in the CUDA kernels of the gathered losses, run on the host."""

from typing import Any

import cuda_on_host
import numpy as np
import oracle
import problems
import pytest
from row_options import OUT, ROW_OPTIONS
from test_cuda_gathered import _as_results, _check, _check_rolled

# Rows of one lane's elements, of several, of odd length and in memory; in sets and not.
SHAPES = ((2, 1, 2), (37, 9, 64), (40, 13, 31), (18, 5, 300), (70, 69, 8))


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_rolled(
    kernels: cuda_on_host.Kernels, options: str, shape: tuple[int, int, int], dtype: str
) -> None:
    problem = problems.with_everything(problems.make(*shape, dtype))
    problem = problem.with_options(**ROW_OPTIONS[options])
    _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_shuffled(kernels: cuda_on_host.Kernels, options: str) -> None:
    rng = np.random.default_rng(0)
    query, doc = rng.normal(size=(2, 33, 24)).astype(np.float32)
    permutations = np.stack([rng.permutation(33) for _ in range(7)])
    facts: dict[str, Any] = {
        "candidate_sampling_probability": (rng.random(33) ** 4).astype(np.float32),
        "candidate_ids": rng.integers(0, 11, 33),
        **ROW_OPTIONS[options],
    }
    results = kernels.shuffled(query, doc, permutations, gamma=15.0, **facts)
    truth = _as_results(oracle.shuffled_cosine(query, doc, permutations, scale=15.0, **facts))
    results["grad_scalars"] = results["grad_scalars"][:1]
    truth["grad_scalars"] = truth["grad_scalars"][:1]
    _check(results, truth, 15.0, query, 33)


@pytest.mark.parametrize("gamma", [1e4, -1e4, 300.0, 0.0])
def test_references_that_move(kernels: cuda_on_host.Kernels, gamma: float) -> None:
    """There is no positive to start from."""
    for dim in (64, 31, 300):
        problem = problems.make(40, 20, dim, "float64", gamma=gamma).with_options(**OUT)
        _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_rows_without_a_negative(kernels: cuda_on_host.Kernels, options: str) -> None:
    problem = problems.with_everything(problems.make(33, 8, 64))
    results = kernels.rolled(
        problem.with_options(candidate_ids=np.full(33, 3), **ROW_OPTIONS[options])
    )
    assert results.pop("error_index") == -1
    for name, value in results.items():
        assert not np.any(value), name


@pytest.mark.parametrize("num_negatives", [9, 40])
def test_scores_of_minus_infinity_are_none(
    kernels: cuda_on_host.Kernels, num_negatives: int
) -> None:
    problem = problems.overflowing(num_negatives, "float32", -1.0).with_options(**OUT)
    results = kernels.rolled(problem)
    truth = oracle.rolled_softmax(
        problem.user_emb, problem.item_emb, problem.labels, problem.shifts, **problem.options
    )
    np.testing.assert_allclose(results["loss"], truth.loss, rtol=1e-5)
    grad_item = results["grad_item"][:, 1:]
    np.testing.assert_allclose(grad_item, truth.grad_item[:, 1:], rtol=0, atol=1e-5)


def test_order_and_gradients_do_not_matter(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.with_everything(problems.make(70, 20, 64))
    problem = problem.with_options(correction="refined", negative_weight=1.3)
    expected = kernels.rolled(problem)
    assert kernels.rolled(problem, grads=False)["loss"] == expected["loss"]
    for order in (1, 2):
        kernels.set_order(order)
        for name, value in kernels.rolled(problem).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_options_that_exclude_each_other(kernels: cuda_on_host.Kernels) -> None:
    from gpu import library

    problem = problems.make(10, 3, 4)
    for options in ({"negative_weight": 2.0}, {"correction": "refined"}):
        with pytest.raises(library.CallError, match="INVALID_OPTION"):
            kernels.rolled(problem.with_options(**options))
