"""D10, the metrics explorer: did the run reach its targets, where not, since when, and compared with what."""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
import param

from nightlab.dashboards.charts import find_jumps, trend
from nightlab.dashboards.downloads import download
from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.focal_plane import focal_plane, outlines
from nightlab.dashboards.forms import COMPACT
from nightlab.dashboards.scorecard import STAGES, Choices, metric_rows, point_row, stage_tiles, versus_rows
from nightlab.dashboards.spreads import histogram, over_detectors
from nightlab.dashboards.states import Nothing, Pane, Reason
from nightlab.dashboards.style import wrapping
from nightlab.errors import BadInput, MissingData
from nightlab.quality import (
    LEVELS,
    bounds,
    compare_runs,
    house_specs,
    judge,
    merge_runs,
    only_in,
    per_detector,
    series,
    summarise,
    target_text,
    tidy,
    unmatched,
)

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import Table
    from panel.viewable import Viewable

    from nightlab.data.runs import Run

FIRST = "difference.noise_ratio"
MOST_RUNS = 40

_CSS = """
h3 { margin: 0 0 2px; font-size: 15px; font-weight: 600; }
p { margin: 0; font-size: 13px; line-height: 1.4; opacity: .9; }
table { border-collapse: collapse; font-size: 13px; margin: 2px 0; font-variant-numeric: tabular-nums; }
td, th { padding: 2px 10px 2px 0; text-align: left; font-weight: 400; } th { opacity: .75; font-size: 12px; }
a { color: inherit; }
"""


