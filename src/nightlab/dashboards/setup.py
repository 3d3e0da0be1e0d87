"""Make the front end ready, once, for whatever host there is."""

from __future__ import annotations

import builtins
import functools

import panel as pn
from panel.theme import Fast


@functools.cache
def setup(theme: str = "default") -> None:
    """Load what the explorers need into the notebook or the server.

    All resources are inlined, so that nothing is fetched from a network and a hub's base path cannot be missed.

    Parameters
    ----------
    theme
        ``default`` or ``dark``; a served page has a switch of its own.
    """
    # the design of the pages asks a server elsewhere for a font
    Fast._resources.pop("font", None)
    # what pops up in a page would have to be fetched from elsewhere by a notebook
    in_notebook = hasattr(builtins, "__IPYTHON__")
    pn.extension("tabulator", inline=True, theme=theme, notifications=not in_notebook)
