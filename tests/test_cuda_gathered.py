"""The CUDA kernels of the gathered losses, run on the host, against the float64 truth."""

from typing import Any

import cuda_on_host
import numpy as np
import oracle
import problems
import pytest

# (batch_size, num_negatives, embedding_dim): every way in which lanes share a row, with and without
# idle lanes; odd sizes; more rows than a block takes; fewer candidates than are met at a time.
SHAPES = (
    (2, 1, 2),
    (5, 4, 3),
    (33, 8, 32),
    (37, 9, 64),
    (34, 5, 128),
    (19, 7, 256),
    (18, 5, 300),
    (40, 13, 31),
    (17, 6, 131),
    (9, 3, 1024),
    (70, 69, 8),
    (65, 17, 16),
    (130, 20, 64),
    (70, 9, 128),
    (66, 7, 256),
)


def _options(problem: problems.Problem) -> dict[str, Any]:
    """What the kernel gets: parameters in the compute type."""
    kind = problems.compute_dtype(problem.dtype)
    return {
        name: float(kind(value)) if name in ("gamma", "margin", "t") else value
        for name, value in problem.options.items()
    }


def _truth(problem: problems.Problem) -> dict[str, Any]:
    return _as_results(
        oracle.rolled_softmax(
            problem.user_emb,
            problem.item_emb,
            problem.labels,
            problem.shifts,
            **_options(problem),
        )
    )


def _as_results(truth: oracle.Truth) -> dict[str, Any]:
    return {
        "loss": truth.loss,
        "grad_user": truth.grad_user,
        "grad_item": truth.grad_item,
        "grad_weights": truth.grad_weights,
        "grad_scalars": np.array([truth.grad_gamma, truth.grad_margin, truth.grad_t]),
    }


def _check(
    results: dict[str, Any], truth: dict[str, Any], gamma: float, rows: Any, num_rows: int
) -> None:
    """Compares, with an allowance that follows the size of a row's ordinary gradients.

    A logit is as exact as its rounding lets it be, and an exponential as exact as its logit.
    """
    norm = np.mean(np.linalg.norm(np.asarray(rows).astype(np.float64), axis=1))
    gamma = 1 + abs(gamma)
    units = 32 * max(1.0, gamma / 50)
    usual = {
        "loss": 1.0,
        "grad_user": gamma / num_rows / norm,
        "grad_item": gamma / num_rows / norm,
        "grad_weights": 1 / num_rows,
        "grad_scalars": gamma,
    }
    for name, value in results.items():
        if name == "error_index":
            assert value == cuda_on_host.DEVICE_INDEX_OF_NONE
            continue
        scale = np.max(np.abs(truth[name]), initial=0.0) + usual[name]
        error = np.max(np.abs(value - truth[name]), initial=0.0)
        assert error <= units * np.finfo(np.asarray(value).dtype).eps * scale, name  # NaN fails.


def _check_rolled(results: dict[str, Any], problem: problems.Problem) -> None:
    num_rows = max(1, np.count_nonzero(problem.labels))
    gamma = problem.options.get("gamma", 1.0)
    _check(results, _truth(problem), gamma, problem.user_emb, num_rows)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rolled(kernels: cuda_on_host.Kernels, shape: tuple[int, int, int], dtype: str) -> None:
    problem = problems.make(*shape, dtype)
    _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rolled_with_everything(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int, int], dtype: str
) -> None:
    problem = problems.with_everything(problems.make(*shape, dtype))
    _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 4, 17), (33, 40, 64), (40, 13, 31), (18, 5, 300)])
