"""Proves the operations on a GPU with TensorFlow, in one command, and times them.

    python benchmarks/gpu_tensorflow.py

Needs a TensorFlow that sees a GPU, and fastneg with its operations on GPUs
(`CMAKE_ARGS=-DFASTNEG_CUDA=ON pip install -e '.[test,benchmark]'`). Runs `tests/test_gpu.py`; times
each loss with its gradients on the GPU beside plain TensorFlow, as a graph and through XLA, every
result compared with float64 first; and trains the two-tower example. `gpu_proof.py` proves the
kernels by themselves, and needs no TensorFlow. Writes a log, tables and all samples to
`benchmarks/results/`. After `--seconds` nothing more is timed or trained. Exit status: 0 if all
holds, 1 if something does not, 2 if the machine lacks something.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import suite
import tensorflow as tf
from board import Board
from gpu import report
from memory import allocator_peak
from timing import ROUNDS, Prepared, Timing

import fastneg

ROOT = Path(__file__).parents[1]
PHASES = ("tests", "times", "training")
WORKLOADS = {
    "rolled_softmax": "4096,4,64;4096,20,64;4096,64,128;8192,256,64;16384,1024,128",
    "shuffled_cosine": "4096,20,64;4096,64,128;16384,20,64",
    "sv_softmax": "65536,4;8192,256;16384,1024",
}
OURS = ("fastneg native", "fastneg native, XLA")
TRAINING = ("--plain", "graph", "--negatives", "64", "256")
TINY_TRAINING = ("--plain", "graph", "--negatives", "4", "--epochs", "1")


def main() -> int:
    """Runs the phases."""
    options = _options()
    lacks = [] if options.rehearse else _missing()
    if lacks:
        print(f"gpu_tensorflow cannot run here: {'; '.join(lacks)}.", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    deadline = begin + options.seconds
    facts = _describe()
    name = options.name or re.sub(r"\W+", "-", f"{facts['gpu'].lower()} tensorflow").strip("-")
    log = report.Log(options.output / f"{name}.log")
    log.line(", ".join(f"{key} {value}" for key, value in facts.items()))
    sections = [
        f"# The operations on {facts['gpu']}",
        report.table(("", ""), [(key, str(value)) for key, value in facts.items()]),
    ]
    holds = True
    if "tests" in options.only and not options.rehearse:
        command = [sys.executable, "-m", "pytest", "-q", "-rs", *map(str, options.tests)]
        text, passed = _run(command, log)
        sections.append(f"Tests: {text.splitlines()[-1].strip('= ')}")
        log.line(sections[-1])
        holds &= passed
    if "times" in options.only:
        boards = [_times(stem, options.rehearse, deadline, log) for stem in WORKLOADS]
        sections += [f"## {board.suite.title}\n\n{board.markdown()}" for board in boards]
        facts["times"] = [board.as_json() for board in boards]
        holds &= not any(cell.refused for board in boards for cell in board.cells.values())
    if "training" in options.only and time.perf_counter() > deadline:
        log.line("training: not run, there is no time left")
    elif "training" in options.only:
        picture = options.output / f"{name}.png"
        command = [sys.executable, str(ROOT / "examples" / "two_tower.py")]
        command += [*(TINY_TRAINING if options.rehearse else TRAINING), "--output", str(picture)]
        text, passed = _run(command, log)
        sections.append(f"## examples/two_tower.py\n\n```\n{text}\n```")
        holds &= passed
    facts["holds"] = holds
    log.line(f"took {time.perf_counter() - begin:.0f} s")
    report.save(options.output, name, "\n\n".join(sections), facts)
    log.line("\n\n".join(sections[2:]))
    log.line("all holds" if holds else "SOMETHING DOES NOT HOLD: see the log")
    return 0 if holds else 1


def _missing() -> list[str]:
    lacks = []
    if not tf.config.list_physical_devices("GPU"):
        lacks.append("TensorFlow sees no GPU")
    info = fastneg.build_info()
    lacks += [
        f"the library for {name} is not loaded ({info[name]})"
        for name in ("cuda", "xla")
        if info[name] != "loaded"
    ]
    return lacks


def _describe() -> dict[str, Any]:
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    build = tf.sysconfig.get_build_info()
    info = fastneg.build_info()
    return {
        "gpu": details.get("device_name", "no GPU: a rehearsal"),
        "gpus": len(gpus),
        "compute_capability": ".".join(map(str, details.get("compute_capability", ("-",)))),
        "tensorflow": f"{tf.__version__} (CUDA {build.get('cuda_version', '-')})",
        "fastneg": info["version"],
        "cuda": info["cuda"],
        "xla": info["xla"],
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def _run(command: list[str], log: report.Log) -> tuple[str, bool]:
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    log.detail(process.stderr)
    log.detail(process.stdout)
    return process.stdout.strip() or "no output", process.returncode == 0


def _times(stem: str, quick: bool, deadline: float, log: report.Log) -> Board:
    loss = suite.load_suite(stem)
    contenders = {
        contender.name: contender
        for contender in loss.contenders
        if contender.name in OURS
        or contender.name == suite.PUBLISHED
        or (contender.kind == "TensorFlow form" and not quick)
    }
    workloads = loss.select(None if quick else WORKLOADS[stem], quick)
    board = Board(loss, workloads, {name: one.kind for name, one in contenders.items()})
    timing = Timing(loss, contenders)
    for workload in workloads:
        if time.perf_counter() > deadline:
            for name in contenders:
                board.cell(workload, name).problem = "there was no time left"
            log.line(f"{stem} {workload.name}: not run, there is no time left")
            continue
        runs = {}
        for name, contender in contenders.items():
            if not contender.is_meant_for(workload):
                continue
            cell = board.cell(workload, name)
            cell.problem = contender.why_skipped(workload)
            if cell.problem is not None:
                continue
            prepared = timing.prepare(workload, name)
            if isinstance(prepared, str):
                # Others may run out of memory.
                cell.problem = prepared
                cell.refused = name in OURS or "ResourceExhausted" not in prepared
                continue
            cell.peak_extra_bytes = allocator_peak(lambda run=prepared.run: run(1))
            runs[name] = prepared
        _take_turns(board, workload, runs)
        times = {name: board.time_ms(workload, name) for name in runs}
        log.line(f"{stem} {workload.name}, ms: {times}")
    return board


def _take_turns(board: Board, workload: Any, runs: Mapping[str, Prepared]) -> None:
    for round_index in range(ROUNDS):
        for name, prepared in runs.items():
            if round_index >= prepared.rounds:
                continue
            if prepared.warmup_calls:
                prepared.run(prepared.warmup_calls)
            for _ in range(prepared.samples):
                start = time.perf_counter()
                prepared.run(prepared.calls)
                seconds = time.perf_counter() - start
                board.cell(workload, name).times_ms.append(1e3 * seconds / prepared.calls)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help="of the result files; the GPU's name unless given")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument(
        "--tests", type=Path, nargs="+", default=[ROOT / "tests" / "test_gpu.py"], metavar="PATH"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=180,
        help="after which no workload's timing and no training begins (%(default)s)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="times and training on tiny sizes, on the CPU if there is no GPU",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
