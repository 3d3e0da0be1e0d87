"""Real sky from the pages: a run of Stripe 82 that is watched, cancelled and taken up, and a call on the workbench."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import psutil
import pytest
import xarray as xr
from lsst.images import MaskedImage
from serving import serving, wait_until

from nightlab.data.runs import open_run
from nightlab.images.footprints import Footprints

# the first of them makes what all of them start from
pytestmark = [pytest.mark.nightly, pytest.mark.real_data, pytest.mark.timeout(1800)]

PATIENCE = 600_000  # ms; of one band on a busy machine
OURS = ("nightlab.dashboards.errands", "nightlab.pipelines.worker")


def linked(source, target):
    """Copy what programs change in place; images they only replace."""
    (os.link if source.endswith(".fits") else shutil.copy2)(source, target)


@pytest.fixture(scope="module")
def lab(stripe82_night, tmp_path_factory):
    """A copy of the finished band that may be written to."""
    return shutil.copytree(stripe82_night, tmp_path_factory.mktemp("page") / "stripe82", copy_function=linked)


@pytest.fixture(scope="module")
def address(lab, tmp_path_factory):
    with serving(str(lab), "--lifetime", "2", cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


def opened(tab, address):
    tab.goto(f"{address}/overview?run=stripe82%3Aruns%2FApPipe", timeout=120_000)
    tab.get_by_role("button", name="● calibrate").wait_for(timeout=120_000)


def ask(tab, pipeline, output, processes):
    """Say what is to be run, with the keyboard."""
    chosen = tab.get_by_label("pipeline", exact=True)
    if chosen.input_value() != pipeline:
        chosen.focus()
        tab.keyboard.type(pipeline)
    fields = (("output run", output), ("which data", "band = 'r'"), ("processes", str(processes)))
    for title, text in fields:
        tab.get_by_label(title, exact=True).fill(text)
        tab.keyboard.press("Tab")
    assert chosen.input_value() == pipeline


def button(tab, name):
    return tab.get_by_role("button", name=name, exact=True)


def settled(tab):
    """How many quanta the page says are settled, and of how many."""
    found = re.findall(r"(\d+) of (\d+)", " ".join(tab.locator("[role=status]").all_inner_texts()))
    return tuple(map(int, found[-1])) if found else None


def workers():
    """Processes that work for pages."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(name in part for part in child.cmdline() for name in OURS):
                found.add(child)
    return found


def same(one, other):
    """Compare two products bit for bit; there must be something in them."""
    assert type(one) is type(other)
    if isinstance(one, MaskedImage):
        assert one.image.array.size > 1e6
        assert np.isfinite(one.image.array).any()
        for plane in ("image", "variance", "mask"):
            assert getattr(one, plane).array.tobytes() == getattr(other, plane).array.tobytes(), plane
        assert one.mask.schema == other.mask.schema
    elif isinstance(one, xr.Dataset):
        assert one.data_vars
        xr.testing.assert_equal(one, other)
        # a target that is not there is NaN, which is not equal to itself
        assert repr(one.to_dict(data=False)) == repr(other.to_dict(data=False))
    elif isinstance(one, Footprints):
        assert len(one)
        for ours, theirs in zip(one.to_tables(), other.to_tables(), strict=True):
            same(ours, theirs)
    else:
        assert one.colnames
        assert len(one) == len(other)
        assert one.colnames == other.colnames
        for name in one.colnames:
            assert one[name].dtype == other[name].dtype
            assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name


def compared(lab, output, names=None):
    """Compare all products of two runs, and give how many there were of each type."""
    command, page = open_run(lab), open_run(lab, output)
    kinds = command.types() if names is None else names
    for name in kinds:
        refs = command.refs(name)
        assert len(refs) == len(page.refs(name)) > 0
        for ref in refs:
            where = {key: ref.dataId[key] for key in ref.dataId.dimensions.required}
            same(command.get(name, **where), page.get(name, **where))
    return page.types()


def test_a_run_from_the_page_is_watched_cancelled_taken_up_and_is_that_of_the_command_line(tab, address, lab):
    opened(tab, address)
    ask(tab, "ApPipe", "runs/page", 2)
    button(tab, "Run").click()
    seen = set()

    def moved():
        seen.add(settled(tab))
        return len(seen - {None}) > 2

    wait_until(moved, PATIENCE / 1000, every=0.05)
    running = workers()
    assert running
    button(tab, "Cancel").click()
    tab.get_by_text("cancelled; what is whole stays").wait_for(timeout=10_000)
    wait_until(lambda: not any(process.is_running() for process in running), 10)
    wait_until(lambda: not list(Path(lab, "runs", "page").rglob("*.tmp*")), 10)
    made = sum(open_run(lab, "runs/page").types().values())
    assert 0 < made < sum(open_run(lab).types().values())
    button(tab, "Run").click()
    tab.get_by_text(re.compile("^finished")).wait_for(timeout=PATIENCE)
    assert compared(lab, "runs/page") == open_run(lab).types()
    wait_until(lambda: parse_qs(urlparse(tab.evaluate("location.href")).query)["run"] == ["stripe82:runs/page"])


def test_one_stage_from_the_page_reads_what_the_command_line_made_before_it(tab, address, lab):
    opened(tab, address)
    ask(tab, "ApPipe#subtract", "runs/one-stage", 1)
    button(tab, "Run").click()
    tab.get_by_text(re.compile("^finished")).wait_for(timeout=PATIENCE)
    made = compared(lab, "runs/one-stage", ["difference_image", "difference_metrics"])
    assert made == {"difference_image": 1, "difference_metrics": 1}


def test_a_call_on_the_workbench_gives_the_pipelines_difference(tab, lab, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(str(lab), cache=tmp_path / "cache") as address:
        tab.goto(f"{address}/workbench?run=stripe82%3Aruns%2FApPipe")
        button(tab, "Run").click()
        tab.get_by_text("done ·").wait_for(timeout=PATIENCE)
        tab.locator("canvas").first.wait_for()
        [made] = tmp_path.glob("nightlab-bench-*/1-difference_image.fits")
        pipelines = open_run(lab).get("difference_image")
        same(type(pipelines).read(str(made)), pipelines)
