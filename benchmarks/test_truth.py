"""The benchmarks' float64 truth against the tests' oracle, which is written row by row."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from rolled_softmax.truth import compute_truth
from rolled_softmax.workloads import GAMMA, MARGIN, T, Workload, make_inputs

ORACLE = Path(__file__).parent.parent / "tests" / "oracle.py"


def test_truth_agrees_with_the_oracle() -> None:
    """Loss and both gradients, on a batch that is checked in full."""
    inputs = make_inputs(Workload(100, 13, 9))
    truth = compute_truth(inputs)
    expected = runpy.run_path(str(ORACLE))["rolled_softmax"](
        inputs.user_emb,
        inputs.item_emb,
        inputs.labels,
        inputs.shifts,
        gamma=GAMMA,
        margin=MARGIN,
        t=T,
    )
    np.testing.assert_allclose(truth.loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(truth.grad_user, expected.grad_user, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(truth.grad_item, expected.grad_item, rtol=1e-9, atol=1e-13)
