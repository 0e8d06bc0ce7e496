"""The time and the memory of a training step's loss, beside other ways to compute it.

A step is the rolled loss and both gradients. All contenders take turns, round by round, and each of
their steps uses the next of several sets of inputs, which together are larger than the second-level
cache. Before a contender is timed, its loss is compared with the float64 composition's.
"""

import dataclasses
import functools
import gc
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu import calls, composition, library

# (batch_size, num_negatives, embedding_dim)
WORKLOADS = ((4096, 20, 64), (8192, 256, 64), (16384, 1024, 128), (65536, 64, 128))
DTYPES = ("float32", "bfloat16")

_OPTIONS = {"gamma": 20.0, "margin": 0.1, "t": 1.2}
_MIB = 2**20


@dataclasses.dataclass
class Inputs:
    """What the contenders of one workload get."""

    shape: tuple[int, int, int]
    dtype: str
    sets: list[tuple[Tensor, Tensor]]
    shifts: Tensor

    @property
    def least_bytes(self) -> int:
        """Each input read once, and each gradient written once, as float32."""
        batch_size, _, dim = self.shape
        size = self.sets[0][0].element_size()
        return 2 * batch_size * dim * (size + 4)

    @property
    def gathered_bytes(self) -> int:
        """What the two passes over the pairs read, from whichever cache."""
        batch_size, num_negatives, dim = self.shape
        return 2 * batch_size * (num_negatives + 1) * dim * self.sets[0][0].element_size()


@dataclasses.dataclass
class Measured:
    """One contender on one workload."""

    contender: str
    time_ms: float = math.nan
    samples_ms: list[float] = dataclasses.field(default_factory=list)
    peak_memory_mib: float = math.nan
    loss_error: float = math.nan
    problem: str = ""  # Why there is no time.


class Clock:
    """Milliseconds that work on a device takes; the host's clock where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        """Of this device."""
        self._on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Until the device is idle."""
        if self._on_gpu:
            torch.cuda.synchronize()

    def time(self, work: Callable[[], None], *, by_host: bool) -> float:
        """Runs `work`; by the device's events, or by the host's clock and a wait."""
        self.wait()
        if by_host or not self._on_gpu:
            begin = time.perf_counter()
            work()
            self.wait()
            return 1e3 * (time.perf_counter() - begin)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        work()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1]))


def make_inputs(
    shape: tuple[int, int, int], dtype: str, device: torch.device, cache_bytes: int
) -> Inputs:
    """Sets of random embeddings, together three times as large as the cache."""
    batch_size, num_negatives, dim = shape
    kind = getattr(torch, dtype)
    generator = torch.Generator(device).manual_seed(1)
    set_bytes = 2 * batch_size * dim * torch.tensor([], dtype=kind).element_size()
    count = min(128, max(2, math.ceil(3 * cache_bytes / set_bytes)))
    sets = []
    for _ in range(count):
        user = torch.randn(batch_size, dim, generator=generator, device=device)
        item = torch.randn(batch_size, dim, generator=generator, device=device) + 0.5 * user
        sets.append((user.to(kind), item.to(kind)))
    shifts = torch.randint(1, batch_size, (num_negatives,), generator=generator, device=device)
    return Inputs(shape, dtype, sets, shifts)


# A contender: from inputs to a function that runs a step on one set and returns its loss (a tensor,
# or something that float() takes).
Maker = Callable[[Inputs], Callable[[int], Any]]


def fastneg_call(kernels: library.Library) -> Maker:
    """Our kernels, called one after the other."""

    def make(inputs: Inputs) -> Callable[[int], Any]:
        prepared = _prepared(kernels, inputs)

        def step(n: int) -> Any:
            prepared[n].launch()
            return prepared[n].results["loss"]

        return step

    return make


