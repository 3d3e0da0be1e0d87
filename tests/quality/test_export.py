import csv
import json

import numpy as np
import pytest
import xarray as xr
from toy_metrics import night

from nightlab.errors import BadInput, MissingData, WriteFailed
from nightlab.quality import LEVELS, export_metrics, house_specs, merge_runs, text_of, verify_job

READERS = {
    ".nc": lambda path: xr.open_dataset(path, engine="h5netcdf"),
    ".zarr": lambda path: xr.open_zarr(path, consolidated=False, chunks=None),
}


@pytest.mark.parametrize("suffix", READERS)
def test_arrays_come_back_with_their_attributes(tmp_path, runs, suffix):
    merged = merge_runs(runs)
    merged["single_frame.zero_point_scatter"][0, 1, 0] = np.nan
    path = export_metrics(merged, tmp_path / f"m{suffix}")
    with READERS[suffix](path) as back:
        xr.testing.assert_identical(back[list(merged.data_vars)].load(), merged)
        assert back["single_frame.zero_point_scatter"].attrs["unit"] == "mag"
        assert back["difference.noise_ratio"].attrs["unit"] == ""
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_text_of_any_kind_in_coordinates_survives(tmp_path):
    metrics = night([1, 2])
    metrics = metrics.assign_coords(visit_band=("visit", np.array(["g", "r"], dtype=np.dtypes.StringDType())))
    for suffix, reader in READERS.items():
        with reader(export_metrics(metrics, tmp_path / f"m{suffix}")) as back:
            assert [str(band) for band in back["visit_band"].values] == ["g", "r"]


def test_csv_has_a_row_per_measurement(tmp_path, runs):
    merged = merge_runs(runs)
    merged["difference.noise_ratio"][0, 0, 0] = np.nan
    with export_metrics(merged, tmp_path / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "visit", "detector", "tract", "patch", "band", "metric", "value", "unit"]
    noise = [row for row in rows if row["metric"] == "difference.noise_ratio"]
    assert len(noise) == 12
    assert noise[0] | {"value": ""} == {
        "run": "a", "visit": "1", "detector": "0", "tract": "", "patch": "", "band": "r",
        "metric": "difference.noise_ratio", "value": "", "unit": "",
    }  # fmt: skip
    assert noise[0]["value"] == "nan"
    expected = merged["difference.noise_ratio"].sel(run="b", visit=8, detector=0).item()
    assert float(noise[-1]["value"]) == expected


def test_a_job_has_the_documents_of_the_verification_framework(tmp_path, runs):
    metrics = runs["a"]
    metrics["single_frame.n_sources"][:] = np.nan
    path = export_metrics(metrics, tmp_path / "a.verify.json")
    job = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert set(job) == {"measurements", "blobs", "metrics", "specs", "meta"}
    for document in job["measurements"]:
        assert set(document) == {"metric", "identifier", "value", "unit", "blob_refs"}
    for document in job["metrics"]:
        assert set(document) == {"name", "description", "unit", "tags", "reference"}
        assert set(document["reference"]) == {"doc", "page", "url"}
        assert document["name"].count(".") == 1  # package.metric
    for document in job["blobs"]:
        assert set(document) == {"identifier", "name", "data"}
        for datum in document["data"].values():
            assert set(datum) == {"value", "unit", "label", "description"}
    for document in job["specs"]:
        assert set(document) == {"name", "type", "threshold", "metadata_query", "tags"}
        assert set(document["threshold"]) == {"value", "unit", "operator"}
        assert document["type"] == "threshold"
    identifiers = [document["identifier"] for kind in ("measurements", "blobs") for document in job[kind]]
    assert len(set(identifiers)) == len(identifiers)
    names = {document["name"] for document in job["metrics"]}
    assert {document["metric"] for document in job["measurements"]} == names
    assert {document["name"].rpartition(".")[0] for document in job["specs"]} == names & set(house_specs())


def test_a_job_says_medians_and_the_values_behind_them(runs):
    metrics = runs["a"]
    metrics["single_frame.n_sources"][:] = np.nan
    noise = metrics["difference.noise_ratio"]
    noise[2, 0] = np.nan
    job = verify_job(metrics, dataset="toy")
    measured = {document["metric"]: document for document in job["measurements"]}
    blobs = {document["identifier"]: document for document in job["blobs"]}
    document = measured["difference.noise_ratio"]
    assert document["value"] == pytest.approx(float(np.nanmedian(noise.values)))
    blob = blobs[document["blob_refs"][0]]
    assert blob["name"] == "difference.noise_ratio"
    assert blob["data"]["visit"]["value"] == [1, 2, 4, 5, 6]
    assert len(blob["data"]["values"]["value"]) == 5
    # what could not be measured is null, and has no blob
    assert measured["single_frame.n_sources"]["value"] is None
    assert measured["single_frame.n_sources"]["blob_refs"] == []
    assert measured["single_frame.zero_point_scatter"]["unit"] == "mag"
    assert job["meta"] == {"statistic": "median", "dataset": "toy"}
    thresholds = {document["name"]: document["threshold"] for document in job["specs"]}
    spec = house_specs()["difference.noise_ratio"]
    for level in LEVELS:
        low, high = spec.limits(level)
        assert thresholds[f"difference.noise_ratio.{level}_low"] == {"value": low, "unit": "", "operator": ">="}
        assert thresholds[f"difference.noise_ratio.{level}_high"] == {"value": high, "unit": "", "operator": "<="}
    assert thresholds["single_frame.zero_point_scatter.design"]["operator"] == "<="
    assert verify_job(metrics, dataset="toy") == job


def test_a_job_is_about_one_run(tmp_path, runs):
    merged = merge_runs(runs)
    with pytest.raises(BadInput, match="about one run, and these are 2"):
        export_metrics(merged, tmp_path / "m.json")
    assert not list(tmp_path.iterdir())
    assert json.loads(text_of(merged.sel(run="b"), "verify"))["meta"]["run"] == "b"


@pytest.mark.parametrize("name", ["m.nc", "m.zarr", "m.csv", "m.json"])
def test_what_is_there_is_replaced_only_when_asked(tmp_path, runs, name):
    path = export_metrics(runs["a"], tmp_path / name)
    with pytest.raises(BadInput, match="exists already"):
        export_metrics(runs["b"], path)
    export_metrics(runs["b"], path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["m.nc", "m.zarr", "m.csv", "m.json"])
def test_nothing_half_written_is_left(tmp_path, runs, name, monkeypatch):
    path = export_metrics(runs["a"], tmp_path / name)
    before = sorted(p.name for p in path.rglob("*")) if path.is_dir() else path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nightlab.quality.export._replace", full)
    with pytest.raises(WriteFailed, match="No space left"):
        export_metrics(runs["b"], path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert before == (sorted(p.name for p in path.rglob("*")) if path.is_dir() else path.read_bytes())


def test_names_and_folders_that_cannot_be_are_refused(tmp_path, runs):
    with pytest.raises(BadInput, match=r"not written as m\.txt"):
        export_metrics(runs["a"], tmp_path / "m.txt")
    with pytest.raises(MissingData, match="no folder"):
        export_metrics(runs["a"], tmp_path / "no" / "m.csv")
    assert export_metrics(runs["a"], tmp_path / "m.txt", format="csv").read_text().startswith("run,visit")
