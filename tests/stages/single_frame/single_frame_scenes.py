"""Corrected frames of stars with known truth."""

import numpy as np
from astropy.table import Table
from lsst.images import Box, DetectorFrame
from scipy.special import gamma, gammainc, gammaincinv

from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import PolynomialPsf
from nightlab.images.wcs import pixel_to_radec, tan_projection
from nightlab.numeric.photometry import add_stamps


def moffat(side, fwhm, x=0.0, y=0.0, beta=3.5, e=0.0):
    """Pixel-sampled Moffat, integrated over pixels by 7 x 7 sub-samples, sum 1."""
    half, sub = side // 2, 7
    r = (np.arange(side * sub) + 0.5) / sub - 0.5 - half
    scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    q = ((r[None, :] - x) * (1 - e)) ** 2 + ((r[:, None] - y) * (1 + e)) ** 2
    fine = (1 + q / scale**2) ** -beta
    stamp = fine.reshape(side, sub, side, sub).mean(axis=(1, 3))
    return stamp / stamp.sum()


class Sersic:
    """A round galaxy whose surface brightness and enclosed flux are known in closed form."""

    def __init__(self, *, x, y, flux, half_light_radius, n):
        self.x, self.y, self.flux, self.radius, self.n = x, y, flux, half_light_radius, n
        self.b = gammaincinv(2 * n, 0.5)

    def inside(self, radius):
        """Give the flux inside a radius [pixel]."""
        return self.flux * gammainc(2 * self.n, self.b * (radius / self.radius) ** (1 / self.n))

    def distance(self, shape):
        y, x = np.indices(shape)
        return np.hypot(x - self.x, y - self.y)

    def draw(self, shape, core=12, sub=21):
        """Sample pixel centres, and the pixels of the core more finely."""
        image = self._brightness(self.distance(shape))
        y, x = round(self.y), round(self.x)
        steps = (np.arange((2 * core + 1) * sub) + 0.5) / sub - 0.5 - core
        fine = self._brightness(np.hypot(steps[None, :] + x - self.x, steps[:, None] + y - self.y))
        mean = fine.reshape(2 * core + 1, sub, 2 * core + 1, sub).mean(axis=(1, 3))
        image[y - core : y + core + 1, x - core : x + core + 1] = mean
        return image

    def _brightness(self, r):
        total = 2 * np.pi * self.n * self.radius**2 * self.b ** (-2 * self.n) * gamma(2 * self.n)
        return self.flux / total * np.exp(-self.b * (r / self.radius) ** (1 / self.n))


class Field:
    """A corrected frame of stars with known truth."""

    def __init__(
        self, *, seed, n=150, shape=(600, 500), fwhm=2.6, sky=200.0, gain=4.0, fluxes=(3e2, 1e5), spacing=14.0
    ):
        rng = np.random.default_rng(seed)
        ny, nx = shape
        self.x, self.y = scatter(rng, n, nx, ny, spacing)
        self.flux = np.exp(rng.uniform(*np.log(fluxes), self.x.size))
        self.stamp = moffat(41, fwhm)
        self.box = Box.from_shape(shape)
        self.psf = PolynomialPsf(coefficients=self.stamp[None], order=0, bbox=self.box)
        clean = np.full(shape, sky, dtype=float)
        xi, yi = np.rint(self.x).astype(int), np.rint(self.y).astype(int)
        stamps = np.stack([moffat(41, fwhm, a, b) for a, b in zip(self.x - xi, self.y - yi, strict=True)])
        add_stamps(clean, stamps, self.flux, xi, yi)
        self.variance = clean / gain + 4.0
        self.pixels = clean + rng.normal(size=shape) * np.sqrt(self.variance)
        self.projection = tan_projection(
            30.0, -10.0, x=nx / 2, y=ny / 2, scale=0.4, rotation=20.0, frame=frame_of(self.box), bbox=self.box
        )
        self.gain = gain

    def image(self, *, psf=True, planes=None, pixels=None, variance=None, metadata=None):
        return visit_image(
            self.pixels if pixels is None else pixels,
            variance=self.variance if variance is None else variance,
            planes=planes,
            unit="adu",
            projection=self.projection,
            psf=self.psf.to_piff() if psf else None,
            detector=make_detector("TestCam", 3, "D3", self.box, pixel_scale=0.4, visit=77),
            band="r",
            info=observation(
                "TestCam",
                visit=77,
                detector=3,
                physical_filter="test_r",
                mjd_tai=60000.0,
                exposure_time=30.0,
                ra=30.0,
                dec=-10.0,
            ),
            metadata={"gain": self.gain} | (metadata or {}),
        )

    def reference(self, zero_point=27.0, **columns):
        ra, dec = pixel_to_radec(self.projection, self.x, self.y)
        nanojansky = 10 ** (0.4 * (31.4 - zero_point))
        return Table({"refId": np.arange(ra.size), "ra": ra, "dec": dec, "r_flux": self.flux * nanojansky} | columns)


def frame_of(box):
    return DetectorFrame(instrument="TestCam", visit=77, detector=3, bbox=box)


def scatter(rng, n, nx, ny, spacing):
    """Random positions no closer to one another than `spacing`."""
    points = np.empty((0, 2))
    while len(points) < n:
        new = rng.uniform([20, 20], [nx - 20, ny - 20])
        if not len(points) or np.hypot(*(points - new).T).min() > spacing:
            points = np.vstack([points, new])
    return points[:, 0], points[:, 1]
