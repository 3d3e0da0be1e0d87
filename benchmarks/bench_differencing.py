"""Stripe 82, run 6377 minus run 4192: warp, subtract and detect beside sfft.

python benchmarks/bench_differencing.py [--all]     (r alone, or g, r and i; --help for more)

Both get the same registered pair: the calibrated 6377 frame and the 4192 frame, calibrated and warped onto its pixels
by NightLab. sfft runs as published (sparse flavour, NumPy backend, one thread, science image convolved, kernel half
width twice the FWHM, spatial degree 2) in an environment of its own, because it needs numpy < 2.4: the one whose
Python is $NIGHTLAB_SFFT_PYTHON, else build/sfft. Both differences are measured by the code below, the same for both:

expected     pixel noise from the variance planes of the two inputs through the tool's own filters
sky          good pixels over 6 pixels from any source of either epoch (segmented by sep at 1.5 sigma on 5 pixels)
std / exp    robust scatter of D / expected on sky; lag 1: correlation of neighbouring sky pixels
detections   peaks of D filtered with its PSF beyond 5 times the filtered image's own robust local scatter
naive        the same beyond 5 times the scatter that white noise of the expected level would have
blank        detections on sky
star chi     rms of D / expected within 5 pixels of bright, unsaturated stars: median and 90th percentile
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common  # first: it sets the number of threads
import numpy as np
import scipy.ndimage as ndi
import sep
from astropy.io import fits
from lsst.images import DifferenceImage, VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from single_frame import frame_path, reference_catalogue

from nightlab.data.instruments.sdss import read_raw
from nightlab.images.build import psf_of
from nightlab.images.planes import flagged
from nightlab.images.psf import psf_stamps
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import fits_header
from nightlab.numeric.spectra import measured_autocorrelation
from nightlab.stages.differencing import detect_dia_sources, subtract
from nightlab.stages.single_frame import CalibratedFrame, calibrate
from nightlab.stages.templates import build_template, warp_template

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

SATURATION = {"g": 50065.0, "r": 43653.0, "i": 23653.0}
SFFT_VERSION = "1.7.3"
# Peers as measured before on this pair, on the pixels of run 4192 (science image warped with SWarp LANCZOS4) and on
# other sky pixels: no part of this run
QUOTED_HOTPANTS = {
    "g": ["hotpants (quoted)", "3.3", "1.045", "0.114 / 0.032", "820 / 891", "1135 / 1221", "3+4", "1.93 / 7.2"],
    "r": ["hotpants (quoted)", "3.5", "0.999", "0.090 / 0.096", "938 / 875", "1332 / 1167", "2+2", "1.61 / 6.8"],
    "i": ["hotpants (quoted)", "3.0", "0.976", "0.087 / 0.100", "750 / 924", "1153 / 1319", "3+2", "1.70 / 3.5"],
}
QUOTED = {
    "g": ["sfft (quoted)", "32.5", "1.030", "0.072 / 0.029", "835 / 1127", "1017 / 1277", "4+3", "1.90 / 5.4"],
    "r": ["sfft (quoted)", "25.3", "1.103", "-0.119 / -0.113", "1277 / 1364", "1198 / 1214", "0+1", "3.32 / 7.8"],
    "i": ["sfft (quoted)", "27.8", "1.030", "0.063 / 0.084", "727 / 916", "908 / 1122", "3+1", "1.53 / 3.2"],
}
COLUMNS = ["", "CPU s", "std / exp", "lag 1 x / y", "det + / - per 1000'", "naive + / -", "blank", "star chi"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One band: both epochs calibrated, and the template on the pixels of the science image."""

    band: str
    science: CalibratedFrame
    template: DifferenceImage
    other: VisitImage
    gain: float
    dark_variance: float

    @property
    def adu(self) -> float:
        """Science image's nJy per adu."""
        x, y = (np.array([v]) for v in (self.image.bbox.x.center, self.image.bbox.y.center))
        return float(np.ravel(self.image.photometric_scaling(x=x, y=y))[0])

    @property
    def image(self) -> VisitImage:
        return self.science.visit_image


@dataclass(frozen=True, kw_only=True)
class Subtracted:
    """One tool's difference image, its expected noise, and its PSF at the centre."""

    name: str
    seconds: str
    pixels: Floats
    expected: Floats
    psf: Floats


