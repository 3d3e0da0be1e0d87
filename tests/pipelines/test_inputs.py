import numpy as np
import pytest
import tiny_night

import nightlab as nl
from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.table import STAGES, load

VISIT = tiny_night.VISITS[1]


def by_hand(stage, run, **data_id):
    return load(STAGES[stage].function)(**nl.stage_inputs(stage, run, **data_id))


def test_a_stage_by_hand_gives_what_the_pipeline_gave(undisturbed):
    run = nl.open_run(undisturbed)
    where = {"visit": VISIT, "detector": 0}
    frame = by_hand("calibrate", run, **where)
    assert np.array_equal(frame.visit_image.image.array, run.get("visit_image", **where).image.array, equal_nan=True)
    difference = by_hand("subtract", run, **where)
    stored = run.get("difference_image", **where).image.array
    assert np.isfinite(stored).mean() > 0.9
    assert np.array_equal(difference.difference_image.image.array, stored, equal_nan=True)
    association = by_hand("associate", run)
    assert len(association.dia_object) == len(run.get("dia_object")) > 5
    assert list(association.dia_object["diaObjectId"]) == list(run.get("dia_object")["diaObjectId"])


def test_lists_hold_what_the_run_worked_on_and_no_more(undisturbed):
    run = nl.open_run(undisturbed)
    assert len(nl.stage_inputs("gather_metrics", run)["single_frame_metrics"]) == len(tiny_night.VISITS)
    templates = nl.open_run(undisturbed, "runs/Templates")
    patch = {name: templates.refs("template_coadd")[0].dataId[name] for name in ("tract", "patch", "band")}
    arguments = nl.stage_inputs("build_template", templates, **patch)
    assert len(arguments["visit_images"]) == len(tiny_night.TEMPLATE_VISITS)
    assert (arguments["tract"], arguments["patch"]) == (patch["tract"], patch["patch"])


def test_what_cannot_be_read_is_named(undisturbed):
    run = nl.open_run(undisturbed)
    with pytest.raises(BadInput, match="no stage 'nope'"):
        nl.stage_inputs("nope", run)
    with pytest.raises(BadInput, match="name detector, visit"):
        nl.stage_inputs("calibrate", run, visit=VISIT)
    with pytest.raises(MissingData, match="visit=1"):
        nl.stage_inputs("calibrate", run, visit=1, detector=0)
    with pytest.raises(MissingData, match="no template_detector for subtract of"):
        nl.stage_inputs("subtract", nl.open_run(undisturbed, "runs/Templates"), visit=tiny_night.TEMPLATE_VISITS[0],
                        detector=0)  # fmt: skip
