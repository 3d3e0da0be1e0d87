"""FITS images as layers, and cutouts of layers as FITS."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from lsst.images import Box, GeneralFrame, SkyProjection
from numpy.typing import NDArray

from nightlab.dashboards.images.layers import NO_UNIT, Layer, Plane, of_array
from nightlab.data.instruments.generic import ERROR_HDUS, MASK_HDUS, VARIANCE_HDUS, WEIGHT_HDUS
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.wcs import fits_header, projection_from_wcs


def read_layer(path: Path) -> Layer:
    """Read a FITS image with whatever comes with it: mask, variance, WCS.

    Nothing is made up: an image without variance has none, one without WCS has no sky.

    Parameters
    ----------
    path
        The file; its first image is read, and extensions of the same shape whose names say what they are.

    Raises
    ------
    MissingData
        When it is not there.
    CorruptFile
        When it cannot be read.
    BadInput
        When it holds no image.
    """
    if not path.is_file():
        raise MissingData(f"{path} is not there", hint="check the path", path=str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            with fits.open(path, memmap=False) as hdus:
                return _read(hdus, path)
    except OSError as error:
        raise CorruptFile(f"{path.name} cannot be read: {error}", hint="fetch it again", path=str(path)) from error


def cutout_fits(layer: Layer, box: tuple[float, float, float, float]) -> bytes:
    """Write the part of a layer within a box as a FITS file.

    Parameters
    ----------
    layer
        Whose pixels.
    box
        First and last x, first and last y, in pixels of the layer; what lies outside is left out.

    Returns
    -------
    bytes
        Image, variance and mask, the planes named in the mask's header; the WCS is that of the cutout.

    Raises
    ------
    BadInput
        When the box does not touch the image.
    """
    rows, columns = region(layer, box)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise BadInput("the view does not touch the image", hint="press r to see all of it")
    x0, y0 = layer.x0 + columns.start, layer.y0 + rows.start
    header = fits.Header({"BUNIT": "" if layer.unit in (NO_UNIT, "σ") else layer.unit, "LTV1": -x0, "LTV2": -y0})
    if layer.projection is not None:
        whole = Box.factory[y0 : y0 + rows.stop - rows.start, x0 : x0 + columns.stop - columns.start]
        header.update(fits_header(layer.projection, whole))
    image = np.ascontiguousarray(layer.values[rows, columns])
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="IMAGE")]
    if layer.variance is not None:
        hdus.append(fits.ImageHDU(np.ascontiguousarray(layer.variance[rows, columns]), name="VARIANCE"))
    if layer.mask is not None:
        planes = {f"MP_{plane.name}": plane.bit for plane in layer.planes}
        mask = np.ascontiguousarray(layer.mask[rows, columns])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # names of planes are longer than eight letters
            hdus.append(fits.ImageHDU(mask.astype(np.int64), fits.Header(planes), name="MASK"))
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out)
    return out.getvalue()


def region(layer: Layer, box: tuple[float, float, float, float], margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a layer that a box of pixel coordinates touches; empty slices where they do not meet."""
    x_first, x_last, y_first, y_last = box
    slices = []
    for first, last, start, size in (
        (y_first, y_last, layer.y0, layer.shape[0]),
        (x_first, x_last, layer.x0, layer.shape[1]),
    ):
        low = min(max(int(np.floor(first + 0.5)) - start - margin, 0), size)
        high = min(max(int(np.ceil(last + 0.5)) - start + margin, low), size)
        slices.append(slice(low, high))
    return slices[0], slices[1]


def _read(hdus: fits.HDUList, path: Path) -> Layer:
    images = {
        (hdu.name.upper() or str(k)): hdu
        for k, hdu in enumerate(hdus)
        if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and hdu.header.get("NAXIS", 0) >= 2
    }
    sides = (*MASK_HDUS, *VARIANCE_HDUS, *WEIGHT_HDUS, *ERROR_HDUS)
    name = next((name for name in images if name not in sides), None)
    if name is None:
        raise BadInput(f"{path.name} holds no image", hint="the first image extension is read", path=str(path))
    header = hdus[0].header.copy()
    header.update(images[name].header)
    x0, y0 = _origin(header)
    layer = of_array(
        images[name].data,
        unit=str(header.get("BUNIT", "")).strip() or NO_UNIT,
        title=path.name,
        x0=x0,
        y0=y0,
        projection=_projection(header, x0, y0),
    )
    same = {key: hdu for key, hdu in images.items() if key != name and hdu.shape == layer.shape}
    variance = _variance(same)
    mask, planes = _mask(same)
    facts = {key: getattr(layer, key) for key in ("values", "unit", "title", "x0", "y0", "projection", "notes")}
    return Layer(**facts, variance=variance, mask=mask, planes=planes)


def _native(array: NDArray) -> NDArray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _variance(images: dict[str, Any]) -> NDArray | None:
    for name, hdu in images.items():
        data = _native(np.asarray(hdu.data))
        if name in VARIANCE_HDUS:
            return data
        if name in ERROR_HDUS:
            return data**2
        if name in WEIGHT_HDUS:
            return np.divide(1.0, data, out=np.full(data.shape, np.nan), where=data > 0)
    return None


def _mask(images: dict[str, Any]) -> tuple[NDArray[np.unsignedinteger] | None, tuple[Plane, ...]]:
    """Read a mask and the names of its planes, in the old style of headers and in the new one."""
    for name in MASK_HDUS:
        if name not in images:
            continue
        header, data = images[name].header, np.asarray(images[name].data)
        mask: NDArray[np.unsignedinteger] = data.astype("u8" if data.dtype.itemsize > 4 else "u4")
        old = {key[3:].upper(): int(header[key]) for key in header if re.fullmatch(r"MP_\w+", str(key).upper())}
        planes = [Plane(plane, bit) for plane, bit in old.items()]
        for key in header:
            if re.fullmatch(r"MSKN\d{4}", key):
                bit = int(header[f"MSKM{key[4:]}"]).bit_length() - 1
                planes.append(Plane(str(header[key]).strip(), bit, str(header.get(f"MSKD{key[4:]}", ""))))
        if not planes:
            bits = int(np.bitwise_or.reduce(mask, axis=None))
            planes = [Plane(f"BIT {bit}", bit) for bit in range(bits.bit_length()) if bits >> bit & 1]
        return mask, tuple(sorted(planes, key=lambda plane: plane.bit))
    return None, ()


def _origin(header: fits.Header) -> tuple[int, int]:
    """Pixel coordinates of the first pixel, where the writer has left them."""
    if "LTV1" in header and "LTV2" in header:
        return round(-float(header["LTV1"])), round(-float(header["LTV2"]))
    if header.get("CTYPE1A") == "LINEAR" and header.get("CTYPE2A") == "LINEAR":
        at = [float(header[f"CRVAL{k}A"]) - (float(header[f"CRPIX{k}A"]) - 1.0) for k in (1, 2)]
        return round(at[0]), round(at[1])
    return 0, 0


def _projection(header: fits.Header, x0: int, y0: int) -> SkyProjection | None:
    import astropy.units as u

    shifted = header.copy()
    for key, origin in (("CRPIX1", x0), ("CRPIX2", y0)):
        if key in shifted:
            shifted[key] = float(shifted[key]) + origin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(shifted, naxis=2)
        except (ValueError, MemoryError, KeyError):
            return None
    if not wcs.has_celestial:
        return None
    try:
        return projection_from_wcs(wcs, GeneralFrame(unit=u.pix))
    except (ValueError, RuntimeError, TypeError):
        return None
