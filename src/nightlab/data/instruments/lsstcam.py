"""Raw frames of the cameras of the Rubin Observatory, LSSTCam, LSSTComCam and LATISS, and their calibration tables.

One file holds one CCD, each of its segments an extension ``Segment<nn>`` in the order it was read. Where a segment
lies, and how it is turned, say its ``DATASEC`` and ``DETSEC``; in the assembled frame segments 10 to 17 are at the
bottom, as the LSST Science Pipelines have it, so that their tables of defects fit. Amplifiers are called C00 to C17.

An exposure has the number that the observatory gives it, <yyyymmdd><nnnnn>. That is too long to count sources with, so
a visit is <yymmdd><nnnnn>, where the sequence number of a controller other than the observatory's own is moved up.

The gain and read noise of the headers are placeholders; ``nominalGain`` in the metadata says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from lsst.images import Box, DetectorFrame, VisitImage
from lsst.images.cameras import Amplifier
from numpy.typing import NDArray

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.frames import (
    check_camera,
    corners_of,
    frame_image,
    nominal_projection,
    number,
    section,
    tai,
)
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.camera import make_amplifier

PIXEL_SCALE = {"LSSTCam": 0.2, "LSSTComCam": 0.2, "LATISS": 0.0957}  # arcsec
FIELD = {"LSSTCam": 3.8, "LSSTComCam": 0.9, "LATISS": 0.2}  # degree; a square that holds the field, however turned
SATURATION = 142_857.0  # adu, nominal
CONTROLLERS = "OCPSH"  # of the observatory, the camera, and simulators
SEQUENCES = 20_000  # frames a controller takes in a day
KINDS = {"BIAS": "bias", "DARK": "dark", "FLAT": "flat", "SFLAT": "flat"}
ON_SKY = ("OBJECT", "SCIENCE", "ENGTEST", "ACQ", "SKYEXP", "CWFS", "FOCUS", "STUTTERED", "SPECTRUM")
NO_FILTER = ("", "none", "empty", "unknown")
SLOTS = tuple(f"S{row}{column}" for row in range(3) for column in range(3))
CORNERS = ("R00", "R04", "R40", "R44")
RAFTS = tuple(f"R{i}{j}" for i in range(5) for j in range(5) if f"R{i}{j}" not in CORNERS)
#: Amplifiers in the order of the files and of the matrices of crosstalk.
AMPLIFIERS = tuple(f"C1{n}" for n in range(8)) + tuple(f"C0{n}" for n in reversed(range(8)))


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """What distinguishes the cameras: name, what ``INSTRUME`` begins with, detectors and filters."""

    name: str
    instrume: tuple[str, ...]
    detectors: tuple[DetectorRecord, ...]
    filters: Mapping[str, str]

    def instrument(self, attribute: str) -> Instrument:
        """Make the instrument that is found under `attribute` of this module."""
        return Instrument(
            name=self.name,
            class_name=f"nightlab.data.instruments.lsstcam.{attribute}",
            detectors=self.detectors,
            filters=self.filters,
            read_raw=_reader(_read_raw, self),
            read_record=_reader(_read_record, self),
            exposure_max=10_000_000_000_000,
        )


def _reader[T](function: Callable[[Path, _Camera], T], camera: _Camera) -> Callable[[str | Path], T]:
    def read(path: str | Path) -> T:
        return function(Path(path), camera)

    read.__doc__ = function.__doc__
    return read


def _detectors() -> Iterable[DetectorRecord]:
    """Give the CCDs of LSSTCam: those of the science rafts first, then four in each corner."""
    science = [f"{raft}_{slot}" for raft in RAFTS for slot in SLOTS]
    corner = [f"{raft}_{slot}" for raft in CORNERS for slot in ("SG0", "SG1", "SW0", "SW1")]
    purpose = {"G": "GUIDE", "W": "WAVEFRONT"}
    for k, name in enumerate(science + corner):
        yield DetectorRecord(id=k, full_name=name, purpose=purpose.get(name.split("_S")[1][0], "SCIENCE"))


def _bench(suffix: str = "") -> dict[str, str]:
    """Give the filters of test stands."""
    return {f"SDSS{name}{suffix}": name.lower() for name in ("u", "g", "r", "i", "z", "Y", "y")}


_ON_SKY = {name: name[0] for name in ("u_24", "g_6", "r_57", "i_39", "z_20", "y_10")}
_COMCAM = {name: name[0] for name in ("u_02", "u_05", "g_01", "g_07", "r_03", "i_06", "z_02", "z_03", "y_02", "y_04")}
_OTHER = {"empty": "white", "unknown": "unknown", "ef_43": "white"}
_DENSITIES = ("0.01", "0.1", "0.3", "0.5", "0.7", "1.0", "2.0", "3.0")
_ATTENUATED = {name: band for nd in _DENSITIES for name, band in _bench(f"~ND_OD{nd}").items()}

_LSSTCAM = _Camera(
    name="LSSTCam",
    instrume=("lsstCam",),
    detectors=tuple(_detectors()),
    filters=_ON_SKY | _bench() | _ATTENUATED | _OTHER,
)
_LSSTCOMCAM = _Camera(
    name="LSSTComCam",
    instrume=("ComCam", "LSSTComCam"),
    detectors=tuple(DetectorRecord(id=k, full_name=f"R22_{slot}") for k, slot in enumerate(SLOTS)),
    filters=_COMCAM | _bench() | _ATTENUATED | _OTHER,
)
_LATISS = _Camera(
    name="LATISS",
    instrume=("LSST_ATISS", "LATISS"),
    detectors=(DetectorRecord(id=0, full_name="RXX_S00"),),
    filters=_bench("_65mm") | _bench() | _OTHER,
)


def _read_record(path: Path, camera: _Camera) -> RawRecord:
    """Tell what the header of a raw frame says; pixels are not read."""
    with fits_file(path, needed=f"the header of a raw of {camera.name}") as hdus:
        return _record(hdus[0].header, path, camera)


def _record(header: fits.Header, path: Path, camera: _Camera) -> RawRecord:
    check_camera(header, camera.instrume, camera.name, path)
    day, sequence = int(header["DAYOBS"]), int(header["SEQNUM"])
    controller = str(header.get("CONTRLLR", "O")).strip()
    if controller not in CONTROLLERS or not 0 <= sequence < SEQUENCES:
        raise BadInput(
            f"{path} is number {sequence} of controller {controller!r}",
            hint=f"controllers are {', '.join(CONTROLLERS)}, numbers below {SEQUENCES}",
            path=str(path),
        )
    index = CONTROLLERS.index(controller)
    seconds = max(float(header["EXPTIME"]), 0.0)
    begin = _begin(header)
    record = RawRecord(
        exposure=(day + 10_000_000 * index) * 100_000 + sequence,
        visit=(day - 20_000_000) * 100_000 + SEQUENCES * index + sequence,
        detector=_detector(header, path, camera),
        physical_filter=_filter(header, camera),
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        target=str(header.get("OBJECT") or "").strip(),
        observation_type=_kind(header),
        observation_reason=str(header.get("REASON") or header.get("TESTTYPE") or "unknown").strip().lower(),
        sequence=sequence,
    )
    ra, dec = number(header, "RA"), number(header, "DEC")
    if not record.sees_sky or not np.isfinite([ra, dec]).all():
        return record
    side = round(3600.0 * FIELD[camera.name] / PIXEL_SCALE[camera.name])
    field = Box.from_shape((side, side))
    frame = DetectorFrame(instrument=camera.name, visit=record.visit, detector=record.detector, bbox=field)
    around = nominal_projection(frame, field, ra=ra, dec=dec, scale=(PIXEL_SCALE[camera.name],) * 2)
    return replace(
        record,
        ra=ra,
        dec=dec,
        rotation=number(header, "ROTPA"),
        airmass=number(header, "AMSTART"),
        corners=corners_of(around, field),
    )


def _begin(header: fits.Header) -> float:
    moment = number(header, "MJD-BEG", "MJD-OBS")
    scale = str(header.get("TIMESYS") or "UTC").strip()
    return tai(moment if np.isfinite(moment) else str(header["DATE-OBS"]), scale)


def _kind(header: fits.Header) -> str:
    word = str(header.get("IMGTYPE") or "").strip().upper()
    return "science" if word in ON_SKY else KINDS.get(word, word.lower() or "unknown")


def _detector(header: fits.Header, path: Path, camera: _Camera) -> int:
    if len(camera.detectors) == 1:
        return camera.detectors[0].id
    name = f"{str(header['RAFTBAY']).strip()}_{str(header['CCDSLOT']).strip()}"
    for record in camera.detectors:
        if record.full_name == name:
            return record.id
    raise BadInput(f"{path} is from CCD {name}, which {camera.name} does not have", hint="check the header",
                   path=str(path), found=name)  # fmt: skip


def _filter(header: fits.Header, camera: _Camera) -> str:
    """Name the filter, and the one behind it where there is one; "unknown" for those not listed."""
    names = [str(header.get(key) or "").strip() for key in ("FILTER", "FILTER2")]
    there = [name for name in names if name.lower() not in NO_FILTER]
    if not there:
        return "empty" if "empty" in names else "unknown"
    name = "~".join(there)
    return name if name in camera.filters else "unknown"


def _read_raw(path: Path, camera: _Camera) -> VisitImage:
    """Read a raw frame that does not see the sky, or one of LATISS.

    Parameters
    ----------
    path
        A FITS file of one CCD.

    Returns
    -------
    VisitImage
        In adu, without variance or PSF: the segments side by side as they were read, in the places they have on the
        CCD. Its detector has the assembled box and the amplifiers. The projection is nominal, as `metadata` says.

    Raises
    ------
    BadInput
        When the file is of another camera, its segments do not make up the CCD, or it is a frame of the sky of a
        camera of many CCDs: where they look is not known here.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    with fits_file(path, needed=f"a raw of {camera.name}") as hdus:
        header = hdus[0].header
        record = _record(header, path, camera)
        if record.sees_sky and len(camera.detectors) > 1:
            raise BadInput(
                f"{path} is a frame of the sky, and where the CCDs of {camera.name} look is not known here",
                hint="read frames that the LSST Science Pipelines have calibrated",
                path=str(path),
            )
        gain, read_noise = (number(header, key) for key in ("CCDGAIN", "CCDNOISE"))
        amplifiers, pixels = segments(hdus, gain if gain > 0 else 1.0, read_noise if read_noise >= 0 else 10.0)
        assembled, whole = assembled_box(amplifiers), section(str(header["DETSIZE"]))[0]
        if assembled != whole:
            raise ValueError(f"its segments fill {assembled} of {whole}")
    frame = DetectorFrame(instrument=camera.name, visit=record.visit, detector=record.detector, bbox=assembled)
    scale = PIXEL_SCALE[camera.name]
    return frame_image(
        pixels,
        instrument=camera.name,
        band=camera.filters[record.physical_filter],
        record=record,
        name=next(known.full_name for known in camera.detectors if known.id == record.detector),
        assembled=assembled,
        projection=nominal_projection(
            frame, assembled, ra=record.ra, dec=record.dec, scale=(scale, scale), rotation=record.rotation
        ),
        pixel_scale=scale,
        amplifiers=amplifiers,
        metadata={"nominalWcs": True, "nominalGain": True, "serial": str(header.get("LSST_NUM", "")).strip()},
    )


