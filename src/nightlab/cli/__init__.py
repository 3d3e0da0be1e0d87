"""The command line. ``nightlab --help`` lists the commands; each lives in the module of its kind.

Exit codes: 0 done, 1 a stage failed, 2 usage, 3 data missing, 4 a target was missed.
"""

from typing import Annotated

import typer

from nightlab import __version__
from nightlab.cli import catalog, doctor, metrics, notebook, run, serve, stages

app = typer.Typer(
    name="nightlab",
    help="A laboratory for a survey telescope's night.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    run.subtract,
    run.simulate,
    stages.stages,
    run.demo,
    doctor.doctor,
    serve.serve,
):
    app.command()(command)
app.add_typer(catalog.app, name="catalog")
app.add_typer(metrics.app, name="metrics")
app.add_typer(notebook.app, name="notebook")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Enter the command line."""
    app()
