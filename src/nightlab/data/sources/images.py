"""Images by name: a file becomes the image type that the stages take."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nightlab.data.instruments import INSTRUMENTS
from nightlab.data.sources.place import Place
from nightlab.errors import BadInput

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import HDUList, Header
    from lsst.images import MaskedImage, SkyProjection, VisitImage
    from numpy.typing import NDArray

#: Readers of frames with a WCS give a `VisitImage`; ``pixels`` takes any FITS image and gives a `MaskedImage`.
READERS = (*INSTRUMENTS, "pixels")
_FACTS = 80  # characters of a header value worth carrying


def read_image(place: Place, *, reader: str = "GenericFITS", **options: Any) -> VisitImage | MaskedImage:
    """Read an image.

    Parameters
    ----------
    place
        Its file.
    reader
        One of `READERS`.
    **options
        ``mask``, ``variance``, ``weight`` (inverse variance), ``sigma`` and ``psf``: where these are, as a path in the
        same place, ``#2`` for HDU 2 of the same file, or both (``path#2``); for ``pixels`` also what `read_pixels`
        takes.

    Returns
    -------
    VisitImage or MaskedImage
        In the unit of the file.

    Raises
    ------
    MissingData, CorruptFile
        When a file is absent or damaged.
    BadInput
        When there is no such reader, or the file holds no such image.
    """
    if reader not in READERS:
        raise BadInput(f"no reader is called {reader!r}", hint=f"known are {', '.join(READERS)}", reader=reader)
    if reader == "pixels":
        return read_pixels(place, **options)
    if reader == "GenericFITS":
        from nightlab.data.instruments.generic import read_generic

        given = {name: _companion(place, options.pop(name, "")) for name in ("mask", "psf")}
        return read_generic(place.file(), variance=_noise(place, options), **given, **_none_left(options))
    from nightlab.data.instruments import instrument

    return instrument(reader).read_raw(place.file(), **_none_left(options))


def read_pixels(
    place: Place, *, hdu: int | str = -1, mask: str = "", wraps: int = 0, unit: str = "", **options: str
) -> MaskedImage:
    """Read the pixels of any FITS image, with or without a WCS.

    Parameters
    ----------
    place
        Its file.
    hdu
        Number or name of the HDU; the first with a two-dimensional image when -1.
    mask
        Where the mask is. Planes its header names (``MP_SAT``) keep their meaning; otherwise what is not 0 is BAD.
    wraps
        Bits after which numbers wrapped around below zero, for readouts that did; 0 for none.
    unit
        Unit, where the header does not say.
    **options
        ``variance``, ``weight`` or ``sigma``; estimated from the image when absent.

    Returns
    -------
    MaskedImage
        Pixels that are not finite are ``NO_DATA``. It carries a projection when the file has a celestial WCS, and the
        header as plain values.
    """
    import astropy.units as u
    from lsst.images import Box, Image, Mask, MaskedImage

    from nightlab.data.instruments.base import fits_file
    from nightlab.data.instruments.generic import estimate_variance
    from nightlab.images.planes import VISIT_PLANES

    noise = _noise(place, options)
    _none_left(options)
    path = place.file()
    with fits_file(path, needed="an image") as hdus:
        plane = hdus[_image_hdu(hdus, str(path)) if hdu == -1 else hdu]
        pixels = np.asarray(plane.data, dtype=np.float64)
        header = plane.header.copy()
        box = Box.from_shape(pixels.shape)
        projection = _projection(header, hdus, box)
    if wraps:
        pixels = np.where(pixels >= 2.0 ** (wraps - 1), pixels - 2.0**wraps, pixels)
    pixels = pixels.astype(np.float32)
    if noise is None:
        noise = estimate_variance(pixels, float(header.get("GAIN", np.nan) or np.nan))
    lost = ~np.isfinite(pixels) | ~(np.isfinite(noise) & (noise > 0))
    planes = Mask(schema=VISIT_PLANES, bbox=box)
    for name, where in _mask_planes(place, mask).items():
        planes.set(name, where)
    planes.set("NO_DATA", lost)
    of = u.Unit(unit or str(header.get("BUNIT", "")) or "adu", parse_strict="silent")
    of = u.adu if isinstance(of, u.UnrecognizedUnit) else of
    return MaskedImage(
        Image(pixels, bbox=box, unit=of),
        mask=planes,
        variance=Image(np.where(lost, np.inf, noise).astype(np.float32), bbox=box, unit=of**2),
        sky_projection=projection,
        metadata=_facts(header),
    )


def image_later(place: Place, *, reader: str = "GenericFITS", hdu: int | str = -1, **options: Any) -> xr.Dataset:
    """Give the image as an `xarray.Dataset` of dask arrays; the file is read when one of them is computed.

    Returns
    -------
    xarray.Dataset
        ``image``, ``variance`` and ``flagged`` (True where any mask plane is set) over y and x.
    """
    from nightlab.data.instruments.base import fits_file

    path = place.file()
    with fits_file(path, needed="an image") as hdus:
        number = _image_hdu(hdus, str(path)) if hdu == -1 else hdu
        shape = tuple(int(side) for side in hdus[number].shape[-2:])
    options |= {"hdu": hdu} if reader == "pixels" else {}
    return planes_later(lambda: read_image(place, reader=reader, **options), shape)


def planes_later(load: Callable[[], MaskedImage], shape: tuple[int, ...]) -> xr.Dataset:
    """Make a dataset of dask arrays of an image that is read when one of them is computed.

    Parameters
    ----------
    load
        Reads the image.
    shape
        (ny, nx) it will have.
    """
    import dask.array
    import xarray as xr
    from dask.delayed import delayed

    image = delayed(load)()
    planes = {
        "image": (image.image.array, np.float32),
        "variance": (image.variance.array, np.float32),
        "flagged": ((image.mask.array != 0).any(axis=-1), bool),
    }
    return xr.Dataset(
        {
            name: (("y", "x"), dask.array.from_delayed(plane, shape, dtype=kind))
            for name, (plane, kind) in planes.items()
        }
    )


def _image_hdu(hdus: HDUList, path: str) -> int:
    for k, hdu in enumerate(hdus):
        if hdu.is_image and len(hdu.shape) >= 2 and min(hdu.shape[-2:]) > 1:
            return k
    raise BadInput(f"{path} holds no two-dimensional image", hint="name the right file", path=path)


def _projection(header: Header, hdus: HDUList, box: Any) -> SkyProjection | None:
    from astropy.wcs import WCS, FITSFixedWarning
    from lsst.images import DetectorFrame

    from nightlab.images.wcs import projection_from_wcs

    if not str(header.get("CTYPE1", "")).startswith(("RA", "DEC", "GLON", "ELON")):
        return None
    frame = DetectorFrame(instrument="GenericFITS", visit=0, detector=0, bbox=box)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return projection_from_wcs(WCS(header, hdus).celestial, frame, box)


def _companion(place: Place, where: str) -> NDArray | None:
    """Array at ``path``, ``#hdu`` or ``path#hdu``; None where nothing is named."""
    return _read_companion(place, where)[0] if where else None


