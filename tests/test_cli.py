import io
import json
import re
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from typer.testing import CliRunner

import nightlab
from nightlab.cli import app
from nightlab.cli.common import show
from nightlab.cli.run import environment_knobs
from nightlab.errors import BadInput
from nightlab.pipelines.table import STAGES
from nightlab.simulate import small_pair

SHIFT = (3.3, -2.4)


def call(*arguments):
    """Exit code, standard output and standard error; nothing but an exit may escape."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def write(path, pixels, shift=(0.0, 0.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.crval = 210.5, -45.2
    wcs.wcs.crpix = 200.0 + shift[0], 200.0 + shift[1]
    wcs.wcs.cd = np.array([[-7e-5, 0.0], [0.0, 7e-5]])
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    fits.PrimaryHDU(pixels.astype(np.float32), wcs.to_header()).writeto(path)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    made = small_pair(3, size=400, n_stars=90, n_transients=6, shift=SHIFT)
    write(folder / "science.fits", made.science + 500.0)
    write(folder / "template.fits", made.template + 300.0, SHIFT)
    return folder, made.transients


def test_version():
    assert call("--version") == (0, f"{nightlab.__version__}\n", "")


def test_stages_are_listed_with_what_they_read_and_make():
    code, out, _ = call("stages")
    assert code == 0
    assert all(name in out for name in STAGES)
    records = {record["stage"]: record for record in json.loads(call("stages", "--json")[1])}
    assert records["subtract"]["makes"] == "difference_image, difference_metrics"


def test_a_stage_shows_its_knobs_under_the_names_set_takes():
    code, out, _ = call("stages", "calibrate", "--json")
    assert code == 0
    told = json.loads(out)
    known = "bias, flat, dark, defects, crosstalk, linearity, brighter_fatter"
    assert told["reads"] == f"raw, {known}, reference"
    knobs = {record["knob"]: record for record in told["knobs"]}
    assert knobs["astrometry.min_snr"]["default"] == "10.0"
    assert all(record["meaning"] for record in knobs.values())
    out = call("stages", "calibrate")[1]
    assert "visit_image" in out
    assert "astrometry.min_snr" in out
    # a stage without knobs
    assert call("stages", "gather_metrics")[0] == 0
    assert json.loads(call("stages", "gather_metrics", "--json")[1])["knobs"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "ApPipe"], "--data"),
        (["run", "Nope", "--data", "simulated"], "no pipeline 'Nope'.*known are ApPipe"),
        (["run", "ApPipe#nope", "--data", "simulated"], "ApPipe has no stage nope"),
        (["run", "ApPipe", "--data", "nothing"], "'nothing'.*known are simulated, stripe82"),
        (["run", "ApPipe", "--data", "simulated", "--set", "calibrate"], "STAGE.FIELD=VALUE, not calibrate"),
        (["run", "ApPipe", "--data", "simulated", "--set", "nope.x=1"], "no stage nope"),
        (["run", "ApPipe", "--data", "simulated", "--jobs", "0"], "--jobs"),
        (["stages", "nope"], "no stage nope.*calibrate"),
        (["simulate", "somewhere", "--preset", "huge"], "no preset huge.*tiny, small, medium, large"),
        (["nope"], "nope"),
    ],
)
def test_what_was_typed_wrong_is_named(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert re.search(says, err, re.DOTALL)
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_named(tmp_path):
    for arguments in (
        ["metrics", "show", tmp_path / "none"],
        ["metrics", "check", tmp_path / "none"],
        ["run", "ApPipe", "--repository", tmp_path / "none"],
        ["run", "ApPipe.yaml", "--repository", tmp_path / "none"],
        ["subtract", tmp_path / "none", "t.fits", "-o", tmp_path / "out.fits"],
    ):
        code, _, err = call(*arguments)
        assert code == 3, arguments
        assert "none" in err or "ApPipe.yaml" in err
        assert "\n  try: " in err


def test_subtract_finds_what_changed(pair, tmp_path):
    folder, transients = pair
    output = tmp_path / "difference.fits"
    code, out, err = call("subtract", folder / "science.fits", folder / "template.fits", "--output", output)
    assert code == 0, err
    table = Table.read(tmp_path / "difference_dia_source.parquet")
    assert f"{len(table)} sources changed" in out
    distance = np.hypot(*(np.subtract.outer(np.asarray(transients[name]), np.asarray(table[name])) for name in "xy"))
    best = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 0.5
    flux = np.asarray(table["psfFlux"])[best]
    assert np.abs((flux - transients["flux"]) / np.asarray(table["psfFluxErr"])[best]).max() < 5
    assert list(np.asarray(table["isNegative"])[best]) == list(transients["flux"] < 0)
    # and next to nothing else that is significant
    others = np.delete(np.asarray(table["snr"]), best)
    assert (others > 10).sum() <= 1
    with fits.open(output) as hdus:
        assert any(hdu.data is not None and hdu.data.shape == (400, 400) for hdu in hdus)
    before = output.stat().st_mtime_ns
    code, _, err = call("subtract", folder / "science.fits", folder / "template.fits", "-o", output)
    assert code == 2
    assert f"{output} exists already" in err
    assert "--overwrite" in err
    assert output.stat().st_mtime_ns == before


def test_subtract_lists_what_changed(pair, tmp_path):
    folder, transients = pair
    science, template, output = folder / "science.fits", folder / "template.fits", tmp_path / "difference.fits"
    code, out, _ = call("subtract", science, template, "-o", output, "--json")
    assert code == 0
    told = json.loads(out)
    table = Table.read(told["dia_source"])
    assert [row["x"] for row in told["changed"]] == list(table["x"])
    assert {row["metric"] for row in told["metrics"]} >= {"noise_ratio", "n_kernel_stars"}
    code, out, err = call("subtract", science, template, "-o", output, "--overwrite", "--quiet")
    assert (code, out, err) == (0, "", "")
    out = call("subtract", science, template, "-o", output, "--overwrite")[1]
    most = max(told["changed"], key=lambda row: abs(row["snr"]))
    assert f"{most['snr']:.4g}" in out
    assert len(transients) == 6


def test_subtract_names_what_it_cannot_use(pair, tmp_path):
    folder, _ = pair
    good, output = folder / "template.fits", tmp_path / "difference.fits"
    truncated = tmp_path / "truncated.fits"
    truncated.write_bytes((folder / "science.fits").read_bytes()[:100_000])
    text = tmp_path / "text.fits"
    text.write_text("not an image")
    blind = write(tmp_path / "blind.fits", np.full((400, 400), np.nan))
    bare = tmp_path / "bare.fits"
    fits.PrimaryHDU(np.ones((100, 100), np.float32)).writeto(bare)
    for path, expected in ((truncated, 1), (text, 1), (blind, 1), (bare, 2)):
        code, _, err = call("subtract", path, good, "--output", output)
        assert code == expected, err
        assert str(path) in err
        assert "\n  try: " in err
        assert "Traceback" not in err
    code, _, err = call("subtract", good, good, "--output", tmp_path / "no" / "out.fits")
    assert (code, "folder" in err) == (3, True)
    code, _, err = call("subtract", good, good, "--output", tmp_path / "out.png")
    assert (code, "out.png" in err) == (2, True)
    assert not list(tmp_path.glob("difference*"))
    assert not list(tmp_path.glob(".*"))


def test_subtract_needs_common_sky(pair, tmp_path):
    folder, _ = pair
    far = write(tmp_path / "far.fits", fits.getdata(folder / "template.fits"), (5000.0, 0.0))
    code, _, err = call("subtract", folder / "science.fits", far, "--output", tmp_path / "difference.fits")
    assert code == 1
    assert "\n  try: " in err
    assert not list(tmp_path.glob("difference*"))


def test_knobs_of_the_environment_are_read():
    environment = {"NIGHTLAB__SUBTRACT__STARS__MIN_SNR": "30", "NIGHTLAB_DATA": "/data", "HOME": "/root"}
    assert environment_knobs(environment) == {("subtract", "stars.min_snr"): "30"}
    for name in ("NIGHTLAB__NOPE__X", "NIGHTLAB__SUBTRACT", "NIGHTLAB__SUBTRACT____X"):
        with pytest.raises(BadInput, match=name):
            environment_knobs({name: "1"})


def test_a_variable_that_names_no_stage_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("NIGHTLAB__SUBTRAKT__KERNEL_ORDER", "2")
    code, _, err = call("run", "ApPipe", "-b", tmp_path)
    assert code == 2
    assert "NIGHTLAB__SUBTRAKT__KERNEL_ORDER" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_tables_of_its_width(monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    table = Table({"name": ["first", "second"], "flux": [1.23456, 10.0], "what": ["many words " * 9, "[b]few[/b]"]})
    table["flux"].unit = "nJy"
    show(table)
    told = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert max(len(line) for line in told.splitlines()) <= 60
    assert told.count("many") == 9
    assert all(word in told for word in ("1.235", "nJy", "[b]few[/b]"))


def test_what_is_not_finite_or_masked_is_null_in_json(capsys):
    table = Table({"a": [1.5, np.nan, np.inf], "n": [1, 2, 2**62]}, masked=True)
    table["n"].mask[0] = True
    show(table, as_json=True)
    rows = [{"a": 1.5, "n": None}, {"a": None, "n": 2}, {"a": None, "n": 2**62}]
    assert json.loads(capsys.readouterr().out) == rows
