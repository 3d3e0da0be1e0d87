"""Write the reference pages from the code itself, each time the documentation is built."""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import param
import typer

import nightlab
from nightlab.cli import app as command_line
from nightlab.cli.stages import knob_rows
from nightlab.dashboards.explorer import EXPLORERS, explorer_class
from nightlab.pipelines.table import STAGES, load

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOMS = {
    "nightlab.stages": "Stages",
    "nightlab.simulate": "Simulation",
    "nightlab.data": "Data and runs",
    "nightlab.quality": "Metrics",
    "nightlab.pipelines": "Pipelines",
    "nightlab.dashboards": "Pictures",
}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


def write(app: Sphinx) -> None:
    """Write all pages; those that have not changed keep their time."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    pages = {
        "api": api(),
        "stages": stages(),
        "commands": commands(),
        "explorers": explorers(),
        "gallery": gallery(app),
    }
    for name, text in pages.items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def cell(text: object) -> str:
    """Make a text fit for a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def api() -> str:
    """One section per room, one entry per public name."""
    by_room = defaultdict(list)
    for name in nightlab.__all__:
        home = nightlab._HOME.get(name, "")
        room = next((title for prefix, title in ROOMS.items() if home.startswith(prefix)), None)
        if room and not name.endswith("Config"):
            by_room[room].append(name)
    parts = [
        "# Public names\n\nAll of them are imported when first used: `import nightlab as nl`. "
        "The stages' configurations are told under [their knobs](stages.md).\n"
    ]
    for title in ROOMS.values():
        parts.append(f"## {title}\n")
        parts += [directive(name) for name in sorted(by_room[title])]
    return "\n".join(parts)


def directive(name: str) -> str:
    thing = getattr(nightlab, name)
    module = thing.__module__
    kind = "autoclass" if inspect.isclass(thing) else "autofunction"
    members = "   :members:\n" if inspect.isclass(thing) else ""
    return f"### `{name}`\n\n```{{eval-rst}}\n.. {kind}:: {module}.{thing.__qualname__}\n{members}```\n"


def stages() -> str:
    """What every stage reads and makes, and its knobs."""
    parts = [
        "# Stages and knobs\n\nOne row of a table per stage; from it follow the function, the PipelineTask, the "
        "command and the form. A knob is set with `--set STAGE.KNOB=VALUE`.\n"
    ]
    rows = [
        (f"[`{stage.name}`](#{stage.name.replace('_', '-')})", ", ".join(stage.dimensions),
         ", ".join(f"`{d.name}`" for d in stage.inputs.values()),
         ", ".join(f"`{d.name}`" for d in stage.outputs.values()))
        for stage in STAGES.values() if stage.config
    ]  # fmt: skip
    parts.append(table(("stage", "per", "reads", "makes"), rows))
    for stage in STAGES.values():
        if not stage.config:
            continue
        first = (inspect.getdoc(load(stage.function)) or "").split("\n\n")[0]
        parts.append(f"({stage.name.replace('_', '-')})=\n\n## `{stage.name}`\n\n{first}\n")
        knobs = [(f"`{knob}`", f"`{value}`", meaning) for knob, value, meaning in knob_rows(load(stage.config)())]
        parts.append(table(("knob", "default", "meaning"), knobs))
    return "\n".join(parts)


def commands() -> str:
    """The command line, as it describes itself."""
    root = typer.main.get_command(command_line)
    parts = ["# Commands\n\nExit codes: 0 done, 1 a stage failed, 2 usage, 3 data missing, 4 a target was missed.\n"]
    parts += describe(root, "nightlab", click.Context(root, info_name="nightlab"))
    return "\n".join(parts)


def describe(command: click.Command, path: str, context: click.Context) -> list[str]:
    below = getattr(command, "commands", None)
    if below is not None:
        found = []
        for name, each in below.items():
            found += describe(each, f"{path} {name}", click.Context(each, info_name=name, parent=context))
        return found
    rows = []
    for parameter in command.get_params(context):
        if parameter.name == "help":
            continue
        if parameter.param_type_name == "option":
            spelled = " ".join(f"`{option}`" for option in parameter.opts)
        else:
            spelled = f"`{str(parameter.name).upper()}`"
        rows.append((spelled, getattr(parameter, "help", "") or ""))
    return [f"## `{path}`\n\n{command.help or ''}\n", table(("", ""), rows) if rows else ""]


def explorers() -> str:
    """Keys and settings of every explorer."""
    parts = [
        "# Keys and settings of the explorers\n\nEvery setting is a parameter: what a page shows "
        "can be set from Python, saved as JSON and sent as a link.\n"
    ]
    for slug in EXPLORERS:
        explorer = explorer_class(slug)
        parts.append(f"## {explorer.title}\n\n`/{slug}` — {explorer.summary}\n")
        if explorer.keys:
            parts.append(table(("key", "does"), [(f"`{key}`", what) for key, (_, what) in explorer.keys.items()]))
        rows = [setting(explorer, name) for name in explorer.remembered]
        parts.append(table(("setting", "default", "meaning", "in links"), rows))
    return "\n".join(parts)


def setting(explorer: type[param.Parameterized], name: str) -> tuple[str, str, str, str]:
    parameter = explorer.param[name]
    return f"`{name}`", f"`{parameter.default!r}`", parameter.doc or "", "yes" if name in explorer.in_url else ""


CAPTIONS = {
    "banner": "An asteroid in SDSS Stripe 82: science, template, difference (`docs/figures.py`).",
    "page-start": "The start page of `nightlab serve`.",
    "page-overview": "A run, stage by stage: what is there, what failed, what to do about it.",
    "page-images": "Science, template, difference and signal to noise, linked.",
    "page-dia": "DIASources and DIAObjects: map, light curve, cutouts, table.",
    "page-metrics": "Metrics between their targets.",
    "page-workbench": "One stage on one pair of images, with its knobs.",
    "stripe82_r": "Stripe 82 in r: science, template, difference (`docs/figures.py`).",
    "stripe82_triplets_r": "The brightest DIASources of Stripe 82 in r.",
    "stripe82_triplets_g": "The brightest DIASources of Stripe 82 in g.",
    "simulated_r": "The simulated survey.",
    "simulated_triplets_r": "The brightest DIASources of the simulated survey.",
}


def gallery(app: Sphinx) -> str:
    """Every picture of the documentation, made by `docs/figures.py` and `docs/screenshots.py`."""
    parts = ["# Gallery\n\nEvery picture here is made by code: `docs/figures.py` and `docs/screenshots.py`.\n"]
    for file in sorted((Path(app.srcdir) / "pictures").iterdir()):
        caption = CAPTIONS.get(file.stem.removesuffix("-dark"), file.stem)
        dark = " In dark." if file.stem.endswith("-dark") else ""
        parts.append(f"![{caption}](../pictures/{file.name})\n\n*{caption}{dark}*\n")
    return "\n".join(parts)
