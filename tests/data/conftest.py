"""A tiny SDSS field made from formulas, and a tiny simulated survey."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

RUN, CAMCOL, FIELD, BAND = 1234, 2, 56, "g"
SHAPE = (48, 64)
GAIN = {"u": 1.5, "g": 4.0, "r": 4.5, "i": 5.0, "z": 4.75}
DARK = {"u": 9.0, "g": 2.0, "r": 1.0, "i": 6.0, "z": 8.0}


@dataclass(frozen=True)
class Field:
    frame: Path
    mask: Path
    psf: Path
    astrometry: Path
    photometry: Path
    dn: np.ndarray
    images: np.ndarray
    weights: np.ndarray
    terms: dict
    node: float
    inclination: float


def write_spans(runs):
    return np.frombuffer(np.array(runs, dtype=">i2").tobytes(), dtype=np.uint8)


def mask_hdu(objects):
    texts = np.empty(len(objects), dtype=object)
    for k, runs in enumerate(objects):
        texts[k] = write_spans(runs)
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("nspan", "1J", array=np.array([len(runs) for runs in objects], dtype=np.int32)),
            fits.Column("s", "PB()", array=texts),
        ]
    )


def write_mask(path):
    names = ["INTERP", "SATUR", "NOTCHECKED", "OBJECT", "GHOST", "CR"]
    planes = {
        "INTERP": [[(3, 5, 7)], [(0, 63, 63), (1, 60, 63)]],
        "SATUR": [[(10, 20, 20), (11, 19, 21)]],
        "NOTCHECKED": [[(r, 0, 1) for r in range(48)], [(0, 0, 63)], [(20, 30, 32)]],
        "GHOST": [[(40, 40, 41)]],
        "CR": [[(30, 2, 9)]],
    }
    primary = fits.PrimaryHDU()
    primary.header["MASKROWS"], primary.header["MASKCOLS"] = SHAPE
    legend = fits.BinTableHDU.from_columns(
        [
            fits.Column("defName", "31A", array=["S_MASKTYPE"] * len(names)),
            fits.Column("attributeName", "31A", array=[f"S_MASK_{name}" for name in names]),
            fits.Column("Value", "1J", array=np.arange(len(names))),
        ]
    )
    fits.HDUList([primary, *(mask_hdu(planes.get(name, [])) for name in names), legend]).writeto(path)


def write_psf(path, images, weights):
    n, size = len(images), images.shape[1]
    rows = np.empty(n, dtype=object)
    for k in range(n):
        rows[k] = images[k].ravel().astype(np.float32)
    c = np.zeros((n, 5, 5), np.float32)
    c[:, : weights.shape[1], : weights.shape[2]] = weights
    table = [
        fits.Column("nrow_b", "1J", array=[weights.shape[1]] * n),
        fits.Column("ncol_b", "1J", array=[weights.shape[2]] * n),
        fits.Column("c", "25E", dim="(5,5)", array=c),
        fits.Column("RNROW", "1J", array=[size] * n),
        fits.Column("RNCOL", "1J", array=[size] * n),
        fits.Column("RROWS", "PE()", array=rows),
    ]
    facts = [
        fits.Column("gain", "5E", array=[list(GAIN.values())]),
        fits.Column("dark_variance", "5E", array=[list(DARK.values())]),
    ]
    hdus = [fits.BinTableHDU.from_columns(table) for _ in range(5)]
    fits.HDUList([fits.PrimaryHDU(), *hdus, fits.BinTableHDU.from_columns(facts)]).writeto(path)


def write_astrometry(path, terms, node, inclination):
    primary = fits.PrimaryHDU()
    primary.header.update(NODE=node, INCL=inclination, CAMCOLS="1 2", FILTERS="r i u z g")
    hdus = [primary]
    for camcol in (1, 2):
        for band in "riuzg":
            ours = camcol == CAMCOL and band == BAND
            columns = [fits.Column("field", "1J", array=[FIELD - 1, FIELD])]
            columns += [fits.Column(name, "1D", array=[0.0, value if ours else 0.0]) for name, value in terms.items()]
            hdu = fits.BinTableHDU.from_columns(columns)
            hdu.header["FILTER"] = band
            hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)


def write_photometry(path):
    values = {
        "aa": [-23.0, -24.5, -24.0, -23.7, -21.8],
        "aaErr": [0.01, 0.002, 0.002, 0.002, 0.005],
        "kk": [0.5, 0.2, 0.1, 0.05, 0.04],
        "airmass": [1.2, 1.25, 1.2, 1.2, 1.2],
        "saturation_level": [60000, 50000, 43000, 23000, 62000],
    }
    columns = [fits.Column("field", "1J", array=[FIELD])]
    columns += [fits.Column(name, "5E", array=[v]) for name, v in values.items()]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)


@pytest.fixture
def sdss_field(tmp_path) -> Field:
    """One g frame of 64 x 48 pixels with all its companions, in the standard folders."""
    rng = np.random.default_rng(5)
    rerun = tmp_path / f"{RUN}/40"
    folders = {"corr": rerun / f"corr/{CAMCOL}", "objcs": rerun / f"objcs/{CAMCOL}"}
    folders |= {"astrom": rerun / "astrom", "calib": rerun / f"calibChunks/{CAMCOL}"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    dn = rng.integers(80, 200, SHAPE)
    header = fits.Header()
    header.update(TAI=4.6e9, C_OBS=26322.0, EXPTIME="53.9", SOFTBIAS=1000)
    frame = folders["corr"] / f"fpC-{RUN:06d}-{BAND}{CAMCOL}-{FIELD:04d}.fit.gz"
    fits.PrimaryHDU((dn + 1000).astype(np.uint16), header).writeto(frame)
    mask = folders["objcs"] / f"fpM-{RUN:06d}-{BAND}{CAMCOL}-{FIELD:04d}.fit"
    write_mask(mask)
    y, x = np.mgrid[-7:8, -7:8]
    round_, tilted = np.exp(-(x**2 + y**2) / 6.0), x * np.exp(-(x**2 + y**2) / 8.0)
    images = np.array([round_, tilted]) * 1000.0
    weights = np.array([[[1.0, 0.2, 0.0], [0.1, 0.0, 0.3]], [[0.05, -0.4, 0.1], [0.3, 0.2, -0.2]]])
    psf = folders["objcs"] / f"psField-{RUN:06d}-{CAMCOL}-{FIELD:04d}.fit"
    write_psf(psf, images, weights)
    terms = {"a": 95.3, "b": 1.1e-4, "c": 3e-8, "d": 12.0, "e": -2e-8, "f": 1.101e-4}
    terms |= {"dRow0": 0.1, "dRow1": 2e-4, "dRow2": 1e-6, "dRow3": -1e-9}
    terms |= {"dCol0": -0.2, "dCol1": -3e-4, "dCol2": 2e-6, "dCol3": 2e-9}
    astrometry = folders["astrom"] / f"asTrans-{RUN:06d}.fit"
    write_astrometry(astrometry, terms, 95.0, 10.0)
    photometry = folders["calib"] / f"tsField-{RUN:06d}-{CAMCOL}-40-{FIELD:04d}.fit"
    write_photometry(photometry)
    return Field(frame, mask, psf, astrometry, photometry, dn, images, weights, terms, 95.0, 10.0)


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Path:
    """Two template and one science visit of a camera of one small detector."""
    from nightlab.simulate import SurveyConfig, simulate_survey

    folder = tmp_path_factory.mktemp("survey")
    config = SurveyConfig(
        width=128, height=128, amp_columns=2, amp_rows=2, n_template=2, n_science=1,
        n_variables=1, n_transients=2, n_movers=1, star_density=60.0,
    )  # fmt: skip
    simulate_survey(folder, config)
    return folder


@pytest.fixture(scope="session")
def empty_repository(tmp_path_factory) -> Path:
    """A repository that knows two instruments and holds nothing; copy it, never write into it."""
    from nightlab.data.repository import make_repository

    folder = tmp_path_factory.mktemp("empty") / "repo"
    make_repository(folder, "SDSS", "SimCam")
    return folder
