"""What a call inside XLA costs beside the operation outside: `python benchmarks/inside_xla.py`.

Loss and gradients, many times in one loop, in three ways that take turns:

- outside: the loop is a graph, the loss TensorFlow's own operation;
- one program: XLA compiles the whole loop, as it compiles a training loop or a large step;
- programs: the loop is a graph, each step a program of XLA's, which TensorFlow launches.

Of each the least time counts. Launching a program is TensorFlow's part: it hands every result to
another thread. What an operation takes inside XLA is what `one program` shows.

Then, what tracing and compiling a training step takes (`xla_compilation.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import xla_compilation
from board import save_results
from suite import NUM_THREADS, Run, Suite, Workload, load_suite, make_step

SIZES = {
    "rolled_softmax": ("512,20,64", "4096,20,64", "65536,20,64"),
    "shuffled_cosine": ("512,20,64", "4096,20,64", "65536,20,64"),
    "sv_softmax": ("512,20", "4096,20", "65536,20"),
    "pairwise_logistic": ("512,2,20,0", "8192,2,20,0", "65536,2,20,20"),
    "sampled_softmax": (
        "100000,512,512,64",
        "100000,4096,1000,64",
        "1000000,4096,5,64",
        "100000,65536,1000,64",
    ),
    "in_batch_softmax": ("512,512,64", "1024,1024,64", "4096,4096,128", "8192,8192,128"),
    "positive_ranks": ("512,1024,64", "4096,1024,64", "65536,1024,64"),
}
WAYS = ("outside", "one program", "programs")
TURN_SECONDS = 0.03
MIN_CALLS = 10  # In a turn: XLA copies the loop's first state once, as large as the gradients.
ALLOWED_RATIO, ALLOWED_EXTRA_MS = 1.1, 0.015


def chained(suite: Suite, workload: Workload, inputs: Any, way: str) -> Run:
    """Runs the step `calls` times, each call on inputs that depend on the one before.

    XLA would run a call only once that is the same every time.
    """
    arguments = suite.make_tensors(workload, inputs)
    floats = [i for i, value in enumerate(arguments) if value.dtype.is_floating]
    smallest = min(floats, key=lambda i: arguments[i].shape.num_elements())
    compiled = way != "outside"
    step = make_step(suite.fastneg_loss("native"), suite.num_differentiated, compiled)
    state = [tf.zeros_like(value) for value in step(*arguments)]
    shapes = [tf.TensorShape([None] * value.shape.rank) for value in state]

    def body(i: tf.Tensor, loss: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        changed = list(arguments)
        nothing = tf.minimum(loss, 0.0)  # Losses are positive.
        changed[smallest] += tf.cast(nothing, changed[smallest].dtype)
        return i + 1, *step(*changed)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], jit_compile=way == "one program")
    def loop(calls: tf.Tensor) -> Sequence[tf.Tensor]:
        _, *result = tf.while_loop(
            lambda i, *_: i < calls,
            body,
            (0, *state),
            shape_invariants=None if compiled else (tf.TensorShape([]), *shapes),
            parallel_iterations=1,
        )
        return tuple(result)

    def run(calls: int) -> Sequence[tf.Tensor]:
        return loop(tf.constant(calls))

    return run


def measure(suite: Suite, workload: Workload, seconds: float) -> dict[str, float]:
    """Milliseconds of each way, after a look at its result."""
    inputs = suite.make_inputs(workload)
    truth = suite.compute_truth(inputs)
    runs: dict[str, tuple[Callable[[int], Any], int]] = {}
    for way in WAYS:
        run = chained(suite, workload, inputs, way)
        loss, *grads = (np.asarray(value) for value in run(3))
        if problem := suite.describe_error(truth, float(loss), tuple(grads)):
            raise RuntimeError(f"{suite.stem} {workload.name}, {way}: {problem}")
        runs[way] = run, max(MIN_CALLS, int(TURN_SECONDS * 1e3 / _time_ms(run, 5)))
    least = {way: _time_ms(*runs[way]) for way in WAYS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for way in WAYS:
            least[way] = min(least[way], _time_ms(*runs[way]))
    return least


def _time_ms(run: Run, calls: int) -> float:
    start = time.perf_counter()
    run(calls)
    return (time.perf_counter() - start) * 1e3 / calls


def row(suite: Suite, workload: Workload, times_ms: dict[str, float]) -> str:
    """A line of the table."""
    outside = times_ms["outside"]
    allowed = ALLOWED_RATIO * outside + ALLOWED_EXTRA_MS
    cells = [f"{outside:.3f}"]
    for way in WAYS[1:]:
        mark = "" if times_ms[way] <= allowed else ", more"
        cells.append(f"{times_ms[way]:.3f} ({times_ms[way] / outside:.2f}x{mark})")
    return f"| {suite.stem} {workload.name} | {' | '.join(cells)} |"


class Report:
    """Lines that are printed as they come, and kept."""

    def __init__(self) -> None:
        """Starts an empty one."""
        self.text = ""

    def add(self, line: str) -> None:
        """Prints a line, or several."""
        self.text += line + "\n"
        print(line, flush=True)


def main() -> None:
    """Prints two tables; with --save-results also writes results/inside_xla-NAME."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", default=";".join(SIZES), help='"sv_softmax;rolled_softmax"')
    parser.add_argument("--workloads", help='"512,20;4096,20"; those above unless given')
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size")
    parser.add_argument("--turns", type=int, default=5, help="of compiling; 0: none")
    parser.add_argument("--save-results", metavar="NAME", help="write results/inside_xla-NAME")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    suites = [load_suite(stem) for stem in options.losses.split(";")]
    report = Report()
    results: dict[str, list[dict[str, Any]]] = {"calls": [], "compilations": []}
    report.add(
        "Milliseconds of a call, gradients included; `more`: than "
        f"{ALLOWED_RATIO} times outside and {ALLOWED_EXTRA_MS} ms.\n"
    )
    report.add("| | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for suite in suites:
        for name in options.workloads.split(";") if options.workloads else SIZES[suite.stem]:
            workload = suite.workload(name)
            times_ms = measure(suite, workload, options.seconds)
            report.add(row(suite, workload, times_ms))
            results["calls"].append({"loss": suite.stem, "workload": name, "times_ms": times_ms})
    compiled = [suite for suite in suites if suite.stem in xla_compilation.SIZES]
    if compiled and options.turns:
        report.add(
            "\nMilliseconds of tracing and compiling a training step, the least and the median; "
            f"`more`: than {xla_compilation.ALLOWED_RATIO} times the composition's median.\n"
        )
        report.add(xla_compilation.head())
    for suite in compiled if options.turns else ():
        name, fastest = xla_compilation.SIZES[suite.stem]
        workload = suite.workload(name)
        lists_ms = xla_compilation.measure(suite, workload, fastest, options.turns)
        report.add(xla_compilation.row(suite, workload, lists_ms))
        results["compilations"].append(
            {"loss": suite.stem, "workload": name, "fastest": fastest, "times_ms": lists_ms}
        )
    if options.save_results:
        save_results("inside_xla", options.save_results, report.text.strip(), results)


if __name__ == "__main__":
    main()
