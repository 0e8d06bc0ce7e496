"""Trains a two-tower model twice, with the plain TensorFlow loss and with fastneg's, and compares.

    python examples/two_tower.py
    python examples/two_tower.py --interactions ratings.csv --negatives 64
    python examples/two_tower.py --interactions gowalla_train.npz --negatives 4 32 256 1024 \
        --time-limit 3

Both trainings start from the same tables and see the same batches and shifts. The model itself is
in `retrieval/model.py`; which of the two losses it gets is decided in `main` below.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf
from retrieval.breakdown import measure_stages
from retrieval.interactions import Interactions
from retrieval.lazy_adam import LazyAdam
from retrieval.model import TwoTower
from retrieval.options import (
    add_data_option,
    add_training_options,
    check_batch_size,
    check_training_options,
    load_data,
    new_parser,
    require,
    require_positive,
    schedule_of,
)
from retrieval.picture import draw
from retrieval.ranking import RankingEvaluator
from retrieval.report import comparison, results_table, stages_table
from retrieval.training import TrainingRun, train

import fastneg


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison for every requested number of negatives."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    check_options(parser, options)
    data = load_data(parser, options)
    check_batch_size(parser, options, data)
    if options.backend != "auto":
        fastneg.use_backend(options.backend)

    plain_title, plain_loss = plain_tensorflow(options.plain_xla)
    print(describe(data, options), flush=True)
    evaluate = RankingEvaluator(data)
    runs = []
    for num_negatives in options.negatives:
        common = (data, evaluate, options, num_negatives)
        plain = run_once(plain_title, plain_loss, *common, time_limit_minutes=options.time_limit)
        fused = run_once("fastneg", fastneg.softmax_loss_with_negative_mining, *common)
        runs.append((plain, fused))
    report(runs, data, options)


def plain_tensorflow(compile_with_xla: bool) -> tuple[str, Callable[..., tf.Tensor]]:
    """The name and the function of the loss to compare with: gathered candidates and einsum."""
    loss_function = fastneg.reference.softmax_loss_with_negative_mining
    if compile_with_xla:
        return "plain TensorFlow, XLA", tf.function(loss_function, jit_compile=True)
    return "plain TensorFlow", loss_function


def run_once(
    title: str,
    loss_function: Callable[..., tf.Tensor],
    data: Interactions,
    evaluate: RankingEvaluator,
    options: argparse.Namespace,
    num_negatives: int,
    *,
    time_limit_minutes: float | None = None,
) -> TrainingRun:
    """Builds, trains and measures one model."""
    model = TwoTower(
        loss_function,
        num_users=data.num_users,
        num_items=data.num_items,
        width=options.width,
        num_negatives=num_negatives,
        gamma=options.gamma,
        item_share=None if options.no_logq else data.item_share(),
        seed=options.seed,
    )
    model.compile(optimizer=LazyAdam(options.learning_rate), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    schedule = schedule_of(options, time_limit_minutes=time_limit_minutes)
    run = train(title, model, data, evaluate, schedule)
    run.stage_ms = measure_stages(model.stages(), data, schedule)
    return run


def describe(data: Interactions, options: argparse.Namespace) -> str:
    """What is trained on what."""
    return (
        f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, {len(data.users):,} "
        f"training rows ({100 * data.labels.mean():.0f}% clicks), "
        f"{len(data.held_out_users):,} held-out clicks\n"
        f"batch {options.batch_size}, width {options.width}, gamma {options.gamma:g}, lazy Adam "
        f"{options.learning_rate:g}, {options.epochs} epochs, "
        f"{'no logQ correction' if options.no_logq else 'logQ correction'}"
    )


def report(
    runs: Sequence[tuple[TrainingRun, TrainingRun]],
    data: Interactions,
    options: argparse.Namespace,
) -> None:
    """Prints the tables and draws the picture."""
    every_run = [run for pair in runs for run in pair]
    print(f"\n{results_table(every_run)}\n")
    print(f"{runs[0][0].title} is fastneg.reference, gathered candidates and einsum.")
    print("\n".join(comparison(plain, fused) for plain, fused in runs))
    print(f"\nWhere a training step's time goes:\n{stages_table(every_run)}\n")
    try:
        draw(runs, f"Two-tower model, {data.name}", options.output)
    except ModuleNotFoundError:
        print("No picture: matplotlib is not installed.")
    else:
        print(f"Picture: {options.output}")


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser(__doc__)
    add_data_option(parser)
    add = parser.add_argument
    add(
        "--negatives",
        type=int,
        nargs="+",
        default=[64],
        metavar="K",
        help="negatives per row, one or several; several are drawn as recall against minutes "
        "(the plain loss takes about 10 x batch x K x width bytes)",
    )
    add("--gamma", type=float, default=10.0, help="scale of the cosines")
    add("--no-logq", action="store_true", help="train without the logQ correction")
    add("--plain-xla", action="store_true", help="compile the plain loss with XLA")
    add_training_options(parser, num_epochs=30, learning_rate=2e-3, output="two_tower.png")
    return parser


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program with a message if the options do not fit together."""
    check_training_options(parser, options)
    for num_negatives in options.negatives:
        require(
            parser,
            1 <= num_negatives < options.batch_size,
            f"argument --negatives must lie in 1 .. batch size - 1 = {options.batch_size - 1}",
            num_negatives,
        )
    require_positive(parser, options, "gamma")


if __name__ == "__main__":
    main()
