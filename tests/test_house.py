"""The house keeps its own rules: sizes, floors, documented verbs, files that must agree."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nightlab
from nightlab.config import Config
from nightlab.errors import MissingData, NightLabError, TooFewStars

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src/nightlab").rglob("*.py"))
LISTING = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
TRACKED = [ROOT / name for name in LISTING.stdout.split()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_and_functions_can_be_read_in_one_breath(path):
    text = path.read_text()
    assert text.count("\n") <= 700
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 100
    }
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_error_is_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert not all(isinstance(statement, ast.Pass) for statement in node.body), f"line {node.lineno}"
            assert node.type is not None, f"bare except at line {node.lineno}"


@pytest.mark.parametrize("file", ["environment.yml", "binder/environment.yml"])
def test_environments_are_in_step_with_pyproject(file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"^ {6}- ([A-Za-z][^\n]*)$", (ROOT / file).read_text(), flags=re.MULTILINE)
    assert listed == [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    assert f"python={(ROOT / '.python-version').read_text().strip()}" in (ROOT / file).read_text()


def test_constraints_are_names_and_versions_only_and_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[ ]", requirement)[0]).lower() for requirement in wanted}
    assert names - {"nightlab"} <= pinned


def test_import_is_lean_and_lazy():
    heavy = ["astropy", "scipy", "numba", "numpy", "lsst", "panel", "holoviews", "xarray", "galsim"]
    code = f"import sys, nightlab; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in nightlab.__all__ if not name.startswith("_")])
def test_every_public_name_exists_and_is_documented(name):
    thing = getattr(nightlab, name)
    assert len(inspect.getdoc(thing) or "") > 40


def test_no_public_name_is_also_a_package():
    rooms = {path.stem for path in (ROOT / "src/nightlab").iterdir()}
    assert not rooms & set(nightlab.__all__)


@pytest.mark.parametrize("name", [name for name in nightlab.__all__ if name.endswith("Config")])
def test_every_knob_is_described_and_every_config_survives_json(name):
    config = getattr(nightlab, name)
    assert issubclass(config, Config)
    for field, info in config.model_fields.items():
        assert info.description, field
    assert config.model_validate_json(config().model_dump_json()) == config()


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match="calibrate"):
        _ = nightlab.callibrate


def test_errors_travel_between_processes_with_facts_and_hint():
    import pickle

    error = TooFewStars("needs 9, found 2", hint="lower `snr_min`", found=2, needed=9)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is TooFewStars
    assert str(back) == "needs 9, found 2 (lower `snr_min`)"
    assert back.facts == {"found": 2, "needed": 9}
    assert issubclass(MissingData, FileNotFoundError)
    assert issubclass(MissingData, NightLabError)


def test_no_large_file_and_no_lock_file_is_tracked():
    for path in TRACKED:
        if path.exists():
            assert path.stat().st_size < 1_000_000, path
            assert path.name not in {"uv.lock", "package-lock.json", "poetry.lock", "yarn.lock"}


def test_notebooks_carry_no_outputs():
    import json

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs"), path
