"""Options of the benchmarks, the order in which they run, and the table at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tensorflow as tf
from board import Board
from contenders import NUM_THREADS, all_contenders
from measure import measure_limits
from timing import ROUNDS, Timing
from workloads import select

QUICK_ROUNDS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of this folder."""
    group = parser.getgroup("fastneg benchmarks")
    group.addoption("--quick", action="store_true", help="small sizes, under a minute")
    group.addoption("--workloads", help='sizes to run: "B,K,D[,dtype]", separated by ";"')
    group.addoption("--contenders", help="run only those whose name contains one of these (;)")
    group.addoption("--save-results", help="write results/NAME.json and results/NAME.md")


def pytest_configure(config: pytest.Config) -> None:
    """Builds the board, and leaves the printing of results to it."""
    if hasattr(os, "sched_setaffinity"):  # JAX and OpenMP take as many threads as processors.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_THREADS])
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    config.option.benchmark_quiet = True
    workloads = select(config.getoption("--workloads"), config.getoption("--quick"))
    wanted = (config.getoption("--contenders") or "").split(";")
    contenders = {
        c.name: c for c in all_contenders() if any(part.strip() in c.name for part in wanted)
    }
    config.board = Board(workloads, {name: c.kind for name, c in contenders.items()})
    config.timing = Timing(contenders)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Rounds of all contenders, A B C A B C, so that drift of the machine hits all alike."""
    board, timing = metafunc.config.board, metafunc.config.timing
    if "contender" in metafunc.fixturenames:
        rounds = QUICK_ROUNDS if metafunc.config.getoption("--quick") else ROUNDS
        cases = []
        for workload in board.workloads:
            runnable = []
            for name, contender in timing.contenders.items():
                if not contender.is_meant_for(workload):
                    continue
                board.cell(workload, name).problem = contender.why_skipped(workload)
                if board.cell(workload, name).problem is None:
                    runnable.append(name)
            cases += [(workload, r, name) for r in range(rounds) for name in runnable]
        ids = [f"{w.name}-round{r}-{name}".replace(" ", "_") for w, r, name in cases]
        metafunc.parametrize(("workload", "round_index", "contender"), cases, ids=ids)
    elif "workload" in metafunc.fixturenames:
        ids = [workload.name for workload in board.workloads]
        metafunc.parametrize("workload", board.workloads, ids=ids)


@pytest.fixture(scope="session")
def board(pytestconfig: pytest.Config) -> Board:
    """The table in the making."""
    return pytestconfig.board


@pytest.fixture(scope="session")
def timing(pytestconfig: pytest.Config) -> Timing:
    """Contenders of the workload at hand, built and checked."""
    return pytestconfig.timing


@pytest.fixture(scope="session", autouse=True)
def machine_limits(board: Board) -> None:
    """Measures the machine before anything else runs."""
    board.limits = measure_limits(NUM_THREADS)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the table."""
    text = config.board.markdown()
    terminalreporter.section("softmax_loss_with_negative_mining: loss and both gradients")
    terminalreporter.write_line(text)
    name = config.getoption("--save-results")
    if name:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.md").write_text(text + "\n")
        content = json.dumps(config.board.as_json(), indent=1)
        (folder / f"{name}.json").write_text(content + "\n")
