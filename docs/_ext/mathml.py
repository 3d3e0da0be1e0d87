"""Set equations as MathML when the documentation is built, so that pages need no network to show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from latex2mathml.converter import convert

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}


def inline(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    # the theme scrolls wide equations, and would cut off what stands out of the line
    equation = convert(node.astext(), display="block")
    translator.body.append(f"<div class='math' style='padding: 0.4em 0'>{equation}</div>")
    raise nodes.SkipNode
