"""Warping one image by 3 degrees: `images.warp` beside SWarp and reproject.

400 Gaussian stars of FWHM 2.8 pixels, integrated over the pixels, on 2048 x 1489 pixels, seed 8008; noise-free for
fluxes and centroids, pure white noise for the noise columns. Fluxes are sums within 9 pixels of where the WCS puts
the star; centroids are Gaussian-windowed, iterated, and their rms is per coordinate.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common  # first: it sets the number of threads
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, Image, MaskedImage
from numpy.typing import NDArray
from scipy.special import erf

from nightlab.images.planes import VISIT_PLANES, new_mask
from nightlab.images.warp import Warped, warp
from nightlab.images.wcs import projection_from_wcs
from nightlab.numeric.spectra import measured_autocorrelation

Floats = NDArray[np.floating]

SHAPE = (1489, 2048)
SCALE = 0.396  # arcsec
SEED = 8008
SIGMA = 2.8 / 2.354820045
RADIUS = 9.0
SWARP = (
    "-c empty.swarp -IMAGEOUT_NAME coadd.fits -RESAMPLE Y -COMBINE N -RESAMPLING_TYPE LANCZOS3 -SUBTRACT_BACK N "
    "-WEIGHT_TYPE NONE -FSCALASTRO_TYPE NONE -NTHREADS 1 -WRITE_XML N -VERBOSE_TYPE QUIET"
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Input and output grids, and stars on them."""

    old: WCS
    new: WCS
    stars: Floats
    noise: Floats
    x: Floats
    y: Floats
    new_x: Floats
    new_y: Floats


def wcs(rotation: float, dx: float, dy: float) -> WCS:
    out = WCS(naxis=2)
    turn, degrees = np.deg2rad(rotation), SCALE / 3600
    out.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    out.wcs.cunit = ["deg", "deg"]
    out.wcs.crval = [351.65, 0.1]
    out.wcs.crpix = [0.5 * (SHAPE[1] + 1) + dx, 0.5 * (SHAPE[0] + 1) + dy]
    out.wcs.cd = degrees * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    out.wcs.radesys = "ICRS"
    out.wcs.set()
    return out


def scene() -> Scene:
    rng = np.random.default_rng(SEED)
    old, new = wcs(0.0, 0.0, 0.0), wcs(3.0, 0.37, -0.21)
    # a jittered lattice: no two apertures overlap
    gx, gy = np.meshgrid(np.linspace(150, 1897, 25), np.linspace(150, 1338, 16))
    x = gx.ravel() + rng.uniform(-15, 15, gx.size)
    y = gy.ravel() + rng.uniform(-15, 15, gy.size)
    image = np.zeros(SHAPE)
    reach = np.arange(-14, 15)
    for a, b, flux in zip(x, y, 10 ** rng.uniform(3, 5, x.size), strict=True):
        i, j = round(b), round(a)
        rows, columns = (
            0.5 * np.diff(erf((np.append(c + reach, c + 15) - 0.5 - p) / (np.sqrt(2) * SIGMA)))
            for c, p in ((i, b), (j, a))
        )
        image[i - 14 : i + 15, j - 14 : j + 15] += flux * np.outer(rows, columns)
    new_x, new_y = new.world_to_pixel(old.pixel_to_world(x, y))
    inside = (new_x > 20) & (new_x < SHAPE[1] - 21) & (new_y > 20) & (new_y < SHAPE[0] - 21)
    noise = rng.normal(size=SHAPE).astype(np.float32)
    return Scene(
        old=old,
        new=new,
        stars=image.astype(np.float32),
        noise=noise,
        x=x[inside],
        y=y[inside],
        new_x=new_x[inside],
        new_y=new_y[inside],
    )


