"""Command-line options that the examples share, and their checks."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from .clicks import generate_clicks
from .interactions import Interactions, load
from .training import Schedule


def new_parser(docstring: str) -> argparse.ArgumentParser:
    """A parser whose help shows the docstring of a program."""
    summary, _, details = docstring.partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Adds --interactions."""
    parser.add_argument(
        "--interactions",
        type=Path,
        metavar="FILE",
        help="ratings.csv (userid,movieid,rating,timestamp) or CSR .npz; default: generated clicks",
    )


def add_training_options(
    parser: argparse.ArgumentParser, *, num_epochs: int, learning_rate: float, output: str
) -> None:
    """Adds what is trained how long, by which backend, and where the picture goes."""
    add = parser.add_argument
    add("--epochs", type=int, default=num_epochs)
    add("--batch-size", type=int, default=4096)
    add("--width", type=int, default=64, help="embedding width")
    add("--learning-rate", type=float, default=learning_rate)
    add("--seed", type=int, default=0)
    add("--backend", default="auto", choices=["auto", "native", "numba", "reference"])
    add(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="end each training with the plain loss after so much training time",
    )
    add("--evaluations", type=int, default=10, help="how often to measure recall during a training")
    add("--output", type=Path, default=Path(output), metavar="PNG")


def check_training_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program with a message if an option of `add_training_options` is wrong."""
    for name in ("epochs", "width", "evaluations"):
        require_at_least(parser, options, name, 1)
    require_at_least(parser, options, "batch_size", 2)
    for name in ("learning_rate", "time_limit"):
        require_positive(parser, options, name)
    require(parser, options.seed >= 0, "argument --seed must be 0 or more", options.seed)
    require(
        parser,
        options.output.suffix.lower() == ".png" and options.output.resolve().parent.is_dir(),
        "argument --output must name a .png file in an existing folder",
        options.output,
    )


def require(
    parser: argparse.ArgumentParser, condition: bool, requirement: str, received: object
) -> None:
    """Ends the program with a message unless the condition holds."""
    if not condition:
        parser.error(f"{requirement}. Received: {received}")


def require_at_least(
    parser: argparse.ArgumentParser, options: argparse.Namespace, name: str, least: int
) -> None:
    """Ends the program with a message if an integer option is too small."""
    value = getattr(options, name)
    flag = name.replace("_", "-")
    require(parser, value >= least, f"argument --{flag} must be at least {least}", value)


def require_positive(
    parser: argparse.ArgumentParser, options: argparse.Namespace, name: str
) -> None:
    """Ends the program with a message if a number is given that is not finite and above 0."""
    value = getattr(options, name)
    require(
        parser,
        value is None or (math.isfinite(value) and value > 0),
        f"argument --{name.replace('_', '-')} must be a finite number above 0",
        value,
    )


def load_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Interactions:
    """Reads or generates the interactions; ends the program with a message if it cannot."""
    try:
        if options.interactions is None:
            return generate_clicks(seed=options.seed)
        return load(options.interactions)
    except (OSError, ValueError) as error:
        parser.error(f"argument --interactions: {error}")


def check_batch_size(
    parser: argparse.ArgumentParser, options: argparse.Namespace, data: Interactions
) -> None:
    """Ends the program with a message if the data do not fill one batch."""
    require(
        parser,
        options.batch_size <= len(data.users),
        f"argument --batch-size must be at most the number of training rows, {len(data.users)}",
        options.batch_size,
    )


def schedule_of(options: argparse.Namespace, *, time_limit_minutes: float | None) -> Schedule:
    """The schedule of one training."""
    return Schedule(
        options.batch_size,
        options.epochs,
        options.evaluations,
        options.seed,
        None if time_limit_minutes is None else 60 * time_limit_minutes,
    )
