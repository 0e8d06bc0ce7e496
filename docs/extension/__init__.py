"""What the site needs beyond Sphinx: docstrings, formulas, pictures, results."""

from typing import Any

from sphinx.application import Sphinx

from extension import docstrings, formulas, measured, messages, results, scored


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers all of it with Sphinx."""
    for part in (docstrings, formulas, measured, messages, results, scored):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
