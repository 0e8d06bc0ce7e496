"""What `python -m pytest benchmarks --save-results NAME` saved, for the site and the README.

`python docs/saved_results.py NAME` writes the README's table from the results of that name.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tomllib

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
# One size of each loss, for tables of all of them.
SUMMARY = """
in_batch_softmax | 4096,4096,128 | in_batch_softmax_loss | batch and candidates 4096, width 128
rolled_softmax | 4096,64,128 | softmax_loss_with_negative_mining | batch 4096, 64 negatives, width 128
shuffled_cosine | 4096,20,64 | negative_cosine_loss | batch 4096, 20 negatives, width 64
sampled_softmax | 1000000,4096,4096,64 | sampled_softmax_loss | 1000000 classes, batch and samples 4096, width 64
sv_softmax | 512,20 | support_vector_guided_softmax_loss | 512 rows, 20 negatives
pairwise_logistic | 8192,2,20,0 | pairwise_loss | batch 8192, 20% positives
"""  # noqa: E501
FASTNEG, PUBLISHED, FASTEST = "fastneg native", "published, graph", "best TensorFlow form"


@dataclass(frozen=True)
class Board:
    """A table of one loss on one machine."""

    machine: str
    sizes: str
    workloads: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def row(self, label: str) -> tuple[str, ...]:
        """A row's cells, "-" where there is none."""
        return self.rows.get(label, ("-",) * len(self.workloads))

    def cell(self, label: str, column: int) -> str:
        """A single one."""
        return self.row(label)[column]

    def in_float32(self) -> list[int]:
        """The columns without a name of another type."""
        return [j for j, name in enumerate(self.workloads) if not re.search("[a-z]", name)]

    def fastest_ms(self, column: int) -> str:
        """The time of the fastest TensorFlow form."""
        return self.cell(f"{self.cell(FASTEST, column)}: ms", column)


def machines() -> dict[str, dict[str, str]]:
    """What there is to say about machines, in the order in which they are shown."""
    return tomllib.loads((Path(__file__).parent / "machines.toml").read_text())


def boards(stem: str) -> list[Board]:
    """The tables of a loss; those of machines that nothing is said about come first."""
    return [_read(_path(stem, name), name) for name in _names(stem)]


def saved_texts(stem: str) -> dict[str, list[str | list[list[str]]]]:
    """The paragraphs and tables of `benchmarks/STEM.py`, by the machine that it was run on."""
    texts = {name: _path(stem, name).read_text().strip() for name in _names(stem)}
    return {
        name: [_table(b.splitlines()) if b.startswith("|") else b for b in text.split("\n\n")]
        for name, text in texts.items()
    }


def _path(stem: str, machine: str) -> Path:
    return RESULTS / f"{stem}-{machine}.md"


def _names(stem: str) -> list[str]:
    order = list(machines())
    names = [path.name[len(stem) + 1 : -3] for path in RESULTS.glob(f"{stem}-*.md")]
    return sorted(
        names, key=lambda name: (name in order, order.index(name) if name in order else 0, name)
    )


def _read(path: Path, machine: str) -> Board:
    lines = path.read_text().splitlines()
    table = _table(lines)
    return Board(
        machine,
        table[0][0],
        tuple(table[0][1:]),
        {row[0]: tuple(row[1:]) for row in table[1:]},
        tuple(line for line in lines if line and not line.startswith("|")),
    )


def _table(lines: list[str]) -> list[list[str]]:
    """The cells of the lines that are a table's."""
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line)
    ]
    # 2.32e+03x is easier to read as 2320x.
    return [
        [re.sub(r"^(\d\S*e\+\d+)(x?)$", lambda m: f"{float(m[1]):.0f}{m[2]}", cell) for cell in row]
        for row in table
    ]


@dataclass(frozen=True)
class Step:
    """What a loss takes of a training step, in milliseconds."""

    published: float | None
    fastest: float
    fastneg: float
    rest: float
    form: str

    def cells(self) -> tuple[str, str, str, str, str]:
        """Published, fastest form, fastneg, and what they are beside fastneg."""
        return (
            _three_digits(self.published, " ms"),
            _three_digits(self.fastest, " ms"),
            _three_digits(self.fastneg, " ms"),
            _three_digits(None if self.published is None else self.published / self.fastneg, "x"),
            _three_digits(self.fastest / self.fastneg, "x"),
        )


