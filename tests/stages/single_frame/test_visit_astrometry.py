"""The astrometry of a whole visit, on a simulated camera whose optics are known, and on a real visit of HSC."""

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame

from nightlab.data.locate import data_set
from nightlab.errors import MissingData, NoOverlap, TooFewStars
from nightlab.images.wcs import inverse_gnomonic, pixel_to_radec, projection_from_wcs, radec_to_pixel, tan_projection
from nightlab.numeric.sphere import separation
from nightlab.stages.single_frame.visit_astrometry import DetectorPositions, VisitAstrometryConfig, solve_visit

BOX = Box.factory[0:2000, 0:1000]
RA, DEC, SCALE = 150.0, 2.2, 0.2  # arcsec per pixel
PLACES = [(column * 220.0, row * 420.0) for row in (-1, 0, 1) for column in (-1, 0, 1)]  # arcsec
EPOCH = 57388.5


def sky_of(detector, x, y):
    """Truth: rigid detectors, the last one mirrored, behind a distortion of the third degree."""
    turn = np.deg2rad(0.1 * (detector - 4))
    u, v = (x - 499.5) * SCALE * (-1 if detector == 8 else 1), (y - 999.5) * SCALE
    fx = np.cos(turn) * u - np.sin(turn) * v + PLACES[detector][0]
    fy = np.sin(turn) * u + np.cos(turn) * v + PLACES[detector][1]
    radius = np.hypot(fx, fy) / 800.0
    stretch = 1.0 + 2e-3 * radius**2
    return inverse_gnomonic(fx * stretch / 3600, fy * stretch / 3600, RA, DEC)


@pytest.fixture(scope="module")
def visit():
    """Nine detectors with 60 stars each, nominal projections off by arcseconds, and a reference with strangers."""
    rng = np.random.default_rng(1180)
    positions, ra, dec = {}, [], []
    for d, (px, py) in enumerate(PLACES):
        x, y = rng.uniform(0, 999, 60), rng.uniform(0, 1999, 60)
        sky = sky_of(d, x, y)
        ra.append(sky[0][:40])
        dec.append(sky[1][:40])
        middle = inverse_gnomonic(px / 3600, py / 3600, RA, DEC)
        frame = DetectorFrame(instrument="Toy", visit=1, detector=d, bbox=BOX)
        # the truth has x to the east; a mirrored projection has it to the west
        nominal = tan_projection(
            float(middle[0]) + 3.0 / 3600, float(middle[1]) - 2.0 / 3600, x=499.5, y=999.5, scale=SCALE, frame=frame
        )
        x, y = (x, y) if d == 8 else (999 - x, y)
        positions[d] = DetectorPositions(x=x, y=y, error=np.full(60, 0.01), projection=nominal, bbox=BOX)
    strangers = inverse_gnomonic(*rng.uniform(-0.2, 0.2, (2, 200)), RA, DEC)
    table = Table({"ra": np.concatenate([*ra, strangers[0]]), "dec": np.concatenate([*dec, strangers[1]])})
    return positions, table


def truth(detector, x, y):
    return sky_of(detector, np.asarray(x), y) if detector == 8 else sky_of(detector, 999 - np.asarray(x), y)


def test_every_detector_is_solved_corner_to_corner(visit):
    positions, reference = visit
    solved = solve_visit(positions, reference, EPOCH)
    grid = [v.ravel() for v in np.meshgrid(np.linspace(0, 999, 9), np.linspace(0, 1999, 9))]
    for detector, projection in solved.projections.items():
        ra, dec = pixel_to_radec(projection, *grid)
        assert separation(ra, dec, *truth(detector, *grid)).max() < 1e-3  # arcsec, with no noise in the positions
        x, y = radec_to_pixel(projection, ra, dec)
        assert np.hypot(x - grid[0], y - grid[1]).max() < 1e-4  # pixels, there and back
    assert np.bincount(solved.matches["detector"]).min() >= 38


def test_reserved_stars_are_matched_and_do_not_pull(visit):
    positions, reference = visit
    held = np.zeros(len(reference), dtype=bool)
    held[::5] = True
    moved = reference.copy()
    moved["dec"][held] += 0.05 / 3600  # a lie that the fit must not follow
    matches = solve_visit(positions, moved, EPOCH, reserved=held).matches
    mine = held[matches["reference"]]
    assert mine.sum() > 50
    assert not matches["used"][mine].any()
    assert np.median(matches["north"][mine]) == pytest.approx(-0.05, abs=2e-3)
    assert np.abs(np.median(matches["north"][~mine])) < 1e-3


