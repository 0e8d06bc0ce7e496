"""Proves the CUDA kernels on a GPU, in one command, and times them.

    python benchmarks/gpu_proof.py

Needs nvcc, CMake, PyTorch and a GPU; uses JAX and compute-sanitizer where they are; needs no
TensorFlow. Builds the kernels, compares them with the float64 composition in PyTorch (values,
gradients, the same bits again, the same from a CUDA graph) and does the same through XLA's handler
of custom calls, from JAX; runs the C++ test under compute-sanitizer; then times a loss with its
gradients beside PyTorch, torch.compile and JAX. Writes a log, a table and all samples to
`benchmarks/results/`; the tables come last. After `--seconds` nothing new is timed and no tool of
compute-sanitizer goes on. Exit status: 0 if all holds, 1 if something does not, 2 if the machine
lacks something.
"""

import argparse
import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import Any

from gpu import library, machine, report

PHASES = ("correctness", "handler", "sanitizer", "times")

SMALL = {"shapes": [(33, 9, 32), (7, 3, 31)], "scores": [(9, 5)]}
HANDLER_SHAPES = [(37, 9, 32), (150, 33, 128), (130, 17, 31), (1000, 20, 64)]
HANDLER_SCORES = [(70, 5), (100, 256), (9, 5000)]


def main() -> int:
    """Runs the phases."""
    options = _options()
    rehearsal = options.rehearse is not None
    lacks = [] if rehearsal else machine.missing()
    if lacks:
        print(
            "gpu_proof needs nvcc, CMake, PyTorch and a GPU. Missing here: "
            + ", ".join(lacks)
            + ".",
            file=sys.stderr,
        )
        return 2
    import torch

    begin = time.perf_counter()
    deadline = begin + options.seconds
    device = torch.device("cpu" if rehearsal else "cuda")
    facts: dict[str, Any] = {"gpu": "none: a rehearsal"} if rehearsal else machine.describe()
    name = options.name or re.sub(r"\W+", "-", facts["gpu"].lower()).strip("-")
    log = report.Log(options.output / f"{name}.log")
    log.line(", ".join(f"{key} {value}" for key, value in facts.items()))
    if rehearsal:
        path, program, handlers = options.rehearse, None, options.handlers
    else:
        path, program, handlers = machine.build(options.build, log)
    log.line(f"built in {time.perf_counter() - begin:.0f} s")
    kernels = library.Library(path)
    variants = {}
    if "times" in options.only and not rehearsal:
        folder = options.build / "rows_alone"
        other, *_ = machine.build(folder, log, flags=machine.ROWS_ALONE)
        variants["graph, rows alone"] = library.Library(other)
    sections = [f"# The CUDA kernels on {facts['gpu']}", report.table(("", ""), _rows(facts))]
    holds = True
    if "correctness" in options.only:
        text, fine = _correctness(kernels, device, log, rehearsal)
        sections.append(text)
        holds &= fine
    if "handler" in options.only:
        text, fine = _handler(handlers, path, device, log, rehearsal)
        sections.append(text)
        holds &= fine
    if "sanitizer" in options.only and program is not None:
        text, fine = _sanitizer(program, log, options.tool_seconds, deadline)
        sections.append(text)
        holds &= fine
    if "times" in options.only:
        text, samples = _times(kernels, variants, device, log, options.workload_seconds, deadline)
        sections.append(text)
        facts["times"] = samples
    facts["holds"] = holds
    log.line(f"took {time.perf_counter() - begin:.0f} s")
    report.save(options.output, name, "\n\n".join(sections), facts)
    log.line("\n\n".join(sections[2:]))
    log.line("all holds" if holds else "SOMETHING DOES NOT HOLD: see the log")
    return 0 if holds else 1


def _correctness(
    kernels: library.Library, device: Any, log: report.Log, rehearsal: bool
) -> tuple[str, bool]:
    import torch
    from gpu import calls, correctness, large, timing

    caller = calls.Caller(kernels)
    findings = [
        *correctness.check_refusals(caller, device),
        *correctness.check(caller, device, **(SMALL if rehearsal else {})),
    ]
    tiny = large.Size(20, 4, 16, 3)
    if rehearsal or torch.cuda.get_device_properties(0).total_memory >= large.NEEDED_BYTES:
        findings += large.check(kernels, device, (tiny, tiny, tiny) if rehearsal else None)
    else:
        log.line(
            "arrays of more than 2^31 elements: not run, they need more memory than the GPU has"
        )
    if not rehearsal:
        for shape in timing.WORKLOADS[:2]:
            for dtype in timing.DTYPES:
                findings += correctness.check_workload(caller, device, shape, dtype)
    return _report("Correctness", findings, log)


