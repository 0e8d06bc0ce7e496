r"""Trains a two-tower model with plain TensorFlow's loss, in two forms, and with fastneg's.

    python examples/two_tower.py
    python examples/two_tower.py --interactions ratings.csv --epochs 30
    python examples/two_tower.py --interactions gowalla_train.npz --negatives 4 32 256 1024 \
        --epochs 30 --time-limit 3
    python examples/two_tower.py --interactions gowalla_train.npz --loss in-batch \
        --batch-size 1024 --gamma 10 --learning-rate 3e-3 --epochs 16 --positive-out \
        --negative-weight 1.22 --time-limit 3

All trainings start from the same tables and see the same batches and shifts. The model itself is in
`retrieval/model.py`, how it calls a loss in `retrieval/batch_losses.py`, the fastest plain form in
`retrieval/fastest_plain.py`; which of the losses it gets is decided in `losses` below.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf
from retrieval import fastest_plain
from retrieval.batch_losses import BatchLoss, InBatchLoss, RolledLoss
from retrieval.breakdown import measure_stages, warm_up
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

DEFAULT_NEGATIVES = 64
PLAIN, FASTEST, FUSED = "plain TensorFlow", "plain TensorFlow, fastest", "fastneg"
FORMS = {
    "rolled": {
        PLAIN: "fastneg.reference: gathered candidates and einsum",
        FASTEST: "windows of the doubled batch with a gradient by hand, one XLA program",
    },
    "in-batch": {
        PLAIN: "fastneg.reference: all scores in one matrix",
        FASTEST: "log-sum-exp of all scores and the positives by themselves, one XLA program",
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison for every requested number of negatives."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    check_options(parser, options)
    data = load_data(parser, options)
    check_batch_size(parser, options, data)
    if options.backend != "auto":
        fastneg.use_backend(options.backend)

    print(describe(data, options), flush=True)
    evaluate = RankingEvaluator(data)
    groups = [
        [
            run_once(title, loss, data, evaluate, options)
            for title, loss in losses(options, num_negatives).items()
        ]
        for num_negatives in options.negatives or [DEFAULT_NEGATIVES]
    ]
    report(groups, data, options)


def losses(options: argparse.Namespace, num_negatives: int) -> dict[str, BatchLoss]:
    """The plain losses and the fused one, by title."""
    name, fastest = "in_batch_softmax_loss", fastest_plain.in_batch_softmax_loss
    if options.loss == "rolled":
        name, fastest = "softmax_loss_with_negative_mining", fastest_plain.rolled_softmax_loss
    functions = {
        PLAIN: getattr(fastneg.reference, name),
        FASTEST: fastest_plain.as_one_program(fastest, options.batch_size),
        FUSED: getattr(fastneg, name),
    }
    left_out = {"graph": FASTEST, "fastest": PLAIN}.get(options.plain)

    def loss(function: Callable[..., tf.Tensor]) -> BatchLoss:
        if options.loss == "rolled":
            return RolledLoss(function, num_negatives, options.gamma, options.seed)
        return InBatchLoss(
            function,
            options.batch_size,
            options.gamma,
            positive_in_softmax=not options.positive_out,
            negative_weight=options.negative_weight,
            correction=options.correction,
        )

    return {title: loss(f) for title, f in functions.items() if title != left_out}


def run_once(
    title: str,
    loss: BatchLoss,
    data: Interactions,
    evaluate: RankingEvaluator,
    options: argparse.Namespace,
) -> TrainingRun:
    """Builds, trains and measures one model."""
    model = TwoTower(
        loss,
        num_users=data.num_users,
        num_items=data.num_items,
        width=options.width,
        item_share=None if options.no_logq else data.item_share(),
        seed=options.seed,
    )
    model.compile(optimizer=LazyAdam(options.learning_rate), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    time_limit = None if title == FUSED else options.time_limit
    schedule = schedule_of(options, time_limit_minutes=time_limit)
    (stage,) = (stage for stage in model.stages() if stage.name == "loss")
    warm_up(stage, data, schedule)
    run = train(title, model, data, evaluate, schedule)
    run.stage_ms = measure_stages(model.stages(), data, schedule)
    return run


def describe(data: Interactions, options: argparse.Namespace) -> str:
    """What is trained on what."""
    details = ["no logQ correction" if options.no_logq else f"{options.correction} logQ correction"]
    if options.positive_out or options.correction == "refined":
        details.append(
            f"positive out of the softmax, negatives' weight {options.negative_weight:g}"
        )
    return (
        f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, {len(data.users):,} "
        f"training rows ({100 * data.labels.mean():.0f}% clicks), "
        f"{len(data.held_out_users):,} held-out clicks\n"
        f"{options.loss} loss, batch {options.batch_size}, width {options.width}, "
        f"gamma {options.gamma:g}, lazy Adam {options.learning_rate:g}, {options.epochs} epochs, "
        + ", ".join(details)
    )


def report(
    groups: Sequence[Sequence[TrainingRun]], data: Interactions, options: argparse.Namespace
) -> None:
    """Prints the tables and draws the picture; the last run of a group is fastneg's."""
    every_run = [run for group in groups for run in group]
    print(f"\n{results_table(every_run)}\n")
    for run in groups[0][:-1]:
        print(f"{run.title} is {FORMS[options.loss][run.title]}.")
    for *plain_runs, fused in groups:
        print("\n".join(comparison(plain, fused) for plain in plain_runs))
    print(f"\nWhere a training step's time goes:\n{stages_table(every_run)}\n")
    try:
        draw(groups, f"Two-tower model, {data.name}", options.output)
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
        "--loss",
        default="rolled",
        choices=["rolled", "in-batch"],
        help="K negatives for each row, softmax_loss_with_negative_mining, or all other items of "
        "the batch, in_batch_softmax_loss",
    )
    add(
        "--negatives",
        type=int,
        nargs="+",
        metavar="K",
        help=f"negatives per row of the rolled loss ({DEFAULT_NEGATIVES}), one or several; several "
        "are drawn as recall against minutes (the plain loss takes about 10 x batch x K x width "
        "bytes)",
    )
    add("--gamma", type=float, default=10.0, help="scale of the cosines, 1 / temperature")
    add("--no-logq", action="store_true", help="train without the logQ correction")
    add(
        "--correction",
        default="standard",
        choices=["standard", "refined"],
        help="how the in-batch loss corrects for popular items serving as negatives more often",
    )
    add(
        "--positive-out",
        action="store_true",
        help="take the positive out of the in-batch loss's softmax",
    )
    add(
        "--negative-weight",
        type=float,
        default=1.0,
        help="of the negatives' part of the in-batch loss, with --positive-out",
    )
    add(
        "--plain",
        default="both",
        choices=["graph", "fastest", "both"],
        help="which plain losses to train with: operations of a graph, the fastest form we know",
    )
    add_training_options(parser, num_epochs=20, learning_rate=2e-3, output="two_tower.png")
    return parser


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program with a message if the options do not fit together."""
    check_training_options(parser, options)
    require_positive(parser, options, "gamma")
    if options.loss == "rolled":
        for num_negatives in options.negatives or []:
            require(
                parser,
                1 <= num_negatives < options.batch_size,
                f"argument --negatives must lie in 1 .. batch size - 1 = {options.batch_size - 1}",
                num_negatives,
            )
        changed = options.positive_out or options.negative_weight != 1
        changed |= options.correction != "standard"
        requirement = "--positive-out, --negative-weight, --correction are for --loss in-batch"
        require(parser, not changed, requirement, "--loss rolled")
        return
    requirement = "argument --negatives is for --loss rolled: the other takes all of the batch"
    require(parser, options.negatives is None, requirement, options.negatives)
    require_positive(parser, options, "negative_weight")
    refined = options.correction == "refined"
    requirement = "argument --negative-weight needs --positive-out or --correction refined"
    is_out = refined or options.positive_out
    require(parser, is_out or options.negative_weight == 1, requirement, options.negative_weight)
    requirement = "argument --correction refined corrects by logQ"
    require(parser, not (refined and options.no_logq), requirement, "--no-logq")


if __name__ == "__main__":
    main()
