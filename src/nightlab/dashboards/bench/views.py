"""The widgets of the workbench; everything they do is a verb of the workbench."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import panel as pn

from nightlab.dashboards.bench import results
from nightlab.dashboards.forms import COMPACT, SMALL_BUTTON
from nightlab.dashboards.header import BESIDE
from nightlab.dashboards.images import ImagePanes
from nightlab.dashboards.jobs import Job
from nightlab.dashboards.overview.views import TABLE_CSS, bind
from nightlab.dashboards.states import EmptyState, Pane, Reason
from nightlab.dashboards.style import wrapping
from nightlab.errors import NightLabError
from nightlab.pipelines.events import label

if TYPE_CHECKING:
    from nightlab.dashboards.workbench import Workbench

#: Of the images together [screen pixels].
HEIGHT = 530
_CHOSEN = ".bk-btn.bk-btn-primary.bk-active { color: #fff !important; }"
_FIRST = EmptyState(
    Reason.NOT_RUN, "Nothing was run here yet.", "Choose a pair, turn knobs, and press Run; results come side by side."
)


class Views:
    """What a workbench shows.

    Parameters
    ----------
    bench
        Whose page it is.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.panes = ImagePanes()
        self._framed = pn.Column(self.panes, height=HEIGHT, sizing_mode="stretch_width", margin=0)
        self.notice = pn.Column(sizing_mode="stretch_width", margin=0)
        self.images = Pane("the images")
        self.metrics, self.code = Pane("the metrics"), Pane("the code")
        self.run_button = pn.widgets.Button(label="Run", color="primary", sizing_mode="stretch_width")
        self.cancel_button = pn.widgets.Button(label="Cancel", sizing_mode="stretch_width", disabled=True)
        self.bar = pn.indicators.Progress(value=-1, max=1, sizing_mode="stretch_width", visible=False)
        self.status = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10))
        self.this = pn.widgets.Select(label="result", **_beside())
        self.beside = pn.widgets.Select(label="beside", **_beside())
        self._history = wrapping(self.this, self.beside, visible=False)
        self.run_button.on_click(lambda event: self._start())
        self.cancel_button.on_click(lambda event: bench.cancel())
        self._filling = False
        for select in (self.this, self.beside):
            select.param.watch(lambda event: self._choose(), "value")
        self._form_place = pn.Column(sizing_mode="stretch_width", margin=0)
        self._chosen = pn.Column(sizing_mode="stretch_width", margin=0)
        self._stage = pn.widgets.Select(label="stage", options=list(bench.stages), value=bench.stage, **_look())
        bind(bench, "stage", self._stage)
        bench.param.watch(lambda *events: self._show_form(), "stage")
        bench.param.watch(lambda *events: self._show_choice(), ["source", "run"])
        everything = ["stage", "source", "run", "visit", "detector", "science", "template", "seed", "knobs"]
        bench.param.watch(lambda *events: self._show_code(), everything)
        self._show_choice()
        self._show_form()
        self._show_code()
        self.show()

    # layout

    def rail(self) -> pn.Column:
        """Give the choices and the knobs."""
        source = pn.widgets.RadioButtonGroup(
            options=["run", "files", "simulated"],
            value=self.bench.source,
            sizing_mode="stretch_width",
            margin=(3, 10),
            color="primary",
            variant="outline",
            stylesheets=[_CHOSEN],
        )
        bind(self.bench, "source", source)
        return pn.Column(
            source, self._chosen, self._stage,
            pn.Row(self.run_button, self.cancel_button, sizing_mode="stretch_width"),
            self.bar, self.status, self._form_place,
            sizing_mode="stretch_width",
        )  # fmt: skip

    def main(self) -> pn.Column:
        """Give images, metrics, history and code."""
        tabs = pn.Tabs(
            ("metrics", self.metrics), ("as code", self.code), ("image controls", self.panes.controls()),
            sizing_mode="stretch_width", dynamic=True,
        )  # fmt: skip
        history = self._history
        return pn.Column(self.notice, history, self.images, tabs, sizing_mode="stretch_width")

    # parts

    def _show_choice(self) -> None:
        bench = self.bench
        if bench.source == "run":
            options = {label({"visit": visit, "detector": detector}): (visit, detector)
                       for visit, detector in bench.pairs}  # fmt: skip
            chosen = (bench.visit, bench.detector)
            pair = pn.widgets.Select(
                label="image", options=options or {"none": None},
                value=chosen if chosen in options.values() else None, **_look(),
            )  # fmt: skip

            def to_bench(event: Any) -> None:
                if event.new is not None:
                    bench.param.update(visit=event.new[0], detector=event.new[1])

            pair.param.watch(to_bench, "value")
            parts: list[Any] = [pair]
        elif bench.source == "files":
            hint = "below the served folders" if bench._served else "path of a FITS image"
            parts = []
            for name in ("science", "template"):
                widget = pn.widgets.TextInput(
                    label=f"{name} file", value=getattr(bench, name), placeholder=hint, **_look()
                )
                bind(bench, name, widget)
                parts.append(widget)
        else:
            seed = pn.widgets.IntInput(label="seed", value=bench.seed, start=0, **_look())
            bind(bench, "seed", seed)
            parts = [seed]
        self._chosen.objects = parts
        if bench.stage not in bench.stages:
            bench.stage = "subtract"
        self._stage.options = list(bench.stages)

    def _show_form(self) -> None:
        form = self.bench.form()
        reset = pn.widgets.Button(label="all defaults", height=28, margin=(0, 5), stylesheets=[SMALL_BUTTON])
        reset.on_click(lambda event: form.reset())
        title = pn.pane.HTML("<b>knobs</b>", margin=(4, 10))
        self._form_place.objects = [pn.Row(title, reset, sizing_mode="stretch_width"), form]

    def _show_code(self) -> None:
        bench = self.bench
        command = bench.command()
        text = f"<pre class='code'>{html.escape(bench.as_code())}</pre>"
        if command:
            text += f"<p>or, into an output run of its own:</p><pre class='command'>{html.escape(command)}</pre>"
        self.code.ready(_markup(text))

    def _start(self) -> None:
        self.notice.objects = []
        self.bench.start()

    # news

    def progress(self, job: Job) -> None:
        """Show how far a call is."""
        self.run_button.disabled, self.cancel_button.disabled = job.active, job.state != "running"
        self.bar.visible = job.active
        words = {"running": "running", "stopping": "stopping", "done": "done", "failed": "failed"}
        events = job.take()
        text = events[-1].message if events and job.active else words.get(job.state, job.state)
        self.status.object = (
            f"<div role='status' style='font-size:13px'>{html.escape(text)} · {job.seconds:.1f} s</div>"
        )

    def say(self, error: NightLabError) -> None:
        """Say why something cannot be done."""
        place = Pane("the result")
        place.error(error)
        self.notice.objects = [place]

    def show(self) -> None:
        """Show the chosen result beside the other one."""
        bench = self.bench
        self._fill()
        self._history.visible = bench.result is not None
        if bench.result is None:
            self.images.empty(_FIRST)
            self.metrics.empty(EmptyState(Reason.NOT_RUN, "Metrics come with the first result."))
            return
        result, before = bench.result, bench.before
        self.metrics.ready(_markup(results.compared_html(result, before)))
        with self.images.guarded("Reading the images of the result"):
            layers = results.layers_of(result, before)
            if not layers:
                what = f"{result.stage} makes tables and no image."
                self.images.empty(EmptyState(Reason.NO_DATA_SELECTED, what, "See its metrics below."))
                return
            self.panes.load(layers)
            for name in list(self.panes.marks):
                self.panes.mark(name, None)
            for name, marks in results.marks_of(result, before).items():
                self.panes.mark(name, marks)
            self.images.ready(self._framed)

    def _fill(self) -> None:
        """List the results one may choose from."""
        bench = self.bench
        self._filling = True
        try:
            options = {results.told(result): result.number for result in reversed(bench.history)}
            self.this.param.update(options=options, value=bench.result.number if bench.result else None)
            same = {text: number for text, number in options.items()
                    if any(r.number == number and bench.result and r.stage == bench.result.stage
                           and r is not bench.result for r in bench.history)}  # fmt: skip
            self.beside.param.update(options={"—": 0, **same}, value=bench.before.number if bench.before else 0)
        finally:
            self._filling = False

    def _choose(self) -> None:
        if not self._filling and self.this.value is not None:
            self.bench.choose(self.this.value, self.beside.value or None)


def _beside() -> dict[str, Any]:
    return {"options": {}, "styles": {"flex": "1 1 300px"}, "stylesheets": [BESIDE]}


def _look() -> dict[str, Any]:
    return {"sizing_mode": "stretch_width", "stylesheets": [COMPACT], "margin": (3, 10)}


def _markup(text: str) -> pn.pane.HTML:
    return pn.pane.HTML(text, sizing_mode="stretch_width", stylesheets=[TABLE_CSS], margin=(4, 5))
