"""Formulas as MathML, which browsers show without a script or a download."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def setup(app: Sphinx) -> None:
    """Registers the renderer "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))


def _inline(writer: nodes.NodeVisitor, node: nodes.Element) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(writer: nodes.NodeVisitor, node: nodes.Element) -> None:
    math = tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="formula">{math}</div>')
    raise nodes.SkipNode
