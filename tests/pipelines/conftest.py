import shutil

import pytest
import tiny_night
import toy_pipeline

from nightlab.pipelines import night
from nightlab.simulate import simulate_survey


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    return toy_pipeline.make_repository(tmp_path_factory.mktemp("toy") / "repo")


@pytest.fixture
def repo(made_once, tmp_path):
    """A fresh repository with raws, a bias and a reference catalogue."""
    return shutil.copytree(made_once, tmp_path / "repo")


@pytest.fixture
def pipeline(tmp_path):
    file = tmp_path / "Toy.yaml"
    file.write_text(toy_pipeline.YAML)
    return str(file)


@pytest.fixture(scope="session")
def survey(once):
    """Folder of the tiny simulated survey."""
    return once("tiny-survey", lambda folder: simulate_survey(folder / "survey", tiny_night.SURVEY)) / "survey"


@pytest.fixture(scope="session")
def with_templates(survey, once):
    """A repository of it in which Templates has run; copy it before writing into it."""

    def make(folder):
        made = night.run("Templates", "simulated", folder / "templates", survey=survey, jobs=1)
        assert made.report.ok, made.report.text()

    return once("tiny-templates", make) / "templates"


@pytest.fixture(scope="session")
def undisturbed(with_templates, tmp_path_factory):
    """A repository in which two workers have taken all visits through ApPipe; others may run into other runs of it."""
    folder = shutil.copytree(with_templates, tmp_path_factory.mktemp("night") / "undisturbed")
    made = night.run("ApPipe", repository=folder, jobs=2)
    assert made.report.ok, made.report.text()
    assert made.repository == folder
    assert made.templates is None
    assert made.report.done == made.report.total == 18
    return folder
