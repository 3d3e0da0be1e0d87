import shutil

import pytest
import toy_pipeline


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
