"""SimCam: where its detectors sit, how they are read out, and what their pixels and amplifiers do to the light."""

from dataclasses import dataclass

import numpy as np
from lsst.images import Box
from lsst.images.cameras import Amplifier
from numpy.typing import NDArray

from nightlab.images.camera import make_amplifier
from nightlab.simulate.config import SurveyConfig, random_stream

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]

_SATURATED = 0.98  # of the full well: read noise must not lift a clipped pixel below the threshold


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One detector of SimCam.

    Attributes
    ----------
    detector, name
        Its number and name.
    bbox
        The assembled grid, from (0, 0).
    raw_bbox
        All pixels that are read out, overscans included.
    amplifiers
        Their geometry and calibrations.
    x0, y0
        Focal-plane position of the centre of assembled pixel (0, 0), from the boresight [pixel].
    """

    detector: int
    name: str
    bbox: Box
    raw_bbox: Box
    amplifiers: tuple[Amplifier, ...]
    x0: float
    y0: float


def chips(config: SurveyConfig) -> tuple[Chip, ...]:
    """Describe every detector of the camera, numbered along rows from the lower left."""
    half_y, half_x = config.half_size
    found = []
    for detector in range(config.n_detectors):
        row, column = divmod(detector, config.detector_columns)
        amplifiers, raw_bbox = _amplifiers(config, detector)
        found.append(
            Chip(
                detector=detector,
                name=f"D{detector}",
                bbox=Box.factory[0 : config.height, 0 : config.width],
                raw_bbox=raw_bbox,
                amplifiers=amplifiers,
                x0=column * (config.width + config.gap) - half_x + 0.5,
                y0=row * (config.height + config.gap) - half_y + 0.5,
            )
        )
    return tuple(found)


def _amplifiers(config: SurveyConfig, detector: int) -> tuple[tuple[Amplifier, ...], Box]:
    rng = random_stream(config, "electronics", detector, 0)
    ny, nx = config.height // config.amp_rows, config.width // config.amp_columns
    raw_ny, raw_nx = ny + config.parallel_overscan, nx + config.serial_overscan
    found = []
    for row in range(config.amp_rows):
        for column in range(config.amp_columns):
            gain = config.gain * (1.0 + config.gain_spread * rng.uniform(-1.0, 1.0))
            read_noise = config.read_noise * rng.uniform(0.9, 1.1)
            y, x = row * raw_ny, column * raw_nx
            found.append(
                make_amplifier(
                    f"A{column}{row}",
                    Box.factory[row * ny : (row + 1) * ny, column * nx : (column + 1) * nx],
                    raw_bbox=Box.factory[y : y + raw_ny, x : x + raw_nx],
                    data_bbox=Box.factory[y : y + ny, x : x + nx],
                    serial_overscan=Box.factory[y : y + ny, x + nx : x + raw_nx],
                    parallel_overscan=Box.factory[y + ny : y + raw_ny, x : x + nx],
                    flip_x=column % 2 == 1,
                    flip_y=row == 1,
                    gain=gain,
                    read_noise=read_noise,
                    saturation=config.bias_level + _SATURATED * config.full_well / gain,
                )
            )
    return tuple(found), Box.factory[0 : raw_ny * config.amp_rows, 0 : raw_nx * config.amp_columns]


def bias_structure(config: SurveyConfig, chip: Chip) -> Floats:
    """Give the fixed pattern that remains when the overscan has been subtracted: (ny, nx) adu on the assembled grid.

    Every amplifier has a glow towards its readout edge, columns of their own and a faint smooth pattern.
    """
    rng = random_stream(config, "electronics", chip.detector, 1)
    pattern = 0.6 * _smooth(rng, chip.bbox.shape, 40.0)
    for amplifier in chip.amplifiers:
        place = _place(amplifier.bbox)
        ny, nx = amplifier.bbox.shape
        columns = rng.normal(0.0, 1.0, nx)
        glow = rng.uniform(3.0, 8.0) * np.exp(-np.arange(nx) / 15.0)
        rise = rng.normal(0.0, 2.0) * np.linspace(0.0, 1.0, ny)
        raw = columns[None, :] + glow[None, :] + rise[:, None]
        pattern[place] += _mirrored(raw, amplifier)
    return pattern


def flat_response(config: SurveyConfig, chip: Chip, band: str) -> Floats:
    """Give the relative sensitivity of the pixels: (ny, nx), mean 1 over the detector, without the gains.

    Illumination falls off from the boresight; amplifiers differ by a per cent, pixels by half a per cent, and slow
    stains by one per cent that depends on the band.
    """
    rng = random_stream(config, "electronics", chip.detector, 2)
    stain = random_stream(config, "electronics", chip.detector, 3, ord(band))
    ny, nx = chip.bbox.shape
    v = (np.arange(ny) + chip.y0) / config.radius
    u = (np.arange(nx) + chip.x0) / config.radius
    flat = 1.0 - 0.05 * (u[None, :] ** 2 + v[:, None] ** 2) + 0.01 * u[None, :] - 0.008 * v[:, None]
    flat *= 1.0 + 0.01 * _smooth(stain, (ny, nx), 60.0)
    flat *= 1.0 + 0.005 * rng.standard_normal((ny, nx))
    for amplifier in chip.amplifiers:
        flat[_place(amplifier.bbox)] *= 1.0 + 0.01 * rng.standard_normal()
    return np.asarray(flat / flat.mean(), np.float64)


def calibration_frames(config: SurveyConfig, chip: Chip) -> tuple[Float32s, dict[str, Float32s]]:
    """Give the bias [adu] and the flats by band that calibration nights would have measured.

    They are the mean of 100 bias frames and of flats with 10^6 electrons per pixel in all, so they carry a little
    noise of their own.
    """
    rng = random_stream(config, "calibration", chip.detector)
    bias = bias_structure(config, chip)
    for amplifier in chip.amplifiers:
        calibrations = amplifier.nominal_calibrations
        noise = calibrations.read_noise / calibrations.gain / 10.0
        bias[_place(amplifier.bbox)] += rng.normal(0.0, noise, amplifier.bbox.shape)
    flats: dict[str, Float32s] = {}
    for band in config.bands:
        flat = flat_response(config, chip, band)
        flat += np.sqrt(flat / 1.0e6) * rng.standard_normal(flat.shape)
        flats[band] = (flat / flat.mean()).astype(np.float32)
    return bias.astype(np.float32), flats


def read_out(
    electrons: Floats, chip: Chip, bias: Floats, config: SurveyConfig, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Turn collected charge into a raw frame.

    Parameters
    ----------
    electrons
        (ny, nx) charge on the assembled grid; clipped at the full well.
    chip
        Geometry, gains and read noise.
    bias
        (ny, nx) fixed pattern on the assembled grid [adu].
    config
        Full well and bias level.
    rng
        Read noise and drift of the bias level.

    Returns
    -------
    numpy.ndarray
        Raw frame with overscans [adu], every amplifier in readout order.
    """
    charge = np.minimum(electrons, config.full_well)
    raw = np.empty(chip.raw_bbox.shape)
    for amplifier in chip.amplifiers:
        geometry, calibrations = amplifier.assembled_raw_geometry, amplifier.nominal_calibrations
        ny, _ = geometry.bbox.shape
        # the level wanders slowly while the amplifier is read: rows share it with their overscan
        level = config.bias_level * (1.0 + 0.02 * rng.uniform(-1.0, 1.0)) + np.cumsum(rng.normal(0.0, 0.05, ny))
        noise = calibrations.read_noise / calibrations.gain
        raw[_place(geometry.bbox)] = level[:, None] + rng.normal(0.0, noise, geometry.bbox.shape)
        signal = charge[_place(amplifier.bbox)] / calibrations.gain + bias[_place(amplifier.bbox)]
        raw[_place(geometry.data_bbox)] += _mirrored(signal, amplifier)
    return np.clip(np.rint(raw), 0, 65535).astype(np.uint16)


def _place(box: Box) -> tuple[slice, slice]:
    return slice(box.y.start, box.y.stop), slice(box.x.start, box.x.stop)


def _mirrored(values: Floats, amplifier: Amplifier) -> Floats:
    geometry = amplifier.assembled_raw_geometry
    return values[:: -1 if geometry.flip_y else 1, :: -1 if geometry.flip_x else 1]


def _smooth(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Draw a smooth random pattern of unit variance: a dozen plane waves with wavelengths of 4 to 10 `scale`."""
    y, x = np.arange(shape[0]), np.arange(shape[1])
    waves = np.zeros(shape)
    for _ in range(12):
        wave_number = 2.0 * np.pi / (scale * rng.uniform(4.0, 10.0))
        angle, phase = rng.uniform(0.0, 2.0 * np.pi, 2)
        along_y = np.exp(1j * wave_number * np.sin(angle) * y)
        along_x = np.exp(1j * (wave_number * np.cos(angle) * x + phase))
        waves += along_y.real[:, None] * along_x.real - along_y.imag[:, None] * along_x.imag
    return waves / np.sqrt(6.0)
