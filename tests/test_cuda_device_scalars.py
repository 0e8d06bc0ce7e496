"""Scalars that only the device knows: read by the kernels, and by nobody else."""

from typing import Any

import cuda_on_host
import numpy as np
import oracle
import problems
import pytest
from processes import run_python
from row_options import ROW_OPTIONS
from test_cuda_gathered import _as_results, _check, _check_rolled
from test_cuda_sv_softmax import _case
from test_cuda_sv_softmax import _check as _check_sv

# Exact in every type, so that it makes no difference who rounds them.
SCALARS = {"gamma": 12.5, "margin": 0.125, "t": 1.25}


def _assert_same(results: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(results[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(37, 9, 64), (40, 13, 31), (18, 5, 300), (70, 9, 128)], ids=str)
@pytest.mark.parametrize("grads", [True, False])
def test_rolled(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int, int], dtype: str, grads: bool
) -> None:
    problem = problems.with_everything(problems.make(*shape, dtype, **SCALARS))
    results = kernels.rolled(problem, grads=grads, scalars_on_device=True)
    _check_rolled(dict(results), problem)
    _assert_same(results, kernels.rolled(problem, grads=grads))


@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_row_options(kernels: cuda_on_host.Kernels, options: str) -> None:
    problem = problems.with_everything(problems.make(40, 13, 31, "float64", **SCALARS))
    problem = problem.with_options(**ROW_OPTIONS[options])
    results = kernels.rolled(problem, scalars_on_device=True)
    _check_rolled(dict(results), problem)
    _assert_same(results, kernels.rolled(problem))


def test_shuffled(kernels: cuda_on_host.Kernels) -> None:
    rng = np.random.default_rng(0)
    query, doc = rng.normal(size=(2, 33, 24)).astype(np.float32)
    permutations = np.stack([rng.permutation(33) for _ in range(7)])
    results = kernels.shuffled(query, doc, permutations, gamma=15.0, scalars_on_device=True)
    _assert_same(results, kernels.shuffled(query, doc, permutations, gamma=15.0))
    truth = _as_results(oracle.shuffled_cosine(query, doc, permutations, scale=15.0))
    results["grad_scalars"] = results["grad_scalars"][:1]
    truth["grad_scalars"] = truth["grad_scalars"][:1]
    _check(results, truth, 15.0, query, 33)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(70, 5), (24, 256), (5, 1003)])
def test_sv_softmax(kernels: cuda_on_host.Kernels, shape: tuple[int, int], dtype: str) -> None:
    pos, neg = _case(shape, dtype)
    options = {"margin": 0.125, "t": 1.25, "smooth": 3.0, "threshold": 0.0625}
    results = kernels.sv_softmax(pos, neg, scalars_on_device=True, **options)
    _check_sv(results, pos, neg, **options)
    _assert_same(results, kernels.sv_softmax(pos, neg, **options))


@pytest.mark.parametrize("weight", [1.3, 0.0, np.nan])
def test_a_weight_of_negatives_that_does_not_go_with_the_positive(
    kernels: cuda_on_host.Kernels, weight: float
) -> None:
    """The host refuses it by name if it knows; else results are NaN, as for bad shifts."""
    problem = problems.with_everything(problems.make(70, 9, 64))
    problem = problem.with_options(negative_weight=weight)
    for order in (0, 1):
        kernels.set_order(order)
        results = kernels.rolled(problem, scalars_on_device=True)
        assert results.pop("error_index") == -2
        for name, value in results.items():
            assert np.all(np.isnan(value)), name
    problem.shifts[4] = 0
    assert kernels.rolled(problem, scalars_on_device=True)["error_index"] == 4


@pytest.mark.parametrize("bad", ["gamma", "margin", "t"])
def test_bad_numbers_show(kernels: cuda_on_host.Kernels, bad: str) -> None:
    problem = problems.make(40, 13, 31).with_options(**{bad: np.nan})
    assert np.isnan(kernels.rolled(problem, scalars_on_device=True)["loss"])


@pytest.mark.parametrize("loss", ["rolled", "shuffled", "sv_softmax"])
def test_the_host_touches_no_memory_of_the_device(
    native: str, kernels_of_session: cuda_on_host.Kernels, loss: str
) -> None:
    """Neither XLA's handler nor the operations; nor do they wait for the device."""
    from fastneg.backends.native.symbols import PATH

    run_python(
        f"""
        import hidden_memory
        memory = hidden_memory.HiddenMemory({str(kernels_of_session.path)!r}, {str(PATH)!r})
        memory.check_that_it_hides()
        hidden_memory.check_{loss}(memory)
        """
    )