def _handler(
    path: Path | None, kernels: Path, device: Any, log: report.Log, rehearsal: bool
) -> tuple[str, bool]:
    """What XLA makes of the kernels, from JAX."""
    if path is None or importlib.util.find_spec("jax") is None:
        text = "XLA's handler: not run, for want of " + ("JAX." if path else "the library.")
        log.line(text)
        return text, True
    from gpu import correctness, handler

    shapes = SMALL if rehearsal else {"shapes": HANDLER_SHAPES, "scores": HANDLER_SCORES}
    caller = handler.Handler(path, kernels, on_gpu=not rehearsal)
    return _report("XLA's handler", list(correctness.check(caller, device, **shapes)), log)


def _report(title: str, findings: list[Any], log: report.Log) -> tuple[str, bool]:
    for finding in findings:
        log.detail(
            f"{'ok' if finding.holds else 'NOT OK'}  {finding.problem}: {finding.result}: "
            f"error {finding.error:.3g}, plain {finding.plain_error:.3g}, "
            f"allowed {finding.allowed:.3g}"
        )
    wrong = [finding for finding in findings if not finding.holds]
    for finding in wrong[:20]:
        log.line(f"NOT OK: {finding}")
    problems = len({finding.problem for finding in findings})
    text = (
        f"{title}: {len(findings)} checks of {problems} problems against float64, "
        f"{len(wrong)} of them failed."
    )
    log.line(text)
    return text, not wrong


def _sanitizer(program: Path, log: report.Log, seconds: float, deadline: float) -> tuple[str, bool]:
    from gpu import sanitizer

    outcomes = []
    for tool, outcome in sanitizer.check(program, log, seconds=seconds, deadline=deadline):
        log.line(f"C++ test, {tool}: {outcome}")
        outcomes.append((tool, outcome))
    text = report.table(("C++ test", "outcome"), outcomes)
    return text, all(sanitizer.passed(outcome) for _, outcome in outcomes)


def _times(
    kernels: library.Library,
    variants: dict[str, library.Library],
    device: Any,
    log: report.Log,
    seconds: float,
    deadline: float,
) -> tuple[str, Any]:
    import torch
    from gpu import timing

    if device.type == "cpu":
        workloads: Any = ((40, 5, 16),)
        cache_bytes, copy_bytes = 1 << 12, 1 << 20
    else:
        workloads = timing.WORKLOADS
        cache_bytes = machine.l2_bytes()
        copy_bytes = 4 << 30
    bandwidth = timing.copy_bandwidth(device, copy_bytes)
    log.line(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    results = []
    for shape in workloads:
        for dtype in timing.DTYPES:
            if time.perf_counter() > deadline:
                log.line(f"{shape} {dtype}: not run, there is no time left")
                continue
            inputs = timing.make_inputs(shape, dtype, device, cache_bytes)
            makers = timing.contenders(kernels, device, variants)
            measured = timing.measure(inputs, makers, device, seconds=seconds)
            for one in measured:
                log.detail(f"{shape} {dtype} {one}")
            times = ", ".join(f"{one.contender} {one.time_ms:.3g}" for one in measured)
            log.line(f"{shape} {dtype}, ms: {times}")
            results.append((inputs, measured))
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if not results:
        return "Times: none, there was no time.", []
    text = "\n\n".join(
        [
            "Milliseconds for a loss and both gradients (medians; for half types our gradients are "
            "float32, theirs the input's type). `Of copy bandwidth`: what reading the inputs and "
            f"writing the gradients once would take at {bandwidth / 1e12:.2f} TB/s, the bandwidth "
            "of a large copy here, over our time. `From caches`: what our passes over pairs read.",
            report.times_table(results, bandwidth),
            "Peak memory beyond the inputs, results included, MiB (JAX: as its compiler says)",
            report.memory_table(results),
        ]
    )
    return text, {"copy_bandwidth": bandwidth, "workloads": report.times_facts(results)}


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in facts.items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help="of the result files; the GPU's name unless given")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--build", type=Path, default=machine.ROOT / "build" / "gpu_proof")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument(
        "--tool-seconds",
        type=float,
        default=40,
        help="for a sanitizer's tool (%(default)s); one that needs more has not passed",
    )
    parser.add_argument(
        "--workload-seconds", type=float, default=8, help="for timing a workload (%(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=330,
        help="after which no workload's timing begins, no sanitizer's tool goes on (%(default)s)",
    )
    parser.add_argument(
        "--rehearse",
        type=Path,
        metavar="LIBRARY",
        help="run the script on tiny sizes without a GPU, on a host build of the kernels",
    )
    parser.add_argument(
        "--handlers",
        type=Path,
        metavar="LIBRARY",
        help="a rehearsal's libfastneg.so; without it the phase `handler` is left out",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
