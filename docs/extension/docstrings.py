"""Docstrings as they are written here: code in single backticks, formulas as indented blocks."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(?<![`:\w])`([^`]+)`(?!`)")
_PUBLIC = re.compile(r"fastneg(\.[A-Za-z_]\w*)+")


def setup(app: Sphinx) -> None:
    """Comes before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-process-signature", _signature)


def _process(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = _linked(_formulas(lines))


def _signature(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, *signature: Any
) -> tuple[str, str] | None:
    """Keras gives its classes a `__new__` of any arguments; what counts is `__init__`."""
    if what != "class" or not name.startswith(("fastneg.layers", "fastneg.losses")):
        return None
    parameters = list(inspect.signature(documented.__init__).parameters.values())[1:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain)), ""


def _formulas(lines: list[str]) -> list[str]:
    """Makes code of indented blocks that a blank line separates from text that is not indented."""
    result: list[str] = []
    inside = False
    for i, line in enumerate(lines):
        if line and not line.startswith(" "):
            inside = False
        elif line and not inside and i > 1 and not lines[i - 1]:
            before = next((text for text in reversed(lines[: i - 1]) if text), " ")
            if not before.startswith(" "):
                inside = True
                result += [".. code-block:: text", ""]
        result.append(line)
    return result


def _linked(lines: list[str]) -> list[str]:
    """Makes literals of code, and links of public names."""
    result, plain, code = [], [], False

    def flush() -> None:
        if plain:
            result.extend(_CODE.sub(_role, "\n".join(plain)).split("\n"))
            plain.clear()

    for line in lines:
        if line.startswith(".. code-block::"):
            code = True
        elif line and not line.startswith(" "):
            code = False
        if code or line.lstrip().startswith((">>>", "...")):
            flush()
            result.append(line)
        else:
            plain.append(line)
    flush()
    return result


def _role(match: re.Match[str]) -> str:
    text = match[1]
    if _PUBLIC.fullmatch(text):
        return f":py:obj:`{text}`"
    return f"``{text}``"
