"""A detector of 4096 x 4096 pixels with 5000 stars, calibrated on one thread: seconds and peak memory.

python benchmarks/large_detector.py
"""

from __future__ import annotations

import resource
import time

import common  # first: it sets the number of threads  # noqa: F401
import numpy as np
from astropy.table import Table
from lsst.images import Box, DetectorFrame

from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.wcs import pixel_to_radec, tan_projection
from nightlab.numeric.photometry import add_stamps
from nightlab.stages.single_frame import calibrate

SIDE, STARS, HALF, SUB = 4096, 5000, 25, 5
FWHM, BETA, SKY, GAIN, ZERO = 3.6, 3.5, 400.0, 2.0, 27.0


def main() -> None:
    rng = np.random.default_rng(4096)
    x, y = rng.uniform(30, SIDE - 30, (2, STARS))
    flux = np.exp(rng.uniform(np.log(600), np.log(3e5), STARS))
    xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
    r = (np.arange((2 * HALF + 1) * SUB) + 0.5) / SUB - 0.5 - HALF
    scale = FWHM / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    pixels = np.full((SIDE, SIDE), SKY)
    for k in range(STARS):
        q = (r[None, :] - x[k] + xi[k]) ** 2 + (r[:, None] - y[k] + yi[k]) ** 2
        fine = (1 + q / scale**2) ** -BETA
        stamp = fine.reshape(2 * HALF + 1, SUB, 2 * HALF + 1, SUB).mean(axis=(1, 3))
        add_stamps(pixels, stamp[None] / stamp.sum(), flux[k : k + 1], xi[k : k + 1], yi[k : k + 1])
    variance = pixels / GAIN + 25.0
    pixels += rng.normal(size=pixels.shape) * np.sqrt(variance)
    box = Box.from_shape((SIDE, SIDE))
    frame = DetectorFrame(instrument="TestCam", visit=1, detector=0, bbox=box)
    projection = tan_projection(30.0, -10.0, x=SIDE / 2, y=SIDE / 2, scale=0.2, rotation=20.0, frame=frame, bbox=box)
    ra, dec = pixel_to_radec(projection, x, y)
    reference = Table({"refId": np.arange(STARS), "ra": ra, "dec": dec, "r_flux": flux * 10 ** (0.4 * (31.4 - ZERO))})
    image = visit_image(
        pixels, variance=variance, planes=None, unit="adu", projection=projection, psf=None,
        detector=make_detector("TestCam", 0, "D0", box, pixel_scale=0.2, visit=1), band="r",
        info=observation("TestCam", visit=1, detector=0, physical_filter="test_r", mjd_tai=60000.0, exposure_time=30.0,
                         ra=30.0, dec=-10.0), metadata={"gain": GAIN},
    )  # fmt: skip
    del pixels, variance
    calibrate(image[Box.factory[0:700, 0:700]], reference=None)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begin, wall = time.process_time(), time.monotonic()
    result = calibrate(image, reference=reference)
    cpu, wall = time.process_time() - begin, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    values = {name: float(v.values.ravel()[0]) for name, v in result.metrics.items()}
    print(f"{len(result.source)} sources; {cpu:.1f} s of processor, {wall:.1f} s (at most 60)")
    print(f"peak memory {peak:.2f} GB (at most 3), {before:.2f} GB of it before")
    print(f"zero point {values['zero_point']:.4f}, astrometric scatter {values['astrometric_scatter']:.1f} mas")


if __name__ == "__main__":
    main()
