"""Notebooks: list the templates, make one of your own from a template, run one."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nightlab.cli.common import FAILED, JsonOption, VerboseOption, exit_codes, show
from nightlab.errors import BadInput, MissingData

KERNEL = "python3"
_LINE = re.compile(r"^(?P<name>\w+): (?P<type>\w+) = (?P<value>.*?)(?P<comment>  # .*)?$")

app = typer.Typer(help="Notebooks: list the templates, start from one, run one.", no_args_is_help=True)

TemplateArgument = Annotated[str, typer.Argument(help="A template, such as differencing; or a notebook file.")]
ParameterOption = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="A parameter: NAME=VALUE; may be repeated.")
]


@app.command("list")
def list_templates(as_json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """List the templates and their goals."""
    with exit_codes(verbose):
        from astropy.table import Table

        rows = [(name, *_title_and_goal(_read(path))) for name, path in templates().items()]
        show(Table(rows=rows, names=("template", "title", "goal")), as_json=as_json)


@app.command()
def new(
    template: TemplateArgument,
    repository: Annotated[
        Path | None, typer.Option("--repository", "-b", help="Butler repository with a finished run.")
    ] = None,
    output_run: Annotated[str, typer.Option("--run", help="Output run in it.")] = "runs/ApPipe",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Notebook to write; TEMPLATE.ipynb.")] = None,
    parameter: ParameterOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a notebook of your own from a template, on a run of yours."""
    with exit_codes(verbose):
        path = find_template(template)
        output = output or Path(f"{_plain(path)}.ipynb")
        if output.exists() and not overwrite:
            raise BadInput(f"{output} exists already", hint="choose another name, or allow --overwrite")
        values = _values(parameter)
        if repository is not None:
            from nightlab.data.runs import open_run

            opened = open_run(repository, output_run)
            values |= {"repository": str(opened.repository), "output_run": opened.name}
        filled = fill_parameters(_read(path), values)
        if not output.parent.is_dir():
            raise MissingData(f"the folder {output.parent} does not exist", hint="make it first")
        output.write_text(json.dumps(filled, indent=1, ensure_ascii=False) + "\n")
        print(f"{output}\n\nopen it   jupyter lab {output}\nrun it    nightlab notebook run {output}")


@app.command()
def run(
    notebook: TemplateArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the executed notebook goes.")] = None,
    parameter: ParameterOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run a notebook from top to bottom, with parameters of your own."""
    with exit_codes(verbose):
        path = Path(notebook) if notebook.endswith(".ipynb") else find_template(notebook)
        if not path.is_file():
            raise MissingData(f"there is no notebook {path}", hint="check the path")
        output = output or Path(f"{path.stem}_run.ipynb")
        try:
            import papermill  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise MissingData("papermill is not installed", hint="pip install 'nightlab[notebooks]'") from error
        known = _parameters(_read(path))
        values = _checked(_values(parameter), known)
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns otherwise
        try:
            papermill.execute_notebook(
                path, output, values, kernel_name=KERNEL, language="python",
                progress_bar=sys.stderr.isatty(), cwd=path.parent,
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            _trust(output)
            print(f"nightlab: cell {error.exec_count} stopped with {error.ename}: {error.evalue}", file=sys.stderr)
            print(f"  see {output}", file=sys.stderr)
            raise typer.Exit(FAILED) from None
        _trust(output)
        print(output)


def _trust(path: Path) -> None:
    """Sign what was run here: JupyterLab hides the pictures of what its user has neither run nor trusted."""
    import nbformat
    from nbformat.sign import NotebookNotary  # type: ignore[import-untyped]

    NotebookNotary().sign(nbformat.read(path, as_version=4))


def templates() -> dict[str, Path]:
    """Give the packaged notebooks by name, in the order they are read."""
    import nightlab

    package = Path(nightlab.__file__).parent
    for folder in (package / "_share" / "notebooks", package.parent.parent / "notebooks"):
        if folder.is_dir():
            return {_plain(path): path for path in sorted(folder.glob("[0-9]*_*.ipynb"))}
    return {}


def find_template(name: str) -> Path:
    """Find a template by its name, or by how that begins.

    Raises
    ------
    BadInput
        When none or several are meant.
    """
    known = templates()
    wanted = name.removesuffix(".ipynb").replace("-", "_")
    fitting = [key for key in known if key == wanted] or [key for key in known if key.startswith(wanted)]
    if len(fitting) != 1:
        raise BadInput(f"there is no template {name!r}", hint=f"there are {', '.join(known)}", name=name)
    return known[fitting[0]]


def fill_parameters(notebook: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Give a copy of a notebook whose parameters cell holds other values; comments and types stay.

    Raises
    ------
    BadInput
        When it has no such parameter, or the value is of another type.
    """
    filled = json.loads(json.dumps(notebook))
    cell = _parameters_cell(filled)
    known = _parameters(filled)
    checked = _checked(values, known)
    lines = []
    for line in "".join(cell["source"]).splitlines():
        match = _LINE.match(line)
        if match and match["name"] in checked:
            value = checked[match["name"]]
            literal = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
            line = f"{match['name']}: {match['type']} = {literal}{match['comment'] or ''}"
        lines.append(line)
    cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return filled


def _parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """Read names and defaults of a notebook's parameters."""
    matches = (_LINE.match(line) for line in "".join(_parameters_cell(notebook)["source"]).splitlines())
    return {match["name"]: ast.literal_eval(match["value"]) for match in matches if match}


def _parameters_cell(notebook: dict[str, Any]) -> dict[str, Any]:
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return cell
    raise BadInput("the notebook has no cell tagged parameters", hint="tag the cell that holds them")


def _checked(values: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Turn values into the types of the defaults."""
    out = {}
    for name, value in values.items():
        if name not in known:
            raise BadInput(f"the notebook has no parameter {name}", hint=f"it has {', '.join(known)}", name=name)
        kind = type(known[name])
        try:
            out[name] = _boolean(value) if kind is bool else kind(value)
        except ValueError as error:
            raise BadInput(f"{name} takes a value of type {kind.__name__}, not {value!r}", name=name) from error
    return out


def _boolean(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def _values(assignments: list[str] | None) -> dict[str, Any]:
    values = {}
    for assignment in assignments or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise BadInput(f"--parameter takes NAME=VALUE, not {assignment}")
        values[name] = value
    return values


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _title_and_goal(notebook: dict[str, Any]) -> tuple[str, str]:
    """Take the heading and the sentence below it from the first cell."""
    lines = [line.strip() for line in "".join(notebook["cells"][0]["source"]).splitlines() if line.strip()]
    return lines[0].lstrip("# "), lines[1].removeprefix("**Goal.** ")


def _plain(path: Path) -> str:
    return path.stem.partition("_")[2]
