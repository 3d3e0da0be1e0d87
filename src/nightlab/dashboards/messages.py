"""What travels between server and page: at once, all of it, and nothing that is not used."""

from __future__ import annotations

import functools
from typing import Any

from bokeh.resources import Resources
from bokeh.server.urls import per_app_patterns
from bokeh.server.views.ws import WSHandler
from panel.io import document as panel_documents


class PromptSocket(WSHandler):
    """A connection to a page that sends at once.

    A message goes out in pieces, and by default each piece waits until the one before it was acknowledged, which
    browsers do after up to 40 ms.
    """

    def open(self) -> None:
        """Take up a connection."""
        self.set_nodelay(True)
        super().open()


def prepare_servers() -> None:
    """Let servers that are made from now on send at once, and no scripts that no page uses.

    Those of formulas and of WebGL are 2 MB that each page would read.
    """
    per_app_patterns[:] = [
        (place, PromptSocket if handler is WSHandler else handler) for place, handler in per_app_patterns
    ]
    Resources._default_components = ["bokeh", "bokeh-widgets", "bokeh-tables"]


def send_all() -> None:
    """Let Panel send what was put in line while it was sending.

    The task that comes to the end of a line opens the line's lock. The task of a message that was put in line
    meanwhile takes the open lock for an empty line and leaves the message where it is, until something else happens on
    the page (seen with Panel 1.9.4, ``panel.io.document._dispatch_msgs``).
    """
    send = panel_documents._dispatch_msgs
    if hasattr(send, "__wrapped__"):
        return

    @functools.wraps(send)
    async def send_line(document: Any) -> None:
        if document in panel_documents._WRITE_MSGS:
            panel_documents._WRITE_BLOCK[document] = True
        await send(document)

    panel_documents._dispatch_msgs = send_line
