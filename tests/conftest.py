"""Fixtures for all tests. TensorFlow is imported late: the core's tests run without it."""

import os
from collections.abc import Iterator

import pytest
from cuda_fixtures import kernels, kernels_of_session  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BACKENDS = ("native", "numba", "reference")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, chosen for the duration of the test; skipped where it does not load."""
    import fastneg

    try:
        choice = fastneg.use_backend(request.param)
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice:
        yield request.param


@pytest.fixture(params=[name for name in BACKENDS if name != "reference"])
def fused_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that computes value and gradients in one go."""
    import fastneg

    try:
        choice = fastneg.use_backend(request.param)
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice:
        yield request.param
