"""The widgets of the runner's page; everything they do is a verb of the runner."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import panel as pn

from nightlab.dashboards.forms import COMPACT, SMALL_BUTTON
from nightlab.dashboards.jobs import LINES, Job
from nightlab.dashboards.live import live
from nightlab.dashboards.overview import products
from nightlab.dashboards.overview.board import COLOURS, PIPELINES, SIGNS, Status, data_id_of, group_of, stages_of
from nightlab.dashboards.overview.graph import StageGraph
from nightlab.dashboards.overview.grid import Grid
from nightlab.dashboards.states import EmptyState, Pane, Reason
from nightlab.dashboards.style import wrapping
from nightlab.errors import NightLabError
from nightlab.pipelines.events import StageEvent, label
from nightlab.pipelines.run import holder

if TYPE_CHECKING:
    from nightlab.dashboards.runner import PipelineRunner

#: Lines of the log that are on the page at once.
SHOWN = 400
TABS = ("log", "timing", "products", "provenance", "command")
TABLE_CSS = """
table.nl { border-collapse: collapse; font-size: 13px; margin: 2px 0 10px; }
table.nl th { text-align: left; font-weight: 600; opacity: .75; }
table.nl td, table.nl th { padding: 2px 16px 2px 0; vertical-align: top; }
table.nl td.none { opacity: .7; font-style: italic; }
h4 { margin: 6px 0 2px; font-size: 13px; } p { margin: 2px 0 8px; font-size: 13px; }
a { color: inherit; text-decoration: underline; text-underline-offset: 2px; }
pre { font-size: 12px; line-height: 1.4; margin: 0; max-height: 300px; overflow: auto; white-space: pre-wrap; }
code { font-size: 12px; }
ul { margin: 2px 0 10px; padding-left: 20px; font-size: 13px; line-height: 1.5; }
"""
_STAGE_CSS = """
.bk-btn { text-align: left !important; border: 1px solid transparent; border-left: 4px solid var(--dot) !important;
  font-size: 13px; font-variant-numeric: tabular-nums; white-space: pre; overflow: hidden; padding: 4px 8px; }