def fastneg_graph(kernels: library.Library) -> Maker:
    """The same from a CUDA graph: without what starting kernels one by one takes."""

    def make(inputs: Inputs) -> Callable[[int], Any]:
        prepared = _prepared(kernels, inputs)
        prepared[0].launch()  # What is loaded when it is first used cannot be loaded into a graph.
        graphs = []
        torch.cuda.synchronize()
        for call in prepared:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call.launch()
            graphs.append(graph)

        def step(n: int) -> Any:
            graphs[n].replay()
            return prepared[n].results["loss"]

        return step

    return make


def _prepared(kernels: library.Library, inputs: Inputs) -> list[calls.Call]:
    """A call for each set; they share results and workspace, as they run one after the other."""
    prepared: list[calls.Call] = []
    for user, item in inputs.sets:
        if not prepared:
            prepared.append(calls.gathered(kernels, user, item, shifts=inputs.shifts, **_OPTIONS))
            continue
        args = type(prepared[0].args).from_buffer_copy(prepared[0].args)
        args.user_emb, args.item_emb = user.data_ptr(), item.data_ptr()
        prepared.append(dataclasses.replace(prepared[0], args=args, inputs=(user, item)))
    return prepared


def torch_composition(scores_by: str, *, compiled: bool = False) -> Maker:
    """The composition in PyTorch, in the dtype of the inputs."""

    def make(inputs: Inputs) -> Callable[[int], Any]:
        def compute(user: Tensor, item: Tensor, shifts: Tensor) -> Tensor:
            candidates = composition.rolled_rows(shifts, len(user))
            return composition.gathered_loss(
                user, item, candidates, scores_by=scores_by, **_OPTIONS
            )

        if compiled:
            torch._dynamo.reset()
            compute = torch.compile(compute)
        leaves = [
            tuple(tensor.detach().requires_grad_() for tensor in pair) for pair in inputs.sets
        ]

        def step(n: int) -> Any:
            loss = compute(*leaves[n], inputs.shifts)
            torch.autograd.grad(loss, leaves[n])
            return loss.detach()

        return step

    return make


def jax_jit(inputs: Inputs) -> Callable[[int], Any]:
    """The composition in JAX, compiled, with the candidates gathered."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")  # Not TF32.

    def normalize(rows: Any) -> Any:
        squares = jnp.sum(rows * rows, axis=1, keepdims=True)
        return rows * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))

    def compute(pair: Any, shifts: Any) -> Any:
        user, item = (normalize(rows) for rows in pair)
        rows = jnp.arange(len(user))
        candidates = (rows[:, None] - shifts[None, :]) % len(user)
        positive = jnp.sum(user * item, axis=1).astype(jnp.float32) - _OPTIONS["margin"]
        negatives = jnp.einsum("bd,bkd->bk", user, item[candidates]).astype(jnp.float32)
        hard = positive[:, None] - negatives < 0
        t = _OPTIONS["t"]
        scores = jnp.where(jax.lax.stop_gradient(hard), t * negatives + t - 1, negatives)
        logits = _OPTIONS["gamma"] * jnp.concatenate([positive[:, None], scores], axis=1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])

    kind = getattr(jnp, inputs.dtype)
    sets = [
        tuple(jnp.asarray(tensor.float().cpu().numpy()).astype(kind) for tensor in pair)
        for pair in inputs.sets
    ]
    shifts = jnp.asarray(inputs.shifts.cpu().numpy())

    compiled = jax.jit(jax.value_and_grad(compute)).lower(sets[0], shifts).compile()
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes if memory else math.nan

    def step(n: int) -> Any:
        loss, grads = compiled(sets[n], shifts)
        return _JaxLoss(loss, grads, needed)

    return step


class _JaxLoss:
    """A loss that is on its way; waiting for it is the caller's."""

    def __init__(self, loss: Any, grads: Any, needed_bytes: float) -> None:
        self._loss, self._grads = loss, grads
        self.needed_bytes = needed_bytes

    def wait(self) -> None:
        for array in (self._loss, *self._grads):
            array.block_until_ready()

    def __float__(self) -> float:
        return float(self._loss)


