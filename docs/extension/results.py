"""Tables and plots of what `python -m pytest benchmarks --save-results NAME` saved.

The numbers of the site are read from `benchmarks/results/LOSS-NAME.md` when it is built.
"""

import base64
import math
import re
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from saved_results import (
    FASTEST,
    FASTNEG,
    PUBLISHED,
    RESULTS,
    SUMMARY,
    Board,
    Step,
    boards,
    caption,
    examples,
    machines,
    milliseconds,
    saved_texts,
    training_steps,
)
from sphinx.application import Sphinx

_NOT_MEASURED = "No results are saved yet. To measure on your machine: "
PAGES = {path.stem for path in (Path(__file__).parents[1] / "losses").glob("*.md")}


def _mebibytes(text: str) -> str:
    return text if text in ("-", "") else f"{text} MiB"


def _title(machine: str) -> str:
    return machines().get(machine, {}).get("title", machine.replace("-", " "))


def short_table(board: Board, columns: list[int]) -> str:
    """Published, fastest TensorFlow form, fastneg: a row for each workload."""
    head = (
        f"{board.sizes.replace(',', ', ')}",
        "published",
        "fastest TensorFlow form",
        "fastneg",
        "published / fastneg",
        "fastest / fastneg",
        "memory, published",
        "memory, fastneg",
    )
    body = [
        (
            board.workloads[j].replace(",", ", "),
            milliseconds(board.cell(f"{PUBLISHED}: ms", j)),
            milliseconds(board.fastest_ms(j)),
            milliseconds(board.cell(f"{FASTNEG}: ms", j)),
            board.cell(f"published / {FASTNEG}", j),
            board.cell(f"{FASTEST} / {FASTNEG}", j),
            _mebibytes(board.cell(f"peak memory, {PUBLISHED}: MiB", j)),
            _mebibytes(board.cell(f"peak memory, {FASTNEG}: MiB", j)),
        )
        for j in columns
    ]
    return html_table(head, body)


def step_table(board: Board, steps: dict[str, Step]) -> str:
    """What the loss takes of a training step."""
    head = (
        board.sizes.replace(",", ", "),
        "published",
        "fastest TensorFlow form",
        "fastneg",
        "published / fastneg",
        "fastest / fastneg",
        "rest of the step",
    )
    body = [
        (name.replace(",", ", "), *step.cells(), milliseconds(f"{step.rest:.3g}"))
        for name, step in steps.items()
    ]
    text = (
        "<p>What the loss takes of a training step: a step with it less the same step with a sum "
        "of squares in its place.</p>"
    )
    return text + html_table(head, body)


