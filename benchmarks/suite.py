"""What the harness needs to know of a loss: its workloads, its contenders and its truth."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tensorflow as tf
from measure import MachineLimits

import fastneg

NUM_THREADS = 2
PUBLISHED = "published, graph"
SUITES = (
    "rolled_softmax",
    "shuffled_cosine",
    "sv_softmax",
    "pairwise_logistic",
    "sampled_softmax",
    "in_batch_softmax",
    "in_batch_options",
    "positive_ranks",
)
Kind = Literal["TensorFlow form", "peer", "fastneg", "overhead"]

# Computes the loss and its gradients `calls` times over, and returns the last.
Run = Callable[[int], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Workload:
    """One size of a loss; every suite has a class of its own, with what it needs.

    Attributes:
        compares_all: Whether all baselines run, or only the main ones.
        dtype: Name of the inputs' dtype.
    """

    compares_all: bool = dataclasses.field(default=True, kw_only=True)
    dtype: str = dataclasses.field(default="float32", kw_only=True)

    @property
    def name(self) -> str:
        """By which `--workloads` selects it: the sizes, and the dtype unless it is float32."""
        sizes = [
            str(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("compares_all", "dtype")
        ]
        return ",".join(sizes if self.dtype == "float32" else [*sizes, self.dtype])

    @property
    def in_float32(self) -> Workload:
        """The same size in float32."""
        return dataclasses.replace(self, dtype="float32")

    @property
    def memory_budget_bytes(self) -> int | None:
        """Peak memory beyond inputs that fastneg may use, where one is set."""
        return None

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on, for measuring memory."""
        raise NotImplementedError

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return False


@dataclasses.dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: As printed.
        kind: Whose it is.
        build: Makes the call that is timed, from a workload and its inputs.
        why_skipped: The reason not to run a workload that it was meant for, or None.
        everywhere: Whether it runs at the sizes that only compare widths and dtypes.
        float32_only: Whether it leaves the half types out.
        loss_of: The loss by itself for a workload, where it is TensorFlow's to differentiate.
        jit_compile: Whether XLA compiles it.
    """

    name: str
    kind: Kind
    build: Callable[[Any, Any], Run]
    why_skipped: Callable[[Any], str | None] = lambda _: None
    everywhere: bool = True
    float32_only: bool = True
    loss_of: Callable[[Any], Callable[..., tf.Tensor]] | None = None
    jit_compile: bool = False

    def is_meant_for(self, workload: Workload) -> bool:
        """Whether the contender belongs into this column of the table."""
        if workload.dtype != "float32" and self.float32_only:
            return False
        return self.everywhere or workload.compares_all


@dataclasses.dataclass(frozen=True)
class Suite:
    """One loss.

    Attributes:
        stem: Its name in every layer.
        title: Of its table.
        sizes: What the columns' names stand for, "B,K,D".
        table: The workloads of a full run.
        quick: Those of a run that only checks results.
        make_inputs: The arrays of a workload.
        make_tensors: The inputs as arguments of a step; the first ones are differentiated.
        fastneg_loss: The public function on a backend, of those arguments.
        num_differentiated: How many arguments are.
        contenders: Everything that is timed.
        compute_truth: Loss and gradients in float64.
        describe_error: Says what is wrong with a result (loss, gradients), or None.
        least_time_ms: What the machine's limits allow, where that is known.
        draw: Writes a picture of the cost, given the name of a file; None: there is none.
        plain: The contender that the others of fastneg are options of, if they are.
    """

    stem: str
    title: str
    sizes: str
    table: tuple[Any, ...]
    quick: tuple[Any, ...]
    make_inputs: Callable[[Any], Any]
    make_tensors: Callable[[Any, Any], tuple[tf.Tensor, ...]]
    fastneg_loss: Callable[[str], Callable[..., tf.Tensor]]
    num_differentiated: int
    contenders: tuple[Contender, ...]
    compute_truth: Callable[[Any], Any]
    describe_error: Callable[[Any, float, tuple[Any, ...]], str | None]
    least_time_ms: Callable[[MachineLimits, Any, Any], float] | None = None
    draw: Callable[[str], object] | None = None
    plain: str | None = None

    def select(self, names: str | None, quick: bool) -> tuple[Any, ...]:
        """Workloads for the options `--workloads` (names separated by ";") and `--quick`."""
        if names is None:
            return self.quick if quick else self.table
        return tuple(self.workload(name.strip()) for name in names.split(";"))

    def workload(self, name: str) -> Any:
        """The workload of a name; any size has one."""
        for workload in (*self.table, *self.quick):
            if workload.name == name:
                return workload
        fields = name.split(",")
        num_sizes = self.sizes.count(",") + 1
        if len(fields) not in (num_sizes, num_sizes + 1):
            raise ValueError(f"A workload must be {self.sizes}[,dtype]. Received: {name!r}.")
        dtype = fields[num_sizes] if len(fields) > num_sizes else "float32"
        return type(self.table[0])(*(int(size) for size in fields[:num_sizes]), dtype=dtype)

    def contender(self, name: str) -> Contender:
        """The contender of a name."""
        return next(contender for contender in self.contenders if contender.name == name)


def load_suite(stem: str) -> Suite:
    """The suite of a loss, from the module with its name."""
    return importlib.import_module(stem).SUITE


def make_step(
    loss_fn: Callable[..., tf.Tensor], num_differentiated: int, jit_compile: bool = False
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """A tf.function of a loss and its gradients by the first arguments.

    A gradient of some rows only comes as two tensors, the rows' values and their indices.
    """

    @tf.function(jit_compile=jit_compile)
    def step(*arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        variables = arguments[:num_differentiated]
        with tf.GradientTape() as tape:
            tape.watch(variables)
            loss = loss_fn(*arguments)
        grads = tape.gradient(loss, variables)
        return loss, *itertools.chain.from_iterable(map(_tensors_of, grads))

    return step


def _tensors_of(grad: tf.Tensor | tf.IndexedSlices) -> tuple[tf.Tensor, ...]:
    return (grad.values, grad.indices) if isinstance(grad, tf.IndexedSlices) else (grad,)


def repeated(step: Callable[..., Sequence[tf.Tensor]], arguments: Sequence[tf.Tensor]) -> Run:
    """Runs a step `calls` times inside one tf.function, one after the other.

    That is the place of a loss: inside a training step. The call of a tf.function from Python costs
    tens to hundreds of microseconds, more than a small loss, and would be all that is seen.
    """
    state = [tf.zeros_like(value) for value in step(*arguments)]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def loop(calls: tf.Tensor) -> tuple[tf.Tensor, ...]:
        _, *result = tf.while_loop(
            lambda i, *_: i < calls,
            lambda i, *_: (i + 1, *step(*arguments)),
            (0, *state),
            shape_invariants=(
                tf.TensorShape([]),
                *(tf.TensorShape([None] * value.shape.rank) for value in state),
            ),
            parallel_iterations=1,
        )
        return tuple(result)

    def run(calls: int) -> tuple[tf.Tensor, ...]:
        loss, *others = loop(tf.constant(calls))
        loss.numpy()  # Waits for a GPU, if there is one.
        return loss, *others

    return run


def on_backend(backend: str, loss_fn: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A loss on one backend; the choice is made while it is traced."""

    def loss(*arguments: tf.Tensor) -> tf.Tensor:
        with fastneg.use_backend(backend):
            return loss_fn(*arguments)

    return loss


