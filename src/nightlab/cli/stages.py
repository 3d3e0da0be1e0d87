"""The table of stages and their knobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from pydantic import BaseModel

from nightlab.cli.common import USAGE, JsonOption, show


def stages(
    name: Annotated[str | None, typer.Argument(help="One stage, with its knobs.")] = None, as_json: JsonOption = False
) -> None:
    """List the stages, or the inputs, outputs and knobs of one."""
    from astropy.table import Table

    from nightlab.pipelines.table import STAGES, load

    if name is None:
        rows = [(s.name, ", ".join(s.dimensions), ", ".join(d.name for d in s.inputs.values()),
                 ", ".join(d.name for d in s.outputs.values())) for s in STAGES.values()]  # fmt: skip
        show(Table(rows=rows, names=("stage", "per", "reads", "makes")), as_json=as_json)
        return
    if name not in STAGES:
        print(f"nightlab: there is no stage {name}; there are {', '.join(STAGES)}", file=sys.stderr)
        raise typer.Exit(USAGE)
    stage = STAGES[name]
    print(f"{stage.function.replace(':', '.')}\n")
    if stage.config:
        knobs = list(knob_rows(load(stage.config)()))
        show(Table(rows=knobs, names=("knob", "default", "meaning")), as_json=as_json)


def knob_rows(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every knob, those of nested configurations under their own paths."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from knob_rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value), info.description or ""