def on_grid_of(image: VisitImage, other: VisitImage) -> CellCoadd:
    shape = (image.bbox.shape.y, image.bbox.shape.x)
    header = fits_header(image.sky_projection, image.bbox)
    tract = TractGrid(tract=0, header=header, shape=shape, patch=shape, border=0, cell=(256, 256))
    return build_template([other], SkyMap(name="bench", tracts=(tract,)), 0, 0).template_coadd


def warped(image: VisitImage, other: VisitImage) -> DifferenceImage:
    return warp_template(image, [on_grid_of(image, other)]).template_detector


def pair_of(data: Path, band: str) -> Pair:
    reference = reference_catalogue(data)
    raws = [read_raw(frame_path(data, run, band)) for run in (6377, 4192)]
    science, other = (calibrate(raw, reference=reference) for raw in raws)
    return Pair(
        band=band,
        science=science,
        other=other.visit_image,
        template=warped(science.visit_image, other.visit_image),
        gain=float(raws[0].metadata["gain"]),
        dark_variance=float(raws[0].metadata["darkVariance"]),
    )


def ours(pair: Pair) -> tuple[Subtracted, dict[str, float]]:
    def once() -> tuple[dict[str, float], DifferenceImage]:
        begin = common.cpu_seconds()
        template = warped(pair.image, pair.other)
        after_warp = common.cpu_seconds()
        difference = subtract(pair.image, template, pair.science.source).difference_image
        after_subtract = common.cpu_seconds()
        detect_dia_sources(difference, pair.image, template)
        end = common.cpu_seconds()
        return {"warp": after_warp - begin, "subtract": after_subtract - after_warp, "detect": end - after_subtract}, (
            difference
        )

    once()
    runs = [once() for _ in range(common.REPEATS)]
    steps = {name: statistics.median(r[0][name] for r in runs) for name in runs[0][0]}
    steps["all"] = statistics.median(sum(r[0].values()) for r in runs)
    difference, box = runs[-1][1], pair.image.bbox
    return (
        Subtracted(
            name="nightlab",
            seconds=f"{steps['all']:.2f}",
            pixels=difference.image.array / pair.adu,
            expected=np.sqrt(difference.variance.array) / pair.adu,
            psf=psf_stamps(psf_of(difference), [box.x.center], [box.y.center], centred=True)[0],
        ),
        steps,
    )


def sfft_python() -> str | None:
    named = os.environ.get("NIGHTLAB_SFFT_PYTHON")
    place = Path(named) if named else Path(__file__).parents[1] / "build/sfft/bin/python"
    return str(place) if place.is_file() else None


def theirs(pair: Pair, python: str, extractor: str, arguments: argparse.Namespace) -> tuple[Subtracted, float, float]:
    """sfft's difference, median CPU seconds of its runs after the first, and those of the first."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        header = fits.Header(fits_header(pair.image.sky_projection, pair.image.bbox))
        header["GAIN"], header["ESATUR"] = pair.gain, arguments.sfft_saturation * SATURATION[pair.band]
        for name, image in (("science", pair.image), ("reference", pair.template)):
            pixels = np.where(np.isfinite(image.image.array), image.image.array / pair.adu, np.nan)
            fits.writeto(folder / f"{name}.fits", pixels.astype(np.float32), header)
        # sfft calls source-extractor by its old name
        (folder / "bin").mkdir()
        os.symlink(extractor, folder / "bin/sex")
        environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        script = Path(__file__).with_name("run_sfft.py")
        said = common.run(
            [python, script, folder, str(arguments.sfft_kernel), "SCI", str(arguments.sfft_runs + 1)],
            folder,
            environment=environment,
        )
        seconds = [float(line.split()[1]) for line in said.splitlines() if line.startswith("cpu ")]
        difference = np.asarray(fits.getdata(folder / "difference.fits"), float)
        kernel = np.asarray(fits.getdata(folder / "kernel.fits"), float)
    median, box = statistics.median(seconds[1:] or seconds), pair.image.bbox
    variance = fftconvolve(finite(pair.image.variance.array), kernel**2, mode="same")
    expected = np.sqrt(np.maximum(variance, 0) + finite(pair.template.variance.array)) / pair.adu
    stamp = psf_stamps(psf_of(pair.image), [box.x.center], [box.y.center], centred=True, size=41)[0]
    psf = fftconvolve(stamp, kernel, mode="same")
    runs = f"median of {len(seconds) - 1}" if len(seconds) > 1 else "first run"
    n_sources = next((line.split()[1] for line in said.splitlines() if line.startswith("sources ")), "?")
    print(f"sfft: {n_sources} sources for the kernel of {kernel.shape[0]} pixels, sum {kernel.sum():.4f}")
    return (
        Subtracted(
            name=f"sfft {SFFT_VERSION}, {runs}", seconds=f"{median:.2f}", pixels=difference, expected=expected, psf=psf
        ),
        median,
        seconds[0],
    )


def finite(values: Floats) -> Floats:
    good = np.isfinite(values)
    return np.where(good, values, np.median(values[good])).astype(float)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Pixels and stars that the measures use, the same for every difference of a pair."""

    good: Bools
    sky: Bools
    star_x: NDArray[np.intp]
    star_y: NDArray[np.intp]


