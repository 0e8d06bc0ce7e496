"""The examples: a small run of each from end to end, and their parts."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

pytest.importorskip("tensorflow")
import keras
import large_table
import tensorflow as tf
import two_tower
from processes import run_fresh_python
from retrieval import (
    batch_losses,
    breakdown,
    clicks,
    fastest_plain,
    interactions,
    lazy_adam,
    model,
    picture,
    popularity,
    ranking,
    training,
)

import fastneg

HAVE_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
PNG_MAGIC = b"\x89PNG"
BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA_DIR = Path(os.environ.get("FASTNEG_DATA_DIR", BESIDE_REPOSITORY))


def real_data(relative_path: str) -> Path:
    """The path of a real data file, or a visible skip."""
    path = DATA_DIR / relative_path
    if not path.exists():
        pytest.skip(f"{path} is absent (set FASTNEG_DATA_DIR to run this test)")
    return path


@pytest.fixture
def ratings_csv(tmp_path):
    """40 users who rate 30 of 60 movies each, in the order of the time stamps."""
    rng = np.random.default_rng(3)
    rows = [
        f"{7 * user + 5},{100 + movie},{rating:.1f},{1000 * user + position}"
        for user in range(40)
        for position, (movie, rating) in enumerate(
            zip(rng.permutation(60)[:30], rng.choice([1.0, 3.5, 4.0, 5.0], 30), strict=True)
        )
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("userid,movieid,rating,timestamp\n" + "\n".join(rows) + "\n")
    return path


def write_csr(path, **changes):
    """Three users with 3, 0 and 2 items of four, one held out for each that has any."""
    arrays = {
        "train_indptr": np.array([0, 3, 3, 5]),
        "train_indices": np.array([0, 1, 3, 2, 0], np.int32),
        "train_is_valid": np.array([False, True, False, True, False]),
        "n_users": np.int64(3),
        "n_items": np.int64(4),
    }
    arrays.update(changes)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.fixture
def _be_quick(monkeypatch):
    monkeypatch.setattr(breakdown, "_SECONDS_PER_STAGE", 0.01)
    monkeypatch.setattr(fastest_plain, "_MAX_WINDOWS", 4)  # Less to compile.


BAD_ARGUMENTS = [
    (["--batch-size", "1"], "--batch-size must be at least 2"),
    (["--batch-size", "9999"], "--batch-size must be at most the number of training rows"),
    (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
    (["--width", "-3"], "--width must be at least 1. Received: -3"),
    (["--learning-rate", "0"], "--learning-rate must be a finite number above 0"),
    (["--time-limit", "-1"], "--time-limit must be a finite number above 0"),
    (["--seed", "-1"], "--seed must be 0 or more"),
    (["--output", "curves.jpg"], "--output must name a .png file"),
    (["--output", "no/such/folder/curves.png"], "--output must name a .png file"),
    (["--backend", "cuda"], "invalid choice: 'cuda'"),
    (["--interactions", "no_such.csv"], "--interactions: "),
    (["--interactions", "data.parquet"], "must be a .csv or .npz file"),
]


@pytest.mark.usefixtures("_be_quick")
class TestTwoTower:
    """`python examples/two_tower.py`, in this process."""

    def options(self, ratings_csv, *more):
        small = "--negatives 5 --epochs 2 --batch-size 64 --width 8 --evaluations 2"
        output = str(ratings_csv.parent / "curves.png")
        return ["--interactions", str(ratings_csv), *small.split(), "--output", output, *more]

    def test_prints_all_losses_and_draws(self, ratings_csv, capsys):
        two_tower.main(self.options(ratings_csv, "--negatives", "3", "32"))
        printed = capsys.readouterr().out
        differences = re.findall(r"the loss curves differ by at most (\S+)", printed)
        assert len(differences) == 4
        assert max(map(float, differences)) < 1e-5
        assert len(re.findall(r"^ *\d+  plain TensorFlow, fastest ", printed, re.MULTILINE)) == 4
        for words in ("plain TensorFlow", "Recall@20", "NDCG@20", "ms per step", "peak extra MiB"):
            assert words in printed
        if HAVE_MATPLOTLIB:
            assert (ratings_csv.parent / "curves.png").read_bytes().startswith(PNG_MAGIC)

    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--no-logq", "--positive-out", "--negative-weight", "1.2"],
            ["--correction", "refined", "--negative-weight", "1.2"],
        ],
    )
    def test_all_of_the_batch(self, ratings_csv, capsys, options):
        files = ["--interactions", str(ratings_csv), "--output", str(ratings_csv.parent / "c.png")]
        small = [
            "--loss",
            "in-batch",
            "--epochs",
            "2",
            "--batch-size",
            "64",
            "--width",
            "8",
            "--evaluations",
            "2",
        ]
        two_tower.main([*files, *small, *options])
        printed = capsys.readouterr().out
        differences = re.findall(r"the loss curves differ by at most (\S+)", printed)
        assert len(differences) == 2
        assert max(map(float, differences)) < 1e-5
        assert "in-batch loss, batch 64" in printed
        assert "B-1=63" in printed

    @pytest.mark.parametrize(
        ("plain", "form"), [("graph", "reference"), ("fastest", "one XLA program")]
    )
    def test_one_plain_loss(self, ratings_csv, capsys, plain, form):
        two_tower.main(self.options(ratings_csv, "--plain", plain))
        printed = capsys.readouterr().out
        assert len(re.findall("the loss curves differ", printed)) == 1
        assert form in printed
        assert ("plain TensorFlow, fastest" in printed) == (plain == "fastest")

    def test_time_limit_ends_the_plain_training_and_is_told(self, ratings_csv, capsys):
        two_tower.main(self.options(ratings_csv, "--time-limit", "1e-9", "--no-logq"))
        printed = capsys.readouterr().out
        assert printed.count(" 1 of 34 ") == 2
        assert "no logQ correction" in printed
        assert (ratings_csv.parent / "curves.png").exists() == HAVE_MATPLOTLIB

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--negatives", "64"], "--negatives must lie in 1 .. batch size - 1 = 63"),
            (["--negatives", "0"], "--negatives must lie in 1"),
            (["--gamma", "nan"], "--gamma must be a finite number above 0. Received: nan"),
            (["--positive-out"], "--correction are for --loss in-batch. Received: --loss rolled"),
            (["--loss", "in-batch"], "--negatives is for --loss rolled"),
            *BAD_ARGUMENTS,
        ],
    )
    def test_bad_arguments_say_what_is_wanted(self, ratings_csv, capsys, arguments, message):
        with pytest.raises(SystemExit) as stop:
            two_tower.main(self.options(ratings_csv, *arguments))
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--negative-weight", "2"], "--negative-weight needs --positive-out"),
            (["--negative-weight", "0"], "--negative-weight must be a finite number above 0"),
            (["--correction", "refined", "--no-logq"], "--correction refined corrects by logQ"),
        ],
    )
    def test_bad_arguments_of_the_in_batch_loss(self, capsys, arguments, message):
        with pytest.raises(SystemExit):
            two_tower.main(["--loss", "in-batch", *arguments])
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_be_quick")
class TestLargeTable:
    """`python examples/large_table.py`, in this process."""

    def options(self, ratings_csv, *more):
        small = "--table-rows 500 --sampled 40 --epochs 2 --batch-size 64 --width 8 --evaluations 2"
        output = str(ratings_csv.parent / "curves.png")
        return ["--interactions", str(ratings_csv), *small.split(), "--output", output, *more]

    @pytest.mark.parametrize("backend", ["auto", "numba", "reference"])
    def test_trains_on_the_same_samples_as_tensorflow(self, ratings_csv, capsys, backend):
        with fastneg.use_backend("auto"):
            large_table.main(self.options(ratings_csv, "--backend", backend))
        printed = capsys.readouterr().out
        (difference,) = re.findall(r"the loss curves differ by at most (\S+)", printed)
        assert float(difference) < 1e-5
        assert "items in a table of 500 rows" in printed
        for words in ("plain TensorFlow", "Recall@20", "NDCG@20", "ms per step", "peak extra MiB"):
            assert words in printed
        if HAVE_MATPLOTLIB:
            assert (ratings_csv.parent / "curves.png").read_bytes().startswith(PNG_MAGIC)

    def test_time_limit_ends_the_plain_training(self, ratings_csv, capsys):
        large_table.main(self.options(ratings_csv, "--time-limit", "1e-9"))
        assert re.search(r"plain TensorFlow +1 of \d+", capsys.readouterr().out)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--sampled", "0"], "--sampled must lie in 1 .. rows of the table = 500. Received: 0"),
            (["--sampled", "501"], "--sampled must lie in 1 .. rows of the table = 500"),
            (["--table-rows", "0"], "--table-rows must be at least 1"),
            (["--table-rows", "50"], "--table-rows must be at least the number of items, 60"),
            *BAD_ARGUMENTS,
        ],
    )
    def test_bad_arguments_say_what_is_wanted(self, ratings_csv, capsys, arguments, message):
        with pytest.raises(SystemExit) as stop:
            large_table.main(self.options(ratings_csv, *arguments))
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

    def test_items_are_numbered_by_popularity(self):
        data = interactions.Interactions(
            name="five clicks and a rating that is none",
            num_users=3,
            num_items=4,
            users=np.array([0, 0, 1, 1, 2, 2], np.int32),
            items=np.array([3, 1, 3, 2, 3, 0], np.int32),
            labels=np.array([1, 1, 1, 1, 1, 0], np.float32),
            held_out_users=np.array([0, 1], np.int32),
            held_out_items=np.array([2, 0], np.int32),
        )
        by_popularity = popularity.clicks_by_popularity(data)
        np.testing.assert_array_equal(by_popularity.users, [0, 0, 1, 1, 2])
        np.testing.assert_array_equal(by_popularity.items, [0, 1, 0, 2, 0])
        np.testing.assert_array_equal(by_popularity.held_out_items, [2, 3])
        np.testing.assert_array_equal(by_popularity.labels, np.ones(5))


class TestInteractions:
    """Readers of ratings.csv and CSR files, and the generator."""

    def test_csv_holds_out_the_latest_clicks(self, tmp_path):
        path = tmp_path / "ratings.csv"
        ten_clicks = [f"{movie},1,5,{100 - movie}" for movie in range(10)]
        lines = ["movieId,userId,rating,timestamp", *ten_clicks, "50,1,2.5,999", "3,2,4,5"]
        path.write_text("\n".join(lines))
        data = interactions.read_ratings_csv(path)
        assert (data.num_users, data.num_items) == (2, 11)
        np.testing.assert_array_equal(sorted(data.held_out_items), [0, 1])
        np.testing.assert_array_equal(data.held_out_users, [0, 0])
        assert len(data.users) == 10
        np.testing.assert_array_equal(data.labels, [1] * 8 + [0, 1])
        np.testing.assert_allclose(data.item_share().sum(), 1.0, rtol=1e-6)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "Received: an empty file"),
            ("user,item\n1,2\n", "must have the columns userid, movieid, rating, timestamp"),
            ("userid,movieid,rating,timestamp\n1,2,good,4\n", "must hold numbers only"),
            ("userid,movieid,rating,timestamp\n1,2,5,4\n", "must hold training rows and held-out"),
        ],
    )
    def test_csv_errors(self, tmp_path, text, message):
        path = tmp_path / "ratings.csv"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            interactions.load(path)

    def test_csr_marks_are_held_out(self, tmp_path):
        data = interactions.load(write_csr(tmp_path / "data.npz"))
        np.testing.assert_array_equal(data.users, [0, 0, 2])
        np.testing.assert_array_equal(data.items, [0, 3, 0])
        np.testing.assert_array_equal(data.held_out_users, [0, 2])
        np.testing.assert_array_equal(data.held_out_items, [1, 2])
        np.testing.assert_allclose(data.item_share(), [2 / 3, 0, 0, 1 / 3], rtol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_indptr": None}, "must hold the arrays train_indptr"),
            ({"train_indptr": np.array([0, 3, 5])}, r"n_users \+ 1 = 4 entries"),
            ({"train_indptr": np.array([0, 3, 2, 5])}, "must rise from 0"),
            ({"train_is_valid": np.array([True])}, r"Received: shapes \(5,\) and \(1,\)"),
            ({"n_items": np.int64(3)}, r"must lie in 0 .. n_items - 1 = 2. Received: 0 .. 3"),
        ],
    )
    def test_csr_errors(self, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            interactions.load(write_csr(tmp_path / "data.npz", **changes))

    def test_generated_clicks_are_distinct_and_skewed(self):
        data = clicks.generate_clicks(num_users=200, num_items=300, clicks_per_user=20, seed=1)
        users = np.concatenate([data.users, data.held_out_users])
        items = np.concatenate([data.items, data.held_out_items])
        assert len(np.unique(users.astype(np.int64) * 300 + items)) == 200 * 20
        share = np.sort(data.item_share())[::-1]
        assert share[:30].sum() > 3 * share[150:180].sum()
        again = clicks.generate_clicks(num_users=200, num_items=300, clicks_per_user=20, seed=1)
        np.testing.assert_array_equal(data.items, again.items)

    @pytest.mark.parametrize(
        ("path", "sizes"),
        [
            ("ml-latest-small/ratings.csv", (610, 9724, 100_836)),
            ("gowalla/gowalla_train.npz", (29_858, 40_981, 810_128)),
        ],
    )
    def test_real_data(self, path, sizes):
        data = interactions.load(real_data(path))
        rows = len(data.users) + len(data.held_out_users)
        assert (data.num_users, data.num_items, rows) == sizes


class TestRanking:
    """Recall and NDCG against sorting everything."""

    def test_agrees_with_a_full_sort(self):
        data = clicks.generate_clicks(num_users=70, num_items=101, clicks_per_user=40, seed=2)
        rng = np.random.default_rng(0)
        users, items = rng.standard_normal((70, 6)), rng.standard_normal((101, 6))
        quality = ranking.RankingEvaluator(data)(users.astype("f4"), items.astype("f4"))
        scores = users @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T
        scores[data.users, data.items] = -np.inf
        recall, ndcg = [], []
        for user in range(70):
            held_out = set(data.held_out_items[data.held_out_users == user])
            hits = [item in held_out for item in np.argsort(-scores[user])[:20]]
            gains = [1 / np.log2(rank + 2) for rank in range(20)]
            recall.append(sum(hits) / len(held_out))
            ndcg.append(np.dot(hits, gains) / sum(gains[: len(held_out)]))
        assert quality.recall == pytest.approx(np.mean(recall))
        assert quality.ndcg == pytest.approx(np.mean(ndcg))

    def test_ranks_by_the_dot_product_where_asked(self):
        data = clicks.generate_clicks(num_users=20, num_items=40, clicks_per_user=10, seed=2)
        users, items = np.ones((20, 1), "f4"), np.arange(40, dtype="f4")[:, None]
        recall = []
        for user in range(20):
            seen = data.items[data.users == user]
            best = [item for item in range(39, -1, -1) if item not in seen][:20]
            held_out = data.held_out_items[data.held_out_users == user]
            recall.append(np.isin(held_out, best).mean())
        quality = ranking.RankingEvaluator(data, cosine=False)(users, items)
        assert quality.recall == pytest.approx(np.mean(recall))

    @pytest.mark.parametrize("num_columns", [32, 64, 4000])
    def test_top_k_columns(self, num_columns):
        scores = np.random.default_rng(1).standard_normal((9, num_columns)).astype("f4")
        expected = np.argsort(-scores, axis=1)[:, :20]
        np.testing.assert_array_equal(ranking.top_k_columns(scores, 20), expected)


class TestLazyAdam:
    """The optimiser that leaves rows alone which a batch does not show."""

    def test_is_adam_where_every_row_is_shown(self):
        start = np.random.default_rng(0).standard_normal((5, 3)).astype("f4")
        lazy, dense = (keras.Variable(start) for _ in range(2))
        optimizers = [lazy_adam.LazyAdam(0.1), keras.optimizers.Adam(0.1)]
        indices = tf.constant([4, 0, 1, 2, 3, 3, 0])
        for step in range(4):
            values = tf.random.stateless_normal([7, 3], [1, step])
            slices = tf.IndexedSlices(values, indices, tf.constant([5, 3]))
            optimizers[0].apply([slices], [lazy])
            optimizers[1].apply([tf.convert_to_tensor(slices)], [dense])
        np.testing.assert_allclose(lazy.numpy(), dense.numpy(), rtol=1e-5, atol=1e-6)

    def test_leaves_other_rows_alone(self):
        variable = keras.Variable(np.ones((4, 2), "f4"))
        optimizer = lazy_adam.LazyAdam(0.1)
        for rows in ([0, 1], [1]):
            values = tf.ones([len(rows), 2])
            optimizer.apply([tf.IndexedSlices(values, tf.constant(rows))], [variable])
        changed = np.any(variable.numpy() != 1, axis=1)
        np.testing.assert_array_equal(changed, [True, True, False, False])


@pytest.mark.parametrize("loss", ["rolled", "in-batch"])
def test_keras_fit_trains_the_model(loss):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 30, 250), rng.integers(0, 20, 250)
    rows = tf.data.Dataset.from_tensor_slices((users, items, np.ones(250, "f4"))).batch(50)
    if loss == "rolled":
        function = fastneg.softmax_loss_with_negative_mining
        batch_loss = batch_losses.RolledLoss(function, num_negatives=7, gamma=5.0, seed=4)
    else:
        options = {"positive_in_softmax": False, "negative_weight": 1.2, "correction": "standard"}
        batch_loss = batch_losses.InBatchLoss(fastneg.in_batch_softmax_loss, 50, 5.0, **options)
    sizes = {"num_users": 30, "num_items": 20, "width": 6}
    towers = model.TwoTower(batch_loss, **sizes, item_share=None, seed=4)
    towers.compile(optimizer=lazy_adam.LazyAdam(0.01), jit_compile=False)
    losses = towers.fit(rows, epochs=5, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("onednn", ["0", "1"], ids=["allocator of the system", "oneDNN"])
def test_peak_memory_counts_what_is_freed_again(onednn):
    """Also where the allocator has kept what an earlier call has freed."""
    if onednn == "0" and not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell the peak memory of a process")
    code = """
        import tensorflow as tf
        from retrieval import memory

        @tf.function
        def call(x):
            return tf.reduce_sum(tf.exp(tf.fill([16 << 20], x)))

        call(tf.constant(1.0))
        peak = memory.PeakMemory()
        with peak.watch():
            call(tf.constant(2.0)).numpy()
        assert peak.mib is None or 60 < peak.mib < 200, peak.mib
    """
    run_fresh_python(code, TF_ENABLE_ONEDNN_OPTS=onednn)


def test_checkpoints_are_spread_to_the_end():
    epochs = training.Schedule(4, num_epochs=30, num_checkpoints=10, seed=0).checkpoint_epochs()
    assert sorted(epochs) == list(range(2, 30, 3))
    assert training.Schedule(4, num_epochs=2, num_checkpoints=9, seed=0).checkpoint_epochs() == {
        0,
        1,
    }


def test_picture_is_optional(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError):
        picture.draw([], "title", tmp_path / "curves.png")