def test_proper_motions_are_applied(visit):
    positions, reference = visit
    moving = reference.copy()
    moving["pmRa"], moving["pmDec"] = np.full(len(moving), 50.0), np.full(len(moving), -80.0)
    moving.meta["epoch"] = EPOCH - 3652.5  # ten years: back to where they were
    moving["ra"] -= 0.5 / 3600 / np.cos(np.deg2rad(moving["dec"]))
    moving["dec"] += 0.8 / 3600
    solved = solve_visit(positions, moving, EPOCH)
    ra, dec = pixel_to_radec(solved.projections[4], [500.0], [1000.0])
    assert separation(ra, dec, *truth(4, [500.0], 1000.0))[0] < 2e-3


def test_a_reference_elsewhere_and_one_that_does_not_fit_are_named(visit):
    positions, reference = visit
    elsewhere = reference.copy()
    elsewhere["dec"] += 20.0
    with pytest.raises(NoOverlap, match="none of the 560 reference objects lies on the visit"):
        solve_visit(positions, elsewhere, EPOCH)
    rng = np.random.default_rng(5)
    noise = Table(dict(zip(("ra", "dec"), inverse_gnomonic(*rng.uniform(-0.2, 0.2, (2, 400)), RA, DEC), strict=True)))
    with pytest.raises(TooFewStars, match="none of the 9 detectors shows a pattern"):
        solve_visit(positions, noise, EPOCH)


@pytest.fixture(scope="module")
def hsc():
    """Centroids and headers of all CCDs of visit 1180, and Gaia."""
    try:
        folder = data_set("hsc-visit-1180-astrometry")
    except MissingData as error:
        pytest.skip(str(error))
    gaia = Table.read(folder / "gaia_refCat.parquet")
    degrees = {name: np.rad2deg(np.ma.filled(np.ma.asarray(gaia[name]).astype(float), np.nan)) for name in
               ("coord_ra", "coord_dec", "pm_ra", "pm_dec")}  # fmt: skip
    flux = np.ma.filled(np.ma.asarray(gaia["phot_g_mean_flux"]).astype(float), np.nan)
    reference = Table({
        "ra": degrees["coord_ra"], "dec": degrees["coord_dec"], "flux": flux,
        "pmRa": degrees["pm_ra"] * 3.6e6, "pmDec": degrees["pm_dec"] * 3.6e6,
    })[np.isfinite(degrees["coord_ra"])]  # fmt: skip
    reference.sort("flux", reverse=True)
    reference.meta["epoch"] = EPOCH
    box, positions = Box.factory[0:4176, 0:2048], {}
    for path in sorted(folder.glob("1180_*.fits"), key=lambda path: int(re.findall(r"\d+", path.stem)[-1])):
        with fits.open(path) as hdus:
            header, rows = hdus[0].header, Table(hdus[1].data)
        rows.sort("xErr")
        cards = {name: header[name] for name in header if re.match("CRVAL|CRPIX|CD[12]_", name)}
        wcs = WCS(fits.Header(cards | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}))
        frame = DetectorFrame(instrument="HSC", visit=1180, detector=int(header["DET-ID"]), bbox=box)
        x, y, error = (np.asarray(rows[name], float) for name in ("x", "y", "xErr"))
        positions[int(header["DET-ID"])] = DetectorPositions(
            x=x, y=y, error=error, projection=projection_from_wcs(wcs, frame, box), bbox=box
        )
    return positions, reference


@pytest.mark.real_data
@pytest.mark.slow
def test_a_visit_of_hsc_is_solved_from_its_centroids(hsc):
    positions, reference = hsc
    held = np.random.default_rng(1180).random(len(reference)) < 0.2
    solved = solve_visit(positions, reference, 56744.291, reserved=held, config=VisitAstrometryConfig())
    miss = np.hypot(solved.matches["east"], solved.matches["north"])
    close = {d: int(((solved.matches["detector"] == d) & (miss < 0.1)).sum()) for d in positions}
    assert sum(n >= 10 for n in close.values()) >= 100
    honest = held[solved.matches["reference"]]
    assert honest.sum() > 200
    assert np.median(miss[honest]) <= 0.015