def tensorflow_form(
    name: str,
    loss_fn: Callable[..., tf.Tensor],
    make_tensors: Callable[[Any, Any], tuple[tf.Tensor, ...]],
    num_differentiated: int,
    *,
    jit_compile: bool = False,
    **options: Any,
) -> Contender:
    """A baseline in plain TensorFlow, as a graph or through XLA."""

    def build(workload: Any, inputs: Any) -> Run:
        step = make_step(loss_fn, num_differentiated, jit_compile)
        return repeated(step, make_tensors(workload, inputs))

    suffix = "XLA" if jit_compile else "graph"
    own = {"loss_of": lambda _: loss_fn, "jit_compile": jit_compile}
    return Contender(f"{name}, {suffix}", "TensorFlow form", build, **own, **options)


def fastneg_backends(
    fastneg_loss: Callable[[str], Callable[..., tf.Tensor]],
    make_tensors: Callable[[Any, Any], tuple[tf.Tensor, ...]],
    num_differentiated: int,
    why_reference_is_skipped: Callable[[Any], str | None] = lambda _: None,
    *,
    in_xla: bool = True,
) -> list[Contender]:
    """The backends of fastneg, and what the loop around the step takes by itself.

    With `in_xla` also the native backend's operation as XLA calls it.
    """

    def build_on(backend: str, jit_compile: bool = False) -> Callable[[Any, Any], Run]:
        def build(workload: Any, inputs: Any) -> Run:
            step = make_step(fastneg_loss(backend), num_differentiated, jit_compile)
            return repeated(step, make_tensors(workload, inputs))

        return build

    def build_empty(workload: Any, inputs: Any) -> Run:
        def step(*arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tf.zeros([]), *(tf.identity(x) for x in arguments[:num_differentiated])

        return repeated(tf.function(step), make_tensors(workload, inputs))

    native_in_xla = Contender(
        "fastneg native, XLA",
        "fastneg",
        build_on("native", jit_compile=True),
        lambda _: _why_not_in_xla(),
        everywhere=False,
    )
    return [
        Contender(
            "fastneg native",
            "fastneg",
            build_on("native"),
            float32_only=False,
            loss_of=lambda _: fastneg_loss("native"),
        ),
        *([native_in_xla] if in_xla else []),
        Contender("fastneg numba", "fastneg", build_on("numba"), float32_only=False),
        Contender(
            "fastneg reference",
            "fastneg",
            build_on("reference"),
            why_reference_is_skipped,
            float32_only=False,
        ),
        Contender("empty step", "overhead", build_empty, float32_only=False),
    ]


def _why_not_in_xla() -> str | None:
    reason = fastneg.build_info()["xla"]
    return None if reason == "loaded" else reason


def describe_difference(
    expected: Sequence[Any],
    loss: float,
    grads: Sequence[Any],
    names: Sequence[str],
    loss_tolerance: float = 1e-5,
) -> str | None:
    """Says what is wrong with a result, or None if it agrees with the truth.

    The loss must agree to `loss_tolerance` relative. An element of a gradient may be off by 1e-4 of
    its own size plus the gradient's root mean square: some ten times what float32 makes of a gamma
    of 20, and far below any mistake. A gradient in float16 may have that type's rounding, one in
    bfloat16 that of its factors too.
    """
    import numpy as np

    true_loss, *true_grads = expected
    if not np.isclose(loss, true_loss, rtol=loss_tolerance):
        return f"loss {loss!r} instead of {true_loss!r}"
    for name, grad, exact in zip(names, grads, true_grads, strict=True):
        tolerance = {"float16": 5e-3, "bfloat16": 2e-2}.get(grad.dtype.name, 1e-4)
        size = np.sqrt(np.mean(exact**2))
        errors = np.abs(grad.astype(np.float64) - exact)
        if not np.all(errors <= tolerance * (size + np.abs(exact))):
            return f"{name} is off by {errors.max():.2e} where its root mean square is {size:.2e}"
    return None
