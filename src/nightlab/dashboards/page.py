"""The page around an explorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import panel as pn
from panel.custom import JSComponent
from panel.theme import THEMES

from nightlab.dashboards.live import at_once
from nightlab.dashboards.setup import setup
from nightlab.dashboards.states import Pane
from nightlab.dashboards.style import ACCENT

if TYPE_CHECKING:
    from nightlab.dashboards.explorer import Explorer

_CSS = """
:root { --body-font: Helvetica, Arial, sans-serif; } /* as figures write */
body, fast-design-system-provider { font-family: var(--body-font); }
#header { box-shadow: none; height: 30px; padding: 8px 10px; }
#header .title { font-weight: 600; font-size: 20px; line-height: 24px; }
#sidebar-button { font-size: 24px; }
#content { height: calc(100vh - 46px); }
#main .card-margin { margin: 6px 0 12px; }
#sidebar { height: calc(100vh - 58px); padding: 8px 10px 4px 4px; }
@media (max-width: 760px) {
  #content { flex-direction: column; overflow-y: auto; }
  #main { order: 0; height: auto; overflow: visible; flex: none; padding: 0 8px; }
  #sidebar { order: 1; height: auto; overflow: visible; min-width: 0; max-width: none; width: auto; border: 0; }
  #header { overflow-x: auto; } #header .title { display: none; }
}
:focus-visible { outline: 2px solid #4a9cc7; outline-offset: 2px; }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
# panes live in shadow roots, which the page's own sheet does not reach
_NAVIGATION_CSS = """
a { color: #fff; text-decoration: none; margin: 0 10px; padding: 2px 0; font-size: 14px; }
a:hover, a:focus-visible { text-decoration: underline; }
a:focus-visible { outline: 2px solid #fff; outline-offset: 3px; }
a[aria-current] { border-bottom: 2px solid currentColor; font-weight: 600; }
"""


class Frame(JSComponent):
    """Gives names and keys to what the template and the widgets draw without them."""

    _esm = """
export function render() {
  const theme = document.getElementById("theme-switch"), rail = document.getElementById("sidebar-button");
  if (theme) theme.setAttribute("aria-label", "light page");
  if (rail) {
    for (const [name, value] of [["role", "button"], ["tabindex", "0"], ["aria-label", "controls"]])
      rail.setAttribute(name, value);
    rail.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); rail.click(); }
    });
  }
  // a download hears clicks on its word alone, neither beside it nor those that keys make
  document.addEventListener("click", (event) => {
    const at = event.composedPath()[0];
    if (at.matches?.("button.bk-btn")) at.querySelector(":scope > a")?.click();
  });
  return document.createElement("span");
}
"""


class _Template(pn.template.FastListTemplate):
    """The Fast page, whose figures paint fast; a theme that a link invents is the default one."""

    _js = [pn.template.FastListTemplate._js, "paint.js"]  # type: ignore[assignment]  # noqa: RUF012

    @staticmethod
    def _get_theme_from_query_args() -> str | None:
        given = pn.state.session_args.get("theme", [b""])[0].decode(errors="replace").strip("'\"")
        return given if given in THEMES else None


def use_theme() -> None:
    """Let all that is drawn follow the theme of the link."""
    setup()
    if pn.state.curdoc is not None:
        pn.config.theme = _Template._get_theme_from_query_args() or "default"  # type: ignore[misc]


def template(title: str, current: str = "", **parts: Any) -> Any:
    """Make the page all explorers and the start page live in.

    Parameters
    ----------
    title
        What the browser's tab says.
    current
        Slug of the explorer; empty on the start page.
    **parts
        ``main`` and ``sidebar``: lists of views.
    """
    use_theme()
    made = _Template(
        title="NightLab",
        site="",
        font="Helvetica, Arial, sans-serif",
        busy_indicator=None,
        favicon=str(Path(__file__).parent / "icons" / "nightlab.svg"),
        accent_base_color=ACCENT,
        header_background=ACCENT,
        theme_toggle=True,
        main_layout=None,
        sidebar_width=300,
        raw_css=[_CSS],
        header=[pn.pane.HTML(_navigation(current), margin=(4, 16), stylesheets=[_NAVIGATION_CSS]), Frame(width=0)],
        main=list(parts.get("main", ())),
        sidebar=list(parts.get("sidebar", ())),
        collapsed_sidebar=False,
        meta_description=title,
    )
    made.config.title = title  # type: ignore[attr-defined]
    return made


def page(title: str, slug: str, make: Callable[[], Explorer]) -> Any:
    """Give a page that says what is loading, and fill it while the browser is still busy with its scripts.

    A page that is not being served, but written to a file say, is filled before it is given.

    Parameters
    ----------
    title, slug
        Of the explorer.
    make
        Makes the explorer; what it raises is shown.
    """
    document = pn.state.curdoc
    body, rail = Pane(title, sizing_mode=None), Pane("the controls")
    body.loading()
    rail.loading()
    made = template(f"{title} · NightLab", slug, main=[body], sidebar=[rail])

    def fill() -> None:
        with body.guarded(), at_once():
            explorer = make()
            body.ready(pn.Column(*_parts(explorer)))
            _keep_address(explorer)
            # what there is to see comes first; not by a timer, since Panel 1.9.4 loses what changes while a page loads
            after(lambda: fill_rail(explorer))
        if body.state != "ready":
            rail.ready(pn.Column())

    def fill_rail(explorer: Explorer) -> None:
        with rail.guarded(), at_once():
            rail.ready(explorer.rail() or pn.Column())

    def after(act: Callable[[], None]) -> None:
        if document is None:
            act()
        else:
            pn.state.onload(act)

    if document is None:
        fill()
    else:
        document.add_next_tick_callback(fill)
    return made


def _parts(explorer: Explorer) -> list[Any]:
    return [explorer.header(), explorer.main(), explorer.listening(everywhere=True)]


def _keep_address(explorer: Explorer) -> None:
    """Let the address of the page follow what the explorer shows."""
    location = pn.state.location
    if location is None:
        return

    def write(*_: Any) -> None:
        location.update_query(**explorer.query())  # type: ignore[arg-type]

    explorer.param.watch(write, ["run", "other", *explorer.in_url])
    pn.state.onload(write)


def _navigation(current: str) -> str:
    from nightlab.dashboards.explorer import EXPLORERS

    links = [("", "Runs"), *((slug, slug.capitalize() if slug != "dia" else "DIA") for slug in EXPLORERS)]
    here = " aria-current='page'"
    items = "".join(f"<a href='./{slug or '.'}'{here if slug == current else ''}>{text}</a>" for slug, text in links)
    return f"<nav class='nl' aria-label='explorers'>{items}</nav>"
