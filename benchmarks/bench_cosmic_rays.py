"""Cosmic rays: `remove_cosmic_rays` beside astroscrappy (L.A.Cosmic), on simulated frames and two frames of SAAO.

Simulated: 1024 x 1024 pixels in electrons, sky 200, read noise 5, 600 stars and 150 galaxies at three seeings (one
undersampled), 400 straight tracks of 1 to 40 pixels and 400 single pixels of 300 to 20000 electrons. A pixel is
affected when a ray left more than five times its noise in it. Both get the same pixels and the same variance; ours
gets the PSF as well, astroscrappy once with its default fine structure (median) and once with the PSF (convolve).

Real: a raw exposure of 150 s and a reduced one of a crowded field by the same CCD. Their own rays are not known, so
for those agreement is counted, and rays of the simulated kind are added for the rest. Their own stars give the PSF.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import astropy.units as u
import common  # first: it sets the number of threads
import numpy as np
from astropy.io import fits
from lsst.images import Box, DetectorFrame, VisitImage
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from nightlab.data.instruments.saao import read_raw
from nightlab.data.locate import data_set
from nightlab.errors import MissingData
from nightlab.images.build import visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import tan_projection
from nightlab.simulate.pixels import draw_galaxies, draw_stars
from nightlab.stages.single_frame import CalibrateConfig, calibrate
from nightlab.stages.single_frame.cosmic_rays import CosmicRayConfig, remove_cosmic_rays
from nightlab.stages.single_frame.frame import Frame, corrected_frame
from nightlab.stages.single_frame.isr import Calibrations, needs_isr, remove_signature
from nightlab.stages.single_frame.psf import PsfConfig

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIDE, SKY, READ_NOISE = 1024, 200.0, 5.0
SEEINGS = (1.8, 2.5, 4.0)
RAW, CROWDED = "saao-raw/a8280271.fits", "images/AKB13475I0067.fits"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A frame with its rays: sky-subtracted electrons, their variance and sky, the PSF, and what is known."""

    pixels: Floats
    variance: Floats
    sky: Floats
    stamp: Floats
    fwhm: float
    charge: Floats
    noise: Floats
    saturated: Bools
    x: Floats
    y: Floats

    @property
    def affected(self) -> Bools:
        return self.charge > 5.0 * self.noise

    @property
    def cores(self) -> Bools:
        """Pixels within half a FWHM, and at least a pixel, of a star and away from any ray."""
        ny, nx = self.pixels.shape
        near = np.zeros(self.pixels.shape, bool)
        reach = max(1.0, 0.5 * self.fwhm)
        half = int(np.ceil(reach)) + 1
        for dy in range(-half, half + 1):
            for dx in range(-half, half + 1):
                xi, yi = np.rint(self.x).astype(int) + dx, np.rint(self.y).astype(int) + dy
                here = (xi >= 0) & (yi >= 0) & (xi < nx) & (yi < ny)
                here &= np.hypot(xi - self.x, yi - self.y) < reach
                near[yi[here], xi[here]] = True
        return near & ~binary_dilation(self.charge > 0, iterations=2)


def rays(shape: tuple[int, int], n_tracks: int, n_dots: int, rng: np.random.Generator) -> Floats:
    """Draw the electrons that rays leave: straight tracks that share their charge among pixels, and single pixels."""
    charge = np.zeros(shape)
    steps = 10  # per pixel of length
    length = np.exp(rng.uniform(0.0, np.log(40.0), n_tracks))
    deposit = 700.0 * np.exp(rng.normal(0.0, 0.5, n_tracks))  # electron per pixel of length
    angle = rng.uniform(0.0, 2.0 * np.pi, n_tracks)
    x, y = rng.uniform(0, shape[1], n_tracks), rng.uniform(0, shape[0], n_tracks)
    along = (np.arange(40 * steps) + 0.5) / steps
    inside = along[None, :] < length[:, None]
    xi = np.floor(x[:, None] + along * np.cos(angle)[:, None]).astype(int)
    yi = np.floor(y[:, None] + along * np.sin(angle)[:, None]).astype(int)
    inside &= (xi >= 0) & (yi >= 0) & (xi < shape[1]) & (yi < shape[0])
    np.add.at(charge, (yi[inside], xi[inside]), np.broadcast_to(deposit[:, None] / steps, xi.shape)[inside])
    dots = np.exp(rng.uniform(np.log(300.0), np.log(20_000.0), n_dots))
    np.add.at(charge, (rng.integers(0, shape[0], n_dots), rng.integers(0, shape[1], n_dots)), dots)
    return np.asarray(rng.poisson(charge), float)