class MetricsExplorer(Explorer):
    """What a run measured, against its targets and against another run.

    The scorecard counts what passes in each stage. A metric of the list below is drawn along the visits and over the
    detectors; a point leads to its data ids and to the images behind them.
    """

    slug = "metrics"
    title = "Metrics"
    summary = "What a run measured, against its targets and against another run."
    remembered = ("metric", "level", "statistic", "x", "show", "search", "detector", "visit", "mark_jumps")
    in_url = ("metric", "level", "statistic", "x", "detector", "visit")
    keys = {  # noqa: RUF012
        "[": ("previous", "previous metric"),
        "]": ("following", "next metric"),
        "r": ("reset", "all metrics, all detectors, no point"),
    }

    metric = param.String("", doc="Full name of the metric that is drawn.")
    level: Any = param.Selector(default="minimum", objects=list(LEVELS), doc="Which targets decide.")
    statistic: Any = param.Selector(
        default="median",
        objects=["median", "worst", "mean", "each"],
        doc="How the detectors of a visit become one value.",
    )
    x: Any = param.Selector(default="visit", objects=["visit", "time", "night", "run"], doc="Along what it is drawn.")
    show: Any = param.Selector(
        default="all", objects=["all", "with a target", "not passed"], doc="Which metrics are listed."
    )
    search = param.String("", doc="Words that the name or the meaning of a metric must contain.")
    detector = param.String("", doc="The only detector of the trend; empty for all.")
    visit = param.String("", doc="The visit whose data ids are shown.")
    mark_jumps = param.Boolean(False, doc="Mark where the metric steps to another level.")

    def __init__(self, library: Any = None, **state: Any) -> None:
        super().__init__(library, **state)
        self._metrics: xr.Dataset | None = None
        self._shown = False
        self._cache: dict[Any, Any] = {}
        self._card = Pane("the scorecard")
        self._list = Pane("the metrics")
        self._trend = Pane("the trend", min_height=250)
        self._spread = Pane("the spread over detectors")
        self._versus = Pane("the comparison")
        self._heading = pn.pane.HTML("", sizing_mode="stretch_width", stylesheets=[_CSS], margin=(0, 8))
        self._point = pn.pane.HTML("", sizing_mode="stretch_width", stylesheets=[_CSS], margin=(0, 8))
        self._tiles = Choices(sizing_mode="stretch_width")
        self._rows = Choices(width=430, styles={"height": "max(440px, calc(100vh - 190px))", "max-width": "100%"})
        self._table = Choices(sizing_mode="stretch_width", max_height=420)
        self._tiles.param.watch(lambda event: self._choose_stage(_key(event.new)), "clicked")
        for choices in (self._rows, self._table):
            choices.param.watch(lambda event: self.param.update(metric=_key(event.new)), "clicked")
        self.param.watch(self._load, ["run", "other"])
        self.param.watch(self._judge, ["level"])
        self.param.watch(self._list_metrics, ["search", "show"])
        self.param.watch(self._draw, ["metric", "statistic", "x", "detector", "mark_jumps"])
        self.param.watch(self._tell_point, ["visit"])

    # views

    def main(self) -> Viewable:
        """Give scorecard, list, trend, spread and comparison."""
        if not self._shown:
            self._shown = True
            self._load()
        right = pn.Column(
            self._heading, self._trend, self._point, self._spread, styles={"flex": "1 1 400px", "min-width": "0"}
        )
        left = pn.Column(self._list, width=440, styles={"max-width": "100%"})
        body = wrapping(left, right, margin=(10, 0))
        return pn.Column(self._card, body, self._versus, sizing_mode="stretch_width")

    def rail(self) -> Viewable:
        """Give the controls."""
        widgets = pn.widgets
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (4, 10), "stylesheets": [COMPACT]}
        controls = [
            widgets.TextInput.from_param(self.param.search, label="search", placeholder="noise, zero point …", **wide),
            widgets.Select.from_param(self.param.show, label="metrics listed", **wide),
            widgets.Select.from_param(self.param.level, label="targets", **wide),
            widgets.Select.from_param(self.param.statistic, label="statistic of a visit", **wide),
            widgets.Select.from_param(self.param.x, label="along", **wide),
            widgets.Toggle.from_param(
                self.param.mark_jumps, label="Mark jumps", color="primary", variant="outline", **wide
            ),
        ]
        buttons = [
            widgets.FileDownload(
                callback=partial(self._export, kind), filename=f"metrics{suffix}", label=label, embed=False,
                color="light", sizing_mode="stretch_width", margin=(2, 3),
            )
            for kind, suffix, label in (("netcdf", ".nc", "netCDF"), ("zarr", ".zarr.zip", "zarr"),
                                        ("csv", ".csv", "CSV"), ("verify", ".verify.json", "lsst.verify"))
        ]  # fmt: skip
        export = pn.GridBox(*buttons, ncols=2, sizing_mode="stretch_width", margin=(0, 7))
        return pn.Column(
            *controls, pn.pane.HTML("<b>Export</b>", margin=(8, 10, 0, 10)), export, sizing_mode="stretch_width"
        )

    def table(self) -> Table | None:
        """Give the series that is drawn."""
        if self._metrics is None or self.metric not in self._metrics:
            return None
        return self._series()

    # choosing

    def previous(self) -> None:
        """Draw the metric before."""
        self._step(-1)

    def following(self) -> None:
        """Draw the next metric."""
        self._step(1)

    def reset(self) -> None:
        """Look at everything again."""
        self.param.update(search="", show="all", detector="", visit="", x="visit")

    def _step(self, by: int) -> None:
        names = self._listed()
        if names:
            at = names.index(self.metric) + by if self.metric in names else 0
            self.metric = names[at % len(names)]

    def _choose_stage(self, room: str) -> None:
        """Draw what is worst in a stage."""
        if self._metrics is None:
            return
        rows = [row for row in self._summary() if str(row["metric"]).startswith(f"{room}.")]
        order = ["fail", "unknown", "pass", "none"]
        self.metric = str(min(rows, key=lambda row: order.index(str(row["verdict"])))["metric"])

    def _choose_point(self, table: Table, row: int) -> None:
        self.visit = str(table["place"][row]) if table["visit"][row] >= 0 else ""

    def _choose_detector(self, detector: int) -> None:
        self.detector = "" if str(detector) == self.detector else str(detector)

    # reading

    def _load(self, *_: Any) -> None:
        if not self._shown:
            return
        self._metrics = None
        self._cache.clear()
        with self._card.guarded("Reading metrics"):
            self._metrics = self._read()
            if self.metric not in self._metrics:
                self._choose_first()
        if self._metrics is None:
            for pane in (self._list, self._trend, self._spread, self._versus):
                pane.ready(pn.Spacer(height=0))
            self._heading.object = self._point.object = ""
            return
        self._judge()

    def _choose_first(self) -> None:
        summary = self._summary()
        missed = [str(row["metric"]) for row in summary if row["verdict"] == "fail"]
        judged = [str(row["metric"]) for row in summary if row["verdict"] != "none"]
        preferred = [FIRST] if FIRST in judged else []
        with param.parameterized.discard_events(self):
            self.metric = next(iter([*missed, *preferred, *judged, *map(str, summary["metric"])]), "")

    def _read(self) -> xr.Dataset:
        """Metrics of the run, beside those of the other one where they can stand beside each other."""
        if self.run is None:
            raise Nothing(Reason.NO_DATA_SELECTED, "No run is chosen.", "choose one above, or run a pipeline first")
        first = metrics_of(self.run)
        self._refusal = None
        if self.other is None or self.other == self.run:
            return first
        try:
            return merge_runs({self._label(self.run): first, self._label(self.other): metrics_of(self.other)})
        except Nothing as nothing:
            self._refusal = nothing
        except BadInput as error:
            self._refusal = Nothing(Reason.SCHEMA_MISMATCH, error.message, error.hint)
        return first

    def _label(self, run: Run) -> str:
        both = [each for each in (self.run, self.other) if each is not None]
        return run.label if len({each.label for each in both}) == len(both) else self.library.key_of(run)

    def _times(self) -> dict[int, tuple[float, int]]:
        return self._remember("times", lambda: {
            int(row["visit"]): (float(row["mjd"]), int(row["day_obs"]))
            for run in (self.run, self.other) if run is not None for row in run.visits()
        })  # fmt: skip

    def _names(self) -> dict[int, str]:
        runs = [run for run in (self.run, self.other) if run is not None]
        return self._remember(
            "names", lambda: {int(row["detector"]): str(row["detector_name"]) for run in runs for row in run.visits()}
        )

    def _remember(self, key: Any, make: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _summary(self) -> Table:
        """The verdicts of run A."""
        assert self._metrics is not None
        metrics = self._metrics.isel(run=0) if "run" in self._metrics.dims else self._metrics
        return self._remember(("summary", self.level), lambda: summarise(metrics, level=self.level))

    # judging and listing

    def _judge(self, *_: Any) -> None:
        if self._metrics is None:
            return
        with self._card.guarded():
            summary = self._summary()
            if not np.isfinite(np.asarray(summary["median"], float)).any():
                raise Nothing(Reason.ALL_NAN, f"None of the {len(summary)} metrics of this run has a value.",
                              "look at the log of the run for stages that failed")  # fmt: skip
            self._tiles.markup = stage_tiles(summary)
            self._card.ready(self._tiles)
        self._list_metrics()
        self._compare()
        self._draw()

    def _listed(self) -> list[str]:
        words = self.search.lower().replace("_", " ").split()
        chosen = []
        for row in self._summary() if self._metrics is not None else []:
            name, verdict = str(row["metric"]), str(row["verdict"])
            text = f"{name.replace('_', ' ')} {self._description(name)}".lower()
            kept = {"all": True, "with a target": verdict != "none", "not passed": verdict in ("fail", "unknown")}
            if kept[self.show] and all(word in text for word in words):
                chosen.append(name)
        rooms = list(STAGES)
        return sorted(
            chosen, key=lambda name: rooms.index(r) if (r := name.partition(".")[0]) in rooms else len(rooms)
        )

    def _list_metrics(self, *_: Any) -> None:
        if self._metrics is None:
            return
        with self._list.guarded():
            listed, summary = set(self._listed()), self._summary()
            rows = summary[[str(name) in listed for name in summary["metric"]]]
            missing = [] if self.search else unmatched(self._metrics)[0]
            described = {name: self._description(name) for name in listed}
            lost = {name: target_text(house_specs()[name].attrs(self.level)) for name in missing}
            self._rows.param.update(markup=metric_rows(rows, described, lost), chosen=self.metric)
            self._list.ready(self._rows)

    def _description(self, name: str) -> str:
        assert self._metrics is not None
        return str(self._metrics[name].attrs.get("description", ""))

    # drawing

    def _draw(self, *_: Any) -> None:
        if self._metrics is None or not self.metric:
            return
        self._rows.chosen = self._table.chosen = self.metric
        self._tiles.chosen = self.metric.partition(".")[0]
        with self._trend.guarded():
            self._heading.object = ""
            if self.metric not in self._metrics:
                raise Nothing(
                    Reason.NO_DATA_SELECTED, f"This run has no metric {self.metric}.", "choose one of the list"
                )
            self._heading.object = self._headline()
            table = self._series()
            self._check(table)
            self._trend.ready(self._drawn(table))
        self._tell_point()
        with self._spread.guarded():
            self._spread.ready(self._spreads() if self._trend.state == "ready" else pn.Spacer(height=0))

    def _attrs(self) -> Mapping[str, Any]:
        assert self._metrics is not None
        return bounds(self._metrics, self.metric, level=self.level)

    def _series(self) -> Table:
        metrics = self._all_runs() if self.x == "run" else self._metrics
        assert metrics is not None
        if self.detector and "detector" in metrics[self.metric].dims:
            if int(self.detector) not in metrics["detector"].values:
                raise Nothing(Reason.FILTERED_TO_ZERO, f"There is no detector {self.detector}.", "press r for all")
            metrics = metrics.sel(detector=[int(self.detector)])
        return series(metrics, self.metric, statistic=self.statistic, attrs=self._attrs())

    def _all_runs(self) -> xr.Dataset:
        """All runs of the library that measured this metric in the same unit, the chosen one first."""
        assert self._metrics is not None
        unit = self._metrics[self.metric].attrs.get("unit", "")
        room = self.metric.partition(".")[0]
        found = {}
        for run in list(dict.fromkeys([self.run, self.other, *(self.library[key] for key in self.library)]))[
            :MOST_RUNS
        ]:
            if run is None:
                continue
            try:
                metrics = self._remember(("metrics", run), partial(metrics_of, run))
            except (Nothing, MissingData):
                continue
            if self.metric in metrics and metrics[self.metric].attrs.get("unit", "") == unit:
                kept = [name for name in (self.metric, f"{room}.ran") if name in metrics]
                label = run.label if run.label not in found else self.library.key_of(run).replace(":runs/", " · ")
                found[label] = metrics[kept]
        return merge_runs(found)

    def _check(self, table: Table) -> None:
        if not len(table) or not (np.asarray(table["n"]) + np.asarray(table["unknown"])).any():
            raise Nothing(
                Reason.NOT_RUN, "The stage that measures this did not run here.", "choose another detector or run"
            )
        if not np.isfinite(np.asarray(table["value"], float)).any():
            assert self._metrics is not None
            places = int(np.sum(table["unknown"]))
            why = str(self._metrics[self.metric].attrs.get("reason", ""))
            raise Nothing(Reason.ALL_NAN, f"It could be measured at none of {places} places: its verdict is unknown.",
                          why or "the stage ran; these data may lack what it is held against")  # fmt: skip

    def _drawn(self, table: Table) -> Viewable:
        figure = trend(
            table, self.metric, self._unit(), level=self.level, attrs=self._attrs(), x=self.x, height=250,
            times=self._times() if self.x in ("time", "night") else None, mark_jumps=self.mark_jumps,
            on_point=partial(self._choose_point, table),
        )  # fmt: skip
        parts: list[Any] = [pn.pane.Bokeh(figure, sizing_mode="stretch_width", margin=0)]
        if self.mark_jumps and not find_jumps(table):
            parts.append(pn.pane.HTML("<p>No jump beyond 5 sigma.</p>", stylesheets=[_CSS], margin=(0, 8)))
        return pn.Column(*parts, sizing_mode="stretch_width", margin=0)

    def _unit(self) -> str:
        assert self._metrics is not None
        return str(self._metrics[self.metric].attrs.get("unit", ""))

    def _headline(self) -> str:
        attrs, spec = self._attrs(), house_specs().get(self.metric)
        asked = target_text(attrs).replace("<=", "≤").replace(">=", "≥").replace("+-", "±")
        text = f"{html.escape(self._description(self.metric).rstrip('.'))}."
        if asked:
            text += (
                f" <b>{self.level} {html.escape(asked)}{' ' + html.escape(self._unit()) if self._unit() else ''}.</b>"
            )
        text += f" {html.escape(spec.why)}" if spec else " No target."
        only = (
            f" · detector {html.escape(self._names().get(int(self.detector), self.detector))}" if self.detector else ""
        )
        return f"<h3>{html.escape(self.metric)}{only}</h3><p>{text[:1].upper()}{text[1:]}</p>"

    def _spreads(self) -> Viewable:
        """All detectors at once; with one detector, how its values are spread."""
        assert self._metrics is not None
        table, attrs = per_detector(self._metrics, self.metric), self._attrs()
        detectors = sorted({int(detector) for detector in table["detector"]})
        if len(detectors) < 2:
            long = tidy(self._metrics, [self.metric])
            if len(long) < 2:
                return pn.Spacer(height=0)
            runs = {str(run): long["value"][long["run"] == run] for run in dict.fromkeys(long["run"])}
            drawn = histogram(runs, self.metric, self._unit(), attrs=attrs, height=210)
            return pn.pane.Bokeh(drawn, sizing_mode="stretch_width")
        names = self._names()
        boxes = over_detectors(
            table, self.metric, self._unit(), names=names, attrs=attrs, level=self.level, height=230
        )
        shapes, on_sky = self._remember("outlines", lambda: outlines(self.run, detectors)) if self.run else ({}, False)
        first = table[np.asarray(table["run"]) == table["run"][0]]
        medians = {int(row["detector"]): float(row["median"]) for row in first}
        camera = focal_plane(
            medians, shapes, self.metric, self._unit(), on_sky=on_sky, names=names, attrs=attrs, height=230,
            on_detector=self._choose_detector,
        )  # fmt: skip
        panes = [pn.pane.Bokeh(drawn, sizing_mode="stretch_width", margin=0) for drawn in (boxes, camera)]
        return pn.Row(*panes, sizing_mode="stretch_width", margin=0)

    # points and links

    def _tell_point(self, *_: Any) -> None:
        """Say the data ids behind a point, and where to look at them."""
        if self._metrics is None or self._trend.state != "ready":
            self._point.object = ""
            return
        if not self.visit:
            self._point.object = "<p>Click a point to see its data ids and the images behind it.</p>"
            return
        long = tidy(self._metrics, [self.metric])
        mine = long[[str(visit) == self.visit for visit in long["visit"]]]
        rows = "".join(self._point_row(row) for row in mine[:40])
        more = f"<p>and {len(mine) - 40} more</p>" if len(mine) > 40 else ""
        self._point.object = (
            "<table><tr><th>visit</th><th>detector</th><th>band</th><th>value</th><th></th><th>look at</th></tr>"
            f"{rows}</table>{more}"
            if rows
            else f"<p>Visit {html.escape(self.visit)} has no such measurement.</p>"
        )

    def _point_row(self, row: Any) -> str:
        run = next((run for run in (self.run, self.other) if run and self._label(run) == row["run"]), self.run)
        name = self._names().get(int(row["detector"]), "")
        return point_row(row, self.library.key_of(run), name, judge(float(row["value"]), self._attrs()))

    # two runs

    def _compare(self) -> None:
        assert self._metrics is not None
        if self.other is None or self.other == self.run:
            self._versus.ready(pn.Spacer(height=0))
            return
        with self._versus.guarded("Comparing"):
            if self._refusal is not None:
                raise self._refusal
            a, b = (self._label(run) for run in (self.run, self.other) if run is not None)
            table = compare_runs(self._metrics, a, b, level=self.level)
            self._table.param.update(markup=versus_rows(table, a, b, only_in(self._metrics, a, b)), chosen=self.metric)
            self._versus.ready(self._table)

    def _export(self, kind: str) -> Any:
        if self._metrics is None:
            raise MissingData("there are no metrics to export", hint="choose a run that has some")
        alone = kind == "verify" and "run" in self._metrics.dims
        return download(self._metrics.isel(run=0) if alone else self._metrics, kind)


def metrics_of(run: Run) -> xr.Dataset:
    """Read the metrics of a run.

    Raises
    ------
    Nothing
        When it has none, or what it has are no metrics.
    """
    try:
        metrics = run.metrics()
    except MissingData as error:
        raise Nothing(Reason.NOT_RUN, f"{run.label} has gathered no metrics.", error.hint) from error
    odd = [
        str(name)
        for name, values in metrics.data_vars.items()
        if "." not in str(name) or values.dtype.kind not in "fiub"
    ]
    if odd or not metrics.data_vars:
        found = ", ".join(odd[:5]) or "no variable at all"
        raise Nothing(Reason.SCHEMA_MISMATCH, f"The metrics of {run.label} hold {found}.",
                      "metrics are numbers named room.metric; gather them again with `nightlab run`")  # fmt: skip
    return metrics


def _key(clicked: str) -> str:
    return clicked.rpartition(" ")[0]