def apertures(image: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Flux within `RADIUS` of every position, a pixel counting by how far it lies inside, and windowed centroids."""
    reach = np.arange(-11, 12)
    i, j = np.rint(y).astype(int), np.rint(x).astype(int)
    rows, columns = i[:, None, None] + reach[:, None], j[:, None, None] + reach[None, :]
    pixels = np.asarray(image, float)[rows, columns]
    u, v = columns - x[:, None, None], rows - y[:, None, None]
    flux = (pixels * np.clip(RADIUS + 0.5 - np.hypot(u, v), 0, 1)).sum(axis=(1, 2))
    a, b = np.zeros(len(x)), np.zeros(len(x))
    for _ in range(20):
        du, dv = u - a[:, None, None], v - b[:, None, None]
        weighted = pixels * np.exp(-0.5 * (du**2 + dv**2) / SIGMA**2)
        total = weighted.sum(axis=(1, 2))
        a, b = a + 2 * (weighted * du).sum(axis=(1, 2)) / total, b + 2 * (weighted * dv).sum(axis=(1, 2)) / total
    return flux, a, b


def scores(setting: Scene, stars: Floats, noise: Floats) -> dict[str, float]:
    before, _, _ = apertures(setting.stars, setting.x, setting.y)
    after, u, v = apertures(stars, setting.new_x, setting.new_y)
    change = after / before - 1
    good = np.isfinite(noise)
    correlation = measured_autocorrelation(np.where(good, noise, 0.0), good, 1)
    return {
        "bias": float(change.mean()),
        "scatter": float(change.std()),
        "centroid": float(np.sqrt(np.mean(np.append(u, v) ** 2))),
        "noise": float(noise[good].std()),
        "lag_x": float(correlation[1, 2]),
        "lag_y": float(correlation[2, 1]),
    }


def ours(setting: Scene, pixels: Floats) -> Warped:
    box = Box.from_shape(SHAPE)
    frame = DetectorFrame(instrument="Bench", detector=0, bbox=box)
    image = MaskedImage(
        Image(pixels, bbox=box, sky_projection=projection_from_wcs(setting.old, frame, box)),
        mask=new_mask(VISIT_PLANES, box),
        variance=Image(np.ones(SHAPE, np.float32), bbox=box),
    )
    return warp(image, projection_from_wcs(setting.new, frame, box), box, schema=VISIT_PLANES)


def through_files(setting: Scene, folder: Path) -> None:
    """`warp` as a program would do it: pixels read from FITS, image and variance written."""
    done = ours(setting, np.asarray(fits.getdata(folder / "stars.fits"), np.float32))
    header = setting.new.to_header()
    for name, pixels in (("image", done.image), ("variance", done.variance)):
        fits.writeto(folder / f"ours_{name}.fits", pixels, header, overwrite=True)


def swarp(program: str, setting: Scene, folder: Path, name: str) -> Floats:
    """SWarp's resampled image on our output pixels; it trims what it does not need."""
    (folder / "coadd.head").write_text(header_text(setting.new))
    common.run(
        [program, f"{name}.fits", *SWARP.split()],
        folder,
    )
    with fits.open(folder / f"{name}.resamp.fits") as hdus:
        data, header = np.asarray(hdus[0].data), hdus[0].header
        weight = fits.getdata(folder / f"{name}.resamp.weight.fits")
    x0 = round(setting.new.wcs.crpix[0] - header["CRPIX1"])
    y0 = round(setting.new.wcs.crpix[1] - header["CRPIX2"])
    placed = np.full((SHAPE[0] + 800, SHAPE[1] + 800), np.nan)
    placed[400 + y0 : 400 + y0 + data.shape[0], 400 + x0 : 400 + x0 + data.shape[1]] = np.where(
        weight > 0, data, np.nan
    )
    return placed[400:-400, 400:-400]


def header_text(target: WCS) -> str:
    header = target.to_header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, SHAPE[1], SHAPE[0]
    return header.tostring(sep="\n", endcard=True, padding=False) + "\n"


def reproject_bicubic(setting: Scene, pixels: Floats) -> Floats:
    from reproject import reproject_interp

    out = reproject_interp(
        (pixels, setting.old), setting.new, shape_out=SHAPE, order="bicubic", return_footprint=False
    )
    return np.asarray(out)


def main() -> None:
    common.heading("Warping 2048 x 1489 pixels by 3 degrees", "reproject", "scipy", "astropy")
    setting = scene()
    rows: list[list[object]] = []

    def measured(name: str, make: Callable[[str], Floats]) -> float:
        noise = make("noise")  # also the warm-up
        seconds, stars = common.timed(lambda: make("stars"))
        s = scores(setting, stars, noise)
        rows.append(
            [
                name,
                f"{seconds:.2f}",
                f"{s['bias']:+.1e}",
                f"{s['scatter']:.1e}",
                f"{s['centroid']:.4f}",
                f"{s['noise']:.3f}",
                f"{s['lag_x']:.3f} / {s['lag_y']:.3f}",
            ]
        )
        return seconds

    inputs = {"stars": setting.stars, "noise": setting.noise}
    seconds = measured("nightlab Lanczos-3", lambda name: ours(setting, inputs[name]).image)
    swarp_program = common.program("swarp", "SWarp")
    peers: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, pixels in inputs.items():
            fits.writeto(folder / f"{name}.fits", pixels, setting.old.to_header())
        (folder / "empty.swarp").write_text("")
        with_files, _ = common.timed(lambda: through_files(setting, folder))
        if swarp_program is None:
            common.skipped("SWarp", "`apt-get install swarp`")
        else:
            theirs = measured("SWarp LANCZOS3", lambda name: swarp(swarp_program, setting, folder, name))
            peers.append(("SWarp, both with FITS in and out", with_files, theirs))
    if common.version_of("reproject") == "absent":
        common.skipped("reproject", "`pip install 'nightlab[benchmarks]'`")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = measured("reproject_interp bicubic", lambda name: reproject_bicubic(setting, inputs[name]))
        peers.append(("reproject bicubic, in memory", seconds, theirs))
    common.table(["", "CPU s", "flux bias", "flux scatter", "centroid rms px", "noise std", "lag-1 x / y"], rows)
    print(
        f"\nnightlab through FITS files: {with_files:.2f} s. It carries variance and mask planes along; SWarp a weight"
    )
    print("map, reproject the image alone.")
    for what, mine, theirs in peers:
        common.ratio(what, mine, theirs)
    predict(ours(setting, setting.noise))


def predict(noise: Warped) -> None:
    """The noise autocorrelation that `warp` foretells beside that of the warped noise."""
    good = ~noise.no_data
    reach = noise.correlation.shape[0] // 2
    seen = measured_autocorrelation(np.where(good, noise.image, 0.0), good, reach)
    spread = 1 / np.sqrt(good.sum())
    variance = float(np.var(noise.image[good])) / float(np.mean(noise.variance[good]))
    print(f"\nforetold noise: correlation at lags (0,1) (1,0) (1,1) (0,2): {at(noise.correlation, reach)}")
    print(f"measured:                                                    {at(seen, reach)}")
    print(f"largest difference over all lags {np.abs(seen - noise.correlation).max():.4f}", end="")
    print(f" (statistical error of one lag {spread:.4f}); measured over foretold variance {variance:.4f}")


def at(correlation: Floats, middle: int) -> str:
    lags = ((0, 1), (1, 0), (1, 1), (0, 2))
    return " ".join(f"{correlation[middle + dy, middle + dx]:+.4f}" for dy, dx in lags)


if __name__ == "__main__":
    main()