def simulated(fwhm: float) -> Scene:
    rng = np.random.default_rng(8010)
    n, m = 600, 150
    light = np.zeros((SIDE, SIDE))
    x, y = rng.uniform(10, SIDE - 10, n), rng.uniform(10, SIDE - 10, n)
    flux = np.exp(rng.uniform(np.log(5e2), np.log(5e5), n))
    draw_stars(light, x, y, flux, *(np.full(n, v) for v in (fwhm, 0.0, 0.0)))
    disk = rng.uniform(1.0, 5.0, m)[:, None, None] * np.diag([1.0, 0.6])
    draw_galaxies(
        light,
        *rng.uniform(20, SIDE - 20, (2, m)),
        np.exp(rng.uniform(np.log(1e3), np.log(2e5), m)),
        rng.uniform(0.0, 0.6, m),
        0.5 * disk,
        disk,
        *(np.full(m, v) for v in (fwhm, 0.0, 0.0)),
    )
    stamp = np.zeros((41, 41))
    draw_stars(stamp, np.array([20.0]), np.array([20.0]), np.array([1e6]), np.array([fwhm]), np.zeros(1), np.zeros(1))
    charge = rays(light.shape, 400, 400, rng)
    pixels = rng.poisson(light + SKY) + charge + rng.normal(0.0, READ_NOISE, light.shape)
    bright = flux > 5e3
    return Scene(
        pixels=pixels - SKY,
        variance=np.maximum(pixels, 0.0) + READ_NOISE**2,
        sky=np.full(light.shape, SKY),
        stamp=stamp / stamp.sum(),
        fwhm=fwhm,
        charge=charge,
        noise=np.sqrt(light + SKY + READ_NOISE**2),
        saturated=np.zeros(light.shape, bool),
        x=x[bright],
        y=y[bright],
    )


def real_frames() -> dict[str, VisitImage]:
    """Read the raw frame, and one of the crowded field, which is reduced and has no place on the sky."""
    try:
        raw = read_raw(data_set("not-alfosc-raw-ccd") / RAW)
        with fits.open(data_set("saao-microlensing-series") / CROWDED) as hdus:
            electrons = 1.9 * np.asarray(hdus[0].data, float)
    except MissingData:
        print("skipped: the frames of SAAO are not on this machine, get them as docs/data.md says")
        return {}
    bbox = Box.from_shape(electrons.shape)
    frame = DetectorFrame(instrument=raw.detector.instrument, visit=1, detector=0, bbox=bbox)
    crowded = visit_image(
        electrons,
        variance=np.maximum(electrons, 0.0) + READ_NOISE**2,
        planes={"SATURATED": electrons > 1.9 * 65_000.0},
        unit="electron",
        projection=tan_projection(273.8, -25.3, x=256, y=256, scale=0.31, frame=frame),
        psf=None,
        detector=make_detector("SAAO-STE3", 0, "STE3", bbox, pixel_scale=0.31, visit=1),
        band="unknown",
        info=raw.obs_info,
    )
    return {"STE3, raw": raw, "STE3, crowded": crowded}


def of_image(raw: VisitImage) -> Scene:
    """Take sky, PSF and stars from `calibrate`, which is not to look for rays."""
    frame = remove_signature(raw, Calibrations(), CalibrateConfig().isr) if needs_isr(raw) else corrected_frame(raw)
    config = CalibrateConfig(psf=PsfConfig(min_snr=20.0), cosmic_rays=CosmicRayConfig(enabled=False))
    result = calibrate(raw, config=config)
    image, table = result.visit_image, result.source
    sky = np.asarray(image.backgrounds.subtracted.field.render().array, float)
    stamp = psf_stamps(image.psf, [image.bbox.x.center], [image.bbox.y.center], centred=True)[0]
    bright = np.asarray((table["snr"] > 30) & ~table["pixelFlags_saturated"] & (table["extendedness"] == 0))
    return Scene(
        pixels=frame.pixels - sky,
        variance=frame.variance,
        sky=sky,
        stamp=stamp,
        fwhm=2.355 * float(result.metrics["psf_sigma"].values.ravel()[0]),
        charge=np.zeros(sky.shape),
        noise=np.sqrt(frame.variance),
        saturated=frame.flagged("SATURATED"),
        x=table["x"].value[bright] - image.bbox.x.start,
        y=table["y"].value[bright] - image.bbox.y.start,
    )


