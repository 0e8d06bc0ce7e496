"""The core of the in-batch loss on arrays: instruction sets, threads, paths that few take."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import in_batch_problems
import instruction_sets
import numpy as np
import oracle_in_batch_softmax as oracle
import problems
import pytest
from in_batch_problems import VARIANTS, Problem
from instruction_sets import FOR_BFLOAT16, PLAIN

_core = pytest.importorskip("fastneg._core", exc_type=ImportError)

# Tails of rows, candidates and dimensions, several blocks of rows, and several rounds of blocks.
SHAPES = ((7, 8, 3), (130, 131, 33), (300, 301, 64), (70, 1100, 700))


def _run(problem: Problem, **arguments: Any) -> dict[str, np.ndarray]:
    arguments = {"scalar_gradients": True, **problem.options, **arguments}
    return _core.in_batch_softmax(problem.query, problem.candidate, **arguments)


def _truth(problem: Problem) -> oracle.Truth:
    return oracle.in_batch_softmax(problem.query, problem.candidate, **problem.options)


def _assert_close(
    result: dict[str, np.ndarray],
    exact: oracle.Truth,
    tolerance: float,
    grad_tolerance: float | None = None,
) -> None:
    scalars = np.array([exact.grad_temperature, exact.grad_margin, exact.grad_t])
    for name, expected in (
        ("loss", exact.loss),
        ("grad_query", exact.grad_query),
        ("grad_candidate", exact.grad_candidate),
        ("grad_weight", exact.grad_weight),
        ("grad_scalars", scalars),
    ):
        if name not in result:
            continue
        scale = max(np.max(np.abs(expected)), np.max(np.abs(scalars)) if "scal" in name else 0.0)
        error = np.max(np.abs(result[name] - expected))
        allowed = tolerance if grad_tolerance is None or name == "loss" else grad_tolerance
        assert error <= allowed * scale + 1e-30, (name, error, scale)


@functools.lru_cache(8)  # The instruction sets follow each other.
def _made(
    variant: str, shape: tuple[int, int, int], dtype: str, reduction: str = "sum"
) -> tuple[Problem, oracle.Truth]:
    made = in_batch_problems.make(*shape, dtype)
    problem = in_batch_problems.variant(variant, made, reduction)
    return problem, _truth(problem)


def _cases() -> Iterator[tuple[str, str, str]]:
    """Every variant in float64, in a narrower type, and in bfloat16 where that has kernels.

    What options do is done to numbers of the compute type, which are float for all narrower types.
    These take turns.
    """
    narrower = itertools.cycle(["float32", "float16", "float32", "bfloat16"])
    for variant in VARIANTS:
        for isa in PLAIN:
            yield variant, "float64", isa
        for isa in PLAIN:
            yield variant, next(narrower), isa
        for isa in FOR_BFLOAT16:
            yield variant, "bfloat16", isa


@pytest.mark.parametrize(("variant", "dtype", "isa"), list(_cases()), indirect=["isa"])
def test_instruction_sets(isa: str, dtype: str, variant: str) -> None:
    tolerance = 1e-12 if dtype == "float64" else 4e-5
    for shape in SHAPES:
        problem, exact = _made(variant, shape, dtype)
        result = _run(problem)
        _assert_close(result, exact, tolerance)
        if isa in FOR_BFLOAT16:
            continue  # test_bfloat16.
        # Without the gradient of t nothing is re-weighted unless t asks for it, and without any
        # gradient a block keeps one panel at a time.
        _assert_close(_run(problem, scalar_gradients=False), exact, tolerance)
        _assert_close(_run(problem, gradients=False), exact, tolerance)


@pytest.mark.parametrize("isa", FOR_BFLOAT16, indirect=True)
@pytest.mark.parametrize("variant", ["plain", "two ways"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_sets_for_bfloat16_extend_another(isa: str, dtype: str, variant: str) -> None:
    """Whose bits they give for everything else, so that it need not be tested again."""
    problem, _ = _made(variant, (131, 301, 66), dtype)
    result = _run(problem, scalar_gradients=False)
    _core.set_isa(isa.rpartition("-")[0])
    other = _run(problem, scalar_gradients=False)
    same = [np.array_equal(other[name], value) for name, value in result.items()]
    assert all(same) == (dtype != "bfloat16" or variant == "two ways")


@pytest.mark.parametrize(
    ("variant", "dtype", "isa"),
    [
        *itertools.product(VARIANTS, ["float32"], PLAIN),
        *itertools.product(VARIANTS, ["bfloat16"], FOR_BFLOAT16),
    ],
    indirect=["isa"],
)
def test_trained_temperature(isa: str, dtype: str, variant: str) -> None:
    """Without the gradient of t, 0 stands in its place where t is 1, and the others stay."""
    problem, exact = _made(variant, (131, 301, 66), dtype, "mean")
    result = _run(problem, t_gradient=False)
    of_t = result["grad_scalars"][2]
    if problem.options.get("t", 1.0) == 1.0:
        assert of_t == 0
        result["grad_scalars"][2] = exact.grad_t
    _assert_close(result, exact, 4e-5, 1e-2 if isa in FOR_BFLOAT16 else None)


def test_scratch_with_many_threads() -> None:
    """No number of threads makes it a matrix of all scores, which would take 1 GiB here."""
    made = in_batch_problems.make(4096, 65536, 2)
    result = _core.in_batch_softmax(made.query, made.candidate, num_threads=64)
    assert result["workspace_bytes"] < 300 << 20


def test_bfloat16_is_as_close_as_its_composition() -> None:
    """Against the same in TensorFlow with a product of matrices in bfloat16."""
    tf = pytest.importorskip("tensorflow")
    for temperature in (1.0, 0.1):
        made = in_batch_problems.make(256, 512, 64, "bfloat16")
        problem = made.with_options(temperature=temperature, normalize=temperature != 1)
        exact = _truth(problem)
        query, candidate = tf.constant(problem.query), tf.constant(problem.candidate)
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            rows = [query, candidate]
            if problem.options["normalize"]:
                rows = [tf.math.l2_normalize(x, axis=1) for x in rows]
            scores = tf.cast(tf.matmul(*rows, transpose_b=True), tf.float32) / temperature
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(256), scores)
            loss = tf.reduce_mean(losses)
        composed = tape.gradient(loss, [query, candidate])
        result = _run(problem, scalar_gradients=False)
        assert abs(result["loss"] - exact.loss) <= abs(float(loss) - exact.loss) + 1e-5
        for name, gradient in zip(("grad_query", "grad_candidate"), composed, strict=True):
            expected = getattr(exact, name)
            own = np.linalg.norm(result[name] - expected)
            assert own <= 2 * np.linalg.norm(np.asarray(gradient, np.float64) - expected), name


@pytest.mark.parametrize(
    ("variant", "shape", "isa"),
    [
        *itertools.product(
            VARIANTS, [(128, 256, 3), (131, 301, 66), (300, 1100, 700)], FOR_BFLOAT16
        ),
        *itertools.product(VARIANTS, [(131, 301, 66)], PLAIN),
    ],
    ids=str,
    indirect=["isa"],
)
def test_bfloat16(isa: str, shape: tuple[int, int, int], variant: str) -> None:
    """Sizes from which on bfloat16 is multiplied as such where the machine can.

    Then the gradients by logits, and the queries that those of candidates take, are rounded to
    eight bits.
    """
    problem, exact = _made(variant, shape, "bfloat16")
    grad_tolerance = 1e-2 if isa in FOR_BFLOAT16 else None
    result = _run(problem, scalar_gradients=False)
    _assert_close(result, exact, 4e-5, grad_tolerance)
    _assert_close(_run(problem, gradients=False), exact, 4e-5)
    many = _run(problem, scalar_gradients=False, num_threads=3)
    for name in set(result) - {"workspace_bytes"}:
        np.testing.assert_array_equal(result[name], many[name], err_msg=name)


def test_bfloat16_far_apart(isa: str) -> None:
    """The first panel's logits are no reference for the others, and some rows have none."""
    made = in_batch_problems.make(140, 300, 16, "bfloat16")
    made.candidate[200:] *= 30
    made.query[5] = 0
    problem = made.with_options(reduction="sum", sample_weight=np.arange(140) % 3)
    grad_tolerance = 1e-2 if isa in FOR_BFLOAT16 else None
    result = _run(problem, scalar_gradients=False)
    _assert_close(result, _truth(problem), 4e-5, grad_tolerance)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bfloat16_that_is_not_finite(isa: str, value: float) -> None:
    """What no other row has to do with stays out of its gradients."""
    made = in_batch_problems.make(140, 300, 16, "bfloat16")
    mask = np.arange(300) != 250
    problem = made.with_options(candidate_mask=mask)
    exact = _truth(problem)
    made.candidate[250] = value
    result = _run(problem, scalar_gradients=False)
    _assert_close(result, exact, 4e-5)


