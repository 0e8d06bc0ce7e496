"""The same bits for every number of threads; the right values for every instruction set; fork."""

import os
import pathlib

import evaluation
import numpy as np
import probe_determinism
import pytest
from processes import assert_survives_fork, run_python

import fastneg
from fastneg import backends

FUSED = [name for name in ("native", "numba") if backends.why_unavailable(name) is None]


def _probe(directory: pathlib.Path, names: list[str], **environment: str) -> dict[str, dict]:
    run_python(
        f"import probe_determinism; probe_determinism.write({names!r}, {str(directory)!r})",
        **environment,
    )
    return {name: dict(np.load(directory / f"{name}.npz")) for name in names}


@pytest.mark.skipif(not FUSED, reason="No fused backend loads.")
def test_number_of_threads(tmp_path: pathlib.Path) -> None:
    """One process per number; each also compares two runs of its own."""
    one = _probe(tmp_path, FUSED, FASTNEG_NUM_THREADS="1")
    for num_threads in ("2", "8"):
        several = _probe(tmp_path, FUSED, FASTNEG_NUM_THREADS=num_threads)
        for name in FUSED:
            for key, value in one[name].items():
                np.testing.assert_array_equal(
                    several[name][key], value, err_msg=f"{name} {key} {num_threads}"
                )


@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3", "x86-64-v4"])
def test_instruction_sets(tmp_path: pathlib.Path, isa: str) -> None:
    info = fastneg.build_info()
    if isa not in info.get("native_available_isas", []):
        pytest.skip(f"The native backend or this machine does not have {isa}.")
    arrays = _probe(tmp_path, ["native"], FASTNEG_ISA=isa)["native"]
    for index, problem in enumerate(probe_determinism.PROBLEMS):
        plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
        result = evaluation.Result(
            *(
                None if value is None else arrays[f"{index}.{name}"].astype(value.dtype)
                for name, value in zip(plain._fields, plain, strict=True)
            )
        )
        evaluation.assert_as_accurate(result, plain, evaluation.truth(problem), problem)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_fork_after_use(name: str) -> None:
    assert_survives_fork(
        f"""
        import fastneg
        import problems
        problem = problems.make(1030, 20, 33)
        def loss():
            return fastneg.softmax_loss_with_negative_mining(
                problem.user_emb, problem.item_emb, problem.labels, shifts=problem.shifts
            ).numpy()
        fastneg.use_backend({name!r})
        """
    )
