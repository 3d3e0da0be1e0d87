"""Reduced copies of an image, 2 to 16 times smaller, kept in the user's cache and shared by all sessions."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.data.locate import cache_folder

#: How many pixels of the image, in x and in y, one pixel of each copy stands for.
LEVELS = (2, 4, 8, 16)
#: Bytes that all pyramids together may take on disk.
MAX_BYTES = 4_000_000_000

type Pixels = NDArray[np.float32]
type Bits = NDArray[np.unsignedinteger]


@dataclass(frozen=True, eq=False)
class Pyramid:
    """An image and its mask, reduced.

    Attributes
    ----------
    values
        For each of `LEVELS`, (ceil(ny / level), ceil(nx / level)); NaN where no pixel beneath is finite.
    masks
        The same for the bits of the mask, any pixel beneath counting; empty without a mask.
    """

    values: dict[int, Pixels]
    masks: dict[int, Bits]

    @classmethod
    def of(cls, values: NDArray, mask: Bits | None, *, strongest: bool = False, key: str = "") -> Pyramid:
        """Read the pyramid of an image from the cache, or make it, and keep it there.

        Parameters
        ----------
        values
            (ny, nx).
        mask
            (ny, nx), or None.
        strongest
            Reduce to the value furthest from zero, not to the mean.
        key
            Name in the cache; with an empty one it is made and not kept.
        """
        if not key:
            return make(values, mask, strongest=strongest)
        folder = pyramid_folder() / f"{key}.zarr"
        found = read(folder)
        if found is not None and _fits(found, values, mask):
            return found
        made = make(values, mask, strongest=strongest)
        keep(made, folder)
        return made


def pyramid_folder() -> Path:
    """Where pyramids are kept; it need not exist."""
    return cache_folder() / "pyramids"


def make(values: NDArray, mask: Bits | None, *, strongest: bool = False) -> Pyramid:
    """Reduce an image to all `LEVELS`."""
    levels: dict[int, Pixels] = {}
    masks: dict[int, Bits] = {}
    finite = np.isfinite(values)
    weight = finite.astype(np.float32)
    total = np.where(finite, values, np.nan if strongest else 0).astype(np.float32, copy=False)
    for level in LEVELS:
        if strongest:
            total = _strongest(total)
            levels[level] = total
        else:
            total, weight = _add(total), _add(weight)
            with np.errstate(invalid="ignore"):
                levels[level] = (total / np.where(weight > 0, weight, np.nan)).astype(np.float32)
        if mask is not None:
            mask = _any(mask)
            masks[level] = mask
    return Pyramid(levels, masks)


def keep(pyramid: Pyramid, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write a pyramid whole or not at all, and make room for it by removing the ones not used for longest.

    A cache that cannot be written (full, or read-only) is no reason to show nothing: then nothing is kept.
    """
    import zarr

    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(unfinished, mode="w")
        for name, arrays in (("values", pyramid.values), ("masks", pyramid.masks)):
            for level, array in arrays.items():
                chunks = tuple(min(1024, n) for n in array.shape)
                compressors = None if name == "values" else "auto"  # noise does not compress, masks do
                group.create_array(f"{name}/{level}", data=array, chunks=chunks, compressors=compressors)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        _make_room(folder.parent, max_bytes, keep=folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(folder: Path) -> Pyramid | None:
    """Read a pyramid; None when there is none, or it is damaged."""
    import zarr

    if not folder.is_dir():
        return None
    try:
        group = zarr.open_group(folder, mode="r")
        found = {
            name: {level: np.asarray(group[f"{name}/{level}"]) for level in LEVELS if f"{name}/{level}" in group}
            for name in ("values", "masks")
        }
        os.utime(folder)
    except (OSError, KeyError, ValueError, RuntimeError):
        return None
    return Pyramid(found["values"], found["masks"])


def _fits(pyramid: Pyramid, values: NDArray, mask: Bits | None) -> bool:
    shapes = {level: tuple(-(-n // level) for n in values.shape) for level in LEVELS}
    whole = {level: array.shape for level, array in pyramid.values.items()} == shapes
    return whole and (mask is None or {level: a.shape for level, a in pyramid.masks.items()} == shapes)


def _make_room(folder: Path, max_bytes: int, keep: Path) -> None:
    kept = []
    for path in folder.glob("*.zarr"):
        files = [file for file in path.rglob("*") if file.is_file()]
        kept.append((path.stat().st_mtime, sum(file.stat().st_size for file in files), path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= max_bytes:
            return
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def _quarters[T: np.generic](array: NDArray[T], fill: float) -> tuple[NDArray[T], ...]:
    """The four pixels of every 2 x 2 block, the array being filled up to an even shape."""
    odd = [n % 2 for n in array.shape]
    if any(odd):
        array = np.pad(array, [(0, n) for n in odd], constant_values=fill)
    return array[0::2, 0::2], array[0::2, 1::2], array[1::2, 0::2], array[1::2, 1::2]


def _add(array: Pixels) -> Pixels:
    a, b, c, d = _quarters(array, 0)
    return a + b + c + d


def _any(mask: Bits) -> Bits:
    a, b, c, d = _quarters(mask, 0)
    return a | b | c | d


def _strongest(array: Pixels) -> Pixels:
    best, *others = _quarters(array, np.nan)
    for other in others:
        best = np.where((np.abs(other) > np.abs(best)) | np.isnan(best), other, best)
    return best
