"""Options of the benchmarks, the order in which they run, and the table at the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import pytest
import tensorflow as tf
from board import Board, save_results
from measure import measure_limits
from suite import NUM_THREADS, SUITES, Suite, Workload, load_suite
from timing import ROUNDS, Timing

QUICK_ROUNDS = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of this folder."""
    group = parser.getgroup("fastneg benchmarks")
    group.addoption("--losses", help="which losses, by their stems (;); all without it")
    group.addoption("--quick", action="store_true", help="small sizes, two minutes")
    group.addoption("--workloads", help='sizes to run, as in the table, separated by ";"')
    group.addoption("--contenders", help="run only those whose name contains one of these (;)")
    group.addoption("--save-results", help="write results/LOSS-NAME.json and .md")


def pytest_configure(config: pytest.Config) -> None:
    """Builds the board, and leaves the printing of results to it."""
    if hasattr(os, "sched_setaffinity"):  # JAX and OpenMP take as many threads as processors.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_THREADS])
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    config.option.benchmark_quiet = True
    wanted = (config.getoption("--contenders") or "").split(";")
    config.boards, config.timings = {}, {}
    for stem in (config.getoption("--losses") or ";".join(SUITES)).split(";"):
        if stem.strip() not in SUITES:
            known = ", ".join(SUITES)
            raise pytest.UsageError(f"--losses must be among {known}. Received: {stem!r}.")
        suite = load_suite(stem.strip())
        try:
            workloads = suite.select(config.getoption("--workloads"), config.getoption("--quick"))
        except ValueError as error:
            raise pytest.UsageError(f"--workloads for {suite.stem}: {error}") from error
        contenders = {
            c.name: c for c in suite.contenders if any(part.strip() in c.name for part in wanted)
        }
        kinds = {name: c.kind for name, c in contenders.items()}
        config.boards[suite.stem] = Board(suite, workloads, kinds)
        config.timings[suite.stem] = Timing(suite, contenders)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Rounds of all contenders, A B C A B C, so that drift of the machine hits all alike."""
    boards = metafunc.config.boards
    if "contender" in metafunc.fixturenames:
        cases = [case for stem in boards for case in _rounds(metafunc.config, stem)]
        ids = [f"{s}-{w.name}-round{r}-{name}".replace(" ", "_") for s, w, r, name in cases]
        metafunc.parametrize(("stem", "workload", "round_index", "contender"), cases, ids=ids)
    elif "workload" in metafunc.fixturenames:
        cases = [(stem, workload) for stem, board in boards.items() for workload in board.workloads]
        ids = [f"{stem}-{workload.name}" for stem, workload in cases]
        metafunc.parametrize(("stem", "workload"), cases, ids=ids)
    elif "suite" in metafunc.fixturenames:
        metafunc.parametrize("stem", list(boards))


def _rounds(config: pytest.Config, stem: str) -> Iterator[tuple[str, Workload, int, str]]:
    """Who runs when: sizes one after the other, dtypes and contenders in turns."""
    board, timing = config.boards[stem], config.timings[stem]
    rounds = QUICK_ROUNDS if config.getoption("--quick") else ROUNDS
    sizes: dict[Workload, list[Workload]] = {}
    for workload in board.workloads:
        size = dataclasses.replace(workload.in_float32, compares_all=False)
        sizes.setdefault(size, []).append(workload)
    for workloads in sizes.values():
        runnable = []
        for workload in workloads:
            for name, contender in timing.contenders.items():
                if not contender.is_meant_for(workload):
                    continue
                board.cell(workload, name).problem = contender.why_skipped(workload)
                if board.cell(workload, name).problem is None:
                    runnable.append((workload, name))
        for round_index in range(rounds):
            yield from ((stem, workload, round_index, name) for workload, name in runnable)


@pytest.fixture
def suite(stem: str) -> Suite:
    """The loss."""
    return load_suite(stem)


@pytest.fixture
def board(stem: str, pytestconfig: pytest.Config) -> Board:
    """The table in the making."""
    return pytestconfig.boards[stem]


@pytest.fixture
def timing(stem: str, pytestconfig: pytest.Config) -> Timing:
    """Contenders of the workload at hand, built and checked."""
    return pytestconfig.timings[stem]


@pytest.fixture(scope="session", autouse=True)
def machine_limits(pytestconfig: pytest.Config) -> None:
    """Measures the machine before anything else runs."""
    limits = measure_limits(NUM_THREADS)
    for board in pytestconfig.boards.values():
        board.limits = limits


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the tables."""
    name = config.getoption("--save-results")
    for stem, board in config.boards.items():
        text = board.markdown()
        terminalreporter.section(board.suite.title)
        terminalreporter.write_line(text)
        if name:
            save_results(stem, name, text, board.as_json())
