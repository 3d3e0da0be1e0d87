"""The bar above every explorer."""

from __future__ import annotations

import html
from typing import Any

import panel as pn

from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.style import wrapping

#: Label to the left of a choice, both low.
BESIDE = """
.bk-input-group { display: flex; flex-direction: row; align-items: center; gap: 8px; }
.bk-input-group > label { white-space: nowrap; padding: 0; font-size: 13px; }
.bk-input-group > .bk-input-container { flex: 1; }
select.bk-input { height: 32px; min-height: 32px; padding: 2px 22px 2px 8px; font-size: 13px;
  text-overflow: ellipsis; }
"""
_BUTTON: dict[str, Any] = {
    "margin": (4, 0, 4, 6), "height": 32,
    "stylesheets": [".bk-btn { height: 32px; min-height: 32px; padding: 2px 12px; font-size: 13px; }"],
}  # fmt: skip
_CODE = """
pre { max-height: 240px; overflow: auto; font-size: 12px; line-height: 1.5; padding: 10px 14px; border-radius: 6px;
  margin: 6px 0; white-space: pre-wrap; background: color-mix(in srgb, currentColor 7%, transparent); }
p { margin: 6px 0; font-size: 13px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 3px 20px; margin: 4px 0 10px;
  font-size: 13px; }
dl div { display: flex; gap: 8px; align-items: baseline; } dd { margin: 0; }
kbd { display: inline-block; min-width: 20px; text-align: center; padding: 0 5px; border-radius: 4px;
  font: 12px monospace; border: 1px solid color-mix(in srgb, currentColor 40%, transparent); }
"""
#: Keys whose names in a browser are not those on the keyboard.
_KEYS = {"ArrowLeft": "←", "ArrowRight": "→", "ArrowUp": "↑", "ArrowDown": "↓"}


def header(explorer: Explorer) -> pn.Column:
    """Make the bar: which run, compared with which, the view as code, save, help.

    Parameters
    ----------
    explorer
        Whose bar it is; choosing a run there sets its `run` and `other`.
    """
    library = explorer.library
    labels = {library[key].label: key for key in library}
    if len(labels) < len(library):  # two repositories of one name
        labels = {key: key for key in library}
    first = pn.widgets.Select(label="run", options=labels or {"no run found": ""}, **_look(260))
    second = pn.widgets.Select(label="compare with", options={"—": "", **labels}, **_look(320))
    _bind(explorer, "run", first)
    _bind(explorer, "other", second)
    note = pn.pane.HTML("", visible=False)
    if explorer.refused:
        note.param.update(object=_notice(explorer.refused), visible=True)
    code = pn.pane.HTML("", visible=False, sizing_mode="stretch_width", stylesheets=[_CODE], margin=(0, 10))
    buttons = pn.Row(_code_button(explorer, code), _save_button(explorer), _help_button(explorer, code), margin=0)
    runs = [first, second] if explorer.compares else [first]
    bar = wrapping(
        *(runs if len(library) else []), pn.Spacer(styles={"flex": "1 1 0"}, height=1), buttons,
        align="center", margin=(0, 10, 0, 6),
    )  # fmt: skip
    return pn.Column(bar, note, code, sizing_mode="stretch_width", margin=0)


def _look(width: int) -> dict[str, Any]:
    return {"width": width, "max_width": width, "margin": (4, 18, 4, 4), "stylesheets": [BESIDE]}


def _bind(explorer: Explorer, name: str, select: pn.widgets.Select) -> None:
    """Keep a widget and the run of an explorer in step; the widget knows keys, the explorer runs."""
    library = explorer.library

    def to_widget(*_: Any) -> None:
        key = library.key_of(getattr(explorer, name))
        if key and key not in select.options.values():  # made since the page was opened
            known = {text: value for text, value in select.options.items() if value in library or text == "—"}
            select.options = {**known, library[key].label: key}
        if key in select.options.values():
            select.value = key

    def to_explorer(event: Any) -> None:
        run = library[event.new] if event.new else None
        if run != getattr(explorer, name):
            setattr(explorer, name, run)

    to_widget()
    if name == "run" and explorer.run is None and select.value:
        select.value = next(iter(select.options.values()))
    explorer.param.watch(to_widget, name)
    select.param.watch(to_explorer, "value")


def _code_button(explorer: Explorer, place: pn.pane.HTML) -> pn.widgets.Button:
    button = pn.widgets.Button(label="As code", description="The lines that rebuild this view", **_BUTTON)

    def show(_: Any) -> None:
        shown = place.visible and "<pre" in place.object
        place.param.update(object=f"<pre>{html.escape(explorer.as_code())}</pre>", visible=not shown)

    button.on_click(show)
    return button


def _save_button(explorer: Explorer) -> pn.widgets.FileDownload:
    return pn.widgets.FileDownload(
        callback=explorer.bundle,
        filename=f"nightlab-{explorer.slug}.zip",
        label="Save",
        embed=False,
        **_BUTTON,
    )


def _help_button(explorer: Explorer, place: pn.pane.HTML) -> pn.widgets.Button:
    button = pn.widgets.Button(label="?", **_BUTTON)

    def show(_: Any) -> None:
        shown = place.visible and "<pre" not in place.object
        place.param.update(object=_help(explorer), visible=not shown)

    button.on_click(show)
    return button


def _help(explorer: Explorer) -> str:
    keys = "".join(
        f"<div><dt><kbd>{html.escape(_KEYS.get(key, key))}</kbd></dt><dd>{html.escape(what)}</dd></div>"
        for key, (_, what) in explorer.keys.items()
    )
    return f"<p><b>{html.escape(explorer.title)}</b> — {html.escape(explorer.summary)}</p><dl>{keys}</dl>"


def _notice(refused: list[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in refused)
    return f"<div role='status'>Not everything in this link could be understood:<ul>{items}</ul></div>"
