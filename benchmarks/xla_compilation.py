"""What tracing and compiling a training step takes in XLA, with fastneg and with compositions.

A step (`training_step.py`) is a `tf.function` with `jit_compile=True`, made anew for each
measurement. The time is that of its first call less that of its second, which only runs. Contenders
take turns; the first turn, in which TensorFlow and XLA load what they need, does not count. Before
it, what each computes inside XLA is compared with the float64 truth.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf
from suite import PUBLISHED, Suite, Workload, make_step
from training_step import make_training_step

# A size of each loss, and the fastest there of the TensorFlow forms that XLA compiles.
SIZES = {
    "rolled_softmax": ("512,4,64", "doubled slices, XLA"),
    "shuffled_cosine": ("512,4,64", "gathered einsum, XLA"),
    "sv_softmax": ("512,20", "no maximum, XLA"),
    "pairwise_logistic": ("512,2,20,0", "masked, XLA"),
    "sampled_softmax": ("100000,512,512,64", "masked product, XLA"),
    "in_batch_softmax": ("512,512,64", "logsumexp minus diagonal, XLA"),
}
# XLA does not compile the published form of the former, and takes seconds for that of the latter.
WITHOUT_PUBLISHED = ("sampled_softmax", "pairwise_logistic")
FASTNEG, COMPOSITIONS = "fastneg", ("published", "fastest form")
ALLOWED_RATIO = 1.2


def measure(suite: Suite, workload: Workload, fastest: str, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each contender, one for each turn."""
    inputs = suite.make_inputs(workload)
    arguments = suite.make_tensors(workload, inputs)
    losses = {
        FASTNEG: suite.fastneg_loss("native"),
        "published": suite.contender(PUBLISHED).loss_of(workload),
        "fastest form": suite.contender(fastest).loss_of(workload),
    }
    if suite.stem in WITHOUT_PUBLISHED:
        del losses["published"]
    truth = suite.compute_truth(inputs)
    for name, loss in losses.items():
        compute = make_step(loss, suite.num_differentiated, jit_compile=True)
        value, *grads = (tensor.numpy() for tensor in compute(*arguments))
        if problem := suite.describe_error(truth, float(value), tuple(grads)):
            raise ValueError(f"{name} at {workload.name}: {problem}")
    times_ms: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(turns + 1):
        for name, loss in losses.items():
            time_ms = _compilation_ms(loss, arguments, suite.num_differentiated)
            if turn > 0:
                times_ms[name].append(time_ms)
    return times_ms


def _compilation_ms(
    loss: Callable[..., tf.Tensor], arguments: Sequence[tf.Tensor], num_differentiated: int
) -> float:
    compute = make_step(loss, num_differentiated)
    step = make_training_step(compute, arguments, num_differentiated, jit_compile=True)
    gc.collect()
    first, second = _call_ms(step), _call_ms(step)
    return first - second


def _call_ms(step: Callable[[], tf.Tensor]) -> float:
    start = time.perf_counter()
    step().numpy()
    return (time.perf_counter() - start) * 1e3


def head() -> str:
    """The beginning of the table."""
    columns = [FASTNEG, *COMPOSITIONS, *(f"{FASTNEG} / {name}" for name in COMPOSITIONS)]
    return f"| | {' | '.join(columns)} |\n|---|" + "---|" * len(columns)


def row(suite: Suite, workload: Workload, times_ms: dict[str, list[float]]) -> str:
    """A line of the table."""
    medians = {name: statistics.median(times) for name, times in times_ms.items()}
    cells = [
        f"{min(times_ms[name]):.0f}, {medians[name]:.0f}" if name in medians else "-"
        for name in (FASTNEG, *COMPOSITIONS)
    ]
    for name in COMPOSITIONS:
        if name not in medians:
            cells.append("-")
            continue
        ratio = medians[FASTNEG] / medians[name]
        cells.append(f"{ratio:.2f}x{'' if ratio <= ALLOWED_RATIO else ', more'}")
    return f"| {suite.stem} {workload.name} | {' | '.join(cells)} |"
