"""The core of negative_cosine_loss on arrays: instruction sets, numbers of threads, bad arrays."""

import numpy as np
import problems
import pytest
import shuffled_problems

import fastneg

_core = pytest.importorskip("fastneg._core", exc_type=ImportError)

REFERENCE = fastneg.reference.negative_cosine_loss


def _run(problem: shuffled_problems.Problem, **arguments: object) -> dict[str, np.ndarray]:
    options = dict(problem.options)
    gamma = options.pop("scale", 20.0) / options.pop("t", 1.0)
    return _core.shuffled_cosine(
        problem.query,
        problem.doc,
        problem.permutations,
        gamma=gamma,
        scalar_gradients=True,
        **options,
        **arguments,
    )


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(7, 4, 17), (130, 17, 31), (257, 64, 128), (1000, 21, 64)])
def test_instruction_sets(isa: str, shape: tuple[int, int, int], dtype: str) -> None:
    problem = shuffled_problems.with_everything(shuffled_problems.make(*shape, dtype))
    plain = shuffled_problems.run(REFERENCE, problem)
    truth = shuffled_problems.truth(problem)
    result = _run(problem)
    for name in ("loss", "grad_query", "grad_doc"):
        baseline = getattr(plain, name)
        exact = getattr(truth, name)
        error, baseline_error = (
            np.max(np.abs(np.asarray(value, np.float64) - exact))
            for value in (result[name], baseline)
        )
        epsilon = np.finfo(problems.compute_dtype(problem.query.dtype)).eps
        assert error <= 4 * baseline_error + 16 * epsilon * np.max(np.abs(exact)), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_number_of_threads(isa: str, dtype: str) -> None:
    problem = shuffled_problems.with_everything(shuffled_problems.make(1030, 37, 50, dtype))
    one = _run(problem, num_threads=1)
    for num_threads in (1, 2, 8):
        several = _run(problem, num_threads=num_threads)
        for name, value in one.items():
            np.testing.assert_array_equal(several[name], value, err_msg=f"{name} {num_threads}")


def test_identity_is_the_rolled_loss_without_a_shift() -> None:
    """Rolls are permutations: the two losses agree where they mean the same."""
    problem = problems.make(90, 12, 20)
    rolls = np.stack([np.roll(np.arange(90), shift) for shift in problem.shifts])
    rolled = _core.rolled_softmax(
        problem.user_emb, problem.item_emb, np.ones(90), problem.shifts, gamma=20.0
    )
    shuffled = _core.shuffled_cosine(problem.user_emb, problem.item_emb, rolls, gamma=20.0)
    np.testing.assert_allclose(shuffled["loss"], rolled["loss"], rtol=1e-6)
    np.testing.assert_allclose(shuffled["grad_query"], rolled["grad_user"], rtol=1e-4, atol=1e-7)


def test_strided_and_read_only_arrays() -> None:
    problem = shuffled_problems.make(33, 8, 50)
    expected = _run(problem)
    wide = np.zeros((66, 101), np.float32)
    wide[::2, :50] = problem.query
    query = wide[::2, :50]
    doc = np.asfortranarray(problem.doc)
    permutations = np.asfortranarray(problem.permutations.astype(">i8"))
    for array in (query, doc, permutations):
        array.flags.writeable = False
    result = _core.shuffled_cosine(query, doc, permutations, scalar_gradients=True)
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value)


def test_without_gradients() -> None:
    problem = shuffled_problems.make(33, 8, 50)
    result = _core.shuffled_cosine(
        problem.query, problem.doc, problem.permutations, gradients=False
    )
    assert set(result) == {"loss"}
    assert result["loss"] == _run(problem)["loss"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": np.ones(4, np.float32)}, ValueError, "`query` must have rank 2"),
        ({"doc": np.ones((5, 3), np.float32)}, ValueError, r"`doc` must have shape \[6, 3\]"),
        ({"doc": np.ones((6, 3))}, TypeError, "`doc` must have the dtype of `query`"),
        ({"permutations": np.arange(6)}, ValueError, "`permutations` must have rank 2"),
        (
            {"permutations": np.zeros((2, 5))},
            ValueError,
            r"`permutations` must have shape \[2, 6\]",
        ),
        ({"permutations": np.zeros((0, 6))}, ValueError, "at least one row"),
        ({"permutations": np.zeros((1, 6))}, ValueError, r"permutations\[0, 1\] = 0"),
        ({"permutations": np.full((1, 6), 6)}, ValueError, r"permutations\[0, 0\] = 6"),
        ({"candidate_ids": np.arange(5)}, ValueError, r"`candidate_ids` must have shape \[6\]"),
    ],
)
def test_bad_arrays(changes: dict, error: type, message: str) -> None:
    arguments = {
        "query": np.ones((6, 3), np.float32),
        "doc": np.ones((6, 3), np.float32),
        "permutations": np.arange(6)[None],
    }
    with pytest.raises(error, match=message):
        _core.shuffled_cosine(**{**arguments, **changes})
    assert np.isfinite(_core.shuffled_cosine(**arguments)["loss"])
