"""Times loss and both gradients of every contender at every workload; run by `pytest benchmarks`.

Each contender's result is checked against float64 before its first timing; one that is wrong fails
here and gets no time in the table.
"""

from __future__ import annotations

import pytest
from board import Board
from contenders import PUBLISHED
from memory import peak_extra_bytes
from plots import draw_cost
from scaling import thread_speedup
from timing import Timing
from workloads import Workload


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
    benchmark.group = f"{workload.name}, round {round_index}"
    benchmark.extra_info["calls_per_round"] = prepared.calls
    if prepared.warmup_calls:
        prepared.run(prepared.warmup_calls)
    benchmark.pedantic(prepared.run, args=(prepared.calls,), rounds=prepared.samples)
    cell.times_ms += [1e3 * seconds / prepared.calls for seconds in benchmark.stats.stats.data]


def test_peak_memory(board: Board, workload: Workload, pytestconfig: pytest.Config) -> None:
    """Peak memory of fastneg, of the published form and of the best baseline."""
    if not workload.compares_all:
        pytest.skip("only at the sizes where all baselines run")
    names = ["fastneg native"]
    if not pytestconfig.getoption("--quick"):
        names += ["fastneg numba", PUBLISHED, board.best(workload, "TensorFlow form")]
    for name in dict.fromkeys(names):
        if name in board.contenders and board.time_ms(workload, name) is not None:
            cell = board.cell(workload, name)
            cell.peak_extra_bytes = peak_extra_bytes(workload.name, name)


def test_thread_scaling(board: Board, workload: Workload, pytestconfig: pytest.Config) -> None:
    """Time on one thread against time on two, at the large sizes."""
    if workload.stacked_bytes < 100 << 20 or not workload.compares_all:
        pytest.skip("only at the large sizes")
    for name in ("fastneg native", "fastneg numba"):
        if name in board.contenders and board.time_ms(workload, name) is not None:
            board.cell(workload, name).thread_speedup = thread_speedup(workload.name, name)


def test_cost_is_linear(pytestconfig: pytest.Config) -> None:
    """Draws time over K and over B; only with --save-results."""
    name = pytestconfig.getoption("--save-results")
    if not name:
        pytest.skip("only with --save-results")
    pytest.importorskip("matplotlib")
    draw_cost(f"{name}.png")