def _read_companion(place: Place, where: str) -> tuple[NDArray, Header]:
    from nightlab.data.instruments.base import fits_file

    pattern, _, number = where.partition("#")
    path = place.file(pattern)
    with fits_file(path, needed="a plane of an image") as hdus:
        hdu = hdus[int(number) if number else _image_hdu(hdus, str(path))]
        return np.asarray(hdu.data), hdu.header.copy()


def _noise(place: Place, options: dict[str, Any]) -> NDArray | None:
    """Variance from whichever of variance, weight and sigma is named; takes them out of the options."""
    variance, weight, sigma = (_companion(place, options.pop(name, "")) for name in ("variance", "weight", "sigma"))
    if variance is not None:
        return variance.astype(np.float64)
    if weight is not None:
        inverse = weight.astype(np.float64)
        return np.divide(1.0, inverse, out=np.full(inverse.shape, np.nan), where=inverse > 0)
    return None if sigma is None else sigma.astype(np.float64) ** 2


def _mask_planes(place: Place, where: str) -> dict[str, NDArray[np.bool_]]:
    from lsst.images import get_legacy_visit_image_mask_planes

    if not where:
        return {}
    bits, header = _read_companion(place, where)
    named = {card.removeprefix("MP_"): int(header[card]) for card in header if card.startswith("MP_")}
    if not named:
        return {"BAD": bits != 0}
    known = get_legacy_visit_image_mask_planes()
    return {known[name].name: (bits.astype(np.int64) >> bit) & 1 == 1 for name, bit in named.items() if name in known}


def _facts(header: Header) -> dict[str, str | int | float | bool]:
    """Header values as plain facts; comments, structure and long texts stay behind."""
    return {
        card.keyword: card.value
        for card in header.cards
        if card.keyword not in ("", "COMMENT", "HISTORY", "SIMPLE", "BITPIX", "EXTEND", "XTENSION")
        and isinstance(card.value, str | int | float | bool)
        and len(str(card.value)) <= _FACTS
    }


def _none_left(options: dict[str, Any]) -> dict[str, Any]:
    if options:
        raise BadInput(f"an image has no {', '.join(sorted(options))}", hint="mend the catalogue entry")
    return {}
