"""What an instrument has to say to the rest of the house, and how its FITS files are opened."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import FITSFixedWarning
from lsst.images import VisitImage

from nightlab.errors import CorruptFile, MissingData, NightLabError


@dataclass(frozen=True, kw_only=True)
class DetectorRecord:
    """One detector of a camera.

    Attributes
    ----------
    id
        Number, unique within the instrument.
    full_name
        Name, unique within the instrument.
    purpose
        ``SCIENCE``, ``GUIDE`` or ``WAVEFRONT``.
    """

    id: int
    full_name: str
    purpose: str = "SCIENCE"


@dataclass(frozen=True, kw_only=True, eq=False)
class RawRecord:
    """What the header of one raw file says: enough to register the file without reading its pixels.

    Attributes
    ----------
    exposure, visit, detector
        Identifiers; a visit is one exposure here.
    physical_filter
        A key of the instrument's `filters`.
    mjd_begin, mjd_end
        First and last moment of the exposure [day, TAI].
    exposure_time
        Time light was collected for [s].
    ra, dec
        Pointing, or centre of the frame where the telescope drifts [degree, ICRS]; NaN where there is none.
    rotation
        Position angle of the camera's y axis, east of north [degree].
    airmass
        At the middle of the exposure; NaN when unknown.
    corners
        ``(4, 2)`` ra and dec of the outer corners of the frame, in order around it [degree, ICRS]; ``(0, 2)`` for a
        frame that does not see the sky.
    observation_type
        ``science``; ``bias``, ``dark``, ``flat`` and any other word stand for frames that do not see the sky: they get
        an exposure in the repository, but no visit.
    observation_reason, target
        Free text.
    sequence
        Number within the night or run.
    simulated
        Whether the pixels never saw a sky.
    """

    exposure: int
    visit: int
    detector: int
    physical_filter: str
    mjd_begin: float
    mjd_end: float
    exposure_time: float
    ra: float = float("nan")
    dec: float = float("nan")
    corners: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    rotation: float = float("nan")
    airmass: float = float("nan")
    target: str = ""
    observation_type: str = "science"
    observation_reason: str = "science"
    sequence: int = 0
    simulated: bool = False

    @property
    def sees_sky(self) -> bool:
        """Whether the sky was exposed on, so that the exposure is a visit."""
        return self.observation_type == "science"

    @property
    def day_obs(self) -> int:
        """Observing day as YYYYMMDD; days change at noon of the TAI calendar, as Rubin's do."""
        return day_obs(self.mjd_begin)


def day_obs(mjd_tai: float) -> int:
    """Observing day of a moment [MJD TAI] as YYYYMMDD."""
    # 40587 is MJD of 1970-01-01
    date = np.datetime64(int(np.floor(mjd_tai - 0.5)) - 40587, "D")
    return int(str(date).replace("-", ""))


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """A camera we can read.

    Attributes
    ----------
    name
        As in data ids.
    class_name
        Importable name of the object that describes it.
    detectors
        All detectors, by increasing id.
    filters
        Band of each physical filter.
    read_raw
        From the path of a raw file to its image, in adu.
    read_record
        From the path of a raw file to what its header says; reads no pixels.
    visit_max, exposure_max
        Upper bounds of the identifiers.
    """

    name: str
    class_name: str
    detectors: tuple[DetectorRecord, ...]
    filters: Mapping[str, str]
    read_raw: Callable[[Path], VisitImage]
    read_record: Callable[[Path], RawRecord]
    visit_max: int = 90_000_000_000
    exposure_max: int = 90_000_000_000

    @property
    def detector_max(self) -> int:
        """Exclusive upper bound of detector ids."""
        return max(record.id for record in self.detectors) + 1


@contextmanager
def fits_file(path: Path, *, needed: str) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading, plain or gzipped, and speak of its faults in our own errors.

    Keep the body to reading: whatever it stumbles over counts as a fault of the file.

    Parameters
    ----------
    path
        The file.
    needed
        What the file was to give, for the message.

    Raises
    ------
    MissingData
        When there is no such file.
    CorruptFile
        When it is truncated, is no FITS file, or lacks the HDU, column or keyword the body asks for.
    """
    if not path.is_file():
        raise MissingData(f"{path} is missing; {needed} is read from it", hint="fetch or restore it", path=str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)
            warnings.simplefilter("ignore", FITSFixedWarning)
            warnings.filterwarnings("error", message=".*may have been truncated.*")
            with fits.open(path, memmap=False) as hdus:
                yield hdus
    except NightLabError:
        raise
    except (OSError, EOFError, TypeError, ValueError, LookupError, zlib.error, Warning, fits.VerifyError) as error:
        raise CorruptFile(
            f"cannot read {needed} from {path}: {type(error).__name__}: {error}",
            hint="the file is truncated or not of the promised format; fetch it again",
            path=str(path),
        ) from error
