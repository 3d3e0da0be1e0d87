import pytest

from nightlab.data import locate
from nightlab.errors import MissingData


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three places, none of which exists yet, in the order they are searched."""
    checkout = tmp_path / "checkout"
    monkeypatch.setenv("NIGHTLAB_DATA", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locate, "_checkout", lambda: checkout)
    return [
        tmp_path / "named/sdss-stripe82-demo",
        tmp_path / "shared/data/sdss-stripe82-demo",
        tmp_path / "cache/nightlab/sdss-stripe82-demo",
    ]


def test_places_are_searched_in_order(places):
    for place in reversed(places):
        place.mkdir(parents=True)
        assert locate.data_set("stripe82") == place
        assert locate.data_set("sdss-stripe82-demo") == place


def test_an_absent_data_set_names_all_three_places(places):
    with pytest.raises(MissingData, match="sdss-stripe82-demo") as caught:
        locate.data_set("stripe82")
    for place in places:
        assert str(place) in str(caught.value)


def test_unset_variable_is_said(places, monkeypatch):
    monkeypatch.delenv("NIGHTLAB_DATA")
    with pytest.raises(MissingData, match="NIGHTLAB_DATA is not set"):
        locate.data_set("stripe82")


def test_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate.cache_folder() == tmp_path / ".cache/nightlab"


@pytest.mark.parametrize("name", ["", "..", "../etc", "a/b"])
def test_names_are_not_paths(name):
    with pytest.raises(MissingData):
        locate.data_set(name)


def test_checkout_is_found_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "src/nightlab").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr(locate, "__file__", "/usr/lib/python3/site-packages/nightlab/data/locate.py")
    assert locate._checkout() == tmp_path
