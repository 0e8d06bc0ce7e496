"""Trains a model of a large item table twice, with TensorFlow's sampled softmax and fastneg's.

    python examples/large_table.py
    python examples/large_table.py --interactions ratings.csv --table-rows 200000
    python examples/large_table.py --interactions gowalla_train.npz --sampled 4096 --epochs 20

Both trainings start from the same tables, see the same batches and draw the same sampled items: the
sampling operation of either has the same seed. Items are numbered from the most to the least
clicked one, and rows that the data do not fill stand for items without clicks. The model is in
`retrieval/large_table_model.py`; which of the two layers it gets is decided in `main` below.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from retrieval.breakdown import measure_stages
from retrieval.interactions import Interactions
from retrieval.large_table_model import LargeTable, PlainSampledSoftmaxLayer
from retrieval.lazy_adam import LazyAdam
from retrieval.options import (
    add_data_option,
    add_training_options,
    check_batch_size,
    check_training_options,
    load_data,
    new_parser,
    require,
    require_at_least,
    schedule_of,
)
from retrieval.picture import draw
from retrieval.popularity import clicks_by_popularity
from retrieval.ranking import RankingEvaluator
from retrieval.report import comparison, results_table, stages_table
from retrieval.training import TrainingRun, train

import fastneg


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    check_options(parser, options)
    data = clicks_by_popularity(load_data(parser, options))
    check_batch_size(parser, options, data)
    require_room_for(parser, options, data)
    if options.backend != "auto":
        fastneg.use_backend(options.backend)

    print(describe(data, options), flush=True)
    evaluate = RankingEvaluator(data, cosine=False)
    plain_layer = PlainSampledSoftmaxLayer(options.sampled, options.table_rows, options.seed)
    fused_layer = fastneg.layers.SampledSoftmaxLayer(options.sampled, seed=options.seed)
    common = (data, evaluate, options)
    plain = run_once(
        "plain TensorFlow", plain_layer, *common, time_limit_minutes=options.time_limit
    )
    fused = run_once("fastneg", fused_layer, *common)
    report(plain, fused, data, options)


def run_once(
    title: str,
    loss_layer: keras.layers.Layer,
    data: Interactions,
    evaluate: RankingEvaluator,
    options: argparse.Namespace,
    *,
    time_limit_minutes: float | None = None,
) -> TrainingRun:
    """Builds, trains and measures one model."""
    # The seed of a sampling operation is made of this one and of the layer's.
    tf.random.set_seed(options.seed)
    model = LargeTable(
        loss_layer,
        num_users=data.num_users,
        num_items=data.num_items,
        table_rows=options.table_rows,
        width=options.width,
        num_sampled=options.sampled,
        seed=options.seed,
    )
    model.compile(optimizer=LazyAdam(options.learning_rate), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    schedule = schedule_of(options, time_limit_minutes=time_limit_minutes)
    run = train(title, model, data, evaluate, schedule)
    run.stage_ms = measure_stages(model.stages(), data, schedule)
    # Models hold circular references, and the tables of two at a time are many bytes.
    del model
    gc.collect()
    return run


def describe(data: Interactions, options: argparse.Namespace) -> str:
    """What is trained on what."""
    return (
        f"{data.name}: {data.num_users:,} users, {data.num_items:,} items in a table of "
        f"{options.table_rows:,} rows, {len(data.users):,} training clicks, "
        f"{len(data.held_out_users):,} held-out clicks\n"
        f"batch {options.batch_size}, {options.sampled} sampled items, width {options.width}, "
        f"lazy Adam {options.learning_rate:g}, {options.epochs} epochs"
    )


def report(
    plain: TrainingRun, fused: TrainingRun, data: Interactions, options: argparse.Namespace
) -> None:
    """Prints the tables and draws the picture."""
    print(f"\n{results_table([plain, fused])}\n")
    print(f"{plain.title} is tf.nn.sampled_softmax_loss with a bias of zeros.")
    print(comparison(plain, fused))
    print(f"\nWhere a training step's time goes:\n{stages_table([plain, fused])}\n")
    title = f"A table of {options.table_rows:,} items, {data.name}"
    try:
        draw([(plain, fused)], title, options.output)
    except ModuleNotFoundError:
        print("No picture: matplotlib is not installed.")
    else:
        print(f"Picture: {options.output}")


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser(__doc__)
    add_data_option(parser)
    add = parser.add_argument
    add("--table-rows", type=int, default=1_000_000, metavar="V", help="rows of the item table")
    add("--sampled", type=int, default=1024, metavar="S", help="sampled items per batch")
    add_training_options(parser, num_epochs=20, learning_rate=5e-3, output="large_table.png")
    return parser


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program with a message if the options do not fit together."""
    check_training_options(parser, options)
    require_at_least(parser, options, "table_rows", 1)
    require(
        parser,
        1 <= options.sampled <= options.table_rows,
        f"argument --sampled must lie in 1 .. rows of the table = {options.table_rows}",
        options.sampled,
    )


def require_room_for(
    parser: argparse.ArgumentParser, options: argparse.Namespace, data: Interactions
) -> None:
    """Ends the program with a message if the table has too few rows for the data's items."""
    require(
        parser,
        options.table_rows >= data.num_items,
        f"argument --table-rows must be at least the number of items, {data.num_items}",
        options.table_rows,
    )


if __name__ == "__main__":
    main()
