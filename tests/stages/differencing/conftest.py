"""A small seeded sky: Gaussian stars on white noise, as visit images."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from lsst.images import Box, DetectorFrame
from lsst.images.psfs import GaussianPointSpreadFunction

from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.wcs import tan_projection


@dataclass
class Sky:
    """Stars (x, y, counts) on a grid; images of it are drawn with any seeing, noise and extras."""

    shape: tuple = (256, 256)
    seed: int = 5
    n: int = 20
    low: float = 500.0
    high: float = 1000.0
    margin: int = 30
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.x = rng.uniform(self.margin, self.shape[1] - self.margin, self.n)
        self.y = rng.uniform(self.margin, self.shape[0] - self.margin, self.n)
        self.counts = rng.uniform(self.low, self.high, self.n)

    def draw(self, sigma, *, shift=(0.0, 0.0), extra=()):
        """Noise-free pixels; counts are the sum of a star's pixels. `extra` holds further (x, y, counts)."""
        gy, gx = np.mgrid[: self.shape[0], : self.shape[1]]
        image = np.zeros(self.shape)
        stars = [*zip(self.x + shift[0], self.y + shift[1], self.counts, strict=True), *extra]
        for x, y, counts in stars:
            image += counts / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((gx - x) ** 2 + (gy - y) ** 2) / sigma**2)
        return image

    def visit(self, sigma, noise=1.0, *, seed=1, visit=7, background=None, variance=None, planes=None, **kwargs):
        """A visit image with white noise of variance `noise` and an exact Gaussian PSF."""
        rng = np.random.default_rng(seed)
        pixels = self.draw(sigma, **kwargs) + rng.normal(0.0, noise**0.5, self.shape)
        if background is not None:
            pixels = pixels + background
        return make_visit(pixels, noise if variance is None else variance, sigma, visit=visit, planes=planes)


def make_visit(pixels, variance, sigma, *, visit=7, planes=None, band="r", unit="nJy"):
    box = Box.from_shape(pixels.shape)
    detector = make_detector("Test", 3, "d3", box, pixel_scale=0.2, visit=visit)
    projection = tan_projection(
        40.0,
        -10.0,
        x=0.5 * pixels.shape[1],
        y=0.5 * pixels.shape[0],
        scale=0.2,
        frame=DetectorFrame(instrument="Test", visit=visit, detector=3, bbox=box),
        bbox=box,
    )
    info = observation(
        "Test",
        visit=visit,
        detector=3,
        physical_filter=f"test_{band}",
        mjd_tai=60000.0,
        exposure_time=30.0,
        ra=40.0,
        dec=-10.0,
    )
    return visit_image(
        pixels,
        variance=np.full(pixels.shape, float(variance)) if np.isscalar(variance) else variance,
        planes=planes,
        unit=unit,
        projection=projection,
        psf=GaussianPointSpreadFunction(sigma, bounds=box, stamp_size=2 * int(5 * sigma) + 1),
        detector=detector,
        band=band,
        info=info,
    )


@pytest.fixture(scope="session")
def sky():
    """The acceptance fixture: 20 stars of 500 to 1000 counts per unit peak area on 256 pixels."""
    return Sky(low=12000.0, high=25000.0)


@pytest.fixture(scope="session")
def big_sky():
    return Sky(shape=(512, 512), n=60, low=3000.0, high=20000.0)


@pytest.fixture(scope="session")
def draw_visit():
    return make_visit
