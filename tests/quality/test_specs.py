import importlib
import math
import pkgutil

import astropy.units as u
import pytest

import nightlab.stages
from nightlab.errors import BadInput, MissingData
from nightlab.quality import LEVELS, Spec, house_specs, judge, load_specs, summarise, unmatched, verdicts
from nightlab.quality.verdicts import target_text
from nightlab.report import Metric, report

GOOD = "a.b:\n  sense: lower\n  unit: mag\n  minimum: 3\n  design: 2\n  stretch: 1\n  why: Because.\n"


def declared():
    """Every metric of every stage by full name, as the stages' modules declare them."""
    rooms = {
        "single_frame": ("single_frame.metrics", "METRICS"),
        "template": ("templates.build", "BUILD_METRICS"),
        "template_detector": ("templates.warped", "WARP_METRICS"),
        "difference": ("differencing.subtract", "METRICS"),
        "dia_source": ("differencing.detect", "METRICS"),
        "association": ("association.associate", "METRICS"),
        "forced": ("association.forced", "METRICS"),
    }
    return {
        f"{room}.{name}": metric
        for room, (module, table) in rooms.items()
        for name, metric in getattr(importlib.import_module(f"nightlab.stages.{module}"), table).items()
    }


def test_every_spec_has_a_metric_in_its_unit_and_says_why():
    metrics = declared()
    assert len(house_specs()) > 20
    for name, spec in house_specs().items():
        assert name in metrics, f"no stage measures {name}"
        assert spec.unit == metrics[name].unit, name
        assert spec.why.endswith("."), name


def test_every_table_of_metrics_in_the_stages_belongs_to_a_room_above():
    tables = [
        value
        for module in pkgutil.walk_packages(nightlab.stages.__path__, "nightlab.stages.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, dict) and value and all(isinstance(v, Metric) for v in value.values())
    ]
    known = declared()
    assert tables
    assert {id(metric) for table in tables for metric in table.values()} <= {id(metric) for metric in known.values()}


def test_every_unit_is_one_that_astropy_knows():
    for name, metric in declared().items():
        assert u.Unit(metric.unit) is not None, name


def test_what_rides_on_an_array_is_the_minimum_spec():
    spec = house_specs()["difference.noise_ratio"]
    made = report({"noise_ratio": Metric("x")}, {"noise_ratio": 1.0}, room="difference", visit=1)
    assert made["noise_ratio"].attrs == {"description": "x", "unit": "", **spec.attrs()}
    assert spec.attrs() == {"target": 1.0, "sense": "near", "tolerance": spec.minimum}
    assert report({"noise_ratio": Metric("x")}, {}, visit=1)["noise_ratio"].attrs["sense"] == "none"


@pytest.mark.parametrize(
    ("sense", "edges", "value", "passes"),
    [
        ("lower", (3.0, 2.0, 1.0), 1.5, (True, True, False)),
        ("higher", (1.0, 2.0, 3.0), 2.0, (True, True, False)),
        ("near", (0.3, 0.2, 0.1), 0.75, (True, False, False)),
    ],
)
def test_levels_get_harder(sense, edges, value, passes):
    target = 1.0 if sense == "near" else math.nan
    spec = Spec(metric="a.b", sense=sense, minimum=edges[0], design=edges[1], stretch=edges[2], target=target)
    for level, good in zip(LEVELS, passes, strict=True):
        assert judge(value, spec.attrs(level)) == ("pass" if good else "fail")
        low, high = spec.limits(level)
        assert (low <= value <= high) == good
    assert judge(math.nan, spec.attrs()) == "unknown"


def test_a_level_and_specs_of_ones_own_can_be_chosen(tmp_path):
    made = report({"b": Metric("x", "mag")}, {"b": 1.5}, room="a", visit=1, detector=0)
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    mine = load_specs(path)
    assert list(verdicts(made, level="design", specs=mine)["verdict"]) == ["pass"]
    row = summarise(made, level="stretch", specs=mine)[0]
    assert (row["verdict"], row["target"], row["worst"]) == ("fail", "<= 1", 1.5)
    # without a spec it is held against what rides on it, here nothing
    assert list(summarise(made, level="stretch")["verdict"]) == ["none"]


def test_a_spec_in_another_unit_than_its_metric_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    made = report({"b": Metric("x", "mmag")}, {"b": 1.5}, room="a", visit=1)
    with pytest.raises(BadInput, match=r"a\.b is measured in mmag and its spec is in mag"):
        summarise(made, specs=load_specs(path))


def test_specs_without_metric_and_metrics_without_spec_are_both_listed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    made = report({"c": Metric("x")}, {"c": 1.0}, visit=1).rename(c="a.c")
    assert unmatched(made, load_specs(path)) == (["a.b"], ["a.c"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.b: 3", "is not a mapping"),
        ("- a", "no specs by metric name"),
        ("a: [", "is not YAML"),
        (GOOD.replace("lower", "upper"), "sense is 'upper'"),
        (GOOD.replace("design: 2", "design: 4"), "get harder"),
        (GOOD.replace("design: 2", "design: two"), "design is 'two'; it must be a number"),
        (GOOD.replace("  stretch: 1\n", ""), "stretch is None"),
        (GOOD + "  colour: red\n", "unknown key colour"),
        (GOOD + "  target: 1\n", "belongs to the sense near"),
    ],
)
def test_mistakes_in_specs_are_named(tmp_path, text, says):
    path = tmp_path / "specs.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=says) as caught:
        load_specs(path)
    assert "specs.yaml" in caught.value.hint


def test_missing_specs_are_named(tmp_path):
    with pytest.raises(MissingData, match=r"no specs at .*nope\.yaml"):
        load_specs(tmp_path / "nope.yaml")


def test_targets_are_written_as_people_read_them():
    assert target_text({"sense": "near", "target": 1.0, "tolerance": 0.05}) == "1 +- 0.05"
    assert target_text({"sense": "none"}) == ""
