"""What `layers.CandidateQueue` adds to a training step: `python benchmarks/candidate_queue.py`.

The step of `training_step.py`, with logQ correction and two contenders. In both, B queries score C
candidates, and the gradient of the first B goes on to what computed them.

- queue: B candidates of the batch and C - B of the queue, which then takes the batch;
- tensors: the same C candidates as one tensor that nobody had to put together.

Both results are compared with the float64 truth before they are timed, in blocks of one contender.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import tensorflow as tf
from in_batch_softmax import Inputs, Workload, compute_truth, describe_error, make_inputs
from suite import NUM_THREADS, make_step
from training_step import block_ms, make_training_step

import fastneg

WORKLOAD = "1024,16384,64"
ROUNDS = 5

Compute = Callable[..., tuple[tf.Tensor, ...]]


def through_a_queue(inputs: Inputs) -> Compute:
    """Loss and gradients of queries and the batch's candidates; the queue holds the others."""
    size = len(inputs.query)
    first, probability = tf.constant(inputs.probability[:size]), inputs.probability[size:]
    queue = fastneg.layers.CandidateQueue(len(probability))
    queue(inputs.candidate[size:], candidate_sampling_probability=probability, training=True)

    def loss(query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        candidates = queue(candidate, candidate_sampling_probability=first, training=True)
        return fastneg.in_batch_softmax_loss(query, **candidates)

    return make_step(loss, 2)


def as_tensors(inputs: Inputs) -> Compute:
    """The same of candidates that are there, whatever candidates the step computes."""
    candidates, probability = tf.constant(inputs.candidate), tf.constant(inputs.probability)

    def loss(query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        return fastneg.in_batch_softmax_loss(
            query, candidate, candidate_sampling_probability=probability
        )

    compute = make_step(loss, 2)

    def of_the_batch(query: tf.Tensor, candidate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        loss, grad_query, grad_candidate = compute(query, candidates)
        return loss, grad_query, grad_candidate[: candidate.shape[0]]

    return of_the_batch


CONTENDERS = {"queue": through_a_queue, "tensors": as_tensors}


def measure(workload: Workload, seconds: float) -> dict[str, float]:
    """Milliseconds of a step of each contender, medians over the rounds."""
    inputs = make_inputs(workload)
    size = workload.batch_size
    arguments = tf.constant(inputs.query), tf.constant(inputs.candidate[:size])
    true_loss, true_grad_query, true_grad_candidate = compute_truth(inputs)
    truth = true_loss, true_grad_query, true_grad_candidate[:size]
    steps = {}
    for name, contender in CONTENDERS.items():
        compute = contender(inputs)
        loss, *grads = (value.numpy() for value in compute(*arguments))
        if problem := describe_error(truth, float(loss), tuple(grads)):
            raise ValueError(f"{name} at {workload.name}: {problem}")
        steps[name] = make_training_step(compute, arguments, num_differentiated=2)
    blocks: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            blocks[name].append(block_ms(step, seconds))
    return {name: statistics.median(times) for name, times in blocks.items()}


def main() -> None:
    """Prints a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default=WORKLOAD, help="B,C,D")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    workload = Workload(*(int(size) for size in options.workload.split(",")))
    times = measure(workload, options.seconds)
    queue, tensors = times["queue"], times["tensors"]
    print(
        f"A step at {workload.name}: {queue:.3g} ms with a queue, {tensors:.3g} ms with tensors; "
        f"{queue / tensors:.3f} times as long"
    )


if __name__ == "__main__":
    main()
