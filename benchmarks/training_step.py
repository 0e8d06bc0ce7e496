"""What a loss takes of a training step: `python benchmarks/training_step.py`.

A step computes the loss's differentiated inputs with a linear layer each, the loss, all gradients,
and updates the weights. The share of a loss is the time of a step with it less the time of the same
step with a sum of squares in its place. Contenders run in blocks, one for some seconds and then the
next, as a training runs; `python -m pytest benchmarks` calls them in turns. Each result is compared
with the float64 truth before it is timed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from board import save_results
from suite import NUM_THREADS, PUBLISHED, Contender, Suite, Workload, load_suite, make_step

NUM_FEATURES = 32
LEARNING_RATE = 1e-4
ROUNDS = 3
FASTNEG = "fastneg native"
SIZES = {
    "rolled_softmax": ("512,4,64", "4096,64,128", "8192,256,64"),
    "in_batch_softmax": ("512,512,64", "1024,1024,64", "4096,4096,128", "8192,8192,128"),
    "shuffled_cosine": ("512,4,64", "4096,20,64"),
    "sampled_softmax": ("100000,1024,1000,64", "1000000,4096,4096,64"),
    "sv_softmax": ("512,20",),  # At 8192,256 it takes less than the sum of squares.
    "pairwise_logistic": ("512,2,20,0", "8192,2,20,0"),
}


def make_training_step(
    compute: Callable[..., tuple[tf.Tensor, ...]],
    arguments: Sequence[tf.Tensor],
    num_differentiated: int,
    jit_compile: bool = False,
) -> Callable[[], tf.Tensor]:
    """A step of the training, without arguments; returns the loss.

    `compute` is what `suite.make_step` returns: loss and gradients, one program where XLA compiles
    them. With `jit_compile` the whole step is.

    A differentiated input is what it is in the isolated benchmark plus features times weights. One
    with more rows than a batch has is a table, and is trained itself.
    """
    rng = np.random.default_rng(2)
    num_rows = max(x.shape[0] for x in arguments[1:])
    variables, towers = [], []
    for base in arguments[:num_differentiated]:
        if base.shape[0] > num_rows:
            variables.append(tf.Variable(base))
            towers.append(None)
            continue
        columns = int(np.prod(base.shape[1:]))
        features = rng.standard_normal((base.shape[0], NUM_FEATURES), dtype=np.float32)
        variables.append(tf.Variable(tf.zeros([NUM_FEATURES, columns])))
        towers.append(_tower(base, tf.constant(features)))
    others = arguments[num_differentiated:]
    towered = [i for i, tower in enumerate(towers) if tower is not None]

    @tf.function(jit_compile=jit_compile)
    def step() -> tf.Tensor:
        inputs = list(variables)
        with tf.GradientTape() as tape:
            for i in towered:
                inputs[i] = towers[i](variables[i])
        loss, *tensors = compute(*inputs, *others)
        comes_in_rows = len(tensors) > num_differentiated  # A table's gradient: values, indices.
        grads = []
        for tower in towers:
            grad = tensors.pop(0)
            if tower is None and comes_in_rows:
                grad = tf.IndexedSlices(grad, tensors.pop(0))
            grads.append(grad)
        of_towers = tape.gradient(
            [inputs[i] for i in towered],
            [variables[i] for i in towered],
            output_gradients=[grads[i] for i in towered],
        )
        for i, grad in zip(towered, of_towers, strict=True):
            grads[i] = grad
        for variable, grad in zip(variables, grads, strict=True):
            if isinstance(grad, tf.IndexedSlices):
                scaled = tf.IndexedSlices(LEARNING_RATE * grad.values, grad.indices)
                variable.scatter_sub(scaled)
            else:
                variable.assign_sub(LEARNING_RATE * grad)
        return loss

    return step


def _tower(base: tf.Tensor, features: tf.Tensor) -> Callable[[tf.Variable], tf.Tensor]:
    return lambda weights: base + tf.reshape(features @ weights, base.shape)


def _trivial(num_differentiated: int, has_table: bool) -> Callable[..., tf.Tensor]:
    def loss(*arguments: tf.Tensor) -> tf.Tensor:
        inputs = list(arguments[:num_differentiated])
        if has_table:
            labels = tf.reshape(arguments[num_differentiated], [-1])
            inputs[0] = tf.gather(inputs[0], labels)
        return 1e-6 * tf.add_n([tf.reduce_sum(x * x) for x in inputs])

    return loss


def contenders_of(suite: Suite, workload: Workload) -> list[Contender]:
    """All TensorFlow forms that fit, and fastneg."""
    return [
        contender
        for contender in suite.contenders
        if contender.loss_of is not None
        and contender.is_meant_for(workload)
        and contender.why_skipped(workload) is None
    ]


def block_ms(step: Callable[[], tf.Tensor], seconds: float) -> float:
    """The time of a step in a block of its own."""
    for _ in range(2):
        step().numpy()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        step().numpy()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(suite: Suite, workload: Workload, seconds: float) -> dict[str, Any]:
    """Times of steps in milliseconds by contender, medians over the rounds."""
    inputs = suite.make_inputs(workload)
    arguments = suite.make_tensors(workload, inputs)
    count = suite.num_differentiated
    has_table = suite.stem == "sampled_softmax"
    trivial = make_step(_trivial(count, has_table), count)
    steps = {"trivial": make_training_step(trivial, arguments, count)}
    truth = suite.compute_truth(inputs)
    for contender in contenders_of(suite, workload):
        compute = make_step(contender.loss_of(workload), count, contender.jit_compile)
        loss, *grads = (value.numpy() for value in compute(*arguments))
        if problem := suite.describe_error(truth, float(loss), tuple(grads)):
            raise ValueError(f"{contender.name} at {workload.name}: {problem}")
        steps[contender.name] = make_training_step(compute, arguments, count)
    blocks: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            blocks[name].append(block_ms(step, seconds))
    gc.collect()
    return {name: statistics.median(times) for name, times in blocks.items()}


def summary(suite: Suite, workload: Workload, times: dict[str, float]) -> dict[str, Any]:
    """A row of the table: shares of published, fastest TensorFlow form and fastneg."""
    trivial = times["trivial"]
    forms = {
        contender.name: times[contender.name] - trivial
        for contender in contenders_of(suite, workload)
        if contender.kind == "TensorFlow form"
    }
    fastest = min(forms, key=forms.__getitem__)
    fastneg = times[FASTNEG] - trivial
    return {
        "loss": suite.stem,
        "sizes": suite.sizes,
        "workload": workload.name,
        "trivial_step_ms": trivial,
        "published_ms": forms.get(PUBLISHED),
        "fastest_form": fastest,
        "fastest_ms": forms[fastest],
        "fastneg_ms": fastneg,
        "steps_ms": times,
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of all losses."""
    lines = [
        "| loss | size | rest of the step: ms | published: ms | fastest TensorFlow form: ms | "
        "fastneg: ms | published / fastneg | fastest / fastneg | its form |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        published, fastneg = row["published_ms"], row["fastneg_ms"]
        cells = [
            row["loss"],
            row["workload"],
            f"{row['trivial_step_ms']:.3g}",
            "-" if published is None else f"{published:.3g}",
            f"{row['fastest_ms']:.3g}",
            f"{fastneg:.3g}",
            "-" if published is None else f"{published / fastneg:.3g}x",
            f"{row['fastest_ms'] / fastneg:.3g}x",
            row["fastest_form"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints; with --save-results also writes results/training_step-NAME."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", default=";".join(SIZES), help='stems, separated by ";"')
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block")
    parser.add_argument("--save-results", metavar="NAME", help="write results/training_step-NAME")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    rows = []
    for stem in arguments.losses.split(";"):
        suite = load_suite(stem)
        for name in SIZES[stem]:
            workload = suite.workload(name)
            rows.append(summary(suite, workload, measure(suite, workload, arguments.seconds)))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    table = markdown(rows)
    print(table)
    if arguments.save_results:
        save_results("training_step", arguments.save_results, table, rows)


if __name__ == "__main__":
    main()