def regions(pair: Pair, differences: list[Subtracted]) -> Regions:
    bad = ("BAD", "SATURATED", "NO_DATA", "COSMIC_RAY", "DETECTION_EDGE", "INTERPOLATED", "SUSPECT")
    good = np.ones(pair.image.image.array.shape, bool)
    sources = np.zeros(good.shape, bool)
    for image in (pair.image, pair.template):
        spoiled = ndi.binary_dilation(flagged(image.mask, *bad) | ~np.isfinite(image.image.array), iterations=4)
        good &= ~spoiled
        data = np.ascontiguousarray(finite(image.image.array), np.float32)
        noise = np.ascontiguousarray(np.sqrt(finite(image.variance.array)), np.float32)
        sep.set_extract_pixstack(2_000_000)
        _, segments = sep.extract(data, 1.5, err=noise, minarea=5, segmentation_map=True)
        sources |= segments > 0
    for difference in differences:
        good &= np.isfinite(difference.pixels) & np.isfinite(difference.expected)
    good[:40], good[-40:], good[:, :40], good[:, -40:] = False, False, False, False
    reach = np.hypot(*np.mgrid[-6:7, -6:7]) <= 6.5
    sky = good & ~ndi.binary_dilation(sources, reach)
    source = pair.science.source
    x, y = (np.rint(np.asarray(source[c])).astype(int) for c in ("x", "y"))
    inside = (x > 50) & (y > 50) & (x < good.shape[1] - 51) & (y < good.shape[0] - 51)
    x, y = np.clip(x, 0, good.shape[1] - 1), np.clip(y, 0, good.shape[0] - 1)
    peak = pair.image.image.array[y, x] / pair.adu
    noise = np.sqrt(np.median(pair.image.variance.array[sky])) / pair.adu
    whole = ndi.minimum_filter(good.view(np.uint8), 11)[y, x] > 0
    star = np.asarray(source["extendedness"]) < 0.5
    keep = inside & whole & star & (peak > 40 * noise) & (peak < 0.4 * SATURATION[pair.band])
    return Regions(good=good, sky=sky, star_x=x[keep], star_y=y[keep])