def html_table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """A table that scrolls on a narrow screen."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in body)
    return (
        '<div class="table-wrapper docutils container"><table class="docutils results">'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    is_text = re.search("[a-z]{3}", text) is not None
    content = escape(text).replace("_", "_<wbr>")  # Names of functions are long for a phone.
    if text in PAGES:
        content = f'<a class="reference internal" href="losses/{text}.html">{content}</a>'
    return f'<td class="text">{content}</td>' if is_text else f"<td>{content}</td>"


def plot(board: Board, columns: list[int]) -> str:
    """Times on a logarithmic axis: a line for each workload."""
    series = [
        (j, [_time(board.cell(f"{PUBLISHED}: ms", j)), _time(board.fastest_ms(j)),
             _time(board.cell(f"{FASTNEG}: ms", j))])
        for j in columns
    ]  # fmt: skip
    series = [(j, times) for j, times in series if times[2] is not None]
    known = [time for _, times in series for time in times if time is not None]
    if not known:
        return ""
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    left, right, top, step = 190, 700, 34, 30
    bottom = top + step * len(series)

    def x(time: float) -> float:
        return left + (math.log10(time) - low) / max(high - low, 1) * (right - left)

    parts = []
    for power in range(low, high + 1):
        at = x(10.0**power)
        label = f"{10.0**power:g} ms"
        parts.append(f'<path class="grid" d="M{at:.1f} {top - 8}V{bottom}"/>')
        parts.append(f'<text class="middle quiet" x="{at:.1f}" y="{bottom + 18}">{label}</text>')
    for line, (j, times) in enumerate(series):
        y = top + step * line + step / 2
        there = [time for time in times if time is not None]
        name = escape(board.workloads[j].replace(",", ", "))
        parts.append(f'<text class="end" x="{left - 14}" y="{y + 5}">{name}</text>')
        parts.append(f'<path class="link" d="M{x(min(there)):.1f} {y}H{x(max(there)):.1f}"/>')
        for time, kind in zip(times, ("published", "fastest", "fastneg"), strict=True):
            if time is not None:
                parts.append(
                    f'<circle class="{kind}" cx="{x(time):.1f}" cy="{y}" r="6">'
                    f"<title>{kind}: {time:g} ms</title></circle>"
                )
    at = left
    for kind, text in (
        ("fastneg", "fastneg"),
        ("fastest", "fastest TensorFlow form"),
        ("published", "published"),
    ):
        parts.append(f'<circle class="{kind}" cx="{at}" cy="12" r="6"/>')
        parts.append(f'<text x="{at + 12}" y="17">{text}</text>')
        at += 40 + 7 * len(text)
    parts.append(f'<text class="end quiet" x="{left - 14}" y="17">{escape(board.sizes)}</text>')
    return (
        f'<figure class="picture"><svg viewBox="0 0 {right + 40} {bottom + 28}" role="img" '
        f'width="{right + 40}"><title>Time of the loss and its gradients</title>{"".join(parts)}'
        "</svg><figcaption>Time of the loss and its gradients, on a logarithmic axis."
        "</figcaption></figure>"
    )


def _time(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class Results(Directive):
    """`{results} STEM`: the tables of a loss on all machines, and a plot of the first one."""

    required_arguments = 1
    final_argument_whitespace = False

    def run(self) -> list[nodes.Node]:
        """Reads the files, on which the page then depends."""
        stem = self.arguments[0]
        _depend_on_results(self, stem)
        found = boards(stem)
        if not found:
            return [_not_measured(stem)]
        parts = []
        for number, board in enumerate(found):
            columns = board.in_float32()
            note = machines().get(board.machine, {}).get("note", "")
            parts.append(f"<p><strong>{escape(_title(board.machine))}.</strong> {escape(note)}</p>")
            steps = training_steps(board.machine)
            steps = {name: step for (of, name), step in steps.items() if of == stem}
            if steps:
                parts.append(step_table(board, steps))
                parts.append("<p>The loss and its gradients called alone, in turns:</p>")
            parts.append(short_table(board, columns))
            if number == 0:
                parts.append(plot(board, columns))
            head = (
                board.sizes.replace(",", ", "),
                *(w.replace(",", ", ") for w in board.workloads),
            )
            everything = html_table(head, [(label, *cells) for label, cells in board.rows.items()])
            notes = "".join(f"<p>{escape(text)}</p>" for text in board.notes)
            parts.append(self._saved_plot(stem, board))
            parts.append(
                '<details class="all-contenders"><summary>All contenders and element types'
                f"</summary>{everything}{notes}</details>"
            )
        return [nodes.raw("", "".join(parts), format="html")]

    def _saved_plot(self, stem: str, board: Board) -> str:
        """The plot that the benchmarks drew, in the page itself, or nothing."""
        path = RESULTS / f"{stem}-{board.machine}.png"
        if not path.exists():
            return ""
        content = base64.b64encode(path.read_bytes()).decode()
        return (
            '<details class="all-contenders"><summary>Time over negatives and batch</summary>'
            f'<img class="saved" alt="Time over negatives and batch" '
            f'src="data:image/png;base64,{content}"/></details>'
        )


class OptionCosts(Directive):
    """`{option-costs} STEM`: lines `fastneg OPTION` of a benchmark beside `fastneg plain`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Takes the first machine."""
        found = boards(self.arguments[0])
        if not found:
            return [_not_measured(self.arguments[0])]
        board = found[0]
        head = ("option", *(name.replace(",", ", ") for name in board.workloads))
        body = []
        for label, cells in board.rows.items():
            option = re.fullmatch("fastneg (.*): ms", label)
            if option:
                plain = board.row("fastneg plain: ms")
                body.append((option[1], *map(_with_ratio, cells, plain)))
        title, sizes = _title(board.machine), board.sizes.replace(",", ", ")
        text = (
            f"<p>{escape(title)}. Sizes are {escape(sizes)}; "
            "in brackets the time beside that of the plain loss.</p>"
        )
        return [nodes.raw("", text + html_table(head, body), format="html")]


class SavedText(Directive):
    """`{saved-text} SCRIPT`: what `benchmarks/SCRIPT.py --save-results NAME` saved, as it is."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Takes all machines."""
        stem = self.arguments[0]
        _depend_on_results(self, stem)
        found = saved_texts(stem)
        if not found:
            return [_paragraph(_NOT_MEASURED, f"python benchmarks/{stem}.py --save-results NAME")]
        parts = []
        for machine, blocks in found.items():
            parts.append(f"<p><strong>{escape(_title(machine))}.</strong></p>")
            for block in blocks:
                if isinstance(block, str):
                    parts.append(f"<p>{escape(block)}</p>".replace("`", ""))
                else:
                    parts.append(html_table(tuple(block[0]), [tuple(row) for row in block[1:]]))
        return [nodes.raw("", "".join(parts), format="html")]


def _depend_on_results(directive: Directive, stem: str) -> None:
    for path in RESULTS.glob(f"{stem}-*"):
        directive.state.document.settings.record_dependencies.add(str(path))


def _with_ratio(text: str, plain: str) -> str:
    time, of_plain = _time(text), _time(plain)
    if time is None or not of_plain:
        return milliseconds(text)
    return f"{text} ms ({time / of_plain:.2f})"


def _not_measured(stem: str) -> nodes.paragraph:
    return _paragraph(_NOT_MEASURED, f"python -m pytest benchmarks --losses {stem}")


class Summary(Directive):
    """`{results-summary}`: one workload of each loss, a `STEM | SIZES | LOSS | SIZE` line each."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Takes the first machine that has the workload."""
        head = ("loss", "size", "published", "fastest TensorFlow form", "fastneg",
                "published / fastneg", "fastest / fastneg")  # fmt: skip
        lines = list(self.content) or SUMMARY.strip().splitlines()
        found = examples(lines)
        body = [(example.loss, example.size, *example.times()) for example in found]
        used = dict.fromkeys(_title(example.board.machine) for example in found)
        text = f"<p>{caption(found)} Measured on: {escape('; '.join(used))}.</p>"
        return [nodes.raw("", html_table(head, body) + text, format="html")]


def _paragraph(text: str, code: str) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.Text(text), nodes.literal("", code), nodes.Text("."))


def setup(app: Sphinx) -> None:
    """Registers the directives."""
    app.add_directive("results", Results)
    app.add_directive("results-summary", Summary)
    app.add_directive("option-costs", OptionCosts)
    app.add_directive("saved-text", SavedText)
