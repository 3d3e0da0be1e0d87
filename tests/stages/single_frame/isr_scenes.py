"""Raw detectors whose every electron is known."""

import numpy as np
from lsst.images import Box, DetectorFrame

from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_amplifier, make_detector
from nightlab.images.wcs import tan_projection

SERIAL, PARALLEL = 12, 8  # overscan [pixel]


class Camera:
    """Two columns of two amplifiers, the right ones read from the right and the upper ones from above."""

    def __init__(self, ny=40, nx=50, *, gains=(1.5, 2.0, 1.0, 3.0), read_noise=4.0, saturation=60_000.0):
        self.ny, self.nx, self.gains, self.read_noise = ny, nx, gains, read_noise
        self.box = Box.from_shape((2 * ny, 2 * nx))
        self.raw_shape = (2 * (ny + PARALLEL), 2 * (nx + SERIAL))
        self.amplifiers = []
        for k in range(4):
            row, column = divmod(k, 2)
            y, x = row * (ny + PARALLEL), column * (nx + SERIAL)
            self.amplifiers.append(
                make_amplifier(
                    f"A{k}",
                    Box.factory[row * ny : (row + 1) * ny, column * nx : (column + 1) * nx],
                    raw_bbox=Box.factory[y : y + ny + PARALLEL, x : x + nx + SERIAL],
                    data_bbox=Box.factory[y : y + ny, x : x + nx],
                    serial_overscan=Box.factory[y : y + ny, x + nx : x + nx + SERIAL],
                    parallel_overscan=Box.factory[y + ny : y + ny + PARALLEL, x : x + nx],
                    flip_x=column == 1,
                    flip_y=row == 1,
                    gain=gains[k],
                    read_noise=read_noise,
                    saturation=saturation,
                )
            )

    def sections(self, assembled):
        """Cut an assembled array into amplifiers in readout order."""
        return [
            assembled[a.bbox.y.start : a.bbox.y.stop, a.bbox.x.start : a.bbox.x.stop][
                :: -1 if a.assembled_raw_geometry.flip_y else 1, :: -1 if a.assembled_raw_geometry.flip_x else 1
            ]
            for a in self.amplifiers
        ]

    def gain_map(self):
        """Give the gain of every assembled pixel."""
        gains = np.empty(self.box.shape)
        for a, gain in zip(self.amplifiers, self.gains, strict=True):
            gains[a.bbox.y.start : a.bbox.y.stop, a.bbox.x.start : a.bbox.x.stop] = gain
        return gains

    def read_out(self, sections, *, level=1000.0, rng=None, parallel=0.0):
        """Lay amplifiers [adu] out with overscans of a level; with read noise when there is an `rng`."""
        raw = np.full(self.raw_shape, float(level))
        for a, gain, light in zip(self.amplifiers, self.gains, sections, strict=True):
            geometry = a.assembled_raw_geometry
            data, above = geometry.data_bbox, geometry.parallel_overscan_bbox
            raw[data.y.start : data.y.stop, data.x.start : data.x.stop] += light + parallel
            raw[above.y.start : above.y.stop, above.x.start : above.x.stop] += parallel
            if rng is not None:
                here = geometry.bbox
                raw[here.y.start : here.y.stop, here.x.start : here.x.stop] += rng.normal(
                    0.0, self.read_noise / gain, here.shape
                )
        return raw

    def image(self, raw, *, exposure_time=30.0, visit=5, amplifiers=None):
        """Make the image a reader would give."""
        detector = make_detector(
            "TestCam", 1, "D1", self.box, amplifiers=amplifiers or self.amplifiers, pixel_scale=0.3, visit=visit
        )
        frame = DetectorFrame(instrument="TestCam", visit=visit, detector=1, bbox=self.box)
        info = observation(
            "TestCam", visit=visit, detector=1, physical_filter="r", mjd_tai=6e4, exposure_time=exposure_time,
            ra=0.0, dec=0.0,
        )  # fmt: skip
        projection = tan_projection(10.0, 0.0, x=3, y=2, scale=0.3, frame=frame)
        return visit_image(raw, unit="adu", projection=projection, psf=None, detector=detector, band="r", info=info)
