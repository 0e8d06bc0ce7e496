"""JAX and PyTorch on the same mathematics, where they are installed (`pip install '.[peers]'`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from rolled_softmax.workloads import GAMMA, MARGIN, Inputs, T

Run = Callable[[int], tuple[Any, Any, Any]]


def make_jax_gather(inputs: Inputs, threads: int) -> Run:
    """JAX jit, candidates gathered through an index matrix."""
    import jax
    import jax.numpy as jnp

    def scores(user, item, shifts):
        rows = (jnp.arange(item.shape[0])[:, None] - shifts) % item.shape[0]
        return jnp.einsum("bd,bkd->bk", user, item[rows])

    del threads  # XLA takes the processors that the process may use.
    return _jax_run(jax, jnp, scores, inputs)


def make_jax_rolls(inputs: Inputs, threads: int) -> Run:
    """JAX jit, one multiply-and-sum per roll, mapped over the shifts."""
    import jax
    import jax.numpy as jnp

    def scores(user, item, shifts):
        def of_shift(shift):
            return jnp.sum(user * jnp.roll(item, shift, axis=0), axis=1)

        return jax.lax.map(of_shift, shifts).T

    del threads
    return _jax_run(jax, jnp, scores, inputs)


def make_torch_gather(inputs: Inputs, threads: int) -> Run:
    """torch.compile, candidates gathered through an index matrix."""
    import torch

    torch.set_num_threads(threads)
    user, item = (
        torch.tensor(values, requires_grad=True) for values in (inputs.user_emb, inputs.item_emb)
    )
    labels = torch.tensor(inputs.labels)
    shifts = torch.tensor(inputs.shifts, dtype=torch.int64)

    @torch.compile
    def loss(user_emb, item_emb):
        user, item = (torch.nn.functional.normalize(x, dim=1) for x in (user_emb, item_emb))
        rows = (torch.arange(item.shape[0])[:, None] - shifts) % item.shape[0]
        positive = (user * item).sum(1, keepdim=True) - MARGIN
        negatives = (user[:, None] * item[rows]).sum(2)
        negatives = torch.where(positive < negatives, T * negatives + (T - 1), negatives)
        logits = GAMMA * torch.cat([positive, negatives], dim=1)
        row_losses = torch.logsumexp(logits, dim=1) - logits[:, 0]
        counted = (labels > 0).to(logits.dtype)
        return (row_losses * counted).sum() / counted.sum()

    def run(calls: int):
        for _ in range(calls):
            value = loss(user, item)
            grads = torch.autograd.grad(value, (user, item))
        return value.detach(), *grads

    return run


def installed() -> dict[str, Callable[[Inputs, int], Run]]:
    """The peers that this environment has, by name."""
    found: dict[str, Callable[[Inputs, int], Run]] = {}
    if importlib.util.find_spec("jax"):
        found["JAX jit, gather"] = make_jax_gather
        found["JAX jit, rolls"] = make_jax_rolls
    if importlib.util.find_spec("torch"):
        found["torch.compile, gather"] = make_torch_gather
    return found


def _jax_run(jax: Any, jnp: Any, scores: Callable[..., Any], inputs: Inputs) -> Run:
    def normalise(x):
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), 1e-12))

    def loss(user_emb, item_emb, labels, shifts):
        user, item = normalise(user_emb), normalise(item_emb)
        positive = jnp.sum(user * item, axis=1, keepdims=True) - MARGIN
        negatives = scores(user, item, shifts)
        negatives = jnp.where(positive < negatives, T * negatives + (T - 1), negatives)
        logits = GAMMA * jnp.concatenate([positive, negatives], axis=1)
        row_losses = jax.nn.logsumexp(logits, axis=1) - logits[:, 0]
        counted = (labels > 0).astype(logits.dtype)
        return jnp.sum(row_losses * counted) / jnp.sum(counted)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    arguments = [
        jnp.asarray(x) for x in (inputs.user_emb, inputs.item_emb, inputs.labels, inputs.shifts)
    ]

    def run(calls: int):
        for _ in range(calls):
            value, grads = jax.block_until_ready(step(*arguments))
        return value, *grads

    return run
