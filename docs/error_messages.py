"""The messages of all errors, collected from the sources, grouped by what causes them.

`errors.toml` lists the causes, each with patterns of its messages. A message that no cause claims
is a warning, so that the site is not built and `tests/test_documentation.py` fails.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomllib

REPOSITORY = Path(__file__).parents[1]
PYTHON = sorted((REPOSITORY / "fastneg").rglob("*.py"))
NATIVE = sorted(
    path
    for folder in ("ops", "tf_ops", "xla_ffi")
    for path in (REPOSITORY / "csrc" / folder).glob("*.[ch]*")
)
_IS_MESSAGE = re.compile(r"\b(must|needs|is needed|did not take|does not offer)\b")


@dataclass(frozen=True)
class Cause:
    """What leads to some messages, and what to do."""

    title: str
    text: str
    patterns: tuple[str, ...]

    def claims(self, message: str) -> bool:
        """Whether it is the cause of a message."""
        return any(re.search(pattern, message) for pattern in self.patterns)


def causes() -> list[Cause]:
    """All causes, in the order of the page."""
    content = tomllib.loads((Path(__file__).parent / "errors.toml").read_text())
    return [
        Cause(entry["title"], entry["text"], tuple(entry["messages"])) for entry in content["cause"]
    ]


def messages() -> list[str]:
    """All messages, without repetition, with … for what depends on the call."""
    found: dict[str, str] = {}  # By requirement, which backends state alike.
    for paths, extract in ((PYTHON, _python_messages), (NATIVE, _native_messages)):
        for path in paths:
            for message in extract(path.read_text()):
                requirement = message.split(" Received")[0].rstrip(" .,:…")
                if len(message) > len(found.get(requirement, "")):
                    found[requirement] = message
    return [
        message
        for requirement, message in found.items()
        if "Received" in message
        or not any(other.startswith(requirement) and other != requirement for other in found)
    ]


def by_cause() -> tuple[dict[Cause, list[str]], list[str]]:
    """The messages of each cause, the first that claims one, and those that none claims."""
    groups: dict[Cause, list[str]] = {cause: [] for cause in causes()}
    rest = []
    for message in messages():
        cause = next((cause for cause in groups if cause.claims(message)), None)
        (rest if cause is None else groups[cause]).append(message)
    return groups, rest


def _python_messages(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, (ast.JoinedStr, ast.FormattedValue))
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in documentation or id(node) in parts:
            continue
        text = _text(node)
        if text and _IS_MESSAGE.search(text):
            yield _tidy(text)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    return None


def _native_messages(source: str) -> Iterator[str]:
    source = re.sub(r"^\s*(//|#).*$", "", source, flags=re.MULTILINE)
    for statement in re.split(r";\s*\n", source):
        literals = list(re.finditer(r'"((?:[^"\\\n]|\\.)*)"', statement))
        text, end = "", None
        for literal in literals:
            between = "" if end is None else statement[end : literal.start()]
            if end is None or re.search(r"[{}]|return|case", between):
                yield from _if_message(text)
                text = ""
            elif between.strip() and between.strip() != "+":
                text += " or " if between.strip() == ":" else "…"
            text += literal[1].replace('\\"', '"')
            end = literal.end()
        if end is not None and "+" in statement[end:] and not text.endswith("."):
            text += "…"
        yield from _if_message(text)


def _if_message(text: str) -> Iterator[str]:
    if _IS_MESSAGE.search(text) and "\n" not in text:
        yield _tidy(text)


def _tidy(text: str) -> str:
    text = re.sub(r"`?…(…)+`?", "…", " ".join(text.split()))
    return text if text.startswith("`") or not text.startswith("…`") else text[1:]
