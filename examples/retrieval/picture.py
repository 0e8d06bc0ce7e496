"""The pictures: loss curves that coincide, and quality against minutes of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .training import TrainingRun

_FUSED_COLOR = "#0b6e4f"
# Of the plain losses, in their order: colour and width of the loss curve, line of the quality.
_PLAIN_STYLES = (("#b8bcc4", 5.0, "--"), ("#e0a458", 2.8, ":"))
_NEGATIVES_COLORS = ("#7a5195", "#2f6db5", "#0b8a6a", "#d1662b", "#b3274b", "#5b5f66")


def draw(groups: Sequence[Sequence[TrainingRun]], title: str, path: Path) -> None:
    """Draws groups of runs: one group with its loss curves, several against minutes alone.

    The last run of a group is the fused loss's, those before are plain ones.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context({**style, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}):
        if len(groups) == 1:
            figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
            _draw_losses(left, groups[0])
        else:
            figure, right = plt.subplots(figsize=(8.5, 5), layout="constrained")
        _draw_quality(right, groups)
        figure.suptitle(title)
        figure.savefig(path, dpi=144, facecolor="white")
        plt.close(figure)


def _draw_losses(axes, runs: Sequence[TrainingRun]) -> None:
    styles = [*_PLAIN_STYLES[: len(runs) - 1], (_FUSED_COLOR, 1.2, "-")]
    for run, (color, width, _) in zip(runs, styles, strict=True):
        axes.plot(np.arange(1, len(run.losses) + 1), run.losses, lw=width, c=color, label=run.title)
    axes.set(xlabel="training step", ylabel="loss", title=f"the same loss ({runs[-1].size})")
    axes.legend()


def _draw_quality(axes, groups: Sequence[Sequence[TrainingRun]]) -> None:
    from matplotlib import ticker

    several = len(groups) > 1
    colors = _NEGATIVES_COLORS if several else (_FUSED_COLOR,)
    every_run = [run for group in groups for run in group]
    longest = max(run.checkpoints[-1].minutes for run in every_run)
    unit, per_minute = ("minutes", 1.0) if longest > 2 else ("seconds", 60.0)
    lines = [*(line for _, _, line in _PLAIN_STYLES[: len(groups[0]) - 1]), "-"]
    for i, group in enumerate(groups):
        color = colors[i % len(colors)]
        for run, line in zip(group, lines, strict=True):
            face = color if run is group[-1] else "white"
            times = [per_minute * checkpoint.minutes for checkpoint in run.checkpoints]
            recall = [checkpoint.quality.recall for checkpoint in run.checkpoints]
            axes.plot(times, recall, line, c=color, mfc=face, marker="o", ms=4.5)
            if not run.is_complete:
                axes.plot(times[-1:], recall[-1:], "X", c=color, ms=10)
    entries = [(line, run.title) for run, line in zip(groups[0], lines, strict=True)][::-1]
    if not all(run.is_complete for run in every_run):
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
            axes.plot([], [], c=colors[i % len(colors)], marker="o", ms=4.5, label=group[-1].size)[
                0
            ]
            for i, group in enumerate(groups)
        ]
        axes.figure.legend(handles=sizes, loc="outside right upper")
