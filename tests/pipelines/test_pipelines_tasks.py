import importlib
import pickle
import subprocess
import sys

import lsst.pex.config as pex
import pytest
import toy_pipeline as toy

from nightlab.data.repository import INPUTS
from nightlab.errors import BadInput
from nightlab.pipelines import tasks
from nightlab.pipelines.graph import load_pipeline, pipeline_file
from nightlab.pipelines.table import STAGES, load, task_name


def test_the_table_is_cheap_to_read():
    code = (
        "import sys, nightlab.pipelines.table\n"
        "guests = {'lsst', 'astropy', 'numpy'} & {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(str(guests) if guests else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.config])
def test_a_stage_has_the_same_knobs_in_a_pipeline_and_by_hand(name):
    task = getattr(tasks, task_name(name))
    assert task.ConfigClass().model() == load(STAGES[name].config)()


def test_rows_fit_together():
    made = {}
    for name, stage in STAGES.items():
        assert stage.name == name
        for row in stage.outputs.values():
            assert row.kind == "output"
            assert made.setdefault(row.name, row) == row
            # such endings belong to what the middleware writes itself
            assert not row.name.endswith(("_log", "_metadata", "_config"))
    for stage in STAGES.values():
        for row in stage.inputs.values():
            if row.name in made:
                assert (row.storage_class, row.dimensions) == (made[row.name].storage_class, made[row.name].dimensions)
            else:
                assert row.name in INPUTS


@pytest.mark.parametrize("name", ["SingleFrame", "Templates", "ApPipe"])
def test_pipelines_name_rows(name):
    import yaml

    known = {f"nightlab.pipelines.tasks.{task_name(stage)}" for stage in STAGES}
    content = yaml.safe_load(pipeline_file(name).read_text())
    assert {task["class"] for task in content["tasks"].values()} <= known


def test_classes_can_be_pickled_and_found():
    for kind in (toy.ToyMeasureTask, toy.ToyMeasureTaskConfig, toy.ToyMeasureTaskConnections):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert getattr(importlib.import_module(kind.__module__), kind.__qualname__) is kind
    with pytest.raises(AttributeError, match="CallibrateTask"):
        tasks.CallibrateTask  # noqa: B018


def test_fields_mirror_the_model():
    config = toy.ToyMeasureTaskConfig()
    assert config.model() == toy.MeasureConfig()
    fields = config._fields
    assert isinstance(fields["gain"], pex.RangeField)
    assert isinstance(fields["orders"], pex.ListField)
    assert isinstance(fields["detect"], pex.ConfigField)
    assert fields["limit"].optional
    assert "[electron/adu]" in fields["gain"].doc
    config.gain, config.orders, config.limit, config.detect.threshold = 4, [3, 4, 5], 7.5, 9.0
    expected = toy.MeasureConfig(gain=4.0, orders=(3, 4, 5), limit=7.5, detect=toy.Inner(threshold=9.0))
    assert config.model() == expected
    assert pickle.loads(pickle.dumps(config)).model() == expected
    config.validate()
    for field, value in (("gain", 0.0), ("limit", -1.0), ("orders", ["a"])):
        with pytest.raises((pex.FieldValidationError, TypeError)):
            setattr(config, field, value)
    config.gain, config.detect.threshold = 60.0, 60.0
    with pytest.raises(BadInput, match="cannot both be large"):
        config.validate()


def test_knobs_are_set_by_text(pipeline):
    graph = load_pipeline(pipeline, {"measure.detect.threshold": "7", "measure.orders": "[4]"}).to_graph()
    config = graph.tasks["measure"].config
    assert config.detect.threshold == 7.0
    assert config.model().orders == (4,)
