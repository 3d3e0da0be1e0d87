"""One SDSS frame (Stripe 82, run 4192, r): `calibrate` beside source-extractor and PSFEx, sep, and photutils.

The peer's chain is source-extractor (with stamps for PSFEx), psfex, and source-extractor again with PSF photometry:
threshold 1.5 sigma on 5 pixels, its default 3 x 3 filter, meshes of 128 pixels, apertures of 12 pixels, PSF of 35 x 35
pixels and degree 2. Both are compared in pixels with the catalogue that the LSST stack made of the frame: its sources
that are not saturated, at an edge or badly centred, a match being 0.5 arcsec. `calibrate` uses the PSF SDSS published
and goes on to astrometry and zero point, once (`refit`) with the PSF fitted to the frame's own stars, as PSFEx does.
"""

from __future__ import annotations

import cProfile
import importlib.util
import pstats
import tempfile
from collections.abc import Callable
from pathlib import Path

import common  # first: it sets the number of threads
import numpy as np
import python_peers
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from single_frame import STACK_EXPOSURES, clean_stack_sources, frame_path, reference_catalogue, stack_catalogue

from nightlab.data.instruments.sdss import read_raw
from nightlab.stages.single_frame import CalibrateConfig, CalibratedFrame, calibrate
from nightlab.stages.single_frame.psf import PsfConfig

Floats = NDArray[np.floating]

RUN, BAND = 4192, "r"
RADIUS = 0.5 / 0.396  # pixels
UNUSABLE = (
    "base_SdssCentroid_flag",
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_saturated",
    "base_PixelFlags_flag_saturatedCenter",
)
SETTINGS = """
DETECT_THRESH 1.5
ANALYSIS_THRESH 1.5
DETECT_MINAREA 5
FILTER Y
FILTER_NAME default.conv
BACK_SIZE 128
BACK_FILTERSIZE 3
PHOT_APERTURES 12
SATUR_LEVEL 43653
PIXEL_SCALE 0.396
SEEING_FWHM 1.2
STARNNW_NAME default.nnw
VERBOSE_TYPE QUIET
"""
FILTER = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"
FOR_PSFEX = "X_IMAGE Y_IMAGE FLUX_APER(1) FLUXERR_APER(1) FLUX_RADIUS SNR_WIN ELONGATION FLAGS FLUX_MAX VIGNET(35,35)"
FOR_US = "XWIN_IMAGE YWIN_IMAGE X_IMAGE Y_IMAGE FLUX_APER(1) FLUX_PSF FLUXERR_PSF XPSF_IMAGE YPSF_IMAGE FLAGS"

STARS = ("bright stars dmag, scatter", "faint stars")
WITHOUT_PSF = "frame.fits -c a.sex -PARAMETERS_NAME a.param"
WITH_PSF = "-PARAMETERS_NAME b.param -CATALOG_NAME b.cat -PSF_NAME a.psf"
PSFEX = (
    "a.cat -c empty.psfex -PSF_SIZE 35,35 -PSFVAR_DEGREES 2 -NTHREADS 1 "
    "-CHECKIMAGE_TYPE NONE -CHECKPLOT_DEV NULL -WRITE_XML N -VERBOSE_TYPE QUIET"
)


def chain(extractor: str, psfex: str, folder: Path) -> Table:
    common.run([extractor, *WITHOUT_PSF.split()], folder)
    common.run(
        [psfex, *PSFEX.split()],
        folder,
    )
    common.run(
        [extractor, *WITHOUT_PSF.split(), *WITH_PSF.split()],
        folder,
    )
    with fits.open(folder / "b.cat") as hdus:
        return Table(hdus[2].data)


