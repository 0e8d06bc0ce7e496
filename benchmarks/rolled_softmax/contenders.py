"""Everything that is timed: baselines, peers, fastneg's backends."""

from __future__ import annotations

import os
from collections.abc import Callable

import suite
import tensorflow as tf
from suite import NUM_THREADS, Contender, Run

import fastneg
from rolled_softmax import peers
from rolled_softmax.baselines import FORMULATIONS, Formulation, make_loss, why_skipped
from rolled_softmax.workloads import GAMMA, MARGIN, Inputs, T, Workload


def all_contenders() -> tuple[Contender, ...]:
    """The baselines, the installed peers, and fastneg's backends."""
    baselines = [
        _baseline(formulation, jit_compile)
        for formulation in FORMULATIONS
        for jit_compile in (False, True)
    ]
    others = [_peer(name, make) for name, make in peers.installed().items()]
    return (*baselines, *others, *fastneg_contenders())


def fastneg_contenders() -> list[Contender]:
    """The backends of fastneg, and the loop that all run in."""
    return suite.fastneg_backends(fastneg_loss, as_tensors, 2, _why_stacked_is_skipped)


def fastneg_loss(backend: str) -> Callable[..., tf.Tensor]:
    """The public function on one backend."""
    return suite.on_backend(
        backend,
        lambda user_emb, item_emb, labels, shifts: fastneg.softmax_loss_with_negative_mining(
            user_emb, item_emb, labels, shifts=shifts, gamma=GAMMA, margin=MARGIN, t=T
        ),
    )


def as_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """The inputs as TensorFlow holds them, embeddings in the workload's dtype."""
    return (
        tf.cast(inputs.user_emb, workload.dtype),
        tf.cast(inputs.item_emb, workload.dtype),
        tf.constant(inputs.labels),
        tf.constant(inputs.shifts),
    )


def _baseline(formulation: Formulation, jit_compile: bool) -> Contender:
    return suite.tensorflow_form(
        formulation.name,
        make_loss(formulation),
        as_tensors,
        2,
        jit_compile=jit_compile,
        why_skipped=lambda workload: why_skipped(formulation, workload, jit_compile, _free_bytes()),
        everywhere=formulation.name in ("published", "looped slices"),
    )


def _peer(name: str, make: Callable[[Inputs, int], Run]) -> Contender:
    return Contender(
        name,
        "peer",
        lambda _, inputs: make(inputs, NUM_THREADS),
        _why_stacked_is_skipped,
        everywhere=False,
    )


def _why_stacked_is_skipped(workload: Workload) -> str | None:
    """The reason not to build [B, K + 1, D], or None."""
    needed = 3 * workload.stacked_bytes
    return f"needs about {needed / 2**30:.1f} GiB" if needed > _free_bytes() else None


def _free_bytes() -> int:
    """Memory that is free now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
