"""What an image pane shows: pixels with their noise, mask, place on the sky, and unit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lsst.images import SkyProjection
from numpy.typing import ArrayLike, NDArray

from nightlab.dashboards.images.pyramid import Pyramid
from nightlab.dashboards.states import Nothing, Reason
from nightlab.errors import BadInput, ShapeError

type Kind = Literal["flux", "difference", "snr"]

#: Unit of images whose maker did not say.
NO_UNIT = "no unit"


@dataclass(frozen=True)
class Plane:
    """A mask plane: its bit in `Layer.mask`, and what it means in a sentence."""

    name: str
    bit: int
    sentence: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """An image as panes show it.

    Attributes
    ----------
    values
        (ny, nx), as they came: what the readout says is what is here.
    kind
        ``flux`` is drawn in grey; ``difference`` and ``snr`` diverge from white at zero. Zoomed out, pixels of ``snr``
        show the strongest value beneath them, those of the others the mean.
    unit
        For people.
    variance
        (ny, nx) in `unit` squared, or None.
    mask
        (ny, nx) unsigned integers whose bits are `planes`, or None.
    planes
        Mask planes that have a name.
    projection
        Where pixels are on the sky, or None.
    x0, y0
        Pixel coordinates of ``values[0, 0]``.
    title
        One line about it.
    key
        UUID of the dataset, under which its pyramid is kept; empty for images in memory.
    notes
        What the reader should know: "integer image", "first of 3 planes".
    """

    values: NDArray
    kind: Kind = "flux"
    unit: str = NO_UNIT
    variance: NDArray | None = None
    mask: NDArray[np.unsignedinteger] | None = None
    planes: tuple[Plane, ...] = ()
    projection: SkyProjection | None = None
    x0: int = 0
    y0: int = 0
    title: str = ""
    key: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("variance", "mask"):
            other = getattr(self, name)
            if other is not None and other.shape != self.values.shape:
                raise ShapeError(
                    f"{name} has shape {other.shape}, the image {self.values.shape}", hint="give them one grid"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape  # type: ignore[return-value]

    @property
    def middle(self) -> tuple[float, float]:
        """The pixel in the middle, x and y."""
        return self.x0 + (self.shape[1] - 1) / 2, self.y0 + (self.shape[0] - 1) / 2

    @property
    def nbytes(self) -> int:
        """Memory of its arrays and of what is made of them when asked: pyramids, signal to noise."""
        arrays = [a for a in (self.values, self.variance, self.mask) if a is not None]
        made = 8 / 3 if self.variance is None else 8 / 3 + 4 + 8 / 3
        return int(sum(a.nbytes for a in arrays) + self.values.size * made)

    @cached_property
    def pyramid(self) -> Pyramid:
        """Reduced copies, kept in the user's cache when the layer has a key."""
        key = self.key and f"{self.key}-{self.kind}"
        return Pyramid.of(self.values, self.mask, strongest=self.kind == "snr", key=key)

    @cached_property
    def signal_to_noise(self) -> Layer:
        """The layer divided by its noise, made once for all who look at the layer.

        Raises
        ------
        Nothing
            When it has no variance.
        """
        if self.variance is None:
            raise Nothing(
                Reason.NO_DATA_SELECTED,
                "The image has no variance plane, so there is no signal to noise.",
                "Give an image with variance, or look at the difference instead.",
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (self.values / np.sqrt(self.variance)).astype(np.float32)
        return replace(self, values=values, kind="snr", unit="σ", variance=None)

    @cached_property
    def sample(self) -> NDArray[np.float64]:
        """At most about 200 000 pixels, evenly spread, with NaN where they are not finite."""
        step = max(1, int(np.ceil(np.sqrt(self.values.size / 200_000))))
        sample = np.asarray(self.values[::step, ::step], dtype=float).ravel()
        return np.where(np.isfinite(sample), sample, np.nan)

    def index(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column of the pixel at (x, y); None outside the image."""
        if not (np.isfinite(x) and np.isfinite(y)):
            return None
        row, column = int(np.floor(y + 0.5)) - self.y0, int(np.floor(x + 0.5)) - self.x0
        inside = 0 <= row < self.shape[0] and 0 <= column < self.shape[1]
        return (row, column) if inside else None

    def flags_at(self, row: int, column: int) -> list[str]:
        """Names of the mask planes set on a pixel."""
        if self.mask is None:
            return []
        value = int(self.mask[row, column])
        return [plane.name for plane in self.planes if value >> plane.bit & 1]

    @cached_property
    def plane_counts(self) -> dict[str, int]:
        """Pixels of every mask plane, counted once."""
        if self.mask is None:
            return {}
        values, counts = np.unique(self.mask, return_counts=True)
        return {plane.name: int(counts[(values >> plane.bit & 1).astype(bool)].sum()) for plane in self.planes}


def as_layer(thing: Any, **facts: Any) -> Layer:
    """Make a layer of whatever people have at hand.

    Parameters
    ----------
    thing
        A `Layer`, an image of `lsst.images`, a two-dimensional array, or the path of a FITS file.
    **facts
        Attributes of the layer that are known better here, such as ``kind="difference"`` or ``title=...``.

    Raises
    ------
    BadInput
        When it is none of these, or an array of text or with fewer than two dimensions.
    MissingData
        When the file is not there.
    """
    if isinstance(thing, Layer):
        return replace(thing, **facts) if facts else thing
    if isinstance(thing, str | Path):
        from nightlab.dashboards.images.fits import read_layer

        return replace(read_layer(Path(thing)), **facts)
    if hasattr(thing, "image") and hasattr(thing, "mask"):
        return Layer(**{**_of_masked_image(thing), **facts})
    if hasattr(thing, "array") and hasattr(thing, "bbox"):
        unit = thing.unit.to_string() if thing.unit is not None else NO_UNIT
        known = {"unit": unit, "x0": thing.bbox.x.start, "y0": thing.bbox.y.start, "projection": thing.sky_projection}
        return of_array(thing.array, **{**known, **facts})
    return of_array(thing, **facts)


def of_array(values: ArrayLike, **facts: Any) -> Layer:
    """Make a layer of an array, whatever its type: integers, big-endian, stacked in depth.

    Parameters
    ----------
    values
        (ny, nx); of arrays with more dimensions the first plane is taken, and a note says so.
    **facts
        Attributes of the layer.

    Raises
    ------
    BadInput
        When these are not numbers, or not an image.
    """
    array = np.asarray(values)
    notes = list(facts.pop("notes", ()))
    if array.dtype.kind not in "fiub":
        raise BadInput(f"an image of {array.dtype} cannot be drawn", hint="give real numbers")
    if array.ndim < 2 or array.size == 0:
        raise BadInput(f"an array of shape {array.shape} is no image", hint="give (ny, nx) pixels")
    if array.ndim > 2:
        notes.append(f"plane 1 of {array.size // (array.shape[-1] * array.shape[-2])} is shown")
        array = array.reshape(-1, *array.shape[-2:])[0]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "iub":
        notes.append("integer pixels")
        array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    return Layer(values=array, notes=tuple(notes), **facts)


def trouble(layer: Layer) -> Nothing | None:
    """Say why an image has nothing to show: no finite pixel."""
    if np.isfinite(layer.sample).any() or np.isfinite(layer.values).any():
        return None
    masked = layer.mask is not None and bool(np.all(layer.mask))
    if masked:
        return Nothing(
            Reason.ALL_MASKED,
            f"All {layer.values.size:,} pixels are masked and none has a value.",
            "Look at the mask planes of its inputs.",
        )
    return Nothing(
        Reason.ALL_NAN, f"All {layer.values.size:,} pixels are NaN.", "See the log of the stage that made it."
    )


def pack(bits: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Join the bytes of a mask of `lsst.images`, (ny, nx, n), into one unsigned integer per pixel, (ny, nx)."""
    count = bits.shape[-1]
    if count > 8:
        raise BadInput(f"a mask of {count} bytes has more than 64 planes", hint="drop planes that are not needed")
    width = 4 if count <= 4 else 8
    packed = np.zeros((*bits.shape[:2], width), np.uint8)
    packed[..., :count] = bits
    return packed.view(f"<u{width}")[..., 0].astype(f"=u{width}", copy=False)


def _of_masked_image(image: Any) -> dict[str, Any]:
    planes = tuple(
        Plane(plane.name, 8 * bit.index + int(bit.mask).bit_length() - 1, plane.description)
        for plane in image.mask.schema
        if plane is not None and (bit := image.mask.schema.bit(plane.name)) is not None
    )
    return {
        "values": image.image.array,
        "variance": None if image.variance is None else image.variance.array,
        "mask": pack(image.mask.array),
        "planes": planes,
        "unit": image.unit.to_string() if image.unit is not None else NO_UNIT,
        "projection": image.sky_projection,
        "x0": image.bbox.x.start,
        "y0": image.bbox.y.start,
        "kind": "difference" if type(image).__name__ == "DifferenceImage" and _is_difference(image) else "flux",
    }


def _is_difference(image: Any) -> bool:
    """Templates are kept in the type of differences; only differences have a kernel."""
    return getattr(image, "kernel", None) is not None