def with_rays(scene: Scene) -> Scene:
    more = rays(scene.sky.shape, 100, 100, np.random.default_rng(8011))
    return replace(scene, pixels=scene.pixels + more, variance=scene.variance + more, charge=more)


def ours(scene: Scene) -> Bools:
    frame = Frame(
        pixels=scene.pixels,
        variance=scene.variance,
        planes={"SATURATED": scene.saturated},
        x0=0,
        y0=0,
        unit=u.electron,
        gain=1.0,
    )
    found, _ = remove_cosmic_rays(frame, scene.stamp, CosmicRayConfig())
    return np.asarray(found.planes["COSMIC_RAY"])


def theirs(scene: Scene, **settings: object) -> Bools:
    import astroscrappy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask, _ = astroscrappy.detect_cosmics(
            (scene.pixels + scene.sky).astype(np.float32),
            inmask=scene.saturated,
            invar=scene.variance.astype(np.float32),
            gain=1.0,
            readnoise=READ_NOISE,
            satlevel=np.inf,
            **settings,
        )
    return np.asarray(mask)


def finders(scene: Scene) -> dict[str, Callable[[], Bools]]:
    out: dict[str, Callable[[], Bools]] = {"nightlab": lambda: ours(scene)}
    if common.version_of("astroscrappy") == "absent":
        return out
    kernel = np.ascontiguousarray(scene.stamp[14:27, 14:27] if len(scene.stamp) == 41 else scene.stamp, np.float32)
    out["astroscrappy, median"] = lambda: theirs(scene)
    out["astroscrappy, convolve"] = lambda: theirs(scene, fsmode="convolve", psfk=kernel / kernel.sum())
    return out


def row(name: str, label: str, scene: Scene, seconds: float, mask: Bools) -> list[object]:
    affected, cores = scene.affected, scene.cores
    near = binary_dilation(scene.charge > 0, np.ones((3, 3)))
    left = scene.charge[~mask].sum() / scene.charge.sum()
    return [
        name,
        label,
        f"{mask[affected].mean():.3f}",
        f"{left:.3f}",
        f"{mask[cores].mean():.5f} of {int(cores.sum())}",
        int((mask & ~near).sum()),
        f"{seconds:.2f}",
    ]


def main() -> None:
    common.heading("Cosmic rays", "astroscrappy", "scipy")
    if common.version_of("astroscrappy") == "absent":
        common.skipped("astroscrappy", "`pip install 'nightlab[benchmarks]'`")
    rows, spent = [], {}
    plain = {name: of_image(image) for name, image in real_frames().items()}
    scenes = {f"simulated, FWHM {fwhm:g} px": simulated(fwhm) for fwhm in SEEINGS}
    scenes |= {f"{name}, rays added": with_rays(scene) for name, scene in plain.items()}
    for label, scene in scenes.items():
        for name, find in finders(scene).items():
            find()
            seconds, mask = common.timed(find)
            spent[name] = spent.get(name, 0.0) + seconds
            rows.append(row(name, label, scene, seconds, mask))
    columns = ["", "frame", "affected pixels found", "charge left", "star cores masked", "masked elsewhere", "CPU s"]
    common.table(columns, rows)
    for label, scene in plain.items():
        print(f"\n{label}, as it is: FWHM {scene.fwhm:.1f} px, {scene.x.size} stars of S/N > 30")
        masks = {name: find() for name, find in finders(scene).items()}
        for name, mask in masks.items():
            shared = int((mask & binary_dilation(masks["nightlab"], np.ones((3, 3)))).sum())
            cores = int(mask[scene.cores].sum())
            print(f"{name}: {int(mask.sum())} pixels, {shared} of them on or beside ours, {cores} in star cores")
    for name in spent.keys() - {"nightlab"}:
        common.ratio(f"nightlab / {name}", spent["nightlab"], spent[name])


if __name__ == "__main__":
    main()
