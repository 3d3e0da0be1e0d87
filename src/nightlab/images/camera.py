"""Cameras as `lsst.images` wants them: detectors with amplifiers, and the coordinate systems that join them."""

from collections.abc import Iterable

import numpy as np
import starlink.Ast as Ast
from astropy import units as u
from lsst.images import Box
from lsst.images._transforms import _ast as bridge  # the one way to hand an AST object of our own to lsst.images
from lsst.images.cameras import (
    Amplifier,
    AmplifierCalibrations,
    AmplifierRawGeometry,
    CameraFrameSet,
    Detector,
    DetectorAttributes,
    DetectorType,
    Orientation,
    ReadoutCorner,
)


def make_amplifier(
    name: str,
    bbox: Box,
    *,
    raw_bbox: Box,
    data_bbox: Box,
    serial_overscan: Box | None = None,
    parallel_overscan: Box | None = None,
    flip_x: bool = False,
    flip_y: bool = False,
    gain: float,
    read_noise: float,
    saturation: float,
) -> Amplifier:
    """Describe one amplifier.

    Parameters
    ----------
    name
        Its name, for example ``C00``.
    bbox
        Its place on the assembled detector.
    raw_bbox, data_bbox, serial_overscan, parallel_overscan
        All its pixels, its light-sensitive pixels and its overscans, on the raw frame; None where it has none.
    flip_x, flip_y
        Whether the data section is mirrored on its way to the assembled detector.
    gain
        Electrons per adu.
    read_noise
        Electrons.
    saturation
        Raw level at which a pixel is saturated [adu].
    """
    # lsst.images has no empty box: one pixel just outside the raw frame says "there is none"
    nowhere = Box.from_shape((1, 1), start=(raw_bbox.y.stop, raw_bbox.x.start))
    geometry = AmplifierRawGeometry(
        bbox=raw_bbox,
        data_bbox=data_bbox,
        flip_x=flip_x,
        flip_y=flip_y,
        x_offset=bbox.x.start - data_bbox.x.start,
        y_offset=bbox.y.start - data_bbox.y.start,
        serial_overscan_bbox=serial_overscan if serial_overscan is not None else nowhere,
        parallel_overscan_bbox=parallel_overscan if parallel_overscan is not None else nowhere,
        readout_corner=ReadoutCorner.LL,
    )
    calibrations = AmplifierCalibrations(
        gain=gain,
        read_noise=read_noise,
        saturation=saturation,
        suspect_level=np.nan,
        linearity_coefficients=np.zeros(4),
        linearity_type="None",
    )
    return Amplifier(
        name=name,
        bbox=bbox,
        readout_corner=ReadoutCorner.from_flips(y=flip_y, x=flip_x),
        assembled_raw_geometry=geometry,
        unassembled_raw_geometry=geometry,
        nominal_calibrations=calibrations,
    )


def make_detector(
    instrument: str,
    detector_id: int,
    name: str,
    bbox: Box,
    *,
    amplifiers: Iterable[Amplifier] = (),
    pixel_scale: float,
    centre: tuple[float, float] = (0.0, 0.0),
    visit: int | None = None,
) -> Detector:
    """Describe one detector, upright in a focal plane measured in pixels.

    Parameters
    ----------
    instrument
        Name of the camera in the Butler.
    detector_id, name
        How the detector is called.
    bbox
        Its assembled pixels.
    amplifiers
        What reads it out; empty for frames that arrive corrected.
    pixel_scale
        Arcseconds per pixel.
    centre
        Focal-plane position (x, y) of the middle of the detector [pixel].
    visit
        The visit whose geometry this is.
    """
    middle = (bbox.x.center, bbox.y.center)
    frames = _frame_set(instrument, detector_id, bbox, middle, centre, pixel_scale)
    attributes = DetectorAttributes(
        name=name,
        id=detector_id,
        type=DetectorType.SCIENCE,
        serial=name,
        bbox=bbox,
        orientation=Orientation(
            focal_plane_x=centre[0],
            focal_plane_y=centre[1],
            focal_plane_z=0.0,
            pixel_reference_x=middle[0],
            pixel_reference_y=middle[1],
        ),
        pixel_size=1.0,
        physical_type="CCD",
    )
    return Detector(attributes, amplifiers, frames, visit=visit)


def _frame_set(
    instrument: str,
    detector_id: int,
    bbox: Box,
    middle: tuple[float, float],
    centre: tuple[float, float],
    pixel_scale: float,
) -> CameraFrameSet:
    focal_plane = Ast.Frame(2, "Ident=FOCAL_PLANE,Unit(1)=pixel,Unit(2)=pixel")
    frames = Ast.FrameSet(focal_plane)
    radians = (pixel_scale * u.arcsec).to_value(u.rad)
    frames.addframe(1, Ast.ZoomMap(2, radians), Ast.Frame(2, "Ident=FIELD_ANGLE,Unit(1)=rad,Unit(2)=rad"))
    shift = Ast.ShiftMap([middle[0] - centre[0], middle[1] - centre[1]])
    frame = Ast.Frame(2, f"Ident=DETECTOR_{detector_id}")
    for axis, interval in ((1, bbox.x), (2, bbox.y)):
        frame.set(f"Bottom({axis})={interval.start},Top({axis})={interval.stop}")
    frames.addframe(1, shift, frame)
    sink = bridge.StringStream()
    Ast.Channel(None, sink).write(frames)
    return CameraFrameSet(instrument, bridge.FrameSet.fromString(sink.to_string()))