def segments(hdus: fits.HDUList, gain: float, read_noise: float) -> tuple[list[Amplifier], NDArray[np.float32]]:
    """Read the segments of a CCD and lay them side by side.

    Parameters
    ----------
    hdus
        An open file with extensions ``Segment<nn>``.
    gain, read_noise
        Given to all amplifiers [electron/adu, electron].

    Returns
    -------
    amplifiers, pixels
        The amplifiers in the order of the file, and ``(ny, nx)`` raw pixels [adu]; a segment is as it was read.

    Raises
    ------
    BadInput
        When there is no segment, or they differ in size.
    """
    found = [hdu for hdu in hdus if hdu.name.upper().startswith("SEGMENT")]
    shapes = {tuple(hdu.shape) for hdu in found}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise BadInput(
            f"the file has {len(found)} segments of the sizes {sorted(shapes)}", hint="give a raw frame of one CCD"
        )
    height, width = next(iter(shapes))
    places = [section(str(hdu.header["DETSEC"]))[0] for hdu in found]
    corner_x, corner_y = min(box.x.start for box in places), min(box.y.start for box in places)
    cells = [
        ((box.y.start - corner_y) // box.y.size * height, (box.x.start - corner_x) // box.x.size * width)
        for box in places
    ]
    pixels = np.zeros((max(y for y, _ in cells) + height, max(x for _, x in cells) + width), np.float32)
    for hdu, (y, x) in zip(found, cells, strict=True):
        pixels[y : y + height, x : x + width] = hdu.data
    amplifiers = [
        _amplifier(hdu, Box.from_shape((height, width), start=cell), gain, read_noise)
        for hdu, cell in zip(found, cells, strict=True)
    ]
    return amplifiers, pixels


def _amplifier(hdu: fits.ImageHDU, raw: Box, gain: float, read_noise: float) -> Amplifier:
    data = section(str(hdu.header["DATASEC"]))[0]
    place, flip_x, flip_y = section(str(hdu.header["DETSEC"]))
    if (data.y.size, data.x.size) != (place.y.size, place.x.size) or data.x.stop > raw.x.size:
        raise BadInput(
            f"{hdu.name} has DATASEC {hdu.header['DATASEC']} and DETSEC {hdu.header['DETSEC']}",
            hint="they must be of one size and within the segment",
        )
    if "BIASSEC" in hdu.header:
        serial = section(str(hdu.header["BIASSEC"]))[0]
    else:
        serial = Box.factory[data.y.start : data.y.stop, data.x.stop : raw.x.size]
    parallel = Box.factory[data.y.stop : raw.y.size, data.x.start : data.x.stop]
    y, x = raw.y.start, raw.x.start
    return make_amplifier(
        "C" + hdu.name[-2:],
        place,
        raw_bbox=raw,
        data_bbox=_moved(data, y, x),
        serial_overscan=_moved(serial, y, x),
        parallel_overscan=_moved(parallel, y, x),
        flip_x=flip_x,
        flip_y=flip_y,
        gain=gain,
        read_noise=read_noise,
        saturation=SATURATION,
    )


def _moved(box: Box, y: int, x: int) -> Box:
    return Box.factory[box.y.start + y : box.y.stop + y, box.x.start + x : box.x.stop + x]


def assembled_box(amplifiers: Iterable[Amplifier]) -> Box:
    """Give the box that amplifiers fill, each pixel once.

    Raises
    ------
    BadInput
        When they overlap or leave gaps.
    """
    boxes = [amplifier.bbox for amplifier in amplifiers]
    whole = Box.factory[
        min(box.y.start for box in boxes) : max(box.y.stop for box in boxes),
        min(box.x.start for box in boxes) : max(box.x.stop for box in boxes),
    ]
    seen = np.zeros((whole.y.size, whole.x.size), np.uint8)
    for box in boxes:
        seen[
            box.y.start - whole.y.start : box.y.stop - whole.y.start,
            box.x.start - whole.x.start : box.x.stop - whole.x.start,
        ] += 1
    if not (seen == 1).all():
        raise BadInput("the segments overlap or leave gaps on the CCD", hint="look at DETSEC of every segment")
    return whole


def read_crosstalk(path: str | Path, gains: Mapping[str, float] | None = None) -> Table:
    """Read a matrix of crosstalk in the form of the LSST Science Pipelines.

    Coefficients that are marked as not valid are zero. Those between signals in electrons become those between
    signals in adu: with gains g, the linear ones are multiplied by g_source / g_victim, the quadratic ones by
    g_source^2 / g_victim.

    Parameters
    ----------
    path
        An ECSV file.
    gains
        Gain of every amplifier [electron/adu]; those that were used for the fit, which the file has, when absent.

    Returns
    -------
    Table
        ``victim``, ``source``, ``linear``, ``error`` of every pair of amplifiers, and ``quadratic`` [1/adu] where the
        file has any; see `nightlab.stages.single_frame.crosstalk`. Of a file in electrons without gains only the
        linear coefficients are kept, since their ratios suffice for these.

    Raises
    ------
    BadInput
        When the file holds something else, or neither gains nor their ratios are known for a matrix in electrons.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    path = Path(path)
    table = _read_ecsv(path, "CROSSTALK", ("CT_COEFFS", "CT_ERRORS"))
    count = int(table.meta.get("NAMP", 0))
    if count != len(AMPLIFIERS):
        raise BadInput(f"{path} is for {count} amplifiers", hint=f"{len(AMPLIFIERS)} are expected", path=str(path))

    def matrix(name: str) -> NDArray[np.float64]:
        if name not in table.colnames:
            return np.zeros((count, count))
        return np.asarray(table[name][0], np.float64).reshape(count, count)

    linear, quadratic, error = matrix("CT_COEFFS"), matrix("CT_COEFFS_SQR"), matrix("CT_ERRORS")
    valid = np.isfinite(linear) & np.isfinite(quadratic)
    if "CT_VALID" in table.colnames:
        valid &= matrix("CT_VALID") != 0
    linear, quadratic = np.where(valid, linear, 0.0), np.where(valid, quadratic, 0.0)
    unit = str(table.meta.get("CROSSTALK_RATIOS_UNITS", "adu")).lower()
    if unit == "electron":
        gain = _gains(table, gains)
        ratio = matrix("CT_AMP_GAIN_RATIOS") if gain is None else gain[None, :] / gain[:, None]
        if not (ratio > 0).all():
            raise BadInput(
                f"{path} is in electrons and has neither gains nor their ratios", hint="give `gains`", path=str(path)
            )
        linear, error = linear * ratio, error * ratio
        quadratic = np.zeros_like(linear) if gain is None else quadratic * ratio * gain[None, :]
    elif unit != "adu":
        raise BadInput(f"{path} is in {unit!r}", hint="adu and electron are known", path=str(path))
    victim, source = np.nonzero(~np.eye(count, dtype=bool))
    names = np.array(AMPLIFIERS)
    out = Table({"victim": names[victim], "source": names[source], "linear": linear[victim, source]})
    out["error"] = error[victim, source]
    if quadratic.any():
        out["quadratic"] = quadratic[victim, source]
        out["quadratic"].unit = "1 / adu"
    out.meta |= {key: table.meta[key] for key in ("INSTRUME", "DETECTOR", "DETECTOR_NAME") if key in table.meta}
    return out


def _gains(table: Table, gains: Mapping[str, float] | None) -> NDArray[np.float64] | None:
    """Give the gains in the order of `AMPLIFIERS`, or None."""
    if gains is not None:
        missing = [name for name in AMPLIFIERS if not gains.get(name, 0.0) > 0]
        if missing:
            raise BadInput(f"there is no positive gain of {', '.join(missing)}", hint="give one of every amplifier")
        return np.array([gains[name] for name in AMPLIFIERS])
    if "CT_FIT_GAINS" not in table.colnames:
        return None
    fitted = np.asarray(table["CT_FIT_GAINS"][0], np.float64)
    return fitted if fitted.shape == (len(AMPLIFIERS),) and (fitted > 0).all() else None


def read_defects(path: str | Path) -> Table:
    """Read a table of defects in the form of the LSST Science Pipelines.

    Returns
    -------
    Table
        Boxes ``x0``, ``y0``, ``width``, ``height`` [pixel] on the assembled CCD.

    Raises
    ------
    BadInput
        When the file holds something else.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    columns = ("x0", "y0", "width", "height")
    table = _read_ecsv(Path(path), "DEFECTS", columns)
    out = Table({name: np.asarray(table[name], np.int32) for name in columns})
    out.meta |= {key: table.meta[key] for key in ("INSTRUME", "DETECTOR") if key in table.meta}
    return out


def _read_ecsv(path: Path, kind: str, columns: tuple[str, ...]) -> Table:
    if not path.is_file():
        raise MissingData(f"{path} is missing", hint="check the path", path=str(path))
    try:
        table = Table.read(path, format="ascii.ecsv")
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise CorruptFile(
            f"{path} is no ECSV table: {type(error).__name__}: {error}", hint="fetch it again", path=str(path)
        ) from error
    found = str(table.meta.get("OBSTYPE", "")).upper()
    if found != kind or any(name not in table.colnames for name in columns) or not (len(table) or kind == "DEFECTS"):
        raise BadInput(
            f"{path} holds {found or 'a table'} with {', '.join(table.colnames)}",
            hint=f"a table of {kind.lower()} is needed, with {', '.join(columns)}",
            path=str(path),
        )
    return table


INSTRUMENT = _LSSTCAM.instrument("INSTRUMENT")
LSSTCOMCAM = _LSSTCOMCAM.instrument("LSSTCOMCAM")
LATISS = _LATISS.instrument("LATISS")
