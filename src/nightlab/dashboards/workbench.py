"""The workbench: one stage on one pair of images, its knobs, and the result beside the last one."""

from __future__ import annotations

import functools
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import panel as pn
import param

from nightlab.dashboards.bench import results
from nightlab.dashboards.bench.calls import Result
from nightlab.dashboards.bench.pairs import BY_HAND, OF_TWO, FromFiles, FromRun, FromSeed, Source, file_within
from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.forms import ConfigForm
from nightlab.dashboards.jobs import PERIOD, Desk, Job
from nightlab.dashboards.library import Library
from nightlab.errors import BadInput, MissingData, NightLabError
from nightlab.pipelines.table import STAGES, load

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.dashboards.bench.views import Views

#: Results a session keeps; older ones go with their files.
KEPT = 10


class Workbench(Explorer):
    """Try out a stage: load a pair, turn knobs, run, compare.

    The stage runs in a process of the session's own, as pipelines run it: the same inputs, one thread, the same bits.
    """

    slug = "workbench"
    title = "Workbench"
    summary = "One stage on one pair of images: turn its knobs, run, see the result beside the last one."
    remembered = ("stage", "source", "visit", "detector", "science", "template", "seed", "knobs")
    in_url = ("stage", "visit", "detector", "source")
    keys: ClassVar[dict[str, tuple[str, str]]] = {
        "b": ("blink", "blink between the images that are shown"),
        "m": ("toggle_masks", "show mask planes"),
        "s": ("next_stretch", "next stretch"),
        "r": ("reset_view", "show the whole image"),
    }
    compares = False

    stage: Any = param.Selector(default="subtract", objects=list(BY_HAND), doc="What is called.")
    source: Any = param.Selector(
        default="run", objects=["run", "files", "simulated"], doc="Where the images are from."
    )
    visit = param.Integer(default=0, doc="Visit of the run; 0 for its first.")
    detector = param.Integer(default=-1, doc="Detector of the run; -1 for its first.")
    science = param.String(default="", doc="FITS file of the science image.")
    template = param.String(default="", doc="FITS file of the template.")
    seed = param.Integer(default=3, bounds=(0, 2**31), doc="Of the simulated pair.")
    knobs: Any = param.Dict(default={}, doc="Values that are no defaults, by stage and knob.")

    def __init__(self, library: Library | None = None, **state: Any) -> None:
        self.desk = Desk("nightlab.pipelines.tasks", "nightlab.stages.differencing", "nightlab.pipelines.inputs")
        self.job: Job | None = None
        self.history: list[Result] = []
        self.result: Result | None = None
        self.before: Result | None = None
        self.said: NightLabError | None = None
        self._forms: dict[str, ConfigForm] = {}
        self._views: Views | None = None
        self._ticker: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="nightlab-bench-")
        weakref.finalize(self, self._folder.cleanup)
        document = pn.state.curdoc
        self._served = document is not None and document.session_context is not None
        super().__init__(library, **state)
        if document is not None:
            pn.state.on_session_destroyed(lambda context: self.close())
        self._opened()

    @param.depends("run", watch=True)
    def _opened(self) -> None:
        if self.run is None:
            if not len(self.library) and self.source == "run":
                self.source = "simulated"
            return
        there = self.pairs
        if there and (self.visit, self.detector) not in there:
            same = [pair for pair in there if pair[0] == self.visit]
            visit, detector = (same or there)[0]
            self.param.update(visit=visit, detector=detector)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Visits and detectors of the run."""
        table = self.run.visits() if self.run is not None else ()
        return [(int(row["visit"]), int(row["detector"])) for row in table]

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that can be called on what is chosen."""
        return BY_HAND if self.source == "run" else OF_TWO

    def where(self) -> Source:
        """Say where the inputs come from.

        Raises
        ------
        BadInput, MissingData
            When that is not possible.
        """
        if self.source == "simulated":
            return FromSeed(seed=self.seed, folder=self._folder.name)
        if self.source == "files":
            folders = tuple(self.library.folders) if self._served else None
            paths = [file_within(text, folders) for text in (self.science, self.template)]
            return FromFiles(science=str(paths[0]), template=str(paths[1]))
        if self.run is None:
            raise MissingData("there is no run here", hint="choose two files, or a simulated pair")
        return FromRun(
            repository=str(self.run.repository), run=self.run.name, visit=self.visit, detector=self.detector
        )

    # knobs

    def form(self) -> ConfigForm:
        """Give the form of the chosen stage."""
        stage = self.stage
        if stage not in self._forms:
            form = ConfigForm(load(STAGES[stage].config))
            form.set({path: value for path, value in self.knobs.get(stage, {}).items() if path in form.widgets})
            form.param.watch(functools.partial(self._turned, stage), "value")
            self._forms[stage] = form
        return self._forms[stage]

    def _turned(self, stage: str, event: Any) -> None:
        values = {**self.knobs, stage: self._forms[stage].flat()}
        self.knobs = {name: knobs for name, knobs in values.items() if knobs}

    @param.depends("knobs", watch=True)
    def _knobs_changed(self) -> None:
        for stage, form in self._forms.items():
            given = self.knobs.get(stage, {})
            if form.valid and form.flat() != given:
                wanted = {path: given.get(path, form.knobs[path].default) for path in form.widgets}
                form.set(wanted)

    # running

    def start(self) -> Job | None:
        """Call the stage; None when that is not possible, which the page then says."""
        self.said = None
        try:
            form = self.form()
            if not form.valid:
                wrong = "; ".join(f"{path} {why}" for path, why in form.wrong.items())
                raise BadInput(f"not every knob has a value that can be: {wrong}", hint="mend or reset it")
            if self.stage not in self.stages:
                raise BadInput(f"two images are not enough for {self.stage}", hint=f"they are for {', '.join(OF_TWO)}")
            self.job = self.desk.start(
                "nightlab.dashboards.bench.calls:run_stage",
                number=self.history[-1].number + 1 if self.history else 1,
                stage=self.stage,
                config=form.value,
                source=self.where(),
                folder=self._folder.name,
            )
        except NightLabError as error:
            self._say(error)
            return None
        self._tick_every(PERIOD)
        self.tick()
        return self.job

    def cancel(self) -> None:
        """End the call at once; the worker is replaced."""
        self.desk.cancel(0.0)
        self.tick()

    def tick(self) -> None:
        """Take over the news of the call."""
        job = self.job
        if job is None:
            return
        if not job.active:
            self.job = None
            self._tick_every(0)
            if job.state == "done":
                self._keep(job.result)
            elif job.error is not None:
                self._say(job.error)
        if self._views is not None:
            self._views.progress(job)

    def _keep(self, result: Result) -> None:
        same = [other for other in self.history if other.stage == result.stage]
        self.history.append(result)
        for old in self.history[:-KEPT]:
            for file in Path(self._folder.name).glob(f"{old.number}-*.fits"):
                if str(file) not in {saved.path for kept in self.history[-KEPT:] for saved in kept.shown.values()}:
                    file.unlink()
        self.history = self.history[-KEPT:]
        self.compare(result, same[-1] if same and same[-1] in self.history else None)

    def compare(self, result: Result, before: Result | None) -> None:
        """Show a result, and another one beside it."""
        self.result, self.before = result, before
        if self._views is not None:
            self._views.show()

    def choose(self, number: int, beside: int | None = None) -> None:
        """Show a result of the history by its number, beside another one of the same stage.

        Raises
        ------
        MissingData
            When there is no such result any more.
        """
        found = {result.number: result for result in self.history}
        missing = [n for n in (number, beside) if n is not None and n not in found]
        if missing:
            raise MissingData(f"there is no result {missing[0]}", hint=f"there are {', '.join(map(str, found))}")
        other = found[beside] if beside is not None and beside != number else None
        self.compare(found[number], other if other is None or other.stage == found[number].stage else None)

    def _say(self, error: NightLabError) -> None:
        self.said = error
        if self._views is not None:
            self._views.say(error)

    def _tick_every(self, period: int) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        if period and pn.state.curdoc is not None:
            self._ticker = pn.state.add_periodic_callback(self.tick, period=period)

    def close(self) -> None:
        """End the call and the worker process, and remove the files."""
        self._ticker = None
        self.desk.close()
        self._folder.cleanup()

    # keys

    def blink(self) -> None:
        """Blink between the images that are shown, or stop it."""
        self._view().panes.blink = not self._view().panes.blink

    def toggle_masks(self) -> None:
        """Show mask planes, or hide them."""
        self._view().panes.masks = not self._view().panes.masks

    def next_stretch(self) -> None:
        """Go on to the next stretch."""
        self._view().panes.next_stretch()

    def reset_view(self) -> None:
        """Show the whole image."""
        self._view().panes.reset()

    # views

    def as_code(self) -> str:
        """Give the lines of Python that make the result with the knobs as they are."""
        try:
            return results.code(self.stage, self.form().value, self.where())
        except NightLabError as error:
            return f"# {error}"

    def command(self) -> str:
        """Give the command that does the same; empty where there is none."""
        try:
            return results.command(self.stage, self.form().value, self.where())
        except NightLabError as error:
            return f"# {error}"

    def table(self) -> Table | None:
        """Give the metrics of the results that are shown."""
        from astropy.table import Table

        if self.result is None:
            return None
        rows = results.compared(self.result, self.before)
        return Table(rows=rows, names=("metric", "unit", "this", "before"))

    def picture(self) -> bytes | None:
        """Draw the panes as a PNG file."""
        return self._view().panes.picture() if self.result is not None else None

    def main(self) -> pn.viewable.Viewable:
        """Give images, metrics, history and code."""
        return self._view().main()

    def rail(self) -> pn.viewable.Viewable:
        """Give the choices and the knobs."""
        return self._view().rail()

    def _view(self) -> Views:
        from nightlab.dashboards.bench.views import Views

        if self._views is None:
            self._views = Views(self)
        return self._views
