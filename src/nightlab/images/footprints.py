"""Footprints: connected regions above a threshold, with the peaks inside them, as a type that travels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.table import Table
from lsst.images import Box
from numpy.typing import NDArray
from scipy import ndimage

from nightlab.errors import BadInput, CorruptFile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
_SPANS, _PEAKS = "SPANS", "PEAKS"


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprints:
    """Regions of an image, each a set of runs of pixels along rows, and the peaks in them.

    Attributes
    ----------
    box
        The image they lie in, detector coordinates.
    span_of, span_y, span_x0, span_x1
        (m,) footprint, from 0, row, and first and last column of each run, sorted by footprint, y, x.
    sign
        (n,) 1 where the sky is brighter than expected, -1 where it is fainter.
    peak_of, peak_x, peak_y, peak_significance
        (k,) footprint, detector coordinates [pixel] and height [sigma] of each peak; the height is negative where the
        sign is.
    """

    box: Box
    span_of: Ints
    span_y: Ints
    span_x0: Ints
    span_x1: Ints
    sign: Ints
    peak_of: Ints
    peak_x: Floats
    peak_y: Floats
    peak_significance: Floats

    @classmethod
    def of_regions(
        cls, regions: Bools, box: Box, x: Floats, y: Floats, significance: Floats, *, sign: int = 1
    ) -> Footprints:
        """Take the connected regions of a (ny, nx) array that hold a peak; corners connect.

        Parameters
        ----------
        regions
            (ny, nx), True inside.
        box
            Place of the array.
        x, y, significance
            (k,) peaks, detector coordinates [pixel] and height [sigma]. Those outside all regions are left out.
        sign
            1 or -1.

        Raises
        ------
        BadInput
            When the array has not the shape of the box.
        """
        if regions.shape != (box.y.size, box.x.size):
            raise BadInput(f"regions of {regions.shape} pixels do not fill a box of {(box.y.size, box.x.size)}",
                           hint="pass the box of the image the regions were found on")  # fmt: skip
        labels, _ = ndimage.label(regions, structure=np.ones((3, 3)))
        column = np.clip(np.rint(x).astype(np.int64) - box.x.start, 0, box.x.size - 1)
        row = np.clip(np.rint(y).astype(np.int64) - box.y.start, 0, box.y.size - 1)
        under = labels[row, column]
        held = np.unique(under[under > 0])
        number = np.full(labels.max() + 1, -1, dtype=np.int64)
        number[held] = np.arange(held.size)
        inside = under > 0
        return cls(
            box=box,
            **_spans(number[labels], box),
            sign=np.full(held.size, sign, dtype=np.int64),
            peak_of=number[under[inside]],
            peak_x=np.asarray(x, dtype=float)[inside],
            peak_y=np.asarray(y, dtype=float)[inside],
            peak_significance=np.asarray(significance, dtype=float)[inside],
        )

    def __len__(self) -> int:
        return self.sign.size

    @property
    def area(self) -> Ints:
        """(n,) pixels in each."""
        sizes = np.bincount(self.span_of, self.span_x1 - self.span_x0 + 1, minlength=len(self))
        return sizes.astype(np.int64)

    @property
    def n_peaks(self) -> Ints:
        """(n,) peaks in each."""
        return np.bincount(self.peak_of, minlength=len(self)).astype(np.int64)

    def labels(self) -> NDArray[np.int32]:
        """Paint a (ny, nx) array with the number of the footprint, from 0, and -1 outside; later cover earlier."""
        out = np.full((self.box.y.size, self.box.x.size), -1, dtype=np.int32)
        length = self.span_x1 - self.span_x0 + 1
        columns = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        rows = np.repeat(self.span_y - self.box.y.start, length)
        out[rows, columns + np.repeat(self.span_x0 - self.box.x.start, length)] = np.repeat(self.span_of, length)
        return out

    def mask(self, sign: int | None = None) -> Bools:
        """Give the (ny, nx) pixels inside any footprint, or inside those of one sign."""
        chosen = self if sign is None else self.chosen(self.sign == sign)
        return np.asarray(chosen.labels() >= 0)

    def at(self, x: Floats, y: Floats) -> Ints:
        """Give the footprint at each of (k,) detector coordinates, -1 where there is none."""
        column = np.rint(np.asarray(x, dtype=float)) - self.box.x.start
        row = np.rint(np.asarray(y, dtype=float)) - self.box.y.start
        inside = (column >= 0) & (column < self.box.x.size) & (row >= 0) & (row < self.box.y.size)
        found = np.full(column.shape, -1, dtype=np.int64)
        found[inside] = self.labels()[row[inside].astype(np.int64), column[inside].astype(np.int64)]
        return found

    def chosen(self, keep: Bools) -> Footprints:
        """Give the footprints where (n,) `keep` is True, numbered anew."""
        number = np.where(keep, np.cumsum(keep) - 1, -1)
        spans, peaks = keep[self.span_of], keep[self.peak_of]
        return Footprints(
            box=self.box,
            span_of=number[self.span_of[spans]],
            span_y=self.span_y[spans],
            span_x0=self.span_x0[spans],
            span_x1=self.span_x1[spans],
            sign=self.sign[keep],
            peak_of=number[self.peak_of[peaks]],
            peak_x=self.peak_x[peaks],
            peak_y=self.peak_y[peaks],
            peak_significance=self.peak_significance[peaks],
        )

    def with_others(self, others: Footprints) -> Footprints:
        """Give these and others of the same image, the others numbered on."""
        if others.box != self.box:
            raise BadInput(f"footprints in {others.box} and in {self.box} do not belong together",
                           hint="join footprints of one image only")  # fmt: skip
        joined = {}
        for name in self.__dataclass_fields__:
            if name != "box":
                further = getattr(others, name) + (len(self) if name.endswith("_of") else 0)
                joined[name] = np.concatenate([getattr(self, name), further])
        return Footprints(box=self.box, **joined)

    def to_tables(self) -> tuple[Table, Table]:
        """Give tables of the runs and of the peaks; the first one's header holds the box."""
        spans = Table({"footprint": self.span_of, "sign": self.sign[self.span_of], "y": self.span_y,
                       "x0": self.span_x0, "x1": self.span_x1})  # fmt: skip
        box = self.box
        spans.meta |= {"XSTART": box.x.start, "XSTOP": box.x.stop, "YSTART": box.y.start, "YSTOP": box.y.stop}
        peaks = Table({"footprint": self.peak_of, "x": self.peak_x, "y": self.peak_y,
                       "significance": self.peak_significance})  # fmt: skip
        return spans, peaks

    @classmethod
    def from_tables(cls, spans: Table, peaks: Table) -> Footprints:
        """Make footprints of what `to_tables` gave.

        Raises
        ------
        CorruptFile
            When a column, a footprint's runs or the box is missing.
        """
        missing = {"footprint", "sign", "y", "x0", "x1"} - set(spans.colnames)
        missing |= {"footprint", "x", "y", "significance"} - set(peaks.colnames)
        missing |= {"XSTART", "XSTOP", "YSTART", "YSTOP"} - set(spans.meta)
        if missing:
            raise CorruptFile(f"these are no footprints: {', '.join(sorted(missing))} missing",
                              hint="write them with Footprints.write")  # fmt: skip
        of = np.asarray(spans["footprint"], dtype=np.int64)
        n = int(of.max()) + 1 if of.size else 0
        sign = np.zeros(n, dtype=np.int64)
        sign[of] = spans["sign"]
        peak_of = np.asarray(peaks["footprint"], dtype=np.int64)
        if (sign == 0).any() or (peak_of >= n).any():
            raise CorruptFile("a footprint has no run of pixels", hint="the file is truncated: write it again")
        meta = spans.meta
        return cls(
            box=Box.factory[meta["YSTART"] : meta["YSTOP"], meta["XSTART"] : meta["XSTOP"]],
            span_of=of,
            **{f"span_{name}": np.asarray(spans[name], dtype=np.int64) for name in ("y", "x0", "x1")},
            sign=sign,
            peak_of=peak_of,
            **{f"peak_{name}": np.asarray(peaks[name], dtype=float) for name in ("x", "y", "significance")},
        )

    def write(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write a FITS file of two tables, whole or not at all."""
        path = Path(path)
        spans, peaks = self.to_tables()
        units = [fits.table_to_hdu(table) for table in (spans, peaks)]
        for unit, name in zip(units, (_SPANS, _PEAKS), strict=True):
            unit.name = name
        if path.exists() and not overwrite:
            raise BadInput(f"{path} is there already", hint="pass overwrite=True, or another name")
        part = path.with_name(f".{path.name}.part")
        try:
            fits.HDUList([fits.PrimaryHDU(), *units]).writeto(part, overwrite=True)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path | str) -> Footprints:
        """Read what `write` wrote.

        Raises
        ------
        CorruptFile
            When the file is truncated or holds something else.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", VerifyWarning)
                spans, peaks = (Table.read(path, hdu=name, format="fits") for name in (_SPANS, _PEAKS))
        except (OSError, KeyError, ValueError, TypeError, VerifyWarning) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CorruptFile(f"{path} holds no footprints: {error}", hint="write it again") from error
        return cls.from_tables(spans, peaks)


def _spans(number: Ints, box: Box) -> dict[str, Ints]:
    """Cut a (ny, nx) array of footprints, -1 outside, into runs along rows."""
    padded = np.pad(number, ((0, 0), (1, 1)), constant_values=-1)
    change = padded[:, 1:] != padded[:, :-1]
    y, begin = np.nonzero(change[:, :-1] & (number >= 0))
    _, end = np.nonzero(change[:, 1:] & (number >= 0))
    of = number[y, begin]
    order = np.lexsort((begin, y, of))
    return {
        "span_of": of[order],
        "span_y": y[order] + box.y.start,
        "span_x0": begin[order] + box.x.start,
        "span_x1": end[order] + box.x.start,
    }