def test_shuffled(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int, int], dtype: str, index: type
) -> None:
    batch_size, num_negatives, dim = shape
    rng = np.random.default_rng(shape)
    query = rng.normal(size=(batch_size, dim)).astype(problems.DTYPES[dtype])
    doc = (rng.normal(size=(batch_size, dim)) + query).astype(problems.DTYPES[dtype])
    permutations = np.stack([rng.permutation(batch_size) for _ in range(num_negatives)])
    facts = {
        "candidate_sampling_probability": (rng.random(batch_size) ** 4).astype(
            problems.compute_dtype(query.dtype)
        ),
        "candidate_ids": rng.integers(0, max(2, batch_size // 3), batch_size),
    }
    for options in ({}, facts):
        results = kernels.shuffled(query, doc, permutations.astype(index), gamma=15.0, **options)
        truth = _as_results(oracle.shuffled_cosine(query, doc, permutations, scale=15.0, **options))
        # The oracle has scale / t for gamma, and no margin.
        results["grad_scalars"] = results["grad_scalars"][:1]
        truth["grad_scalars"] = truth["grad_scalars"][:1]
        _check(results, truth, 15.0, query, batch_size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embed_normed(kernels: cuda_on_host.Kernels, dtype: str) -> None:
    problem = problems.make(37, 9, 64, dtype, embed_normed=True, gamma=0.5)
    _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize("gamma", [1e4, -1e4, 300.0, -20.0, 0.0])
def test_references_that_move(kernels: cuda_on_host.Kernels, gamma: float) -> None:
    """Negatives so far above the positive that sums have to be rescaled on the way."""
    for dim in (64, 31, 300):
        problem = problems.make(40, 20, dim, "float64", gamma=gamma)
        _check_rolled(kernels.rolled(problem), problem)


@pytest.mark.parametrize(
    "kind", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_integer_labels(kernels: cuda_on_host.Kernels, kind: str) -> None:
    problem = problems.make(20, 3, 8)
    labels = problem.labels.astype(kind)
    if kind.startswith("int"):
        labels[labels == 0] = -1
    _check_same(kernels, problem, labels)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_float_labels(kernels: cuda_on_host.Kernels, kind: str) -> None:
    problem = problems.make(20, 3, 8)
    labels = problem.labels.astype(problems.DTYPES[kind])
    off = np.flatnonzero(labels == 0)
    labels[off[0]], labels[off[1]] = np.nan, -1
    labels[np.flatnonzero(problem.labels)[0]] = np.inf
    labels[np.flatnonzero(problem.labels)[1]] = 6e-8  # Subnormal as a float16.
    _check_same(kernels, problem, labels)


def _check_same(kernels: cuda_on_host.Kernels, problem: problems.Problem, labels: Any) -> None:
    expected = kernels.rolled(problem)
    _check_rolled(expected, problem)
    actual = kernels.rolled(problems.Problem(*_arrays(problem), labels, problem.shifts, {}))
    plain = kernels.rolled(problems.Problem(*_arrays(problem), problem.labels, problem.shifts, {}))
    for name, value in plain.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def _arrays(problem: problems.Problem) -> tuple[Any, Any]:
    return problem.user_emb, problem.item_emb


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(70, 20, 64), (70, 9, 128), (40, 13, 31), (18, 5, 300)])
def test_any_order_of_blocks_and_threads_gives_the_same_bits(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int, int], dtype: str
) -> None:
    problem = problems.with_everything(problems.make(*shape, dtype))
    expected = kernels.rolled(problem)
    for order in (1, 2):
        kernels.set_order(order)
        for name, value in kernels.rolled(problem).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_without_gradients(kernels: cuda_on_host.Kernels) -> None:
    for shape in SHAPES:
        problem = problems.with_everything(problems.make(*shape))
        expected = kernels.rolled(problem)["loss"]
        assert kernels.rolled(problem, grads=False)["loss"] == expected


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_strides_and_alignment(kernels: cuda_on_host.Kernels, offset: int) -> None:
    """Rows apart from each other, at places where 16 bytes can be read at once and where not."""
    problem = problems.make(33, 8, 64)
    wide = np.full((2, 33, 72), np.nan, np.float32)
    rows = wide[:, :, offset : offset + 64]
    rows[0], rows[1] = problem.user_emb, problem.item_emb
    placed = problems.Problem(rows[0], rows[1], *_rest(problem))
    _check_rolled(kernels.rolled(placed, strides=(72, 72)), problem)


def _rest(problem: problems.Problem) -> tuple[Any, Any, Any]:
    return problem.labels, problem.shifts, problem.options


def test_shifts_of_any_size(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.make(300, 290, 4)  # More shifts than a block sorts.
    far = problem.shifts + 300 * np.arange(-145, 145) * 10**12
    expected = kernels.rolled(problem)
    actual = kernels.rolled(
        problems.Problem(*_arrays(problem), problem.labels, far, problem.options)
    )
    _check_rolled(expected, problem)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_nothing_counts(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.make(33, 8, 64)
    nobody = problems.Problem(
        *_arrays(problem), np.zeros(33, np.float32), problem.shifts, problem.options
    )
    weightless = problem.with_options(weights=np.zeros(33, np.float32))
    for case in (nobody, weightless):
        results = kernels.rolled(case)
        assert results.pop("error_index") == -1
        for name, value in results.items():
            assert not np.any(value), name


def test_no_rows(kernels: cuda_on_host.Kernels) -> None:
    empty = np.zeros((0, 8), np.float32)
    problem = problems.Problem(empty, empty, np.zeros(0, np.float32), np.zeros(0, np.int64), {})
    results = kernels.rolled(problem)
    assert results["loss"] == 0
    assert results["error_index"] == -1
    assert not np.any(results["grad_scalars"])


def test_no_elements(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.make(6, 3, 1)
    none = problems.Problem(
        np.zeros((6, 0), np.float32), np.zeros((6, 0), np.float32), *_rest(problem)
    ).with_options(margin=0.0)
    np.testing.assert_allclose(kernels.rolled(none)["loss"], np.log(4), rtol=1e-6)


@pytest.mark.parametrize("dim", [64, 31, 300])
def test_rows_that_do_not_count_may_hold_anything(kernels: cuda_on_host.Kernels, dim: int) -> None:
    problem = problems.make(40, 6, dim)
    expected = kernels.rolled(problem)
    off = problem.labels == 0
    problem.user_emb[off] = np.nan
    for name, value in kernels.rolled(problem).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    # An item that no counted row meets has no gradient.
    only = np.zeros(40, np.float32)
    only[7] = 1
    met = {7, *((7 - problem.shifts) % 40)}
    problem.item_emb[[j for j in range(40) if j not in met]] = np.nan
    results = kernels.rolled(
        problems.Problem(*_arrays(problem), only, problem.shifts, problem.options)
    )
    for name in ("loss", "grad_user", "grad_item"):
        assert np.all(np.isfinite(results[name])), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["user_emb", "item_emb"])
def test_bad_numbers_show(kernels: cuda_on_host.Kernels, which: str, bad: float) -> None:
    for dim in (64, 31, 300):
        problem = problems.make(20, 5, dim)
        getattr(problem, which)[np.flatnonzero(problem.labels)[0], 3] = bad
        assert not np.isfinite(kernels.rolled(problem)["loss"])


@pytest.mark.parametrize("hits", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_negatives", [2, 9, 40])
def test_products_that_overflow(
    kernels: cuda_on_host.Kernels, num_negatives: int, dtype: str, hits: bool
) -> None:
    """Negatives of a logit of -inf are none; accidental hits are none whatever their logit is."""
    problem = problems.overflowing(num_negatives, dtype, 1.0 if hits else -1.0)
    if hits:
        ids = np.arange(48)
        ids[5:9] = 8
        problem.labels[[*range(5), *range(9, 48)]] = 0  # Row 8 alone has them as hits.
        problem = problem.with_options(candidate_ids=ids)
    results, truth = kernels.rolled(problem), _truth(problem)
    assert np.all(np.isfinite(results["grad_item"]))
    for side in (results["grad_item"], truth["grad_item"]):
        side[:, 0] /= 1e20  # Products with the users' first elements.
    _check(results, truth, 2.0, problem.item_emb[:, 1:], np.count_nonzero(problem.labels))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("num_negatives", [2, 9, 40])
def test_accidental_hits_may_hold_anything(
    kernels: cuda_on_host.Kernels, num_negatives: int, bad: float
) -> None:
    problem = problems.with_hit(problems.make(48, num_negatives, 9, gamma=2.0), 5)
    truth = _truth(problem)
    problem.item_emb[5] = bad
    results = kernels.rolled(problem)
    _check(results, truth, 2.0, problem.user_emb, np.count_nonzero(problem.labels))


def test_zero_rows(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.make(20, 5, 64, positive_share=1.0)
    problem.user_emb[3] = problem.item_emb[3] = problem.item_emb[8] = 0
    problem.user_emb[5] *= 1e-9  # Below what the norm is clipped at.
    results, truth = kernels.rolled(problem), _truth(problem)
    clipped = [3, 5, 8]
    for name in ("grad_user", "grad_item"):
        # Gradients of clipped rows are a million times larger than others.
        np.testing.assert_allclose(
            results[name][clipped], truth[name][clipped], rtol=1e-4, atol=1e-2
        )
        results[name][clipped] = truth[name][clipped] = 0
    _check(results, truth, 20.0, problem.item_emb, 20)


def test_rows_whose_squares_overflow_count_as_zero(kernels: cuda_on_host.Kernels) -> None:
    problem = problems.make(20, 5, 64)
    huge = problems.Problem(problem.user_emb.copy(), problem.item_emb.copy(), *_rest(problem))
    problem.user_emb[3] = problem.item_emb[6] = 0
    huge.user_emb[3] = huge.item_emb[6] = 1e30
    expected, actual = kernels.rolled(problem), kernels.rolled(huge)
    np.testing.assert_array_equal(actual["loss"], expected["loss"])
    assert not np.any(actual["grad_user"][3])
    assert not np.any(actual["grad_item"][6])


@pytest.mark.parametrize(("changed", "value"), [(3, 0), (0, 40), (19, -80)])
def test_a_shift_that_is_no_shift(kernels: cuda_on_host.Kernels, changed: int, value: int) -> None:
    problem = problems.with_everything(problems.make(40, 20, 16))
    shifts = problem.shifts.copy()
    shifts[changed:] = value
    for order in (0, 1):
        kernels.set_order(order)
        results = kernels.rolled(
            problems.Problem(*_arrays(problem), problem.labels, shifts, problem.options)
        )
        assert results.pop("error_index") == changed
        for name, result in results.items():
            assert np.all(np.isnan(result)), name


@pytest.mark.parametrize("bad", [-1, 30, 2**31 - 1, 7])
def test_no_permutation(kernels: cuda_on_host.Kernels, bad: int) -> None:
    """The first entry that is out of range or repeats one before it is found, in any order."""
    rng = np.random.default_rng(0)
    query, doc = rng.normal(size=(2, 30, 16)).astype(np.float32)
    permutations = np.stack([rng.permutation(30) for _ in range(60)]).astype(np.int32)
    for k in (20, 41):
        permutations[k, 11], permutations[k, 17], permutations[k, 23] = bad, bad, bad
    seen = set(permutations[20, :11])
    first = (
        11 if not 0 <= bad < 30 or bad in seen else int(np.flatnonzero(permutations[20] == bad)[1])
    )
    for order in (0, 1, 2, 3):
        kernels.set_order(order)
        results = kernels.shuffled(query, doc, permutations)
        assert results.pop("error_index") == 20 * 30 + first
        for name, result in results.items():
            assert np.all(np.isnan(result)), name
