"""The table of stages and their knobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from nightlab.cli import completion
from nightlab.cli.common import JsonOption, VerboseOption, exit_codes, print_json, records, show
from nightlab.errors import BadInput

if TYPE_CHECKING:
    from nightlab.pipelines.table import Stage


def stages(
    name: Annotated[
        str | None, typer.Argument(help="One stage, with its knobs.", autocompletion=completion.stages)
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the stages, or the inputs, outputs and knobs of one."""
    with exit_codes(verbose):
        from astropy.table import Table

        from nightlab.pipelines.table import STAGES, load

        if name is None:
            show(Table(rows=[_row(stage) for stage in STAGES.values()]), as_json=as_json)
            return
        if name not in STAGES:
            raise BadInput(f"there is no stage {name}", hint=f"there are {', '.join(STAGES)}")
        stage = STAGES[name]
        rows = list(knob_rows(load(stage.config)())) if stage.config else []
        knobs = Table(rows=rows or None, names=("knob", "default", "meaning"), dtype=(str, str, str))
        told = {**_row(stage), "function": stage.function.replace(":", ".")}
        if as_json:
            print_json({**told, "knobs": records(knobs)})
            return
        for title in ("function", "per", "reads", "makes"):
            print(f"{title:<11}{told[title]}")
        if rows:
            print()
            show(knobs)
            print(f"\nturn one   nightlab run PIPELINE --data ENTRY --set {name}.{rows[0][0]}={rows[0][1]}")


def _row(stage: Stage) -> dict[str, str]:
    return {
        "stage": stage.name,
        "per": ", ".join(stage.dimensions),
        "reads": ", ".join(dataset.name for dataset in stage.inputs.values()),
        "makes": ", ".join(dataset.name for dataset in stage.outputs.values()),
    }


def knob_rows(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every knob, those of nested configurations under their own paths."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from knob_rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value), info.description or ""
