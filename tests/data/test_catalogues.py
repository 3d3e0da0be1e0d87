"""The catalogues themselves: what they promise, and what they refuse."""

import json
import re
from pathlib import Path

import intake
import numpy as np
import pytest
import yaml

import nightlab as nl
from nightlab.data import locate
from nightlab.data.manifests import manifest, manifest_names, read_manifest
from nightlab.data.sources.catalogue import entries
from nightlab.data.sources.check import State, data_sets, listed
from nightlab.data.sources.drivers import DRIVERS
from nightlab.data.sources.export import export_v2
from nightlab.errors import BadInput, CorruptFile, MissingData

CATALOGUE = nl.open_catalog()
ENTRIES = dict(entries(CATALOGUE))
ALERTS = {"rubin-alerts-v9", "ztf-alerts"}  # Avro, for which there is no reader yet


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data set and no repository is on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTLAB_DATA", str(tmp_path / "named"))
    monkeypatch.setattr(locate, "_checkout", lambda: tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_says_what_it_gives_in_which_unit_and_how_it_is_verified(name):
    told = ENTRIES[name].describe()
    assert len(told["description"]) > 10
    assert told["metadata"]["units"]
    assert told["metadata"]["gives"]
    data_set = told["args"].get("data_set")
    verified = f"sha256:{manifest(data_set).digest[:16]}" if data_set else "made here"
    assert told["metadata"]["checksum"] == verified
    assert all(parameter["description"] for parameter in told["user_parameters"])


def test_every_data_set_with_a_reader_has_an_entry():
    named = {entry.describe()["args"].get("data_set") for entry in ENTRIES.values()} - {None}
    assert named == set(manifest_names()) - ALERTS
    assert len(manifest_names()) == 17


@pytest.mark.parametrize("name", manifest_names())
def test_manifests_hold_plain_facts(name):
    found = manifest(name)
    assert found.name == name
    assert found.size > 1e5
    assert len({file.path for file in found.files}) == len(found.files) >= 6
    for file in found.files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size > 0
        assert file.url is None or re.match(
            r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/", file.url
        )


def test_files_without_an_address_are_the_ones_we_converted():
    assert [f.path for name in manifest_names() for f in manifest(name).files if f.url is None] == [
        "calib/hsc/brighter_fatter_kernel.npy"
    ]


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/file"])
def test_a_manifest_that_leaves_its_folder_is_refused(tmp_path, path):
    source = {"url": None, "files": [{"path": path, "bytes": 1, "sha256": ""}]}
    (tmp_path / "x.json").write_text(json.dumps({"name": "x", "title": "", "sources": [source]}))
    with pytest.raises(CorruptFile, match="outside"):
        read_manifest(tmp_path / "x.json")


def test_unknown_data_sets_are_refused():
    with pytest.raises(BadInput, match="no data set is called"):
        manifest("stripe83")


@pytest.mark.parametrize(
    ("entry", "values", "message"),
    [
        ("stripe82.corrected_frame", {"band": "y"}, "u, g, r, i, z"),
        ("stripe82.corrected_frame", {"run": 1}, "4192, 6377"),
        ("stripe82.corrected_frame", {"run": "abc def"}, "4192, 6377"),
        ("stripe82.corrected_frame", {"bnad": "r"}, "no parameter bnad"),
        ("stripe82.visit_image", {"pipeline": "SingleFrame"}, "ApPipe, Templates"),
        ("simulated.pair", {"size": 8}, "64"),
        ("simulated.pair", {"size": None, "seed": -1}, "less than 1"),
        ("hsc.positions", {"ccd": 9}, "0, 1, 2"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_read(nowhere, entry, values, message):
    with pytest.raises(BadInput) as caught:
        CATALOGUE[entry](**values)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["strip82", "stripe82.corected_frame", "nothing.at.all"])
def test_unknown_entries_are_refused_and_near_ones_named(name):
    with pytest.raises(BadInput, match="has no entry") as caught:
        CATALOGUE[name]
    assert isinstance(caught.value, KeyError)
    assert "stripe82" in str(caught.value) or "corrected_frame" in str(caught.value) or "nothing" in name
    with pytest.raises(AttributeError):
        CATALOGUE.strip82  # noqa: B018


def test_entries_are_found_by_dots_and_by_attributes():
    one, other = CATALOGUE["stripe82.corrected_frame"](band="g"), CATALOGUE.stripe82.corrected_frame(band="g")
    assert one.place == other.place
    assert "fpC-006377-g4-" in one.place.path
    assert nl.open_catalog("stripe82")["corrected_frame"](band="g").place == one.place


def test_catalogues_are_named_or_paths(tmp_path):
    with pytest.raises(BadInput, match="stripe82"):
        nl.open_catalog("stripe83")
    with pytest.raises(MissingData):
        nl.open_catalog(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("sources: [")
    with pytest.raises(CorruptFile, match=r"bad\.yaml"):
        nl.open_catalog(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("metadata: {version: 1}")
    with pytest.raises(CorruptFile, match="sources"):
        nl.open_catalog(tmp_path / "empty.yaml")


def test_a_missing_data_set_names_all_three_places_and_the_command(nowhere):
    with pytest.raises(MissingData) as caught:
        CATALOGUE["kids.galaxy"].read()
    for place in ("named/kids-galaxies", "shared/data/kids-galaxies", "nightlab/kids-galaxies"):
        assert place in caught.value.message
    assert "nightlab catalog fetch kids-galaxies" in caught.value.hint


@pytest.mark.parametrize(
    "name", [name for name in ENTRIES if name.startswith(("stripe82.dia", "simulated.visit", "simulated.raw"))]
)
def test_a_product_before_the_run_names_the_command_that_makes_it(nowhere, name):
    for read in ("read", "to_dask"):
        with pytest.raises(MissingData) as caught:
            getattr(CATALOGUE[name], read)()
        assert caught.value.hint == f"make it: nightlab run ApPipe --data {name.partition('.')[0]}"


def test_what_is_listed_says_what_is_missing(nowhere):
    rows = {row.name: row for row in listed(CATALOGUE)}
    assert rows.keys() == ENTRIES.keys()
    assert rows["simulated.pair"].state == State.OK
    assert rows["stripe82.metrics"].state == State.TO_MAKE
    assert rows["kids.galaxy"].state == State.TO_FETCH
    assert rows["stripe82.corrected_frame"].parameters == {"run": "4192 6377", "band": "u g r i z"}
    with pytest.raises(BadInput, match="nope"):
        list(listed(CATALOGUE, ["nope"]))


def test_data_sets_are_found_from_names_of_all_kinds():
    assert data_sets([], CATALOGUE) == manifest_names()
    assert data_sets(["stripe82"], CATALOGUE) == ["sdss-stripe82-demo"]
    assert data_sets(["decam", "kids.galaxy"], CATALOGUE) == [
        "decam-diffim-decorrelation", "decam-multiepoch-cutouts", "decals-depth-maps", "kids-galaxies",
    ]  # fmt: skip
    with pytest.raises(BadInput, match="needs no data set"):
        data_sets(["simulated.pair"], CATALOGUE)


def test_stock_intake_opens_the_same_catalogue():
    opened = intake.open_catalog(str(CATALOGUE.path))
    assert sorted(opened) == sorted(CATALOGUE)
    assert opened["kids"].galaxy(galaxy="G267199").place == CATALOGUE["kids.galaxy"](galaxy="G267199").place


def test_a_pair_is_drawn_on_the_spot_and_subtracts(nowhere):
    images = {name: CATALOGUE["simulated.pair"](image=name, size=300).read() for name in ("science", "template")}
    sources = nl.calibrate(images["science"]).source
    difference = nl.subtract(images["science"], images["template"], sources)
    found = nl.detect_dia_sources(difference.difference_image, images["science"], images["template"])
    # 16 sources changed; the faintest may be missed
    assert 13 <= len(found.dia_source_unassociated) <= 18
    later = CATALOGUE["simulated.pair"](size=300).to_dask()
    np.testing.assert_array_equal(later["image"].compute(), images["science"].image.array)


def own_catalogue(folder, **source):
    path = folder / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"metadata": {"version": 1}, "sources": {"thing": {"description": "mine", **source}}})
    )
    return path


def test_a_catalogue_of_ones_own_reads_beside_itself(tmp_path):
    np.save(tmp_path / "a_3.npy", np.arange(6.0).reshape(2, 3))
    path = own_catalogue(
        tmp_path,
        driver="nightlab_arrays",
        parameters={"n": {"description": "number", "type": "int", "default": 3, "min": 0, "max": 9}},
        args={"path": "{{ CATALOG_DIR }}a_{{ n }}.npy", "dims": {"values": ["y", "x"]}},
    )
    catalogue = nl.open_catalog(path)
    assert catalogue.thing.read()["values"].sizes == {"y": 2, "x": 3}
    with pytest.raises(MissingData, match=r"a_4\.npy"):
        catalogue.thing(n=4).read()
    (tmp_path / "v2.yaml").write_text(export_v2(catalogue))
    exported = intake.from_yaml_file(str(tmp_path / "v2.yaml"))
    np.testing.assert_array_equal(exported["thing"].read()["values"], np.arange(6.0).reshape(2, 3))


def test_export_lists_every_entry_and_refuses_wrong_values(tmp_path):
    (tmp_path / "v2.yaml").write_text(export_v2(CATALOGUE))
    exported = intake.from_yaml_file(str(tmp_path / "v2.yaml"))
    assert list(exported) == list(ENTRIES)
    assert len(exported) == len(ENTRIES) > 70
    drawn = exported(image="template", size=100, seed=3)["simulated.pair"].read()
    again = CATALOGUE["simulated.pair"](image="template", size=100, seed=3).read()
    np.testing.assert_array_equal(drawn.image.array, again.image.array)
    with pytest.raises(ValueError, match="validate"):
        exported(band="q")["stripe82.corrected_frame"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"driver": "csv", "args": {"urlpath": "x"}}, "csv"),
        ({"driver": "nightlab_table", "args": {"path": "{{ 'a' ~ n }}"}}, "computes"),
        (
            {
                "driver": "nightlab_table",
                "parameters": {"hdu": {"description": "x", "type": "int", "default": 1}},
                "args": {"path": "x", "hdu": "{{ hdu }}"},
            },
            "another name",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path, source, message):
    with pytest.raises(BadInput, match=message):
        export_v2(nl.open_catalog(own_catalogue(tmp_path, **source)))


def test_the_docs_name_every_entry_and_driver():
    told = (Path(__file__).parents[2] / "docs/data.md").read_text()
    for row in listed(CATALOGUE):
        assert f"| `{row.name}` | {row.gives} | {', '.join(row.parameters)} | {row.description} |" in told
    assert {driver.name for driver in DRIVERS} - {"nightlab_simulated"} <= set(re.findall(r"`(nightlab_\w+)`", told))
