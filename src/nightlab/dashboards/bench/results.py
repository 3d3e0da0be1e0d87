"""Results of calls side by side: what the image panes show, metrics in two columns, the lines that do it again."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nightlab.dashboards.bench.calls import Result, Saved
from nightlab.dashboards.bench.pairs import FromFiles, FromRun, FromSeed, Source
from nightlab.dashboards.forms import assignment, changes
from nightlab.dashboards.overview.board import reproduce, where
from nightlab.pipelines.table import STAGES, load

if TYPE_CHECKING:
    from nightlab.dashboards.images import Layer, Marks

#: What the verbs and nouns of ``nightlab`` are, for the lines of code.
_PUBLIC = ("CalibrateConfig", "TemplateConfig", "SubtractConfig", "DetectConfig", "AssociateConfig")
_NAMES = {"raw": "raw", "science": "science", "template": "template", "visit_image": "science",
          "template_detector": "template", "difference_image": "difference"}  # fmt: skip
_KINDS = {"difference": "difference"}


def layers_of(result: Result, before: Result | None) -> dict[str, Layer]:
    """Give the images of a result, those of an earlier one, and those they were made from, by name.

    Names are the same from one result to the next, so that view and stretch stay.
    """
    from nightlab.dashboards.images import as_layer

    found = {}
    for words, each in (("", result), (" before", before)):
        for product, saved in each.products.items() if each is not None else ():
            if isinstance(saved, Saved):
                name = _NAMES.get(product, product)
                kind = _KINDS.get(name, "flux")
                assert each is not None
                found[f"{name}{words}"] = as_layer(saved.read(), kind=kind, title=f"{name} {each.number}")
    inputs = {}
    for argument, saved in result.shown.items():
        name = _NAMES.get(argument, argument)
        if name not in found:
            inputs[name] = as_layer(saved.read(), kind=_KINDS.get(name, "flux"), title=argument)
    shown = {**inputs, **found}
    if len(shown) == 3 and "difference" in found and found["difference"].variance is not None:
        shown["S/N"] = replace(found["difference"].signal_to_noise, title=f"S/N {result.number}")
    return shown


def marks_of(result: Result, before: Result | None) -> dict[str, Marks]:
    """Give the tables of a result, and of an earlier one, that have places on the image."""
    from nightlab.dashboards.images import Marks

    found = {}
    looks = (("", "#12b5a5", "circle", 13), (" before", "#e0559a", "square", 17))
    for (words, colour, marker, size), each in zip(looks, (result, before), strict=True):
        for product, table in each.products.items() if each is not None else ():
            names = getattr(table, "colnames", ())
            if not {"x", "y"} <= set(names) and not {"ra", "dec"} <= set(names):
                continue
            identity = next((name for name in names if name.endswith("Id")), "")
            shown = tuple(name for name in ("snr", "psfFlux") if name in names)
            found[f"{product}{words}"] = Marks(
                table, id_column=identity, shown=shown, colour=colour, marker=marker, size=size
            )
    return found


def compared(result: Result, before: Result | None) -> list[tuple[str, str, float, float]]:
    """Put the metrics and the lengths of the tables of two results side by side.

    Returns
    -------
    list of tuple
        Name, unit, value of this result, value of the other; NaN where there is none.
    """
    first, second = _numbers(result), _numbers(before) if before is not None else {}
    names = list(dict.fromkeys([*first, *second]))
    nothing = ("", math.nan)
    return [
        (
            name,
            first.get(name, second.get(name, nothing))[0],
            first.get(name, nothing)[1],
            second.get(name, nothing)[1],
        )
        for name in names
    ]


def _numbers(result: Result) -> dict[str, tuple[str, float]]:
    from nightlab.quality import summarise

    found: dict[str, tuple[str, float]] = {}
    for name, table in result.products.items():
        if hasattr(table, "colnames"):
            found[f"rows of {name}"] = ("", float(len(table)))
    if result.metrics is not None:
        for row in summarise(result.metrics):
            found[str(row["metric"])] = (str(row["unit"] or ""), float(row["median"]))
    return found


def compared_html(result: Result, before: Result | None) -> str:
    """Write the comparison as a table; what differs is bold and has its difference."""
    lines = []
    for name, unit, this, other in compared(result, before):
        differs = before is not None and not (this == other or (math.isnan(this) and math.isnan(other)))
        strong = "<b>{}</b>" if differs else "{}"
        cells = [html.escape(name), html.escape(unit), strong.format(_written(this))]
        if before is not None:
            step = this - other if differs else 0.0
            cells += [_written(other), f"{step:+.3g}" if differs and math.isfinite(step) else ""]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ["metric", "unit", f"result {result.number}"]
    heads += [f"result {before.number}", "difference"] if before is not None else []
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table class='nl'><tr>{head}</tr>{''.join(lines)}</table>"


def _written(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.5g}"


def told(result: Result) -> str:
    """Describe a result in a line: ``3 · subtract kernel_order=2 · 4.1 s``."""
    knobs = " ".join(assignment(path, value) for path, value in changes(result.config).items()) or "defaults"
    return f"{result.number} · {result.stage} {knobs} · {result.seconds:.1f} s"


def code(stage: str, config: Any, source: Source) -> str:
    """Write the lines of Python that make a result."""
    function, kind = STAGES[stage].function.rpartition(":")[2], type(config).__name__
    known = _arguments(changes(config))
    if isinstance(source, FromRun):
        lines = ["import nightlab as nl"]
        name = f"nl.{kind}" if kind in _PUBLIC else kind
        if kind not in _PUBLIC:
            lines.append(f"from {STAGES[stage].config.partition(':')[0]} import {kind}")
        chosen = "".join(f", {key}={value}" for key, value in source.data_id(stage).items())
        return "\n".join(
            [
                *lines,
                f"run = nl.open_run({source.repository!r}, {source.run!r})",
                f"result = nl.{function}(**nl.stage_inputs({stage!r}, run{chosen}), config={name}({known}))",
            ]
        )
    made = f"seed={source.seed}, folder='.'" if isinstance(source, FromSeed) else ""
    if isinstance(source, FromFiles):
        made = f"science={source.science!r}, template={source.template!r}"
    return "\n".join(
        [
            f"from nightlab.dashboards.bench.pairs import {type(source).__name__}",
            f"from {STAGES[stage].function.partition(':')[0]} import {function}, {kind}",
            f"pair = {type(source).__name__}({made})",
            f"result = {function}(**pair.inputs({stage!r}), config={kind}({known}))",
        ]
    )


def command(stage: str, config: Any, source: Source) -> str:
    """Write the command that makes a result; empty where there is none."""
    if isinstance(source, FromRun):
        knobs = [assignment(f"{stage}.{path}", value) for path, value in changes(config).items()]
        query = where(source.data_id(stage))
        return reproduce(f"ApPipe#{stage}", source.repository, "runs/try", query=query, knobs=knobs)
    if stage not in ("subtract", "detect_dia_sources") or changes(config) or not isinstance(source, FromFiles):
        return ""
    return shlex.join(["nightlab", "subtract", source.science, source.template, "-o", "difference.fits"])


def _arguments(values: Mapping[str, Any]) -> str:
    """Write dotted values as keyword arguments, nested ones as dictionaries."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        first, _, rest = path.partition(".")
        if rest:
            tree.setdefault(first, {})[rest] = value
        else:
            tree[first] = value
    return ", ".join(f"{name}={value!r}" for name, value in tree.items())


def config_of(stage: str, values: Mapping[str, Any]) -> Any:
    """Make the configuration of a stage from values by dotted path.

    Raises
    ------
    pydantic.ValidationError
        When a value is not allowed.
    """
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *folders, name = path.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = value
    return load(STAGES[stage].config).model_validate(tree)