def local_scatter(values: Floats, good: Bools, mesh: int = 128) -> Floats:
    """Robust scatter (MAD) in meshes, interpolated bilinearly."""
    ny, nx = values.shape
    rows, columns = np.linspace(0, ny, ny // mesh + 1).astype(int), np.linspace(0, nx, nx // mesh + 1).astype(int)
    grid = np.full((len(rows) - 1, len(columns) - 1), np.nan)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            part = np.s_[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            inner = values[part][good[part]]
            if inner.size > 500:
                grid[i, j] = robust(inner)
    grid = np.where(np.isfinite(grid), grid, np.nanmedian(grid))
    gy = (np.arange(ny) + 0.5) / ny * grid.shape[0] - 0.5
    gx = (np.arange(nx) + 0.5) / nx * grid.shape[1] - 0.5
    return ndi.map_coordinates(grid, np.meshgrid(gy, gx, indexing="ij"), order=1, mode="nearest")


def robust(values: Floats) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def peaks(score: Floats, good: Bools) -> tuple[Bools, Bools]:
    up = good & (score > 5) & (score == ndi.maximum_filter(score, 5))
    down = good & (score < -5) & (score == ndi.minimum_filter(score, 5))
    return up, down


def measured(difference: Subtracted, where: Regions) -> list[object]:
    good, sky = where.good, where.sky
    pixels = np.where(good, difference.pixels, 0.0)
    pull = np.where(good, pixels / difference.expected, 0.0)
    correlation = measured_autocorrelation(np.clip(pull, -5, 5), sky, 1)
    match = difference.psf[::-1, ::-1] / difference.psf.sum()
    filtered = fftconvolve(pixels, match, mode="same")
    white = np.sqrt(np.maximum(fftconvolve(finite(difference.expected) ** 2, match**2, mode="same"), 1e-12))
    up, down = peaks(filtered / local_scatter(filtered, good), good)
    naive_up, naive_down = peaks(filtered / white, good)
    area = good.sum() * (0.396 / 60) ** 2 / 1000
    reach = np.arange(-5, 6)
    rows = where.star_y[:, None, None] + reach[:, None]
    columns = where.star_x[:, None, None] + reach[None, :]
    disc = np.hypot(reach[:, None], reach[None, :]) <= 5
    chi = np.sqrt(np.mean(pull[rows, columns][:, disc] ** 2, axis=1))
    return [
        difference.name,
        difference.seconds,
        f"{robust(pull[sky]):.3f}",
        f"{correlation[1, 2]:+.3f} / {correlation[2, 1]:+.3f}",
        f"{up.sum() / area:.0f} / {down.sum() / area:.0f}",
        f"{naive_up.sum() / area:.0f} / {naive_down.sum() / area:.0f}",
        f"{(up & sky).sum()}+{(down & sky).sum()}",
        f"{np.median(chi):.2f} / {np.percentile(chi, 90):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stripe 82 differences beside sfft")
    parser.add_argument("--bands", default="r", help="of g, r and i")
    parser.add_argument("--all", action="store_true", help="g, r and i; takes sfft several minutes")
    parser.add_argument("--sfft-runs", type=int, default=common.REPEATS, help="timed runs of sfft after the first")
    parser.add_argument("--sfft-kernel", type=float, default=2.0, help="half width of sfft's kernel [FWHM]")
    parser.add_argument("--sfft-saturation", type=float, default=1.0, help="level sfft is told over the true one")
    arguments = parser.parse_args()
    bands = "gri" if arguments.all else arguments.bands
    data = common.stripe82()
    common.heading("Image differencing, Stripe 82, run 6377 minus run 4192", "scipy", "sep")
    python, extractor = sfft_python(), common.program("sex", "source-extractor")
    if python is None:
        common.skipped(
            f"sfft {SFFT_VERSION}",
            f"`python -m venv build/sfft && build/sfft/bin/pip install 'sfft=={SFFT_VERSION}' 'numpy<2.4'`",
        )
    elif extractor is None or shutil.which(extractor) is None:
        common.skipped("source-extractor, which sfft needs", "`apt-get install source-extractor`")
        python = None
    for band in bands:
        print(f"\nband {band}")
        pair = pair_of(data, band)
        mine, steps = ours(pair)
        differences, lines = [mine], []
        if python is not None and extractor is not None:
            other, seconds, first = theirs(pair, python, extractor, arguments)
            differences.append(other)
            lines = [("subtract alone / sfft", steps["subtract"], seconds), ("all / sfft", steps["all"], seconds)]
            print(f"sfft, first run: {first:.2f} s")
        where = regions(pair, differences)
        rows = [measured(difference, where) for difference in differences]
        if python is None:
            rows.append(list(QUOTED[band]))
        rows.append(list(QUOTED_HOTPANTS[band]))
        print(f"good pixels {where.good.mean():.1%}, sky {where.sky.mean():.1%}, {len(where.star_x)} bright stars")
        common.table(COLUMNS, rows)
        print("nightlab: " + ", ".join(f"{name} {value:.2f} s" for name, value in steps.items()))
        for what, one, two in lines:
            common.ratio(what, one, two)


if __name__ == "__main__":
    main()
