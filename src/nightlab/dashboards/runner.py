"""The runner and overview: what a run contains and what failed, and a new run from the page."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import panel as pn
import param

from nightlab.dashboards.errands import log_file
from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.forms import ConfigForm, assignment, changes
from nightlab.dashboards.jobs import PERIOD, Desk, Job
from nightlab.dashboards.library import Library
from nightlab.dashboards.overview import products
from nightlab.dashboards.overview.board import (
    PIPELINES,
    Board,
    Key,
    Status,
    data_id_of,
    key_of,
    pipeline_of,
    read_board,
    reproduce,
    stages_of,
    where,
)
from nightlab.dashboards.overview.graph import makers_of
from nightlab.dashboards.overview.views import Views
from nightlab.data.catalogs import ENTRIES
from nightlab.data.runs import Run
from nightlab.errors import BadInput, NightLabError
from nightlab.pipelines.run import holder, tidy
from nightlab.pipelines.table import STAGES, load

#: What the name of an output run made from a page looks like.
OUTPUT = re.compile(r"runs/\w[\w.+-]*(/\w[\w.+-]*)*")
#: Knobs a page may not turn: they name places outside the repository.
HIDDEN = {"fill_apdb": ("uri",)}
_LONGEST = 2000  # characters of a query or a name
_NEW = "new: "


class PipelineRunner(Explorer):
    """Which stages ran on what, what failed and why; knobs to turn; run and cancel.

    A run is made in a process of its own, which ends with the session. What it makes is what the command line makes,
    bit for bit; a run that was cancelled goes on where it stopped when it is started again.
    """

    slug = "overview"
    title = "Overview"
    summary = "What a run contains and what failed; turn knobs, run, watch and cancel."
    remembered = ("pipeline", "stage", "visit", "detector", "place", "output", "which", "processes", "knobs")
    in_url = ("stage", "visit", "detector")
    keys: ClassVar[dict[str, tuple[str, str]]] = {
        "]": ("next_stage", "next stage"),
        "[": ("previous_stage", "previous stage"),
        "r": ("reload", "read the run again"),
    }
    compares = False

    pipeline = param.String(
        default="ApPipe",
        regex=rf"({'|'.join(PIPELINES)})(#\w+)?",
        doc="What is run: a pipeline, or one stage of it as ApPipe#subtract.",
    )
    stage = param.String(default="", doc="Chosen stage; empty for all.")
    visit = param.Integer(default=0, doc="Chosen visit; 0 for none.")
    detector = param.Integer(default=-1, doc="Chosen detector; -1 for none.")
    place = param.String(default="", doc="Repository that is run on, or entry of the catalogue to make one from.")
    output = param.String(default="", doc="Output run.")
    which = param.String(default="", doc="Which data, as a Butler expression; empty for all.")
    processes = param.Integer(default=2, bounds=(1, 64), doc="Quanta at once.")
    knobs: Any = param.Dict(default={}, doc="Values that are no defaults, by stage and knob.")

    def __init__(self, library: Library | None = None, **state: Any) -> None:
        self.desk = Desk("nightlab.pipelines.night")
        self.cell: tuple[str, Key] | None = None
        self.job: Job | None = None
        self.said = ""
        self._opening = False
        self._forms: dict[str, ConfigForm] = {}
        self._ticker: Any = None
        self._views: Views | None = None
        self._target: tuple[str, str] = ("", "")
        super().__init__(library, **state)
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda context: self.close())
        self._opened()

    # what is shown

    @param.depends("run", watch=True)
    def _opened(self) -> None:
        """Show another run: its pipeline, its knobs, its states."""
        if self.run is not None:
            made_by = pipeline_of(self.run)
            configs = products.recorded_configs(self.run, stages_of(made_by))
            self._forms = {}
            found = {
                stage: {path: value for path, value in given.items() if path not in HIDDEN.get(stage, ())}
                for stage, config in configs.items()
                if (given := changes(config))
            }
            self._opening = True
            self.param.update(
                place=next((name for name, path in self.places.items() if path == self.run.repository), self.place),
                output=self.run.name,
                pipeline=made_by,
                knobs={stage: given for stage, given in found.items() if given},
            )
            self._opening = False
        elif not self.place:
            self.place = next(iter(self.places), "")
        self.reload()

    @param.depends("pipeline", watch=True)
    def _chosen_pipeline(self) -> None:
        if self.stage not in stages_of(self.pipeline):  # which refuses a stage that there is not
            self.stage = ""
        if not self.output or self.output.removeprefix("runs/") in PIPELINES:
            self.output = f"runs/{self.pipeline.partition('#')[0]}"
        if not self._opening:
            self.reload()

    def reload(self) -> None:
        """Read the run from the repository again."""
        if self.job is not None and self.job.active:
            return
        self.__dict__.pop("board", None)
        self._find_cell()
        if self._views is not None:
            self._views.refresh(whole=True)
        run = self._shown_run()
        if run is not None and holder(run.repository, run.name):
            self._watch()

    @functools.cached_property
    def board(self) -> Board:
        """What became of every quantum; read when it is looked at."""
        return read_board(self._shown_run(), self.pipeline)

    def _shown_run(self) -> Run | None:
        return self.run if self.run is not None and self.output == self.run.name else self.target_run()

    @param.depends("stage", "visit", "detector", watch=True)
    def _find_cell(self) -> None:
        chosen: dict[str, int | str] = {"visit": self.visit} if self.visit else {}
        chosen |= {"detector": self.detector} if self.detector >= 0 else {}
        if self.stage and self.cell and self.cell[0] == self.stage and not chosen:
            pass  # a patch or a whole night, which links do not carry
        elif self.stage and chosen:
            key = key_of(self.stage, chosen)
            self.cell = (self.stage, key) if key in self.board.cells.get(self.stage, {}) else None
        else:
            self.cell = None
        if self._views is not None:
            self._views.chosen()

    def choose(self, stage: str, key: Key | None = None) -> None:
        """Choose a stage, or one of its quanta; the same again to choose none."""
        again = (stage, key) == (self.cell or (self.stage, None))
        chosen = {} if key is None or again else data_id_of(stage, key)
        self.cell = None if key is None or again else (stage, key)
        self.param.update(
            stage="" if again and key is None else stage,
            visit=int(chosen.get("visit", 0)),
            detector=int(chosen.get("detector", -1)),
        )
        self.param.trigger("stage")

    def next_stage(self, step: int = 1) -> None:
        """Choose the stage after the chosen one."""
        stages = self.board.stages
        if stages:
            at = stages.index(self.stage) if self.stage in stages else -1 if step > 0 else 0
            self.param.update(stage=stages[(at + step) % len(stages)], visit=0, detector=-1)

    def previous_stage(self) -> None:
        """Choose the stage before the chosen one."""
        self.next_stage(-1)

    # knobs

    def form(self, stage: str) -> ConfigForm | None:
        """Give the form of a stage; None where it has no knobs."""
        if stage not in self._forms and stage in STAGES and STAGES[stage].config:
            form = ConfigForm(load(STAGES[stage].config), hidden=HIDDEN.get(stage, ()))
            form.set({path: value for path, value in self.knobs.get(stage, {}).items() if path in form.widgets})
            form.param.watch(functools.partial(self._turned, stage), "value")
            self._forms[stage] = form
        return self._forms.get(stage)

    def _turned(self, stage: str, event: Any) -> None:
        values = {**self.knobs, stage: self._forms[stage].flat()}
        self.knobs = {stage: knobs for stage, knobs in values.items() if knobs}

    @param.depends("knobs", watch=True)
    def _knobs_changed(self) -> None:
        for stage, form in self._forms.items():
            given = self.knobs.get(stage, {})
            if form.valid and form.flat() != given:
                form.set({path: given.get(path, knob.default) for path, knob in form.knobs.items()
                          if path in form.widgets})  # fmt: skip
        if self._views is not None:
            self._views.command()

    def assignments(self) -> list[str]:
        """Give the knobs of the stages that run as the command line's ``--set`` takes them."""
        return [
            assignment(f"{stage}.{path}", tuple(value) if isinstance(value, list) else value)
            for stage, knobs in self._overrides().items()
            for path, value in knobs.items()
        ]

    def _overrides(self) -> dict[str, Mapping[str, Any]]:
        known = set(stages_of(self.pipeline.partition("#")[0]))
        if self.pipeline.startswith("ApPipe"):
            known |= set(stages_of("Templates"))
        return {stage: knobs for stage, knobs in self.knobs.items() if stage in known and knobs}

    # where

    @functools.cached_property
    def places(self) -> dict[str, Path]:
        """Where one may run: repositories of the library, and entries of the catalogue that have none here yet."""
        found: dict[str, Path] = {}
        taken = {self.library[key].repository: self.library[key].folder for key in self.library}
        for repository in self.library.repositories():
            name = taken.get(repository) or repository.name
            while name in found:
                name += "~2"
            found[name] = repository
        if self.library.folders:
            for entry in sorted(ENTRIES):
                if entry not in found:
                    found[f"{_NEW}{entry}"] = self.library.folders[0] / entry
        return found

    def target_run(self) -> Run | None:
        """Open the run that would be written; None where there is none yet."""
        repository = self.places.get(self.place)
        if repository is None or not self.output:
            return None
        try:
            return Run(repository, self.output)
        except NightLabError:
            return None

    def check(self) -> tuple[str | None, Path]:
        """Make sure that what is asked for may be run.

        Returns
        -------
        tuple
            Entry of the catalogue, if the repository is still to be made, and the repository.

        Raises
        ------
        BadInput
            When something is not allowed, or not valid.
        """
        if self.place not in self.places:
            raise BadInput(f"{self.place!r} is no place to run", hint=f"there are {', '.join(self.places) or 'none'}")
        if not OUTPUT.fullmatch(self.output) or len(self.output) > 100:
            raise BadInput(f"{self.output!r} cannot be the name of an output run", hint="for example runs/try-1")
        if len(self.which) > _LONGEST:
            raise BadInput("the query is too long", hint="for example visit IN (1, 2) AND detector < 4")
        for stage, knobs in self._overrides().items():
            if set(HIDDEN.get(stage, ())) & set(knobs):
                raise BadInput(f"{stage} has a knob that pages may not turn", hint="use the command line")
        wrong = [f"{stage}.{path} {why}" for stage, form in self._forms.items() for path, why in form.wrong.items()]
        if wrong:
            raise BadInput(f"not every knob has a value that can be: {'; '.join(wrong)}", hint="mend or reset it")
        entry = self.place.removeprefix(_NEW) if self.place.startswith(_NEW) else None
        return entry, self.places[self.place]

    # running

    def start(self) -> Job | None:
        """Start the run; None when it is not possible, which the page then says."""
        try:
            entry, repository = self.check()
            self._target = (str(repository), self.output)
            self.job = self.desk.start(
                "nightlab.dashboards.errands:run_pipeline",
                cleanup=functools.partial(_tidy, *self._target),
                pipeline=self.pipeline,
                data=entry,
                repository=str(repository),
                query=self.which.strip(),
                output_run=self.output,
                jobs=self.processes,
                overrides=self._overrides(),
            )
        except NightLabError as error:
            self._say(error)
            return None
        self.said = ""
        self.job.lines.append(self.command())
        # a new run begins with what the repository has of it
        self.board = read_board(self.target_run(), self.pipeline)
        self._tick_every(PERIOD, self.tick)
        self.tick()
        return self.job

    def cancel(self) -> None:
        """End the run within two seconds; what is whole stays, and a new start goes on from there."""
        self.desk.cancel()
        self.tick()

    def tick(self) -> None:
        """Take over the news of the run."""
        if self.job is None:
            return
        active = self.job.active  # before the events are taken: none can come later than the end
        events = self.job.take()
        self.board.apply(event for event in events if event.run == self._target[1])
        if self._views is not None:
            self._views.progress(events)
        if not active:
            self._ended(self.job)

    def _ended(self, job: Job) -> None:
        self._tick_every(0, None)
        self.job = None
        self.board.stopped()
        if job.state == "failed" and job.error is not None:
            self._say(job.error)
        if self._views is not None:
            self._views.ended(job)
        if pn.state.curdoc is None:
            self._look_again()
        else:  # the page is to say first that it has ended
            pn.state.curdoc.add_next_tick_callback(self._look_again)

    def _look_again(self) -> None:
        """Read what there is now, without forgetting what was said about it."""
        self.library.refresh()
        self.__dict__.pop("places", None)
        messages, seconds = self.board.messages, self.board.seconds
        there = _open(*self._target)
        run = self.library[self.library.key_of(there)] if there is not None else None
        if run is not None and run != self.run:
            kept = {name: getattr(self, name) for name in ("pipeline", "knobs")}
            self.run = run
            self.param.update(**kept)
        self.reload()
        self.board.messages, self.board.seconds = messages, seconds
        if self._views is not None:
            self._views.show_tab()

    def _say(self, error: NightLabError) -> None:
        self.said = str(error)
        if self._views is not None:
            self._views.say(error)

    def _watch(self) -> None:
        """Follow a run that somebody else is making, another tab or a command line."""
        self._tick_every(2000, self._look)

    def _look(self) -> None:
        run = self.target_run()
        if run is None or not holder(run.repository, run.name):
            self._tick_every(0, None)
        self.reload()

    def _tick_every(self, period: int, what: Any) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        if what is not None and pn.state.curdoc is not None:
            self._ticker = pn.state.add_periodic_callback(what, period=period)

    def close(self) -> None:
        """End the run and the worker process."""
        self._ticker = None
        self.desk.close()

    # views

    def command(self) -> str:
        """Write the command that does on a command line what Run does here."""
        repository = self.places.get(self.place)
        knobs = self.assignments()
        text = reproduce(self.pipeline, str(repository or self.place), self.output, query=self.which.strip(),
                         jobs=self.processes, knobs=knobs)  # fmt: skip
        return f"{text} --data {self.place.removeprefix(_NEW)}" if self.place.startswith(_NEW) else text

    def command_for(self, stage: str, key: Key) -> str:
        """Write the command that makes one quantum again."""
        repository = self.places.get(self.place)
        knobs = [text for text in self.assignments() if text.startswith(f"{stage}.")]
        name = f"{self.pipeline.partition('#')[0]}#{stage}"
        chosen = where(data_id_of(stage, key))
        return reproduce(name, str(repository or self.place), self.output, query=chosen, knobs=knobs)

    def about(self, stage: str) -> str:
        """Say what a stage reads, and from whom, and what it makes."""
        if stage not in STAGES:
            return ""
        reads = [f"{name} ({maker})" if maker else name for name, maker in makers_of(stage).items()]
        makes = [row.name for row in STAGES[stage].outputs.values()]
        return f"reads {', '.join(reads)}; makes {', '.join(makes)}"

    def failures(self) -> list[tuple[str, Key, str]]:
        """List what failed: stage, data id, and what was said if anything was heard."""
        return [
            (stage, key, self.board.messages.get((stage, key), ""))
            for stage in self.board.stages
            for key, status in self.board.cells.get(stage, {}).items()
            if status is Status.FAILED
        ]

    def log_lines(self) -> list[str]:
        """Give the lines of the log that belong to what is chosen."""
        if self.job is not None:
            lines = list(self.job.lines)
        else:
            lines = _tail(log_file(self.places.get(self.place, "/"), self.output))
        if self.cell is not None:
            stage, key = self.cell
            wanted = " ".join(f"{name} {value}" for name, value in data_id_of(stage, key).items())
            return [line for line in lines if stage in line and wanted in line]
        return [line for line in lines if not self.stage or re.search(rf"\b{re.escape(self.stage)}\b", line)]

    def main(self) -> pn.viewable.Viewable:
        """Give graph, grid, form and tabs."""
        return self._view().main()

    def rail(self) -> pn.viewable.Viewable:
        """Give the choices of a run and the list of stages."""
        return self._view().rail()

    def _view(self) -> Views:
        if self._views is None:
            self._views = Views(self)
        return self._views


def _open(repository: str, output: str) -> Run | None:
    try:
        return Run(repository, output)
    except NightLabError:
        return None


def _tidy(repository: str, output: str) -> None:
    """Remove what a killed run has left unfinished, in its output run and in the templates made on the way."""
    for run in dict.fromkeys((output, "runs/Templates")):
        if (Path(repository) / "butler.yaml").exists():
            tidy(repository, run)


def _tail(file: Path, most: int = 1_000_000) -> list[str]:
    """Read the end of a text file; nothing where there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - most))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
