"""Times loss and gradients of every contender at every workload; run by `pytest benchmarks`.

Each contender's result is checked against float64 before its first timing; one that is wrong fails
here and gets no time in the table.
"""

from __future__ import annotations

import pytest
from board import Board
from memory import backend_peak
from scaling import thread_speedup
from suite import Suite, Workload
from timing import Timing


def test_loss_and_gradients(
    benchmark,
    board: Board,
    timing: Timing,
    workload: Workload,
    round_index: int,
    contender: str,
) -> None:
    """One round of one contender."""
    prepared = timing.prepare(workload, contender)
    cell = board.cell(workload, contender)
    if isinstance(prepared, str):
        cell.problem, cell.refused = prepared, True
        pytest.fail(prepared)
    cell.peak_extra_bytes = prepared.peak_extra_bytes
    if round_index >= prepared.rounds:
        pytest.skip("so slow that fewer rounds are enough")
    benchmark.group = f"{workload.name}, round {round_index}"
    benchmark.extra_info["calls_per_round"] = prepared.calls
    if prepared.warmup_calls:
        prepared.run(prepared.warmup_calls)
    benchmark.pedantic(prepared.run, args=(prepared.calls,), rounds=prepared.samples)
    cell.times_ms += [1e3 * seconds / prepared.calls for seconds in benchmark.stats.stats.data]


@pytest.mark.parametrize("backend", ["native", "numba"])
def test_peak_memory(
    board: Board, suite: Suite, workload: Workload, backend: str, pytestconfig: pytest.Config
) -> None:
    """Peak memory of fastneg; that of the TensorFlow forms is read when they are checked."""
    name = f"fastneg {backend}"
    if not workload.compares_all or board.time_ms(workload, name) is None:
        pytest.skip("only where all baselines ran")
    if backend != "native" and pytestconfig.getoption("--quick"):
        pytest.skip("not with --quick")
    board.cell(workload, name).peak_extra_bytes = backend_peak(suite, workload, backend)


def test_thread_scaling(board: Board, suite: Suite, workload: Workload) -> None:
    """Time on one thread against time on two, at the large sizes."""
    if not workload.is_large or not workload.compares_all:
        pytest.skip("only at the large sizes")
    if board.time_ms(workload, "fastneg native") is not None:
        cell = board.cell(workload, "fastneg native")
        cell.thread_speedup = thread_speedup(suite.stem, workload.name, "fastneg native")


def test_cost_is_linear(suite: Suite, pytestconfig: pytest.Config) -> None:
    """Draws time over the sizes; only with --save-results."""
    name = pytestconfig.getoption("--save-results")
    if not name or suite.draw is None:
        pytest.skip("only with --save-results, and for losses with a picture")
    pytest.importorskip("matplotlib")
    suite.draw(f"{suite.stem}-{name}.png")