def contenders(
    kernels: library.Library, device: torch.device, variants: dict[str, library.Library]
) -> dict[str, Maker]:
    """Everything that is timed, by name; `variants` are other builds of the kernels."""
    makers: dict[str, Maker] = {"fastneg": fastneg_call(kernels)}
    if device.type == "cuda":
        makers["fastneg, graph"] = fastneg_graph(kernels)
        for name, variant in variants.items():
            makers[f"variant, {name}"] = fastneg_graph(variant)
    makers["PyTorch, gathered"] = torch_composition("gather")
    makers["PyTorch, all products"] = torch_composition("product")
    makers["torch.compile"] = torch_composition("gather", compiled=True)
    makers["JAX jit"] = jax_jit
    return makers


def measure(
    inputs: Inputs,
    makers: dict[str, Maker],
    device: torch.device,
    *,
    rounds: int = 11,
    seconds: float = 30.0,
) -> list[Measured]:
    """Checks every contender, then times them, taking turns, for at most `seconds`."""
    clock = Clock(device)
    user, item = inputs.sets[0]
    candidates = composition.rolled_rows(inputs.shifts, len(user))
    with torch.no_grad():
        exact = float(
            composition.gathered_loss(user.double(), item.double(), candidates, **_OPTIONS)
        )
    allowed = {"float32": 1e-5, "bfloat16": 2e-2}[inputs.dtype] * (1 + abs(exact))
    measured: list[Measured] = []
    steps: dict[str, Callable[[int], Any]] = {}
    loops: dict[str, int] = {}
    for name, make in makers.items():
        result = Measured(name)
        measured.append(result)
        gc.collect()
        try:
            before = _allocated(device)
            step = make(inputs)
            step(0)  # Compiles what compiles.
            clock.wait()
            result.loss_error = abs(float(step(0)) - exact)
            if not result.loss_error <= allowed:
                result.problem = f"wrong by {result.loss_error:.3g}, allowed {allowed:.3g}"
                continue
            result.peak_memory_mib = _peak_memory(step, clock, device, before)
            once = clock.time(lambda step=step: _loop(step, 1, 1), by_host=True)
            steps[name] = step
            loops[name] = max(1, min(200, int(10 / max(once, 1e-3))))
        except (ImportError, RuntimeError, AttributeError) as error:
            result.problem = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    begin = time.perf_counter()
    for turn in range(rounds):
        for result in measured:
            if result.contender not in steps:
                continue
            step, loop = steps[result.contender], loops[result.contender]
            work = functools.partial(_loop, step, loop, len(inputs.sets))
            by_host = result.contender == "JAX jit"  # It has a stream of its own.
            result.samples_ms.append(clock.time(work, by_host=by_host) / loop)
        if turn >= 2 and time.perf_counter() - begin > seconds:
            break
    for result in measured:
        if result.samples_ms:
            result.time_ms = statistics.median(result.samples_ms)
    return measured


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes per second, read and written together, of a large copy on the device."""
    source = torch.empty(num_bytes // 4, device=device).normal_()
    target = torch.empty_like(source)
    clock = Clock(device)
    samples = [clock.time(lambda: target.copy_(source), by_host=False) for _ in range(13)]
    return 2 * num_bytes / (1e-3 * statistics.median(samples[2:]))


def _loop(step: Callable[[int], Any], count: int, sets: int) -> None:
    last = None
    for n in range(count):
        last = step(n % sets)
    if isinstance(last, _JaxLoss):
        last.wait()


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def _peak_memory(
    step: Callable[[int], Any], clock: Clock, device: torch.device, before: int
) -> float:
    """MiB beyond the inputs while a step runs, results included; NaN where nobody counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss = step(0)
    clock.wait()
    if isinstance(loss, _JaxLoss):
        return loss.needed_bytes / _MIB
    if device.type != "cuda":
        return math.nan
    return (torch.cuda.max_memory_allocated() - before) / _MIB
