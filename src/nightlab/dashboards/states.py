"""A place on the page and its four visible states: loading, empty, error, ready."""

from __future__ import annotations

import enum
import html
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import panel as pn
import param

from nightlab.errors import MissingData, NightLabError


class Reason(enum.StrEnum):
    """Why there is nothing to see."""

    NOT_RUN = "not run yet"
    NO_DATA_SELECTED = "nothing selected"
    FILTERED_TO_ZERO = "filtered to nothing"
    FILE_MISSING = "missing"
    ALL_MASKED = "all masked"
    ALL_NAN = "all NaN"
    SCHEMA_MISMATCH = "not the expected columns"
    STAGE_FAILED = "failed"


@dataclass(frozen=True)
class EmptyState:
    """What a pane says when it has nothing to show.

    Attributes
    ----------
    reason
        Of what kind.
    what
        What was found, in one sentence.
    what_to_do
        The way out.
    """

    reason: Reason
    what: str
    what_to_do: str = ""


class Nothing(NightLabError):
    """Raised anywhere below a pane to say that there is nothing to show, and why."""

    def __init__(self, reason: Reason | str, what: str, what_to_do: str = "", **facts: Any) -> None:
        super().__init__(what, hint=what_to_do, **facts)
        self.state = EmptyState(Reason(reason), what, what_to_do)

    def __reduce__(self) -> tuple[Any, ...]:
        return Nothing, (str(self.state.reason), self.message, self.hint)


class Pane(pn.viewable.Viewer):
    """A place on the page that says what state it is in.

    Parameters
    ----------
    what
        What belongs here, in lower case: "the difference image".
    **layout
        Passed on to the column it lives in, such as `sizing_mode` or `min_height`.
    """

    state: Any = param.Selector(default="empty", objects=["loading", "empty", "error", "ready"], doc="What is shown.")
    shown = param.Parameter(doc="The view, the EmptyState or the exception that is shown.")

    def __init__(self, what: str = "", **layout: Any) -> None:
        super().__init__()
        self.what = what
        self._body = pn.Column(**{"sizing_mode": "stretch_width", "margin": 0, "min_height": 40, **layout})
        self.empty(EmptyState(Reason.NO_DATA_SELECTED, f"Nothing is selected for {what or 'this place'}."))

    def loading(self, what: str = "") -> None:
        """Say what is being loaded."""
        text = html.escape(what or f"Loading {self.what}")
        spinner = pn.indicators.LoadingSpinner(value=True, size=22, color="primary", margin=(8, 6))
        words = pn.pane.HTML(f"<span class='nl-loading' role='status'>{text}…</span>", margin=(10, 0))
        self._show("loading", text, pn.Row(spinner, words))

    def empty(self, state: EmptyState) -> None:
        """Say why there is nothing, and what to do."""
        self._show("empty", state, pn.pane.HTML(_card(state), sizing_mode="stretch_width", stylesheets=[_CSS]))

    def error(self, error: BaseException) -> None:
        """Say what went wrong in a sentence, with the details folded away."""
        self._show("error", error, pn.pane.HTML(_failure(error), sizing_mode="stretch_width", stylesheets=[_CSS]))

    def ready(self, view: Any) -> None:
        """Show a view."""
        self._show("ready", view, view)

    @contextmanager
    def guarded(self, what: str = "") -> Iterator[None]:
        """Show "loading" while the block runs; what it raises is shown, not raised.

        `Nothing` and `MissingData` become the empty state, everything else the error state.
        """
        self.loading(what)
        try:
            yield
        except Nothing as nothing:
            self.empty(nothing.state)
        except MissingData as error:
            self.empty(EmptyState(Reason.FILE_MISSING, error.message, error.hint))
        except Exception as error:
            self.error(error)

    def _show(self, state: str, shown: Any, view: Any) -> None:
        self._body.objects = [view]
        self.param.update(state=state, shown=shown)

    def __panel__(self) -> pn.Column:
        return self._body


def _card(state: EmptyState) -> str:
    todo = f"<p class='do'>{html.escape(state.what_to_do)}</p>" if state.what_to_do else ""
    return (
        f"<div class='nl-empty' data-reason='{state.reason.name}' role='status'><b>{html.escape(state.reason)}</b>"
        f"<p>{html.escape(state.what)}</p>{todo}</div>"
    )


def _failure(error: BaseException) -> str:
    ours = isinstance(error, NightLabError)
    sentence = error.message if isinstance(error, NightLabError) else f"{type(error).__name__}: {error}"
    todo = f"<p class='do'>{html.escape(error.hint)}</p>" if isinstance(error, NightLabError) and error.hint else ""
    report = html.escape("".join(traceback.format_exception(error)))
    head = "could not be done" if ours else "unexpected error"
    return (
        f"<div class='nl-error' role='alert'><b>{head}</b><p>{html.escape(sentence)}</p>{todo}"
        "<details><summary>details</summary>"
        '<button onclick="navigator.clipboard.writeText(this.nextElementSibling.textContent)">copy report</button>'
        f"<pre>{report}</pre></details></div>"
    )


_CSS = """
.nl-empty, .nl-error { border: 1px dashed color-mix(in srgb, currentColor 35%, transparent); border-radius: 6px;
  padding: 14px 18px; margin: 4px; font-size: 13px; line-height: 1.45; max-width: 62em; }
.nl-error { border: 1px solid #c0392b; }
.nl-empty b, .nl-error b { text-transform: uppercase; letter-spacing: .06em; font-size: 12px; opacity: .8; }
.nl-empty p, .nl-error p { margin: 6px 0 0; }
.do { opacity: .85; } .do::before { content: "→ "; }
.nl-error pre { overflow: auto; max-height: 18em; font-size: 12px; }
.nl-error summary { cursor: pointer; margin-top: 8px; }
"""
