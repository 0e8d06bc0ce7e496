"""Which part of the package may know which: imports point one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastneg"

# Each part may import those behind it, and modules that belong to no part.
PARTS = ("layers", "metrics", "losses", "backends", "reference", "arguments")


def imported(file: Path) -> Iterator[str]:
    """Parts of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastneg"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("fastneg.")]
        else:
            continue
        yield from (name.split(".")[1] for name in names)


@pytest.mark.parametrize("part", PARTS)
def test_imports_point_one_way(part: str) -> None:
    above = set(PARTS[: PARTS.index(part)])
    for file in (PACKAGE / part).rglob("*.py"):
        assert not above & set(imported(file)), file
