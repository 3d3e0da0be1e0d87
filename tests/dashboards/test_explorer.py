"""The floor of the explorers: state that travels, links, code, visible states, the library."""

import json
import zipfile
from typing import ClassVar

import numpy as np
import panel as pn
import param
import pytest
from astropy.table import Table

from nightlab.dashboards.explorer import EXPLORERS, Explorer, explorer_class
from nightlab.dashboards.library import Library
from nightlab.dashboards.states import EmptyState, Nothing, Pane, Reason
from nightlab.data.repository import open_repository
from nightlab.data.runs import Run, runs_in
from nightlab.errors import BadInput, MissingData, TooFewStars


class Toy(Explorer):
    """An explorer with one parameter of each kind that states are made of."""

    slug = "toy"
    title = "Toy"
    summary = "Shows nothing."
    remembered = ("visit", "object_id", "view", "band", "masks", "sigma", "grid")
    in_url = ("visit", "object_id", "view", "grid")
    keys: ClassVar = {"n": ("next", "next visit")}

    visit = param.Integer(0)
    object_id = param.String("")
    view = param.NumericTuple((0.0, 0.0, 1.0))
    band = param.Selector(default="r", objects=["g", "r", "i"])
    masks = param.List(default=[])
    sigma = param.Number(5.0)
    grid = param.Boolean(False)

    def next(self):
        self.visit += 1

    def main(self):
        return pn.Column("body")

    def table(self):
        return Table({"visit": [self.visit]})


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two repositories of one folder name, each with a run."""
    from nightlab.data.repository import make_repository

    root = tmp_path_factory.mktemp("library")
    for place in ("one/lab", "two/lab"):
        butler = make_repository(root / place, "SimCam")
        butler.collections.register("runs/ApPipe")
        butler.close()
    return Library.below(root)


CHANGED = {
    "visit": 2**60 + 1,
    "object_id": str(2**60 + 1),
    "view": (10.5, 20.25, 300.0),
    "band": "i",
    "masks": ["SATURATED", "CR"],
    "sigma": 3.5,
    "grid": True,
}


def test_a_state_survives_json_to_the_last_digit(library):
    toy = Toy(library=library, run=library["lab:runs/ApPipe"], **CHANGED)
    back = Toy.from_state(json.loads(json.dumps(toy.state())), library)
    assert back.state() == toy.state()
    assert {name: getattr(back, name) for name in CHANGED} == CHANGED
    assert back.run == toy.run
    assert back.refused == []


def test_a_link_carries_the_short_state_and_no_path(library):
    toy = Toy(library=library, run=library["lab:runs/ApPipe"], other=library["lab~2:runs/ApPipe"], **CHANGED)
    query = toy.query()
    assert set(query) == {"run", "b", *Toy.in_url}
    assert not any("/" in value and value.startswith("/") for value in query.values())
    back = Toy.from_query(query, library)
    assert back.query() == query
    assert (back.run, back.other) == (toy.run, toy.other)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"run": "/etc:passwd"}, "there is no run '/etc:passwd'"),
        ({"visit": "__import__('os')"}, "visit"),
        ({"visit": "[1, 2]"}, "visit"),
        ({"view": "[1]"}, "view"),
        ({"view": '["a", 2, 3]'}, "view"),
        ({"grid": "maybe"}, "grid"),
    ],
)
def test_a_link_that_makes_no_sense_is_told_and_changes_nothing(library, query, told):
    toy = Toy.from_query(query, library)
    assert len(toy.refused) == 1
    assert told in toy.refused[0]
    assert all(getattr(toy, name) == Toy.param[name].default for name in Toy.remembered)
    assert toy.header() is not None


def test_an_unknown_name_in_a_link_is_ignored(library):
    assert Toy.from_query({"library": "x", "visit": "3", "sigma": "9"}, library).state()["sigma"] == 5.0


def test_code_rebuilds_the_view(library, monkeypatch):
    toy = Toy(library=library, run=library["lab:runs/ApPipe"], **CHANGED)
    lines = toy.as_code().replace(f"from {Toy.__module__} import Toy", "").splitlines()
    scope = {"Toy": Toy}
    exec("\n".join(lines[:-1]), scope)
    rebuilt = eval(lines[-1], scope)
    assert {name: rebuilt.state()[name] for name in Toy.remembered} == {
        name: toy.state()[name] for name in Toy.remembered
    }
    assert rebuilt.run == toy.run


def test_numbers_that_json_lacks_become_none(library):
    toy = Toy(library=library, sigma=float("nan"))
    assert toy.state()["sigma"] is None
    assert Toy.from_state(toy.state(), library).sigma == 5.0


def test_a_state_of_another_explorer_is_refused(library):
    with pytest.raises(BadInput, match="state of 'images', not of 'toy'"):
        Toy.from_state({"explorer": "images"}, library)


def test_saving_packs_state_code_and_table(library):
    with zipfile.ZipFile(Toy(library=library, visit=7).bundle()) as packed:
        assert set(packed.namelist()) == {"state.json", "view.py", "table.ecsv"}
        assert json.loads(packed.read("state.json"))["visit"] == 7
        assert "visit=7" in packed.read("view.py").decode()


def test_keys_call_what_they_stand_for(library):
    toy = Toy(library=library)
    toy.press("n")
    toy.press("x")
    assert toy.visit == 1


def test_repositories_of_one_name_get_keys_of_their_own(library):
    assert sorted(library) == ["lab:runs/ApPipe", "lab~2:runs/ApPipe"]
    first, second = (library[key] for key in library)
    assert first.repository != second.repository
    assert library.key_of(second) == "lab~2:runs/ApPipe"
    assert library.key_of(None) == ""
    with pytest.raises(MissingData, match="there is no run 'x' here"):
        library["x"]


def test_a_damaged_repository_does_not_hide_the_others(tmp_path):
    from nightlab.data.repository import make_repository

    make_repository(tmp_path / "good", "SimCam").collections.register("runs/one")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "butler.yaml").write_text("nonsense: [")
    library = Library.below(tmp_path)
    assert list(library) == ["good:runs/one"]
    assert list(library.broken) == ["bad"]


def test_a_new_run_is_found_and_what_has_not_changed_is_not_opened_again(tmp_path, monkeypatch):
    from nightlab.dashboards import library as module
    from nightlab.data.repository import make_repository

    for place in ("one", "two"):
        butler = make_repository(tmp_path / place, "SimCam")
        butler.collections.register("runs/first")
        butler.close()
    library = Library.below(tmp_path)
    library.refresh()
    assert list(library) == ["one:runs/first", "two:runs/first"]
    opened = []
    monkeypatch.setattr(module, "runs_in", lambda repository: opened.append(repository.name) or runs_in(repository))
    library.refresh()
    assert opened == []
    butler = open_repository(tmp_path / "two", writeable=True)
    butler.collections.register("runs/second")
    butler.close()
    library.refresh()
    assert opened == ["two"]
    assert list(library) == ["one:runs/first", "two:runs/first", "two:runs/second"]


def test_a_pane_says_what_state_it_is_in():
    pane = Pane("the difference image")
    assert pane.state == "empty"
    with pane.guarded("Reading"):
        assert pane.state == "loading"
        pane.ready(pn.pane.Str("here"))
    assert pane.state == "ready"
    with pane.guarded():
        raise Nothing(Reason.ALL_NAN, "Every pixel is NaN.", "Look at the mask.")
    assert pane.shown == EmptyState(Reason.ALL_NAN, "Every pixel is NaN.", "Look at the mask.")
    with pane.guarded():
        raise MissingData("no file", hint="make it")
    assert (pane.state, pane.shown.reason) == ("empty", Reason.FILE_MISSING)
    with pane.guarded():
        raise TooFewStars("2 stars, 9 needed", hint="lower snr_min")
    assert pane.state == "error"


def test_what_goes_wrong_is_escaped_and_folded():
    pane = Pane()
    with pane.guarded():
        np.zeros(3)[7] + len("<script>")
    text = pane._body.objects[0].object
    assert "IndexError" in text
    assert "<details>" in text
    with pane.guarded():
        raise ValueError("<script>alert(1)</script>")
    assert "<script>" not in pane._body.objects[0].object


@pytest.mark.parametrize("slug", EXPLORERS)
def test_every_explorer_keeps_the_contract(slug, library):
    explorer = explorer_class(slug)
    assert issubclass(explorer, Explorer)
    assert explorer.slug == slug
    assert explorer.title
    assert explorer.summary.endswith(".")
    assert set(explorer.in_url) <= set(explorer.remembered) <= set(explorer.param)
    assert all(callable(getattr(explorer, method)) for method, _ in explorer.keys.values())
    assert all((explorer.param[name].doc or "").strip() for name in explorer.remembered)
    empty = explorer.from_query({}, library)
    assert json.loads(json.dumps(empty.state()))["explorer"] == slug
    assert explorer.from_state(empty.state(), library).state() == empty.state()
    assert empty.__panel__() is not None


def test_an_unknown_explorer_is_answered_with_the_known_ones():
    with pytest.raises(BadInput, match="overview, images, dia, metrics, workbench"):
        explorer_class("nothing")


def test_runs_are_equal_by_place_and_name(library):
    run = library["lab:runs/ApPipe"]
    assert run == Run(run.repository)
    assert Run(run.repository) in {run}
