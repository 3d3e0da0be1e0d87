"""Runs opened for reading: what they have, what they say when they lack something."""

import numpy as np
import pytest
from astropy.table import Table

import nightlab as nl
from nightlab.data.repository import make_repository
from nightlab.data.runs import Run, repositories, runs_in
from nightlab.errors import BadInput, MissingData


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two runs with one table per night, written without any pipeline."""
    from lsst.daf.butler import DatasetType

    root = tmp_path_factory.mktemp("runs") / "lab"
    butler = make_repository(root, "SimCam")
    kind = DatasetType("dia_object", butler.dimensions.conform(["instrument"]), "ArrowAstropy")
    butler.registry.registerDatasetType(kind)
    for name, rows in (("runs/ApPipe", 3), ("runs/other", 5)):
        butler.collections.register(name)
        butler.put(Table({"diaObjectId": np.arange(rows)}), kind, instrument="SimCam", run=name)
    butler.close()
    return root


def test_a_run_gives_its_products_by_name(repository):
    run = nl.open_run(repository)
    assert run.types() == {"dia_object": 1}
    assert len(run.get("dia_object")) == 3
    assert len(Run(repository, "runs/other").get("dia_object", instrument="SimCam")) == 5
    assert run.get("dia_object", parameters={"columns": ["diaObjectId"]}).colnames == ["diaObjectId"]


def test_runs_and_repositories_are_found_below_a_folder(repository):
    assert [run.name for run in runs_in(repository)] == ["runs/ApPipe", "runs/other"]
    assert repositories(repository.parent) == [repository]
    assert repositories(repository) == [repository]
    assert repositories(repository / "runs") == []


def test_keys_name_no_path(repository):
    run = nl.open_run(repository)
    assert run.key == "lab:runs/ApPipe"
    assert run.label == "lab · ApPipe"
    assert run == Run(repository, "runs/ApPipe") != Run(repository, "runs/other")


def test_a_missing_run_is_answered_with_those_there_are(repository):
    with pytest.raises(MissingData, match="has no run runs/none; it has runs/ApPipe, runs/other"):
        nl.open_run(repository, "runs/none")
    with pytest.raises(MissingData, match="no data repository"):
        nl.open_run(repository / "nowhere")


def test_a_missing_product_is_answered_with_what_there_is(repository):
    run = nl.open_run(repository)
    with pytest.raises(MissingData, match=r"has no visit_image of visit=3.*it has dia_object"):
        run.get("visit_image", visit=3)
    with pytest.raises(BadInput, match="visi is no dimension"):
        run.get("dia_object", visi=3)
    assert run.refs("dia_object", visit=3) == []


def test_without_a_prompt_database_light_curves_say_who_makes_one(repository):
    run = nl.open_run(repository)
    assert run.apdb is None
    with pytest.raises(MissingData, match=r"no prompt database.*ApPipe"):
        nl.light_curve(1, run)
    with pytest.raises(MissingData, match="no prompt database"):
        nl.cone_search(0.0, 0.0, 1.0, repository)


def test_a_run_without_visits_or_metrics_says_so(repository):
    run = nl.open_run(repository)
    assert len(run.visits()) == 0
    assert run.visits().colnames == ["visit", "detector", "band", "day_obs", "mjd", "detector_name"]
    with pytest.raises(MissingData, match="has no metrics"):
        nl.metrics(run)
