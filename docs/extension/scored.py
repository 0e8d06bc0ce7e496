"""Pictures of what a loss scores against what: a grid of rows and candidates."""

import random
from collections.abc import Callable
from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

CELL, GAP, LEFT, TOP = 26, 4, 132, 58
LEGEND = {
    "positive": "positive",
    "negative": "negative",
    "left-out": "left out",
    "none": "not scored",
    "above": "scores above the positive",
    "below": "scores below it",
    "pair": "pair that counts",
    "same": "same label",
    "other": "other session",
}


class Grid:
    """Cells of kinds, with names of rows and columns."""

    def __init__(self, title: str, rows: list[str], columns: list[str], axes: tuple[str, str]):
        """Starts with nothing scored."""
        self.title, self.rows, self.columns, self.axes = title, rows, columns, axes
        self.kinds = {(i, j): "none" for i in range(len(rows)) for j in range(len(columns))}
        self.faint: set[int] = set()

    def svg(self) -> str:
        """Draws it; colours are those of the page."""
        step = CELL + GAP
        width = max(LEFT + step * len(self.columns) + 8, 420)
        bottom = TOP + step * len(self.rows)
        parts = [
            f'<text class="axis" x="{LEFT}" y="16">{escape(self.axes[1])}</text>',
            f'<text class="axis" x="4" y="{TOP - 14}">{escape(self.axes[0])}</text>',
        ]
        for j, name in enumerate(self.columns):
            x = LEFT + step * j + CELL / 2
            parts.append(f'<text class="name" x="{x}" y="{TOP - 14}">{escape(name)}</text>')
        for i, name in enumerate(self.rows):
            y = TOP + step * i + CELL / 2 + 5
            faint = " faint" if i in self.faint else ""
            parts.append(f'<text class="row{faint}" x="{LEFT - 10}" y="{y}">{escape(name)}</text>')
        for (i, j), kind in self.kinds.items():
            parts.append(_cell(LEFT + step * j, TOP + step * i, kind))
        kinds = [kind for kind in LEGEND if kind in self.kinds.values()]
        x, y = 4, bottom + 14
        for kind in kinds:
            room = 44 + 7.4 * len(LEGEND[kind])
            if x + room > width:
                x, y = 4, y + 34
            parts.append(_cell(x, y, kind))
            parts.append(f'<text x="{x + CELL + 6}" y="{y + 18}">{LEGEND[kind]}</text>')
            x += room
        height = y + CELL + 8
        return (
            f'<figure class="picture"><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
            f'width="{width:.0f}"><title>{escape(self.title)}</title>{"".join(parts)}</svg>'
            f"<figcaption>{escape(self.title)}</figcaption></figure>"
        )


def _cell(x: float, y: float, kind: str) -> str:
    box = f'<rect class="cell {kind}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="4"/>'
    if kind in ("left-out", "other"):
        a, b = 8, CELL - 8
        box += (
            f'<path class="cross" d="M{x + a} {y + a}L{x + b} {y + b}M{x + b} {y + a}'
            f'L{x + a} {y + b}"/>'
        )
    return box


def in_batch() -> Grid:
    """All candidates of the batch, an accidental hit, and two extra negatives."""
    items = ["a", "b", "c", "a", "d", "e", "f", "g"]
    grid = Grid(
        "in_batch_softmax_loss: each query against all candidates, also those without a query of "
        "their own (f, g). Item a is the positive of two queries: with candidate_ids it is no "
        "negative of either.",
        [f"query {i}" for i in range(6)],
        items,
        ("", "candidates, by id"),
    )
    for i, j in grid.kinds:
        same = items[i] == items[j]
        grid.kinds[i, j] = "positive" if i == j else "left-out" if same else "negative"
    return grid


def rolled() -> Grid:
    """Three shifts; a row without a positive label."""
    size, shifts = 8, (1, 3, 6)
    labels = [1, 1, 0, 1, 1, 0, 1, 1]
    grid = Grid(
        "softmax_loss_with_negative_mining with the shifts 1, 3 and 6: each user against the own "
        "item and three others. Rows with label 0 have no loss; their items serve as negatives.",
        [f"user {i}, label {label}" for i, label in enumerate(labels)],
        [str(j) for j in range(size)],
        ("", "items"),
    )
    for i, label in enumerate(labels):
        if not label:
            grid.faint.add(i)
            continue
        grid.kinds[i, i] = "positive"
        for shift in shifts:
            grid.kinds[i, (i - shift) % size] = "negative"
    return grid


