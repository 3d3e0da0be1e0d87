import zipfile

import numpy as np
import pytest
import xarray as xr

from nightlab.data.formatters import read_metrics, write_metrics
from nightlab.errors import CorruptFile
from nightlab.report import Metric, report

METRICS = {
    "zero_point_scatter": Metric("Scatter of bright stars.", "mag"),
    "n": Metric("How many."),
}


def test_metrics_come_back_with_what_they_mean(tmp_path):
    values = {"zero_point_scatter": 0.03, "n": None}
    made = report(METRICS, values, room="single_frame", visit=637703992, detector=3, band="r")
    write_metrics(made, tmp_path / "m.zarr.zip")
    back = read_metrics(tmp_path / "m.zarr.zip")
    xr.testing.assert_identical(back, made)
    assert back["zero_point_scatter"].attrs["target"] == made["zero_point_scatter"].attrs["target"] > 0
    assert back["zero_point_scatter"].attrs["sense"] == "lower"
    assert np.isnan(back["n"].item())
    assert back["band"].item() == "r"


def test_equal_metrics_make_equal_files(tmp_path):
    for name in ("a", "b"):
        write_metrics(report(METRICS, {"zero_point_scatter": 1.5}, visit=1), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_metrics(report(METRICS, {"zero_point_scatter": 1.6}, visit=1), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_dataset_without_labels_is_kept(tmp_path):
    write_metrics(report(METRICS, {"n": 4}), tmp_path / "m.zip")
    assert read_metrics(tmp_path / "m.zip")["n"].item() == 4.0


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "m.zarr.zip"
    write_metrics(report(METRICS, {"n": 4}, visit=2), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFile, match=r"m\.zarr\.zip"):
        read_metrics(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing here")
    with pytest.raises(CorruptFile, match=r"m\.zarr\.zip"):
        read_metrics(path)
