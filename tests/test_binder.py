"""What a hub needs to open NightLab: files that agree, a start that hands over, servers that JupyterLab can find."""

import inspect
import json
import os
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

import nightlab
from nightlab.cli.notebook import _parameters
from nightlab.dashboards.explorer import EXPLORERS

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_can_be_run_and_are_sound(name):
    assert os.access(BINDER / name, os.X_OK)
    assert subprocess.run(["bash", "-n", BINDER / name], check=False).returncode == 0
    assert (BINDER / name).read_text().startswith("#!/usr/bin/env bash\n")


def test_start_caps_threads_and_hands_over_to_its_arguments():
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'], sys.argv[1])"
    done = subprocess.run([BINDER / "start", "python3", "-c", code, "two words"], capture_output=True, text=True)
    assert done.stdout == "1 1 two words\n"


def test_the_panel_proxy_serves_our_pages_and_nothing_else():
    # the proxy reads it so: every value a text
    config = yaml.load((BINDER / "jupyter-panel-proxy.yml").read_text(), Loader=yaml.BaseLoader)
    assert {Path(app).stem for app in config["apps"]} == {"start", *EXPLORERS}
    assert all((ROOT / app).is_file() for app in config["apps"])
    assert not config["dev"]
    assert "cp binder/jupyter-panel-proxy.yml ." in (BINDER / "postBuild").read_text()


def test_the_workspace_opens_a_notebook_that_is_there():
    workspace = json.loads((BINDER / "workspace.json").read_text())
    opened = [value["data"]["path"] for key, value in workspace["data"].items() if key.startswith("notebook:")]
    assert opened
    assert all((ROOT / path).is_file() for path in opened)


def test_the_build_makes_the_night_that_the_first_notebook_opens():
    made = inspect.signature(nightlab.demo_run).bind(size="tiny")
    made.apply_defaults()
    assert 'nightlab.demo_run(size="tiny")' in (BINDER / "postBuild").read_text()
    opened = _parameters(json.loads((ROOT / "notebooks" / "01_tour.ipynb").read_text()))
    assert (opened["data"], opened["run_size"], opened["repository"]) == (made.arguments["data"], "tiny", "")
    # the build runs at the root, a notebook in its own folder
    assert (ROOT / "notebooks" / opened["folder"]).resolve() == (ROOT / made.arguments["folder"]).resolve()


def test_jupyterlab_finds_a_server_and_a_tile_for_each_page():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    found = {point.name: point for point in entry_points(group="jupyter_serverproxy_servers")}
    ours = {name: found[name].load()() for name in wanted["jupyter_serverproxy_servers"]}
    pages = {entry["launcher_entry"]["path_info"].removeprefix("nightlab/") for entry in ours.values()}
    assert pages == {"", *EXPLORERS}
    for entry in ours.values():
        assert Path(entry["launcher_entry"]["icon_path"]).read_text().startswith("<svg")
        assert entry["absolute_url"]
        assert "{base_url}nightlab" in entry["command"]