def _three_digits(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + unit


def training_steps(machine: str) -> dict[tuple[str, str], Step]:
    """What `benchmarks/training_step.py --save-results NAME` saved, by stem and workload."""
    path = RESULTS / f"training_step-{machine}.json"
    if not path.exists():
        return {}
    return {
        (row["loss"], row["workload"]): Step(
            row["published_ms"],
            row["fastest_ms"],
            row["fastneg_ms"],
            row["trivial_step_ms"],
            row["fastest_form"],
        )
        for row in json.loads(path.read_text())
    }


@dataclass(frozen=True)
class Example:
    """One size of a loss, in words, on the first machine that has it."""

    board: Board
    column: int
    loss: str
    size: str
    step: Step | None

    def times(self) -> tuple[str, ...]:
        """Published, fastest form, fastneg, and ratios: in a training step, in brackets alone."""
        board, j = self.board, self.column
        alone = (
            milliseconds(board.cell(f"{PUBLISHED}: ms", j)),
            milliseconds(board.fastest_ms(j)),
            milliseconds(board.cell(f"{FASTNEG}: ms", j)),
            board.cell(f"published / {FASTNEG}", j),
            board.cell(f"{FASTEST} / {FASTNEG}", j),
        )
        if self.step is None:
            return alone
        return tuple(f"{a} ({b})" for a, b in zip(self.step.cells(), alone, strict=True))


def caption(found: list[Example]) -> str:
    """What the times of some examples are."""
    without = [example for example in found if example.step is None]
    if found and len(without) == len(found):
        return "Times of the loss and its gradients, called alone."
    return (
        "What the loss takes of a training step: a step with it less the same step with a sum of "
        "squares in its place. In brackets, the loss and its gradients called alone"
        + (", where there are no brackets too." if without else ".")
    )


def milliseconds(text: str) -> str:
    """A time with its unit."""
    return text if text in ("-", "") else f"{text} ms"


def examples(lines: list[str], machine: str | None = None) -> list[Example]:
    """Reads `STEM | SIZES | LOSS | SIZE IN WORDS` lines; those without results are left out."""
    found = []
    for line in lines:
        stem, workload, loss, size = (part.strip() for part in line.split("|"))
        for board in boards(stem):
            if workload in board.workloads and machine in (None, board.machine):
                step = training_steps(board.machine).get((stem, workload))
                found.append(Example(board, board.workloads.index(workload), loss, size, step))
                break
    return found


def readme_table(machine: str) -> str:
    """The README's table of all losses on one machine."""
    lines = [
        "| loss | size | published | fastest TensorFlow form | fastneg | against published "
        "| against fastest | peak memory, published | fastneg |",
        "|" + "---|" * 9,
    ]
    summary = SUMMARY.strip().splitlines()
    found = examples(summary, machine)
    by_loss = {example.loss: example for example in found}
    steps = training_steps(machine)
    for line in summary:
        stem, workload, loss, size = (part.strip() for part in line.split("|"))
        memory = ["-", "-"]
        if loss in by_loss:
            board, j = by_loss[loss].board, by_loss[loss].column
            memory = [board.cell(f"peak memory, {name}: MiB", j) for name in (PUBLISHED, FASTNEG)]
            times = by_loss[loss].times()
        elif (stem, workload) in steps:  # Not called alone on this machine.
            times = steps[stem, workload].cells()
        else:
            continue
        cells = [f"`{loss}`", size, *times]
        cells += [text if text == "-" else f"{text} MiB" for text in memory]
        lines.append("| " + " | ".join(cells) + " |")
    title = machines().get(machine, {}).get("title", machine.replace("-", " "))
    return "\n".join([*lines, "", f"({caption(found)} Machine: {title}.)"])


_README = REPOSITORY / "README.md"
_TABLE = re.compile(r"(<!-- results: )(\S+)( -->\n)(.*?)(\n<!-- end of results -->)", re.DOTALL)


def table_in_readme() -> tuple[str, str]:
    """The machine that the README's table is from, and the table."""
    match = _TABLE.search(_README.read_text())
    if match is None:
        raise ValueError("README.md must have a table between `<!-- results: NAME -->` comments.")
    return match[2], match[4]


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    table = readme_table(name)
    _README.write_text(
        _TABLE.sub(lambda m: f"{m[1]}{name}{m[3]}{table}{m[5]}", _README.read_text())
    )
