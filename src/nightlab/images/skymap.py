"""A minimal map of the sky: tracts with a projection each, cut into patches, cut into cells."""

from __future__ import annotations

from collections.abc import Iterator

from astropy.io.fits import Header
from astropy.wcs import WCS
from lsst.images import YX, Box, SkyProjection, TractFrame
from lsst.images.cells import CellGrid
from pydantic import BaseModel, ConfigDict, Field

from nightlab.errors import BadInput
from nightlab.images.wcs import projection_from_wcs


class TractGrid(BaseModel):
    """One tract: a projection, and a grid of patches on its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tract: int = Field(ge=0, description="Number of the tract.")
    header: dict[str, str | int | float | bool] = Field(
        description="Its projection as FITS WCS cards; first pixel (0, 0)."
    )
    shape: tuple[int, int] = Field(description="Size of the tract (ny, nx) [pixel].")
    patch: tuple[int, int] = Field(description="Size of a patch without its border (ny, nx) [pixel].")
    border: int = Field(0, ge=0, description="How far a patch reaches into its neighbours [pixel].")
    cell: tuple[int, int] = Field(description="Size of a cell of constant PSF (ny, nx) [pixel].")

    @property
    def n_patches(self) -> YX[int]:
        """Number of patches along (y, x)."""
        return YX(y=-(-self.shape[0] // self.patch[0]), x=-(-self.shape[1] // self.patch[1]))

    @property
    def bbox(self) -> Box:
        """All pixels of the tract."""
        return Box.from_shape(self.shape)

    def patches(self) -> Iterator[tuple[int, int, int]]:
        """Yield (patch number, cell_x, cell_y) row by row."""
        ny, nx = self.n_patches
        for patch in range(ny * nx):
            yield patch, patch % nx, patch // nx

    def inner_bbox(self, patch: int) -> Box:
        """Give the pixels of a patch that no other patch owns."""
        ny, nx = self.n_patches
        if not 0 <= patch < ny * nx:
            raise BadInput(f"tract {self.tract} has patches 0 to {ny * nx - 1}, not {patch}")
        j, i = divmod(patch, nx)
        y0, x0 = j * self.patch[0], i * self.patch[1]
        return Box.factory[y0 : min(y0 + self.patch[0], self.shape[0]), x0 : min(x0 + self.patch[1], self.shape[1])]

    def patch_bbox(self, patch: int) -> Box:
        """Give the pixels of a patch with its border, rounded up to whole cells; it may stick out of the tract."""
        inner = self.inner_bbox(patch)
        start = [inner.y.start - self.border, inner.x.start - self.border]
        size = [side + 2 * self.border for side in inner.shape]
        return Box.from_shape([-(-n // c) * c for n, c in zip(size, self.cell, strict=True)], start=start)

    def cell_grid(self, patch: int) -> CellGrid:
        """Give the cells of a patch."""
        return CellGrid(bbox=self.patch_bbox(patch), cell_shape=YX(y=self.cell[0], x=self.cell[1]))

    def projection(self, sky_map: str) -> SkyProjection[TractFrame]:
        """Give the projection of the tract's pixels to the sky."""
        frame = TractFrame(skymap=sky_map, tract=self.tract, bbox=self.bbox)
        return projection_from_wcs(WCS(Header(self.header)), frame)


class SkyMap(BaseModel):
    """Named tracts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the map in the Butler.")
    tracts: tuple[TractGrid, ...] = Field(description="Its tracts.")

    def tract(self, number: int) -> TractGrid:
        """Find a tract by number.

        Raises
        ------
        BadInput
            When the map has no such tract.
        """
        for tract in self.tracts:
            if tract.tract == number:
                return tract
        raise BadInput(f"sky map {self.name} has tracts {[t.tract for t in self.tracts]}, not {number}")
