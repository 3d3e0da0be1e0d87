"""Explorers in JupyterLab: in a cell, from the launcher, through Panel's proxy; at the root and behind a hub."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from serving import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: The left half of a difference is below zero, the right half above.
CELL = """\
import numpy as np
from nightlab.dashboards.images import ImagePanes, as_layer
from nightlab.dashboards.setup import setup_notebook
setup_notebook()
pixels = np.full((40, 60), 5.0, np.float32)
pixels[:, :30] = -5.0
ImagePanes({"difference": as_layer(pixels, kind="difference")})
"""
#: Where the red and the blue pixels of all canvases are: how many, and between which columns of the window.
COLOURS = """() => {
  const seen = {red: [], blue: []}
  const walk = (root) => { for (const e of root.querySelectorAll("*")) {
    if (e.tagName === "CANVAS" && e.width && e.height) {
      const box = e.getBoundingClientRect()
      const p = e.getContext("2d")?.getImageData(0, 0, e.width, e.height).data ?? []
      for (let i = 0; i < p.length; i += 4) {
        const [red, blue] = [p[i] > p[i + 2] + 25, p[i + 2] > p[i] + 25]
        if (p[i + 3] === 255 && (red || blue))
          seen[red ? "red" : "blue"].push(box.x + (i / 4 % e.width) * box.width / e.width)
      }
    }
    if (e.shadowRoot) walk(e.shadowRoot)
  } }
  walk(document)
  const summary = (x) => ({count: x.length, middle: x.sort((a, b) => a - b)[x.length >> 1] ?? NaN})
  return {red: summary(seen.red), blue: summary(seen.blue)}
}"""


@contextlib.contextmanager
def jupyterlab(folder, base, home):
    """Run JupyterLab in a folder, and give its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--port-retries=0", "--IdentityProvider.token=", f"--ServerApp.base_url={base}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"),
                   "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
    environment.pop("XDG_RUNTIME_DIR", None)
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://localhost:{port}{base}"

    def answers():
        assert server.poll() is None, (home / "lab.log").read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return urllib.request.urlopen(address + "api/status", timeout=5).status == 200

    try:
        wait_until(answers, seconds=90)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def notebook(path):
    """Write a notebook with one cell."""
    cell = {"cell_type": "code", "id": "only", "source": CELL, "outputs": [], "execution_count": None, "metadata": {}}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """JupyterLab as one starts it on a laptop."""
    folder = tmp_path_factory.mktemp("plain")
    notebook(folder / "pixels.ipynb")
    with jupyterlab(folder, "/", tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture(scope="module")
def hub(tmp_path_factory, night):
    """JupyterLab as a hub starts it for its user, in a folder that holds a finished night and what Binder has."""
    folder = tmp_path_factory.mktemp("hub")
    notebook(folder / "pixels.ipynb")
    shutil.copytree(night, folder / "lab")
    shutil.copytree(ROOT / "binder" / "apps", folder / "binder" / "apps")
    shutil.copy(ROOT / "binder" / "jupyter-panel-proxy.yml", folder)
    with jupyterlab(folder, "/user/demo/", tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture
def hosts(tab):
    """Names of the machines a tab has asked for anything; what is inlined has none."""
    asked = set()
    tab.on("request", lambda request: asked.update(filter(None, [urllib.parse.urlsplit(request.url).hostname])))
    return asked


def red_and_blue(frame, at_least):
    """Wait until both colours of a difference are drawn, and give where they are."""

    def drawn():
        seen = frame.evaluate(COLOURS)
        return seen if min(seen["red"]["count"], seen["blue"]["count"]) >= at_least else None

    seen = wait_until(drawn, seconds=120, every=0.5)
    assert "could not load resources" not in frame.content()
    return seen["red"], seen["blue"]


def run_the_cell(tab, address):
    """Open the notebook, run its cell, and look at what it draws."""
    tab.goto(address + "lab/tree/pixels.ipynb")
    tab.locator(".jp-CodeCell .cm-content").first.click(timeout=60_000)
    tab.keyboard.press("Shift+Enter")
    red, blue = red_and_blue(tab, at_least=20_000)
    assert blue["middle"] < red["middle"]  # below zero is blue, and on the left
    # each covers half of the image
    assert red["count"] == pytest.approx(blue["count"], rel=0.05)
    assert tab.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0


@pytest.mark.parametrize("place", ["plain", "hub"])
def test_an_explorer_in_a_cell_draws_its_pixels_also_in_a_tab_opened_anew(tab, hosts, place, request):
    address = request.getfixturevalue(place)
    tab.on("dialog", lambda dialog: dialog.accept())  # leave without saving
    run_the_cell(tab, address)
    run_the_cell(tab, address)  # by the same kernel, which has loaded its part already
    assert hosts == {"localhost"}


def test_a_tile_of_the_launcher_opens_a_page_behind_a_hub(tab, hosts, hub):
    tab.goto(hub + "lab/workspaces/empty")
    tab.locator(".jp-LauncherCard[title='Images and differences']").click(timeout=60_000)
    frame = tab.locator("iframe").element_handle(timeout=60_000).content_frame()
    red_and_blue(frame, at_least=2000)
    assert frame.url.startswith(hub + "nightlab/images")
    assert hosts == {"localhost"}


def test_a_page_opens_through_the_proxy_of_panel(tab, hosts, hub):
    tab.goto(hub + "panel/images", timeout=120_000)
    red_and_blue(tab, at_least=2000)
    # asked of the page, since the driver hears of its address only while it is used
    wait_until(lambda: tab.evaluate("location.href").startswith(hub + "panel/images?run=simulated"))
    assert hosts == {"localhost"}
