"""Fixtures of the CUDA kernels' tests."""

from collections.abc import Iterator

import cuda_on_host
import pytest
from shared_folders import filled_once


@pytest.fixture(scope="session")
def kernels_of_session(tmp_path_factory: pytest.TempPathFactory) -> cuda_on_host.Kernels:
    """The kernels, built once for all processes."""
    if (reason := cuda_on_host.why_not()) is not None:
        pytest.skip(reason)
    folder = filled_once(tmp_path_factory, "cuda_on_host", cuda_on_host.build)
    return cuda_on_host.Kernels(folder / cuda_on_host.LIBRARY)


@pytest.fixture
def kernels(kernels_of_session: cuda_on_host.Kernels) -> Iterator[cuda_on_host.Kernels]:
    """The kernels on the host, blocks and threads in the order of their numbers."""
    yield kernels_of_session
    kernels_of_session.set_order(0)
