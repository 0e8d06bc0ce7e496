"""The same bits for every number of threads; the right values for every instruction set; fork."""

import os
import pathlib

import numpy as np
import problems
import pytest
import sv_softmax_cases as cases
from processes import assert_survives_fork, run_python

import fastneg
from fastneg import backends

FUSED = [name for name in ("native", "numba") if backends.why_unavailable(name) is None]
_core = pytest.importorskip("fastneg._core")


def _probe(directory: pathlib.Path, **environment: str) -> dict[str, dict]:
    run_python(
        f"import probe_sv_softmax_determinism as p; p.write({FUSED!r}, {str(directory)!r})",
        **environment,
    )
    return {name: dict(np.load(directory / f"{name}.npz")) for name in FUSED}


@pytest.mark.skipif(not FUSED, reason="No fused backend loads.")
def test_number_of_threads(tmp_path: pathlib.Path) -> None:
    """One process per number; each also compares two runs of its own."""
    one = _probe(tmp_path, FASTNEG_NUM_THREADS="1")
    for num_threads in ("2", "8"):
        several = _probe(tmp_path, FASTNEG_NUM_THREADS=num_threads)
        for name in FUSED:
            for key, value in one[name].items():
                np.testing.assert_array_equal(
                    several[name][key], value, err_msg=f"{name} {key} {num_threads}"
                )


def _on_core(case: cases.Case, **options: object) -> dict[str, np.ndarray]:
    return _core.sv_softmax(
        case.pos_score, case.neg_scores, scalar_gradients=True, **case.options, **options
    )


_EXPECTED: dict[object, tuple[cases.Result, object]] = {}  # For all instruction sets.


def _assert_accurate(key: object, result: dict[str, np.ndarray], case: cases.Case) -> None:
    if key not in _EXPECTED:
        plain = cases.run(fastneg.reference.support_vector_guided_softmax_loss, case)
        _EXPECTED[key] = plain, cases.truth(case)
    plain, truth = _EXPECTED[key]
    values = {**result, "grad_weights": result.get("grad_weights")}
    values |= dict(
        zip(("grad_smooth", "grad_margin", "grad_t"), result["grad_scalars"], strict=True)
    )
    if case.dtype.itemsize == 2:  # The core leaves the last cast to others.
        for name in ("grad_pos", "grad_neg"):
            values[name] = values[name].astype(case.dtype)
    result = cases.Result(**{name: values[name] for name in cases.Result._fields})
    cases.assert_as_accurate(result, plain, truth, case)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES, ids=str)
def test_instruction_sets(isa: str, shape: tuple[int, int], dtype: str) -> None:
    case = cases.with_weights(cases.make(*shape, dtype))
    results = [_on_core(case, num_threads=threads) for threads in (1, 2, 5)]
    _assert_accurate((shape, dtype), results[0], case)
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    without = _core.sv_softmax(case.pos_score, case.neg_scores, gradients=False, **case.options)
    np.testing.assert_array_equal(without["loss"], results[0]["loss"])


@pytest.mark.parametrize("smooth", [1.0, 300.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", cases.SHAPES, ids=str)
def test_in_place(isa: str, shape: tuple[int, int], dtype: str, smooth: float) -> None:
    """Gradients that replace the scores in memory are what they are elsewhere."""
    case = cases.with_weights(cases.make(*shape, dtype, smooth=smooth))
    result, in_place = _on_core(case), _on_core(case, in_place=True)
    for name, value in result.items():
        np.testing.assert_array_equal(in_place[name], value, err_msg=name)


@pytest.mark.parametrize("smooth", [300.0, -300.0])
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 40])
def test_large_exponents(isa: str, width: int, dtype: str, smooth: float) -> None:
    case = cases.make(50, width, dtype, smooth=smooth)
    _assert_accurate((width, dtype, smooth), _on_core(case), case)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_fork_after_use(name: str) -> None:
    assert_survives_fork(
        f"""
        import fastneg
        import sv_softmax_cases as cases
        case = cases.make(3000, 70)
        def loss():
            return fastneg.support_vector_guided_softmax_loss(
                case.pos_score, case.neg_scores
            ).numpy()
        fastneg.use_backend({name!r})
        """
    )
