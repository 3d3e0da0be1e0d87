"""Every notebook says what it is for, is stripped, and runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIELDS = ("Goal.", "Data products.", "Packages.", "Time and memory.", "Help.")


def cells(path):
    return json.loads(path.read_text())["cells"]


def text(cell):
    return "".join(cell["source"])


def test_there_is_one_for_every_system():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_is_for_and_takes_parameters(path):
    first, second = cells(path)[:2]
    assert [line for cell in cells(path) if cell["cell_type"] == "markdown" for line in text(cell).splitlines()
            if line.startswith("# ")] == [text(first).splitlines()[0]]  # fmt: skip
    assert [field for field in FIELDS if f"**{field}**" in text(first)] == list(FIELDS)
    assert second["metadata"]["tags"] == ["parameters"]
    assert 'run_size: str = "tiny"' in text(second)
    assert all(": " in line and "  # " in line for line in text(second).splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_checks_what_it_says(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert sum("assert " in text(cell) for cell in code) >= 2
    assert any("pn." in text(cell) or "Explorer" in text(cell) or "Viewer" in text(cell) for cell in code)


def execute(path, folder, **parameters):
    """Run a notebook in a process of its own, as papermill's users do."""
    given = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    made = subprocess.run(
        [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar", str(path), str(folder / path.name),
         "-p", "folder", str(folder / "data"), "-p", "jobs", "1", *given],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    outputs = [out for cell in cells(folder / path.name) if cell["cell_type"] == "code" for out in cell["outputs"]]
    assert any("application/vnd.holoviews_load.v0+json" in out.get("data", {}) or "text/html" in out.get("data", {})
               for out in outputs)  # fmt: skip
    assert not [out for out in outputs if out["output_type"] == "stream" and out["name"] == "stderr"
                and "Warning" in text({"source": out["text"]})]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("value", "stops"), [(2, False), (3, True)])
def test_what_the_command_has_run_is_trusted_so_that_its_pictures_show(tmp_path, value, stops):
    import nbformat
    from nbformat.sign import NotebookNotary

    cell = nbformat.v4.new_code_cell("number: int = 1  # a number", metadata={"tags": ["parameters"]})
    written = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("assert number < 3\nnumber")])
    nbformat.write(written, tmp_path / "small.ipynb")
    command = ["notebook", "run", "small.ipynb", "-p", f"number={value}", "-o", "made.ipynb"]
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}
    made = subprocess.run(
        [sys.executable, "-m", "nightlab.cli", *command],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert made.returncode == int(stops), made.stderr
    notary = NotebookNotary(data_dir=str(tmp_path / "jupyter"))
    assert notary.check_signature(nbformat.read(tmp_path / "made.ipynb", as_version=4))
    assert not notary.check_signature(nbformat.read(tmp_path / "small.ipynb", as_version=4))


@pytest.mark.slow
def test_the_first_notebook_runs_the_pipelines_itself(tmp_path):
    execute(NOTEBOOKS[0], tmp_path, run_size="tiny")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_finished_run(path, tmp_path, night):
    execute(path, tmp_path, repository=shutil.copytree(night, tmp_path / "lab"))


@pytest.mark.nightly
@pytest.mark.real_data
def test_differencing_runs_on_stripe82(tmp_path, stripe82_night):
    execute(FOLDER / "03_differencing.ipynb", tmp_path, repository=stripe82_night)