def shuffled() -> Grid:
    """Two permutations."""
    size, generator = 8, random.Random(3)
    grid = Grid(
        "negative_cosine_loss with two permutations: each query against its own document and one "
        "document of each shuffled batch. Each document is a negative twice.",
        [f"query {i}" for i in range(size)],
        [str(j) for j in range(size)],
        ("", "documents"),
    )
    first = list(range(size))
    while any(i == j for i, j in enumerate(first)):
        generator.shuffle(first)
    second = list(range(size))
    while any(i == j or j == first[i] for i, j in enumerate(second)):
        generator.shuffle(second)
    for i in range(size):
        grid.kinds[i, i] = "positive"
        grid.kinds[i, first[i]] = grid.kinds[i, second[i]] = "negative"
    return grid


def sampled() -> Grid:
    """A table of twelve classes and four samples."""
    labels, samples = [2, 0, 7, 4, 1], (0, 1, 5, 10)
    grid = Grid(
        "sampled_softmax_loss with the sampled classes 0, 1, 5 and 10: each row against its own "
        "class and the samples, which all rows share. A sample that is the row's own class is an "
        "accidental hit and left out; the class stays as the positive.",
        [f"row {i}, label {label}" for i, label in enumerate(labels)],
        [str(j) for j in range(12)],
        ("", "classes of the table"),
    )
    for i, label in enumerate(labels):
        for j in samples:
            grid.kinds[i, j] = "negative"
        grid.kinds[i, label] = "positive"
    return grid


def scores() -> Grid:
    """Scores that are there already."""
    grid = Grid(
        "support_vector_guided_softmax_loss: each row has the score of a positive and those of its "
        "own K negatives.",
        [f"row {i}" for i in range(5)],
        ["pos", "1", "2", "3", "4", "5", "K"],
        ("", "pos_score, neg_scores"),
    )
    for i, j in grid.kinds:
        grid.kinds[i, j] = "negative" if j else "positive"
    return grid


def pairwise() -> Grid:
    """Two sessions with grades."""
    rows = [("A", 2), ("A", 1), ("A", 0), ("A", 0), ("B", 1), ("B", 0), ("B", 0)]
    names = [f"{session}, label {label}" for session, label in rows]
    grid = Grid(
        "pairwise_loss with two sessions: each pair of rows of one session in which the first row "
        "has the larger label.",
        names,
        [f"{session}{label}" for session, label in rows],
        ("session, label", "the row with the smaller label"),
    )
    for i, (session, label) in enumerate(rows):
        for j, (other, smaller) in enumerate(rows):
            if i != j and session == other and label > smaller:
                grid.kinds[i, j] = "pair"
            elif session != other:
                grid.kinds[i, j] = "other"
    return grid


def ranks() -> Grid:
    """Which candidates come before the positive."""
    generator = random.Random(5)
    own = [4, 0, 2, 6]
    scores_of = [[generator.random() for _ in range(8)] for _ in own]
    places = [sum(s > row[p] for s in row) for row, p in zip(scores_of, own, strict=True)]
    grid = Grid(
        "positive_ranks: how many candidates score above a row's positive, over all candidates.",
        [f"query {i}: rank {place}" for i, place in enumerate(places)],
        [str(j) for j in range(8)],
        ("", "candidates"),
    )
    for i, (row, p) in enumerate(zip(scores_of, own, strict=True)):
        for j, score in enumerate(row):
            grid.kinds[i, j] = "positive" if j == p else "above" if score > row[p] else "below"
    return grid


PICTURES: dict[str, Callable[[], Grid]] = {
    "in_batch_softmax": in_batch,
    "rolled_softmax": rolled,
    "shuffled_cosine": shuffled,
    "sampled_softmax": sampled,
    "sv_softmax": scores,
    "pairwise_logistic": pairwise,
    "positive_ranks": ranks,
}


class Scored(Directive):
    """`{scored} STEM`: the picture of a loss."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Puts the picture into the page itself, where it takes the colours of the theme."""
        return [nodes.raw("", PICTURES[self.arguments[0]]().svg(), format="html")]


def setup(app: Sphinx) -> None:
    """Registers the directive."""
    app.add_directive("scored", Scored)
