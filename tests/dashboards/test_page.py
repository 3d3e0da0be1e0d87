import panel as pn
import pytest
from bokeh.document import Document
from panel.io.state import set_curdoc

from nightlab.dashboards.metrics import MetricsExplorer
from nightlab.dashboards.page import page
from nightlab.errors import BadInput, MissingData


def opened(make):
    """What the page of an explorer says at first, and what it says when that is made."""
    document = Document()
    with set_curdoc(document):
        made = page("Sky", "metrics", make)

        def text():
            return " ".join(pane.object for part in [*made.main, *made.sidebar] for pane in part.select(pn.pane.HTML))

        before = text()
        waiting = document.session_callbacks[0]
        waiting.callback()
        for callback, _ in pn.state._onload.pop(document, []):  # as when a browser has it
            callback()
        return before, text()


def test_a_page_says_what_is_loading_and_is_filled_afterwards():
    before, after = opened(MetricsExplorer)
    assert "Loading Sky" in before
    assert "Loading the controls" in before
    assert "Loading" not in after
    assert "No run" in after


@pytest.mark.parametrize(
    ("error", "mark"),
    [(BadInput("no such place", hint="choose another"), "nl-error"), (ZeroDivisionError("by nothing"), "nl-error"),
     (MissingData("nothing there", hint="make it"), "nl-empty")],
)  # fmt: skip
def test_a_page_whose_explorer_cannot_be_made_says_why(error, mark):
    def make():
        raise error

    _, after = opened(make)
    assert mark in after
    assert str(error.args[0]) in after
    assert "Loading" not in after


def test_a_page_that_nobody_is_served_is_filled_at_once():
    explorer = MetricsExplorer()
    made = explorer.servable_page()
    words = " ".join(pane.object for part in [*made.main, *made.sidebar] for pane in part.select(pn.pane.HTML))
    assert "No run" in words
    assert "Loading" not in words