def prepare(folder: Path, pixels: Floats, gain: float) -> None:
    fits.writeto(folder / "frame.fits", np.asarray(pixels, np.float32))
    (folder / "a.sex").write_text(f"{SETTINGS}GAIN {gain}\nCATALOG_TYPE FITS_LDAC\nCATALOG_NAME a.cat\n")
    (folder / "default.conv").write_text(FILTER)
    (folder / "a.param").write_text(FOR_PSFEX.replace(" ", "\n"))
    (folder / "b.param").write_text(FOR_US.replace(" ", "\n"))
    (folder / "empty.psfex").write_text("")


def row(
    name: str, seconds: float, x: Floats, y: Floats, flux: Floats, stack: Table, clean: Table, whole: Table
) -> list[object]:
    """Counts, completeness and differences from the stack of one catalogue; `flux` in adu."""
    everything = cKDTree(np.stack([whole["base_SdssCentroid_x"], whole["base_SdssCentroid_y"]], axis=1))
    strangers = everything.query(np.stack([x, y], axis=1))[0] > RADIUS
    tree = cKDTree(np.stack([x, y], axis=1))
    distance, nearest = tree.query(np.stack([stack["base_SdssCentroid_x"], stack["base_SdssCentroid_y"]], axis=1))
    of_clean = tree.query(np.stack([clean["base_SdssCentroid_x"], clean["base_SdssCentroid_y"]], axis=1))[0]
    found = distance < RADIUS
    magnitude = stack["magnitude"]
    bins = [found[(magnitude >= m) & (magnitude < m + 1)].mean() for m in range(18, 24)]
    change = -2.5 * np.log10(np.maximum(flux[nearest], 1e-3) / stack["base_PsfFlux_instFlux"])
    spreads = []
    for low, high in ((15.5, 20.0), (20.5, 22.0)):
        part = change[found & (magnitude >= low) & (magnitude < high) & stack["star"]]
        middle = np.median(part)
        spreads.append(f"{middle:+.3f}, {1.4826 * np.median(np.abs(part - middle)):.3f}")
    return [
        name,
        f"{seconds:.2f}",
        len(x),
        int(strangers.sum()),
        int(found.sum()),
        f"{(of_clean < RADIUS).mean():.3f}",
        " ".join(f"{b:.3f}" for b in bins),
        f"{np.median(of_clean[of_clean < RADIUS]):.3f}",
        *spreads,
    ]


def of_frame(catalogue: Table, zero_point: float) -> tuple[Table, Table, Table]:
    """The stack's sources of the frame: those with a usable position, the clean ones of S/N > 10, and all."""
    whole = catalogue[(catalogue["id"] >> 31) == STACK_EXPOSURES[RUN, BAND]]
    flagged = np.any([whole[name] for name in UNUSABLE], axis=0)
    rows = whole[~flagged & (whole["base_PsfFlux_instFlux"] > 0)]
    rows["magnitude"] = zero_point - 2.5 * np.log10(rows["base_PsfFlux_instFlux"])
    aperture = rows["base_CircularApertureFlux_6_0_instFlux"]
    ratio = rows["base_PsfFlux_instFlux"] / aperture  # alike for all stars, smaller for galaxies
    rows["star"] = np.abs(ratio - np.median(ratio[(rows["magnitude"] > 16) & (rows["magnitude"] < 19)])) < 0.1
    placed = whole[np.isfinite(whole["base_SdssCentroid_x"]) & np.isfinite(whole["base_SdssCentroid_y"])]
    return rows, clean_stack_sources(catalogue, RUN, BAND), placed


def read(data: Path, reference: Table, config: CalibrateConfig) -> CalibratedFrame:
    return calibrate(read_raw(frame_path(data, RUN, BAND)), reference=reference, config=config)


def profile(act: Callable[[], object], name: str, most: int = 14) -> None:
    """Print which of the functions that `name` calls take its time, each with all that it calls."""
    profiler = cProfile.Profile()
    profiler.runcall(act)
    stats = pstats.Stats(profiler)
    stats.calc_callees()
    whole = max((key for key in stats.stats if key[2] == name), key=lambda key: stats.stats[key][3])
    total = stats.stats[whole][3]
    steps = sorted(((took[3], key[2]) for key, took in stats.all_callees[whole].items()), reverse=True)
    print(f"\nprofile of {name}, {total:.2f} s with the profiler in the way")
    common.table(["", "s", ""], [[step, f"{took:.2f}", f"{took / total:.0%}"] for took, step in steps[:most]])


