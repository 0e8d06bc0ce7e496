"""The pictures: two loss curves that coincide, and quality against minutes of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .training import TrainingRun

_PLAIN_COLOR = "#b8bcc4"
_FUSED_COLOR = "#0b6e4f"
_NEGATIVES_COLORS = ("#7a5195", "#2f6db5", "#0b8a6a", "#d1662b", "#b3274b", "#5b5f66")


def draw(runs: Sequence[tuple[TrainingRun, TrainingRun]], title: str, path: Path) -> None:
    """Draws (plain, fused) pairs: one pair with its loss curves, several against minutes alone.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context({**style, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}):
        if len(runs) == 1:
            figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
            _draw_losses(left, *runs[0])
        else:
            figure, right = plt.subplots(figsize=(8.5, 5), layout="constrained")
        _draw_quality(right, runs)
        figure.suptitle(title)
        figure.savefig(path, dpi=144, facecolor="white")
        plt.close(figure)


def _draw_losses(axes, plain: TrainingRun, fused: TrainingRun) -> None:
    for run, width, color in ((plain, 4.0, _PLAIN_COLOR), (fused, 1.2, _FUSED_COLOR)):
        axes.plot(np.arange(1, len(run.losses) + 1), run.losses, lw=width, c=color, label=run.title)
    axes.set(xlabel="training step", ylabel="loss", title=f"the same loss ({fused.size})")
    axes.legend()


def _draw_quality(axes, runs: Sequence[tuple[TrainingRun, TrainingRun]]) -> None:
    from matplotlib import ticker

    several = len(runs) > 1
    colors = _NEGATIVES_COLORS if several else (_FUSED_COLOR,)
    longest = max(run.checkpoints[-1].minutes for pair in runs for run in pair)
    unit, per_minute = ("minutes", 1.0) if longest > 2 else ("seconds", 60.0)
    for i, (plain, fused) in enumerate(runs):
        color = colors[i % len(colors)]
        for run, line, face in ((plain, "--", "white"), (fused, "-", color)):
            times = [per_minute * checkpoint.minutes for checkpoint in run.checkpoints]
            recall = [checkpoint.quality.recall for checkpoint in run.checkpoints]
            axes.plot(times, recall, line, c=color, mfc=face, marker="o", ms=4.5)
            if not run.is_complete:
                axes.plot(times[-1:], recall[-1:], "X", c=color, ms=10)
    plain, fused = runs[0]
    entries = [("-", fused.title), ("--", plain.title)]
    if not all(run.is_complete for pair in runs for run in pair):
        entries.append(("X", "ended by the time limit"))
    handles = [axes.plot([], [], mark, c="#333", label=label)[0] for mark, label in entries]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(xlabel=f"{unit} of training", ylabel="Recall@20, held-out clicks")
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    if several:  # Beside the curves: their ends may lie close together.
        sizes = [
            axes.plot([], [], c=colors[i % len(colors)], marker="o", ms=4.5, label=fused.size)[0]
            for i, (_, fused) in enumerate(runs)
        ]
        axes.figure.legend(handles=sizes, loc="outside right upper")
