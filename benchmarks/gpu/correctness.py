"""The kernels against the float64 composition: values, gradients, repetition, graphs, refusals."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu import composition

DTYPES = ("float16", "bfloat16", "float32", "float64")

# (batch_size, num_negatives, embedding_dim): every way in which lanes share a row.
SHAPES = (
    (2, 1, 1),
    (37, 9, 32),
    (129, 128, 8),
    (257, 64, 64),
    (150, 33, 128),
    (130, 17, 256),
    (150, 33, 300),
    (130, 17, 31),
    (33, 5, 131),
    (128, 5, 1024),
    (1000, 20, 64),
)
SCORES = ((70, 5), (37, 16), (40, 100), (100, 256), (33, 500), (17, 1003), (9, 5000))

_OPTIONS = {"gamma": 20.0, "margin": 0.1, "t": 1.2}
_SCALARS = ("gamma", "margin", "t")


@dataclasses.dataclass
class Finding:
    """One result of one problem: its error, the same-dtype composition's, and what is allowed."""

    problem: str
    result: str
    error: float
    plain_error: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the error is within its allowance. NaN is not."""
        return self.error <= self.allowed


@dataclasses.dataclass
class _Problem:
    name: str
    call: Any  # A `calls.Call`, or like one.
    tensors: dict[str, Tensor]  # Those with a gradient, by the name of the result.
    loss: Callable[[dict[str, Tensor], dict[str, Any]], Tensor]
    usual: dict[str, float]
    scalars: tuple[str, ...]
    options: dict[str, Any]


def check(
    caller: Any, device: torch.device, shapes: Any = SHAPES, scores: Any = SCORES
) -> Iterator[Finding]:
    """Yields what is found for every problem; `caller` is a `calls.Caller` or like one."""
    for dtype in DTYPES:
        for shape in shapes:
            for everything in (False, True):
                for rolled in (True, False):
                    yield from _check_problem(
                        _gathered(caller, device, shape, dtype, everything, rolled)
                    )
        for shape in scores:
            for weighted in (False, True):
                yield from _check_problem(_scored(caller, device, shape, dtype, weighted))


def check_workload(
    caller: Any, device: torch.device, shape: tuple[int, int, int], dtype: str
) -> list[Finding]:
    """The same for one size of the rolled loss."""
    return list(_check_problem(_gathered(caller, device, shape, dtype, False, True)))


def _check_problem(problem: _Problem) -> Iterator[Finding]:
    first = _run(problem.call)
    again = _run(problem.call)
    same = all(torch.equal(_bits(first[name]), _bits(again[name])) for name in first)
    yield Finding(problem.name, "same bits", 0.0 if same else math.inf, 0.0, 0.0)
    if problem.call.workspace.is_cuda:
        replayed = _replay(problem.call)
        same = all(torch.equal(_bits(first[name]), _bits(replayed[name])) for name in first)
        yield Finding(problem.name, "same bits from a graph", 0.0 if same else math.inf, 0.0, 0.0)
    truth = _differentiate(problem, torch.float64)
    own_dtype = next(iter(problem.tensors.values())).dtype
    kind = torch.float64 if own_dtype == torch.float64 else torch.float32
    plain = _differentiate(problem, kind)
    epsilon = torch.finfo(kind).eps
    for name, exact in truth.items():
        error = _distance(first[name], exact)
        plain_error = _distance(plain[name], exact)
        scale = float(exact.abs().max()) + problem.usual[name] if exact.numel() else 0.0
        yield Finding(
            problem.name, name, error, plain_error, 4 * plain_error + 16 * epsilon * scale
        )


def _differentiate(problem: _Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """The composition's results, computed in `dtype` from the same, already rounded, inputs."""
    tensors = {
        name: tensor.detach().to(dtype).requires_grad_() for name, tensor in problem.tensors.items()
    }
    device = next(iter(tensors.values())).device
    scalars = {
        name: torch.tensor(problem.options[name], dtype=dtype, device=device, requires_grad=True)
        for name in problem.scalars
    }
    loss = problem.loss(tensors, scalars)
    inputs = [*tensors.values(), *scalars.values()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    filled = [
        torch.zeros_like(tensor) if grad is None else grad
        for tensor, grad in zip(inputs, grads, strict=True)
    ]
    return {
        "loss": loss.detach().reshape(1),
        **dict(zip(tensors, filled, strict=False)),
        "grad_scalars": torch.stack(filled[len(tensors) :]),
    }


def _gathered(
    caller: Any,
    device: torch.device,
    shape: tuple[int, int, int],
    dtype: str,
    everything: bool,
    rolled: bool,
) -> _Problem:
    batch_size, num_negatives, dim = shape
    generator = torch.Generator().manual_seed(hash((shape, everything, rolled)) % 2**31)
    kind = getattr(torch, dtype)
    compute = torch.float64 if kind == torch.float64 else torch.float32

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    user = torch.randn(batch_size, dim, generator=generator, dtype=torch.float64)
    item = torch.randn(batch_size, dim, generator=generator, dtype=torch.float64) + 0.5 * user
    user, item = user.to(device, kind), item.to(device, kind)
    options: dict[str, Any] = {
        name: float(torch.tensor(value, dtype=compute)) for name, value in _OPTIONS.items()
    }
    takes_all = rolled or caller.gives_shuffled_all
    if not takes_all:
        options |= {"margin": 0.0, "t": 1.0}
    scalars = dict(options)
    tensors = {"grad_user": user, "grad_item": item}
    facts: dict[str, Any] = {}
    if everything:
        labels = (uniform(batch_size) < 0.8).to(torch.int32)
        labels[0] = 1
        weights = uniform(batch_size) * (uniform(batch_size) < 0.8)
        weights[0] = 1.0
        probability = uniform(batch_size) ** 4
        probability[-1] = 0
        ids = torch.randint(max(2, batch_size // 3), (batch_size,), generator=generator)
        facts = {"probability": probability.to(device, compute), "ids": ids.to(device)}
        scalars = _on_device(options, compute, device)
        if takes_all:
            facts["labels"] = labels.to(device)
            tensors["grad_weights"] = weights.to(device, compute)
    if rolled:
        shifts = torch.randint(1, batch_size, (num_negatives,), generator=generator).to(device)
        candidates = composition.rolled_rows(shifts, batch_size)
        given: dict[str, Any] = {"shifts": shifts}
    else:
        order = [torch.randperm(batch_size, generator=generator) for _ in range(num_negatives)]
        candidates = torch.stack(order).to(device)
        given = {"permutations": candidates.to(torch.int32)}
    call = caller.gathered(
        user,
        item,
        **given,
        **facts,
        **scalars,
        weights=tensors.get("grad_weights"),
        scalar_grads=True,
    )

    def loss(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> Tensor:
        return composition.gathered_loss(
            tensors["grad_user"],
            tensors["grad_item"],
            candidates,
            weights=tensors.get("grad_weights"),
            **facts,
            **scalars,
        )

    norm = float(user.double().norm(dim=1).mean())
    usual = {"loss": 1.0, "grad_scalars": 20.0, "grad_weights": 1 / batch_size}
    usual["grad_user"] = usual["grad_item"] = 20.0 / batch_size / norm
    name = (
        f"{'rolled' if rolled else 'shuffled'} {shape} {dtype}{' with all' if everything else ''}"
    )
    return _Problem(name, call, tensors, loss, usual, _SCALARS, options)


def _scored(
    caller: Any,
    device: torch.device,
    shape: tuple[int, int],
    dtype: str,
    weighted: bool,
) -> _Problem:
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    kind = getattr(torch, dtype)
    compute = torch.float64 if kind == torch.float64 else torch.float32
    pos = torch.randn(shape[0], generator=generator, dtype=torch.float64).to(device, kind)
    neg = torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, kind)
    scalars = {"smooth": 3.0, "margin": 0.125, "t": 1.25}
    tensors = {"grad_pos": pos, "grad_neg": neg}
    if weighted:
        weights = torch.rand(shape[0], generator=generator, dtype=torch.float64)
        weights[1:] *= weights[1:] > 0.2
        tensors["grad_weights"] = weights.to(device, compute)
    given: dict[str, Any] = {**scalars, "threshold": 0.0625}
    if weighted:
        given = _on_device(given, compute, device)
    call = caller.sv_softmax(pos, neg, **given, weights=tensors.get("grad_weights"))

    def loss(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> Tensor:
        return composition.sv_softmax_loss(
            tensors["grad_pos"],
            tensors["grad_neg"],
            weights=tensors.get("grad_weights"),
            threshold=0.0625,
            **scalars,
        )

    usual = {"loss": 1.0, "grad_scalars": 3.0, "grad_weights": 1 / shape[0]}
    usual["grad_pos"] = usual["grad_neg"] = 3.0 / shape[0]
    name = f"sv_softmax {shape} {dtype}{' weighted' if weighted else ''}"
    return _Problem(name, call, tensors, loss, usual, tuple(scalars), scalars)


def _on_device(
    scalars: dict[str, float], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    return {
        name: torch.tensor(value, dtype=dtype, device=device) for name, value in scalars.items()
    }


def check_refusals(caller: Any, device: torch.device) -> Iterator[Finding]:
    """What only the device can see: it must say so in its results and touch nothing else."""
    user = torch.ones(40, 16, device=device)
    shifts = torch.tensor([3, 80, 5, 0], device=device)
    permutations = torch.stack([torch.arange(40)] * 3).to(device, torch.int32)
    permutations[1, 7], permutations[2, 0] = 6, 1 << 30
    weight = torch.tensor(2.0, device=device)
    for name, given, index in (
        ("a shift of 0", {"shifts": shifts}, 1),
        ("no permutation", {"permutations": permutations}, 47),
        (
            "a weight of negatives",
            {"shifts": shifts[::2].contiguous(), "negative_weight": weight},
            -2,
        ),
    ):
        results = _run(caller.gathered(user, user, **given))
        found = int(results.pop("error_index"))
        yield Finding(name, "error_index", abs(found - index), 0.0, 0.0)
        for result, values in results.items():
            others = int(torch.count_nonzero(~torch.isnan(values)))
            yield Finding(name, f"{result} is NaN", float(others), 0.0, 0.0)


def _run(call: Any) -> dict[str, Tensor]:
    call.poison()
    call.launch()
    return {name: tensor.clone() for name, tensor in call.results.items()}


def _replay(call: Any) -> dict[str, Tensor]:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call.launch()
    call.poison()
    graph.replay()
    return {name: tensor.clone() for name, tensor in call.results.items()}


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


def _distance(actual: Tensor, exact: Tensor) -> float:
    if not exact.numel():
        return 0.0
    difference = (actual.double() - exact.double()).abs()
    return math.inf if bool(difference.isnan().any()) else float(difference.max())
