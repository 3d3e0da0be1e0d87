"""Changing Bokeh figures that a browser may already show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import panel as pn


def live(pane: pn.pane.Bokeh, change: Callable[[], Any]) -> None:
    """Change the figure of a pane, wherever it is shown.

    On a served page Bokeh wants its lock, which callbacks of widgets do not hold: the change is made a moment later.
    In a notebook what has changed must be pushed. A figure that nobody sees yet is simply changed.

    Parameters
    ----------
    pane
        The pane that shows the figure.
    change
        Changes it; takes nothing.
    """
    document = pane.object.document if pane.object is not None else None
    if document is not None and document.session_context is not None:
        document.add_next_tick_callback(change)
        return
    change()
    if document is not None:
        pn.io.push_notebook(pane)


def at_once() -> AbstractContextManager[Any]:
    """Let Bokeh look through all models of the page once at the end of a block, not after every change in it."""
    document = pn.state.curdoc
    return document.models.freeze() if document is not None else nullcontext()