:host(.chosen) .bk-btn { font-weight: 600; outline: 2px solid #e0a100; outline-offset: -2px; }
"""


class Views:
    """What a runner shows.

    Parameters
    ----------
    runner
        Whose page it is.
    """

    def __init__(self, runner: PipelineRunner) -> None:
        self.runner = runner
        self.graph = StageGraph(lambda stage: runner.choose(stage))
        self.grids = {group: Grid(group, runner.choose) for group in ("visit", "patch")}
        self._grid_panes = {group: pn.pane.Bokeh(grid.figure, sizing_mode="stretch_width", margin=0)
                            for group, grid in self.grids.items()}  # fmt: skip
        self._graph_pane = pn.pane.Bokeh(self.graph.figure, sizing_mode="stretch_width", margin=(0, 0, 4, 0))
        self.grid_place = Pane("the grid of data")
        self.form_place = pn.Column(width=310, margin=(0, 0, 0, 12))
        # its line is always there, so that nothing jumps when a stage is chosen
        self.about = pn.pane.HTML("", sizing_mode="stretch_width", height=26, stylesheets=[TABLE_CSS], margin=(0, 5))
        self.notice = pn.Column(sizing_mode="stretch_width", margin=0)
        self.tab_panes = {name: Pane(f"the {name}") for name in TABS}
        self.tabs = pn.Tabs(
            *((name, self.tab_panes[name]) for name in TABS), sizing_mode="stretch_width", dynamic=True
        )
        self.tabs.param.watch(lambda event: self.show_tab(), "active")
        self._stages = pn.Column(sizing_mode="stretch_width", margin=(6, 0))
        self._buttons: dict[str, pn.widgets.Button] = {}
        self.bar = pn.indicators.Progress(value=-1, max=100, sizing_mode="stretch_width", visible=False)
        self.status = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10))
        self.run_button = pn.widgets.Button(label="Run", color="primary", sizing_mode="stretch_width")
        self.cancel_button = pn.widgets.Button(label="Cancel", sizing_mode="stretch_width", disabled=True)
        self.run_button.on_click(lambda event: self._start())
        self.cancel_button.on_click(lambda event: runner.cancel())
        self._log_shown: tuple[Any, ...] = ()
        self._form_shown: Any = None
        runner.param.watch(lambda *events: self.command(), ["place", "output", "which", "processes"])
        self.refresh(whole=True)

    # layout

    def rail(self) -> pn.Column:
        """Give the choices of a run and the list of stages."""
        runner = self.runner
        look: dict[str, Any] = {"sizing_mode": "stretch_width", "stylesheets": [COMPACT], "margin": (3, 10)}
        place = pn.widgets.Select(label="data", options=list(runner.places), value=runner.place or None, **look)
        groups = {name: [name, *(f"{name}#{stage}" for stage in stages_of(name))] for name in PIPELINES}
        pipeline = pn.widgets.Select(label="pipeline", groups=groups, value=runner.pipeline, **look)
        output = pn.widgets.TextInput(label="output run", value=runner.output, **look)
        query = pn.widgets.TextInput(
            label="which data", value=runner.which, placeholder="all; or visit IN (1, 2) AND detector < 4", **look
        )
        processes = pn.widgets.IntInput(label="processes", value=runner.processes, start=1, end=64, **look)
        for name, widget in {"place": place, "pipeline": pipeline, "output": output, "which": query,
                             "processes": processes}.items():  # fmt: skip
            bind(runner, name, widget)
        runner.param.watch(lambda event: place.param.update(options=list(runner.places)), "run")
        return pn.Column(
            place, pipeline, output, query, processes,
            pn.Row(self.run_button, self.cancel_button, sizing_mode="stretch_width"),
            self.bar, self.status, self._stages,
            sizing_mode="stretch_width",
        )  # fmt: skip

    def main(self) -> pn.Column:
        """Give graph, grid, form and tabs."""
        middle = pn.Column(self.about, self.grid_place, self.tabs, styles={"flex": "1 1 400px", "min-width": "0"})
        below = wrapping(middle, self.form_place)
        return pn.Column(self.notice, self._graph_pane, below, sizing_mode="stretch_width")

    # news

    def refresh(self, *, whole: bool = False) -> None:
        """Draw the states; with `whole`, everything that depends on the run, too."""
        runner = self.runner
        self._draw()
        self._list_stages()
        known = {group_of(stage) for stage, cells in runner.board.cells.items() if cells}
        shown = [group for group in self.grids if group in known]
        if not shown:
            self.grid_place.empty(_nothing(runner))
        else:
            panes = [self._grid_panes[group] for group in shown]
            if self.grid_place.state != "ready" or list(self.grid_place.shown) != panes:
                self.grid_place.ready(pn.Column(*panes, sizing_mode="stretch_width", margin=0))
        if whole:
            self.chosen()
            self._tell_holder()

    def _draw(self) -> None:
        runner = self.runner
        live(self._graph_pane, functools.partial(self.graph.show, runner.board, runner.stage))
        for group, grid in self.grids.items():
            live(self._grid_panes[group], functools.partial(grid.show, runner.board, runner.cell))

    def chosen(self) -> None:
        """Follow the choice of stage and cell."""
        runner = self.runner
        self._draw()
        self._list_stages()
        text = runner.about(runner.stage) or "click a stage, or a cell of the grid"
        self.about.object = f"<p>{html.escape(text)}</p>"
        self._show_form()
        self.show_tab()

    def progress(self, events: Sequence[StageEvent]) -> None:
        """Show how far the run is."""
        job = self.runner.job
        if job is None:
            return
        self.run_button.disabled, self.cancel_button.disabled = True, job.state != "running"
        if events:
            last = events[-1]
            self.bar.param.update(visible=True, value=int(100 * last.done / max(last.total, 1)))
            self._last = f"{last.done} of {last.total} · {last.stage} {label(last.data_id)}"
            self.refresh()
        elif not self.bar.visible:
            self.bar.param.update(visible=True, value=-1)
            self._last = "preparing"
        state = "stopping" if job.state == "stopping" else self._last
        self._status(f"{html.escape(state)}<br>{job.seconds:.0f} s")
        if TABS[self.tabs.active] == "log":
            self.show_tab()

    _last = ""

    def ended(self, job: Job) -> None:
        """Show how the run ended."""
        self.bar.visible = False
        self.run_button.disabled, self.cancel_button.disabled = False, True
        report = getattr(job.result, "report", None)
        words = {"done": "finished", "cancelled": "cancelled; what is whole stays, Run goes on from there"}
        text = words.get(job.state, "did not start" if report is None else "failed")
        if report is not None and report.failed:
            text = f"finished; {len(report.failed)} failed, {len(report.blocked)} blocked"
        self._status(f"{html.escape(text)}<br>after {job.seconds:.1f} s")
        self._log_shown = ()
        self.show_tab()

    def say(self, error: NightLabError) -> None:
        """Say why something cannot be done."""
        place = Pane("the run")
        place.error(error)
        self.notice.objects = [place]

    def _status(self, text: str) -> None:
        self.status.object = f"<div role='status' style='font-size:13px;line-height:1.4'>{text}</div>"

    def _tell_holder(self) -> None:
        runner = self.runner
        where = runner.places.get(runner.place)
        who = holder(where, runner.output) if where is not None and runner.job is None else ""
        if who:
            self._status(f"{html.escape(who)} is writing into this run")
        elif runner.job is None and "is writing" in self.status.object:
            self._status("")

    def _start(self) -> None:
        self.notice.objects = []
        self.runner.start()

    # parts

    def _list_stages(self) -> None:
        runner = self.runner
        if list(self._buttons) != list(runner.board.stages):
            self._buttons = {
                stage: pn.widgets.Button(label=stage, sizing_mode="stretch_width", margin=(1, 5), stylesheets=[])
                for stage in runner.board.stages
            }
            for stage, button in self._buttons.items():
                button.on_click(lambda event, stage=stage: runner.choose(stage))  # type: ignore[misc]
            self._stages.objects = list(self._buttons.values())
        for stage, button in self._buttons.items():
            status, (through, total) = runner.board.status(stage), runner.board.settled(stage)
            failed = runner.board.counts(stage)[Status.FAILED]
            text = f"{SIGNS[status]} {stage}  {f'{through}/{total}' if total else ''}"
            text += f"  {failed} failed" if failed else ""
            css = _STAGE_CSS.replace("var(--dot)", COLOURS[status])
            classes = ["chosen"] if stage == runner.stage else []
            if (button.label, button.css_classes, button.stylesheets) != (text, classes, [css]):
                button.param.update(label=text, css_classes=classes, stylesheets=[css])

    def _show_form(self) -> None:
        stage = self.runner.stage or "subtract"
        stage = stage if stage in self.runner.board.stages else next(iter(self.runner.board.stages), "")
        form = self.runner.form(stage)
        if (stage, form) == self._form_shown:
            return
        self._form_shown = (stage, form)
        title = pn.pane.HTML(f"<b>knobs of {html.escape(stage)}</b>", margin=(0, 10))
        if form is None:
            self.form_place.objects = [title, pn.pane.HTML("<p>This stage has no knobs.</p>", margin=(0, 10))]
            return
        reset = pn.widgets.Button(label="all defaults", height=28, margin=(0, 5), stylesheets=[SMALL_BUTTON])
        reset.on_click(lambda event: form.reset())
        body = pn.Column(form, max_height=640, scroll="y-auto", sizing_mode="stretch_width")
        self.form_place.objects = [pn.Row(title, reset, sizing_mode="stretch_width"), body]

    def show_tab(self) -> None:
        """Fill the tab that is in front."""
        name = TABS[self.tabs.active]
        getattr(self, f"_show_{name}")(self.tab_panes[name])

    def command(self) -> None:
        """Write the command again, where it is in front."""
        if TABS[self.tabs.active] == "command":
            self.show_tab()

    def _show_log(self, pane: Pane) -> None:
        runner = self.runner
        lines = runner.log_lines()
        state = (runner.cell, runner.stage, len(lines), lines[-1:], runner.board)
        if state == self._log_shown and pane.state == "ready":
            return
        self._log_shown = state
        failed = _failures(runner)
        own: list[str] = []
        if runner.cell is not None and runner.run is not None and runner.job is None:
            own = products.log_of(runner.run, runner.cell)
        text = html.escape("\n".join([*lines[-SHOWN:], *own]))
        if not (text or failed):
            what = "No log was kept of the run as a whole." if runner.cell is None else "This quantum has left no log."
            pane.empty(EmptyState(Reason.NO_DATA_SELECTED, what, "Click a cell of the grid to read its own."))
            return
        more = f"<p>the last {SHOWN} of {len(lines)} lines; the page keeps {LINES}, the file all</p>"
        more = more if len(lines) > SHOWN else ""
        again = ""
        if runner.cell is not None:
            again = f"<h4>again</h4><pre>{html.escape(runner.command_for(*runner.cell))}</pre>"
        made = f"{failed}{more}<pre class='log'>{text}</pre>{again}"
        if pane.state == "ready" and isinstance(pane.shown, pn.pane.HTML):
            pane.shown.object = made
        else:
            pane.ready(_markup(made))

    def _show_timing(self, pane: Pane) -> None:
        runner = self.runner
        with pane.guarded("Reading how long each quantum took"):
            found, total = products.timings(runner.run, runner.board.stages) if runner.run else ([], 0)
            if not found:
                pane.empty(_nothing(runner))
                return
            drawn = products.timing_figure(found, runner.board.stages, total)
            pane.ready(pn.pane.Bokeh(drawn, sizing_mode="stretch_width"))

    def _show_products(self, pane: Pane) -> None:
        runner = self.runner
        with pane.guarded("Listing products"):
            if runner.run is None:
                pane.empty(_nothing(runner))
                return
            stages = [runner.stage] if runner.stage else runner.board.stages
            key = runner.library.key_of(runner.run)
            pane.ready(_markup(products.products_html(runner.run, key, stages, runner.cell)))

    def _show_provenance(self, pane: Pane) -> None:
        runner = self.runner
        with pane.guarded("Reading what it was made with"):
            if runner.run is None:
                pane.empty(_nothing(runner))
                return
            configs = products.recorded_configs(runner.run, runner.board.stages)
            pane.ready(_markup(products.provenance_html(runner.run, runner.board.stages, configs)))

    def _show_command(self, pane: Pane) -> None:
        text = html.escape(self.runner.command())
        pane.ready(_markup(f"<p>The same on a command line:</p><pre class='command'>{text}</pre>"))


def _markup(text: str) -> pn.pane.HTML:
    return pn.pane.HTML(text, sizing_mode="stretch_width", stylesheets=[TABLE_CSS], margin=(4, 5))


def _failures(runner: PipelineRunner) -> str:
    """Tell what failed, each with what was said."""
    failed = runner.failures()
    if runner.cell is not None:
        failed = [item for item in failed if item[:2] == runner.cell]
    if not failed:
        return ""
    items = "".join(
        f"<li><b>{html.escape(stage)} {html.escape(label(data_id_of(stage, key)))}</b>"
        f"{': ' if said else ''}{html.escape(said)}</li>"
        for stage, key, said in failed[:20]
    )
    more = f"<p>and {len(failed) - 20} more</p>" if len(failed) > 20 else ""
    return f"<h4>failed</h4><ul>{items}</ul>{more}"


def _nothing(runner: PipelineRunner) -> EmptyState:
    """Say why there is nothing to see, and how to get something."""
    if not runner.places:
        return EmptyState(
            Reason.FILE_MISSING,
            "There is no repository here.",
            "Make one: nightlab demo, or nightlab run ApPipe --data stripe82",
        )
    return EmptyState(
        Reason.NOT_RUN,
        f"{runner.output or 'This run'} has nothing yet in {runner.place or 'this place'}.",
        "Press Run.",
    )


def bind(runner: Any, name: str, widget: Any) -> None:
    """Keep a widget and a parameter of an explorer in step."""

    def to_widget(event: Any) -> None:
        if widget.value != event.new:
            widget.value = event.new

    def to_runner(event: Any) -> None:
        if event.new is not None and getattr(runner, name) != event.new:
            setattr(runner, name, event.new)

    runner.param.watch(to_widget, name)
    widget.param.watch(to_runner, "value")