def main() -> None:
    data = common.stripe82()
    common.heading(f"One frame, run {RUN} {BAND}: detection, PSF, photometry", "sep", "scipy", "photutils")
    reference = reference_catalogue(data)
    raw = read_raw(frame_path(data, RUN, BAND))
    given, refit = CalibrateConfig(), CalibrateConfig(psf=PsfConfig(refit=True))
    rows, ours, others = [], {}, {}
    stack: tuple[Table, Table, Table] | None = None
    for name, config in (("nightlab, PSF of SDSS", given), ("nightlab, PSF refit", refit)):
        calibrate(raw, reference=reference, config=config)
        seconds, result = common.timed(lambda c=config: calibrate(raw, reference=reference, config=c))
        zero_point = float(result.metrics["zero_point"].values.ravel()[0])
        stack = stack or of_frame(stack_catalogue(data), zero_point)
        adu = 10 ** (0.4 * (31.4 - zero_point))
        source = result.source
        flux = source["psfFlux"].value / adu
        rows.append(row(name, seconds, source["x"].value, source["y"].value, flux, *stack))
        ours[name] = seconds
    reading, _ = common.timed(lambda: read(data, reference, refit))
    extractor, psfex = common.program("source-extractor", "sex"), common.program("psfex")
    theirs = None
    if extractor is None or psfex is None:
        missing = " and ".join(n for n, p in (("source-extractor", extractor), ("psfex", psfex)) if p is None)
        common.skipped(missing, "`apt-get install source-extractor psfex`")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(folder, raw.image.array, float(raw.metadata["gain"]))
            chain(extractor, psfex, folder)
            theirs, found = common.timed(lambda: chain(extractor, psfex, folder))
            extracting, _ = common.timed(lambda: common.run([extractor, *WITHOUT_PSF.split()], folder))
            said = common.run([extractor, "--version"], folder).strip()
        x, y = np.asarray(found["XWIN_IMAGE"], float) - 1, np.asarray(found["YWIN_IMAGE"], float) - 1
        rows.append(row("source-extractor + psfex", theirs, x, y, np.asarray(found["FLUX_PSF"], float), *stack))
    pixels, gain = np.asarray(raw.image.array, float), float(raw.metadata["gain"])
    peers = {"sep, circles of 12 pixels": python_peers.with_sep}
    if importlib.util.find_spec("photutils") is None:
        common.skipped("photutils", "`pip install photutils`")
    else:
        peers["photutils"] = python_peers.with_photutils
    for name, peer in peers.items():
        seconds, found = common.timed(lambda p=peer: p(pixels, gain))
        rows.append(row(name, seconds, *(np.asarray(found[column], float) for column in ("x", "y", "flux")), *stack))
        others[name] = seconds
    bins = f"of all {len(stack[0])}, by mag 18 19 20 21 22 23"
    print("Completeness against the LSST stack's catalogue of the frame; magnitudes are PSF flux over the stack's")
    common.table(
        ["", "CPU s", "N", "not in stack", "found", f"of {len(stack[1])} S/N > 10", bins, "position px", *STARS],
        rows,
    )
    print(f"\nnightlab refit with reading the four SDSS files: {reading:.2f} s")
    if theirs is not None:
        print(f"source-extractor alone, without PSF: {extracting:.2f} s ({said})")
        others = {"source-extractor + psfex": theirs, **others}
    for name, seconds in (*ours.items(), ("nightlab refit, files read", reading)):
        for peer, its in others.items():
            common.ratio(f"{name} / {peer}", seconds, its)
    profile(lambda: calibrate(raw, reference=reference, config=refit), "calibrate")


if __name__ == "__main__":
    main()