@pytest.mark.parametrize(
    ("variant", "isa", "dtype"),
    [
        (variant, isa, ("float32", "float64")[(row + column) % 2])
        for row, variant in enumerate(VARIANTS)
        for column, isa in enumerate(PLAIN)
    ],
    indirect=["isa"],
)
def test_number_of_threads(isa: str, dtype: str, variant: str) -> None:
    problem = in_batch_problems.variant(variant, in_batch_problems.make(530, 1100, 65, dtype))
    one = _run(problem, num_threads=1)
    for num_threads in (2, 3):
        many = _run(problem, num_threads=num_threads)
        for name in set(one) - {"workspace_bytes"}:
            np.testing.assert_array_equal(one[name], many[name], err_msg=name)


@instruction_sets.plain
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_far_apart(isa: str, variant: str) -> None:
    """The first candidates' logits are no reference for those of the last, nor the positive's."""
    made = in_batch_problems.make(40, 200, 16)
    for begin, end, factor in ((150, 200, 300.0), (20, 40, 500.0), (0, 20, -400.0)):
        candidate = made.candidate.copy()
        candidate[begin:end] *= np.float32(factor)
        problem = in_batch_problems.variant(variant, Problem(made.query, candidate, {}), "sum")
        problem = problem.with_options(normalize=False, temperature=1.0)
        _assert_close(_run(problem), _truth(problem), 4e-5)


