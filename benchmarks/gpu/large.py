"""Problems whose arrays have more than 2^31 elements, where 32-bit arithmetic on places goes wrong.

Their rows repeat: a small problem many times over, with candidates that repeat likewise. So every
copy has the small problem's loss, and its gradients divided by the number of copies, and the small
problem's float64 truth is enough.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpu import calls, composition, library
from gpu.correctness import Finding

_OPTIONS = {"gamma": 20.0, "margin": 0.125, "t": 1.25}


@dataclasses.dataclass(frozen=True)
class Size:
    """A small problem, and how many times it is repeated."""

    batch_size: int
    num_negatives: int
    embedding_dim: int
    copies: int


ROLLED = Size(1024, 20, 64, 33_000)  # 2.2e9 elements of embeddings.
SHUFFLED = Size(1024, 1100, 8, 2_000)  # 2.3e9 entries of permutations.
SCORED = Size(1024, 1000, 0, 2_200)  # 2.3e9 scores.
NEEDED_BYTES = 48 << 30


def check(
    kernels: library.Library, device: torch.device, sizes: tuple[Size, Size, Size] | None = None
) -> Iterator[Finding]:
    """Yields what is found."""
    rolled, shuffled, scored = sizes or (ROLLED, SHUFFLED, SCORED)
    yield from _check_gathered(kernels, device, rolled, is_rolled=True)
    yield from _check_gathered(kernels, device, shuffled, is_rolled=False)
    yield from _check_scored(kernels, device, scored)


def _check_gathered(
    kernels: library.Library, device: torch.device, size: Size, *, is_rolled: bool
) -> Iterator[Finding]:
    batch_size = size.batch_size
    user, item = (_random(seed, batch_size, size.embedding_dim) for seed in (1, 2))
    user, item = (rows.to(device, torch.bfloat16) for rows in (user, item + 0.5 * user))
    if is_rolled:
        shifts = torch.arange(1, 1 + size.num_negatives, device=device) * 3 % batch_size
        candidates = composition.rolled_rows(shifts, batch_size)
        given: dict[str, Any] = {"shifts": shifts}
    else:
        generator = torch.Generator().manual_seed(0)
        orders = [
            torch.randperm(batch_size, generator=generator) for _ in range(size.num_negatives)
        ]
        candidates = torch.stack(orders).to(device)
        whole = torch.empty(
            size.num_negatives, size.copies * batch_size, dtype=torch.int32, device=device
        )
        starts = batch_size * torch.arange(size.copies, dtype=torch.int32, device=device)
        for k, order in enumerate(candidates.to(torch.int32)):
            whole[k] = (starts[:, None] + order[None, :]).reshape(-1)
        given = {"permutations": whole}
    leaves = [rows.double().requires_grad_() for rows in (user, item)]
    loss = composition.gathered_loss(*leaves, candidates, **_OPTIONS)
    grads = torch.autograd.grad(loss, leaves)
    truth = {"loss": loss.detach().reshape(1), "grad_user": grads[0], "grad_item": grads[1]}
    call = calls.gathered(
        kernels, _repeat(user, size.copies), _repeat(item, size.copies), **given, **_OPTIONS
    )
    name = f"{'rolled' if is_rolled else 'shuffled'}, {size}"
    yield from _compare(name, call, truth, size.copies)


def _check_scored(kernels: library.Library, device: torch.device, size: Size) -> Iterator[Finding]:
    pos = _random(3, size.batch_size).to(device, torch.bfloat16)
    neg = _random(4, size.batch_size, size.num_negatives).to(device, torch.bfloat16)
    leaves = [scores.double().requires_grad_() for scores in (pos, neg)]
    options = {"smooth": 3.0, "margin": 0.125, "t": 1.25}
    loss = composition.sv_softmax_loss(*leaves, **options)
    grads = torch.autograd.grad(loss, leaves)
    truth = {"loss": loss.detach().reshape(1), "grad_pos": grads[0], "grad_neg": grads[1]}
    call = calls.sv_softmax(kernels, pos.repeat(size.copies), _repeat(neg, size.copies), **options)
    yield from _compare(f"sv_softmax, {size}", call, truth, size.copies)


def _compare(
    name: str, call: calls.Call, truth: dict[str, Tensor], copies: int
) -> Iterator[Finding]:
    call.poison()
    call.launch()
    for result, exact in truth.items():
        allowed = 1e-5 * float(exact.abs().max())
        if result == "loss":
            yield Finding(name, result, _distance(call.results[result], exact), 0.0, allowed)
            continue
        values = call.results[result].reshape(copies, *exact.shape)
        error = _distance(copies * values[0].double(), exact)
        yield Finding(name, f"{result}, the first copy", error, 0.0, allowed)
        others = sum(int(torch.count_nonzero(part != values[0])) for part in values.split(64))
        yield Finding(name, f"{result}, other bits in copies", float(others), 0.0, 0.0)


def _distance(actual: Tensor, exact: Tensor) -> float:
    error = float((actual.double() - exact).abs().max())
    return error if math.isfinite(error) else math.inf


def _repeat(rows: Tensor, copies: int) -> Tensor:
    return rows.repeat(copies, 1)


def _random(seed: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)
