"""Make the front end ready, once, for whatever host there is."""

from __future__ import annotations

import builtins
from pathlib import Path

import panel as pn
from panel.theme import Fast
from panel.viewable import Viewable

from nightlab.dashboards.messages import send_all

#: Grows with each loading.
_loaded: list[str] = []


def setup(theme: str = "default") -> None:
    """Load what the explorers need into the notebook or the server, unless that has been done.

    All resources are inlined, so that nothing is fetched from a network and a hub's base path cannot be missed.

    Parameters
    ----------
    theme
        ``default`` or ``dark``; a served page has a switch of its own.
    """
    if not _loaded:
        setup_notebook(theme)


def setup_notebook(theme: str = "default") -> None:
    """Load what the explorers need as an output of the cell that calls this, each time it is run.

    A tab that was opened or reloaded after an earlier run has nothing of it, and what is drawn again would stay blank.

    Parameters
    ----------
    theme
        ``default`` or ``dark``, as JupyterLab's own.
    """
    if not _loaded:
        send_all()
        # the design of the pages asks a server elsewhere for a font
        Fast._resources.pop("font", None)
        # one sheet of the house in every shadow root of a page
        Fast.modifiers[Viewable]["stylesheets"].append((Path(__file__).parent / "house.css").read_text())
    _loaded.append(theme)
    # what pops up in a page would have to be fetched from elsewhere by a notebook
    in_notebook = hasattr(builtins, "__IPYTHON__")
    pn.extension(inline=True, theme=theme, notifications=not in_notebook)