@pytest.mark.parametrize(
    ("variant", "factor"),
    [("two ways", 1.0), ("two ways, re-weighted", 300.0), ("two ways, decoupled", 300.0)],
)
def test_more_scores_than_are_kept(variant: str, factor: float) -> None:
    """The gradients' sweep multiplies again what the sums' could not keep: 87 MB of scores."""
    made = in_batch_problems.make(3300, 3300, 2, "float64")
    made.candidate[3000:] *= factor
    problem = in_batch_problems.variant(variant, made, "sum").with_options(temperature=0.5)
    _assert_close(_run(problem), _truth(problem), 1e-11)


@instruction_sets.plain
def test_hard_negatives_of_every_number(isa: str) -> None:
    problem = in_batch_problems.make(20, 150, 8, positives=np.arange(20) * 7)
    for count in (1, 2, 15, 16, 17, 148, 149, 150, 1000):
        chosen = problem.with_options(num_hard_negatives=count, label_smoothing=0.1)
        _assert_close(_run(chosen), _truth(chosen), 4e-5)


@instruction_sets.plain
def test_hard_negatives_of_equal_logits(isa: str) -> None:
    rng = np.random.default_rng(0)
    candidate = rng.integers(-1, 2, (300, 3)).astype(np.float32)
    query = rng.integers(-2, 3, (50, 3)).astype(np.float32)
    for dtype in (np.float32, np.float64):
        for count in (1, 10, 100, 250):
            problem = Problem(
                query.astype(dtype), candidate.astype(dtype), {"num_hard_negatives": count}
            )
            _assert_close(_run(problem), _truth(problem), 1e-5)


@instruction_sets.plain
def test_a_candidate_that_equals_the_positive_is_not_hard(isa: str) -> None:
    made = in_batch_problems.make(64, 64, 77)
    candidate = np.concatenate([made.candidate, made.candidate])
    for normalize in (False, True):
        problem = Problem(made.query, candidate, {"t": 3.0, "normalize": normalize})
        _assert_close(_run(problem), _truth(problem), 1e-4)


@instruction_sets.plain
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_ranks(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for batch_size, num_candidates in ((1, 1), (7, 9), (130, 300), (600, 600)):
        # Small integers: scores are exact, and many are equal.
        query = rng.integers(-2, 3, (batch_size, 5)).astype(problems.DTYPES[dtype])
        candidate = rng.integers(-2, 3, (num_candidates, 5)).astype(problems.DTYPES[dtype])
        options: dict[str, Any] = {}
        for name, value in (
            ("positives", rng.integers(0, num_candidates, batch_size)),
            ("candidate_ids", rng.integers(0, num_candidates // 2 + 1, num_candidates)),
            ("candidate_mask", rng.random(num_candidates) < 0.7),
            ("score_mask", rng.random((batch_size, num_candidates)) < 0.7),
        ):
            ranks = _core.positive_ranks(query, candidate, **options)
            np.testing.assert_array_equal(
                ranks, oracle.positive_ranks(query, candidate, **options), err_msg=str(options)
            )
            options[name] = value


def test_bad_arrays() -> None:
    query, candidate = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    for arguments, message in (
        ({"positives": [0, 1, 4]}, r"positives\[2\] = 4"),
        ({"positives": [0, -1, 1]}, r"positives\[1\] = -1"),
        ({"positives": [0, 1]}, r"must have shape \[3\]"),
        ({"candidate_ids": [0, 1, 2]}, r"must have shape \[4\]"),
        ({"temperature": 0.0}, "options"),
        ({"label_smoothing": 1.0}, "options"),
        ({"correction": "refined"}, "options"),
        ({"negative_weight": 2.0}, "options"),
        ({"bidirectional": True, "num_hard_negatives": 2}, "options"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.in_batch_softmax(query, candidate, **arguments)
    with pytest.raises(ValueError, match="at least as many candidates"):
        _core.in_batch_softmax(candidate, query)
    with pytest.raises(ValueError, match="width"):
        _core.in_batch_softmax(query, np.ones((4, 3), np.float32))
    with pytest.raises(TypeError, match="dtype"):
        _core.in_batch_softmax(query, candidate.astype(np.float64))
