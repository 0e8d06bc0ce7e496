"""Everything that is timed: one list of contenders, each built from a workload into a call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal

import peers
import tensorflow as tf
from baselines import FORMULATIONS, Formulation, make_loss, why_skipped
from workloads import GAMMA, MARGIN, Inputs, T, Workload

import fastneg

NUM_THREADS = 2
FASTNEG_BACKENDS = ("native", "numba", "reference")
PUBLISHED = "published, graph"
Kind = Literal["TensorFlow form", "peer", "fastneg", "overhead"]

# Computes loss, grad_user and grad_item `calls` times over, and returns the last.
Run = Callable[[int], tuple[Any, Any, Any]]
LossFn = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: As printed.
        kind: Whose it is.
        build: Makes the call that is timed.
        why_skipped: The reason not to run a workload that it was meant for, or None.
        everywhere: Whether it runs at the sizes that only compare widths and dtypes.
        float32_only: Whether it leaves the half types out.
    """

    name: str
    kind: Kind
    build: Callable[[Workload, Inputs], Run]
    why_skipped: Callable[[Workload], str | None]
    everywhere: bool = True
    float32_only: bool = True

    def is_meant_for(self, workload: Workload) -> bool:
        """Whether the contender belongs into this column of the table."""
        if workload.dtype != "float32" and self.float32_only:
            return False
        return self.everywhere or workload.compares_all


def all_contenders() -> tuple[Contender, ...]:
    """The baselines, the installed peers, and fastneg's backends."""
    baselines = [
        _baseline(formulation, jit_compile)
        for formulation in FORMULATIONS
        for jit_compile in (False, True)
    ]
    others = [_peer(name, make) for name, make in peers.installed().items()]
    backends = [_fastneg(backend) for backend in FASTNEG_BACKENDS]
    return (*baselines, *others, *backends, _empty_step())


def make_step(loss_fn: LossFn, jit_compile: bool = False) -> Callable[..., tuple[tf.Tensor, ...]]:
    """A tf.function of loss and both gradients."""

    @tf.function(jit_compile=jit_compile)
    def step(user_emb, item_emb, labels, shifts):
        with tf.GradientTape() as tape:
            tape.watch([user_emb, item_emb])
            loss = loss_fn(user_emb, item_emb, labels, shifts)
        return loss, *tape.gradient(loss, [user_emb, item_emb])

    return step


def repeated(step: Callable[..., tuple[tf.Tensor, ...]], arguments: tuple[tf.Tensor, ...]) -> Run:
    """Runs a step `calls` times inside one tf.function, one after the other.

    That is the place of a loss: inside a training step. The call of a tf.function from Python costs
    tens to hundreds of microseconds, more than a small loss, and would be all that is seen.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def loop(calls):
        user_emb, item_emb = arguments[:2]
        state = (0, tf.zeros([], tf.float32), tf.zeros_like(user_emb), tf.zeros_like(item_emb))
        _, *result = tf.while_loop(
            lambda i, *_: i < calls,
            lambda i, *_: (i + 1, *step(*arguments)),
            state,
            parallel_iterations=1,
        )
        return tuple(result)

    return lambda calls: loop(tf.constant(calls))


def fastneg_loss(backend: str) -> LossFn:
    """The public function on one backend; the choice is made while the step is traced."""

    def loss(user_emb, item_emb, labels, shifts):
        with fastneg.use_backend(backend):
            return fastneg.softmax_loss_with_negative_mining(
                user_emb, item_emb, labels, shifts=shifts, gamma=GAMMA, margin=MARGIN, t=T
            )

    return loss


def as_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """The inputs as TensorFlow holds them, embeddings in the workload's dtype."""
    return (
        tf.cast(inputs.user_emb, workload.dtype),
        tf.cast(inputs.item_emb, workload.dtype),
        tf.constant(inputs.labels),
        tf.constant(inputs.shifts),
    )


def free_bytes() -> int:
    """Memory that is free now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _baseline(formulation: Formulation, jit_compile: bool) -> Contender:
    def build(workload: Workload, inputs: Inputs) -> Run:
        step = make_step(make_loss(formulation), jit_compile)
        return repeated(step, as_tensors(workload, inputs))

    return Contender(
        f"{formulation.name}, {'XLA' if jit_compile else 'graph'}",
        "TensorFlow form",
        build,
        lambda workload: why_skipped(formulation, workload, jit_compile, free_bytes()),
        everywhere=formulation.name in ("published", "looped slices"),
    )


def _peer(name: str, make: Callable[[Inputs, int], Run]) -> Contender:
    return Contender(
        name,
        "peer",
        lambda _, inputs: make(inputs, NUM_THREADS),
        why_stacked_is_skipped,
        everywhere=False,
    )


def _fastneg(backend: str) -> Contender:
    def build(workload: Workload, inputs: Inputs) -> Run:
        return repeated(make_step(fastneg_loss(backend)), as_tensors(workload, inputs))

    return Contender(
        f"fastneg {backend}",
        "fastneg",
        build,
        why_stacked_is_skipped if backend == "reference" else lambda _: None,
        float32_only=False,
    )


def _empty_step() -> Contender:
    """What the loop itself takes: nothing computed, inputs handed on."""

    def build(workload: Workload, inputs: Inputs) -> Run:
        def step(user_emb, item_emb, labels, shifts):
            return tf.zeros([]), tf.identity(user_emb), tf.identity(item_emb)

        return repeated(tf.function(step), as_tensors(workload, inputs))

    return Contender("empty step", "overhead", build, lambda _: None, float32_only=False)


def why_stacked_is_skipped(workload: Workload) -> str | None:
    """The reason not to build [B, K + 1, D], or None."""
    needed = 3 * workload.stacked_bytes
    return f"needs about {needed / 2**30:.1f} GiB" if needed > free_bytes() else None
