import base64
import io

import numpy as np
import panel as pn
import pytest
from lsst.images import Box
from PIL import Image

from nightlab.dashboards.cutout_views import FilmStrip, cutout_figure, triplet_view
from nightlab.dashboards.cutouts import (
    NOT_WRITTEN,
    OUTSIDE,
    READ_FAILED,
    TRIPLET,
    Cutout,
    CutoutReader,
    dipole_lobes,
    png,
    thumbnail,
)
from nightlab.data.runs import Run


@pytest.fixture(scope="module")
def run(night):
    return Run(night)


@pytest.fixture(scope="module")
def exposure(run):
    return {name: int(run.visits()[0][name]) for name in ("visit", "detector")}


@pytest.fixture(scope="module")
def source(run, exposure):
    table = run.get("dia_source")
    return table[np.asarray(table["visit"]) == exposure["visit"]][0]


def cutout_of(values, **more):
    return Cutout("science", "flux", values=np.asarray(values, np.float32), x0=3, y0=5, x=4.0, y=6.0, **more)


def test_cutouts_are_the_pixels_that_were_written(run, exposure, source):
    made = CutoutReader(run).triplet(float(source["ra"]), float(source["dec"]), **exposure, half=7)
    for cutout, (title, dataset, _) in zip(made, TRIPLET, strict=True):
        assert (cutout.title, cutout.reason) == (title, "")
        assert abs(cutout.x - source["x"]) < 1e-3
        whole = run.get(dataset, **exposure).image
        box = whole.bbox.intersection(Box.from_shape((15, 15), start=(cutout.y0, cutout.x0)))
        inside = cutout.values[
            box.y.start - cutout.y0 : box.y.stop - cutout.y0, box.x.start - cutout.x0 : box.x.stop - cutout.x0
        ]
        np.testing.assert_array_equal(inside, whole[box].array)
        assert np.isnan(cutout.values).sum() == cutout.values.size - inside.size + np.isnan(inside).sum()


def test_a_second_look_reads_nothing(run, exposure, source):
    reader = CutoutReader(run, capacity=4)
    place = float(source["ra"]), float(source["dec"])
    reader.triplet(*place, **exposure)
    reads = reader.reads
    assert reads == 3
    reader.triplet(*place, **exposure)
    assert reader.reads == reads
    for half in (3, 4, 5):
        reader.triplet(*place, **exposure, half=half)
    assert len(reader._kept) == 4


def test_what_is_missing_says_why(run, exposure, source, tmp_path, monkeypatch):
    reader = CutoutReader(run)
    place = float(source["ra"]), float(source["dec"])
    assert reader.triplet(*place, 999_999, 0)[0].reason.startswith(NOT_WRITTEN)
    assert reader.cutout("science", 10.0, -50.0, **exposure).reason.startswith(OUTSIDE)
    assert reader.cutout("science", place[0] + 0.5, place[1], **exposure).reason.startswith(OUTSIDE)

    def broken(*_args, **_options):
        raise OSError("truncated")

    monkeypatch.setattr(run.butler, "get", broken)
    assert CutoutReader(run).cutout("difference", *place, **exposure).reason == f"{READ_FAILED}: OSError: truncated"


def test_missing_and_empty_cutouts_take_their_place_in_the_row():
    missing = Cutout("template", reason=f"{NOT_WRITTEN}: no such thing")
    row = triplet_view([missing, cutout_of(np.full((3, 3), np.nan)), cutout_of(np.eye(3))])
    said = [part.select(pn.pane.HTML)[0].object for part in row[:2]]
    assert "data-reason='FILE_MISSING'" in said[0]
    assert "not written" in said[0]
    assert "data-reason='ALL_NAN'" in said[1]
    assert len(row) == 3


def test_pixels_travel_as_bytes_and_are_read_exactly():
    values = np.arange(9.0).reshape(3, 3) + 0.123
    data = cutout_figure(cutout_of(values)).renderers[0].data_source.data
    assert data["image"][0].dtype == np.uint8
    np.testing.assert_array_equal(data["exact"][0], values.astype(np.float32))


def test_thumbnails_are_pngs_with_the_first_row_at_the_bottom():
    indices = np.array([[0, 1], [2, 3]], np.uint8)
    address = png(indices, ["#000000", "#ff0000", "#00ff00", "#0000ff"])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))
    assert picture[1, 0].tolist() == [0, 0, 0]
    assert picture[1, 1].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == [0, 255, 0]
    assert thumbnail(cutout_of(np.eye(5))).startswith("data:image/png;base64,")
    assert thumbnail(Cutout("science", reason=OUTSIDE)) == OUTSIDE


def test_lobes_lie_on_both_sides_positive_where_the_angle_points():
    plus, minus = dipole_lobes(10.0, 20.0, length=2.0, angle=90.0, scale=0.5)
    assert (plus.positive, minus.positive) == (True, False)
    np.testing.assert_allclose([plus.x, plus.y, minus.x, minus.y], [10, 22, 10, 18], atol=1e-12)
    assert dipole_lobes(1.0, 1.0, np.nan, 0.0, 0.2) == ()
    figure = cutout_figure(cutout_of(np.eye(9)), [plus, minus])
    signs = [r.data_source.data["text"][0] for r in figure.renderers if "text" in r.data_source.data]
    assert signs[:2] == ["+", "−"]


def test_only_frames_that_are_seen_are_read():
    asked = []

    def reader(key):
        asked.append(key)
        return [cutout_of(np.eye(3)), Cutout("template", reason=NOT_WRITTEN), cutout_of(np.eye(3))]

    strip = FilmStrip(
        frames=[{"key": str(k), "band": "r", "label": "", "detail": ""} for k in range(50)], reader=reader
    )
    assert asked == []
    strip.wanted = {"keys": ["3", "4", "not a frame"], "nonce": 1}
    assert asked == ["3", "4"]
    assert set(strip.delivered["pictures"]) == {"3", "4"}
    assert strip.delivered["pictures"]["3"][1] == ["template", NOT_WRITTEN]
