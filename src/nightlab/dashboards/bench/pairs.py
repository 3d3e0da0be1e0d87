"""Where the inputs of a single stage come from: a run, two files, or a small simulation. Knows nothing of pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.table import STAGES

#: Stages one can call by hand: not what writes to a database, nor what works on patches of the sky.
BY_HAND = tuple(
    name for name, row in STAGES.items() if row.config and name != "fill_apdb" and "patch" not in row.dimensions
)
#: Of these, those that two images are enough for.
OF_TWO = ("calibrate", "warp_template", "subtract", "detect_dia_sources")


@dataclass(frozen=True, kw_only=True)
class FromRun:
    """The inputs that a run's pipeline used for one piece of work.

    Attributes
    ----------
    repository, run
        Where the run is.
    visit, detector
        Which image; not looked at by stages that work on all of them.
    """

    repository: str
    run: str
    visit: int
    detector: int

    def inputs(self, stage: str) -> dict[str, Any]:
        """Read what a stage is called with.

        Raises
        ------
        MissingData
            When an input is not there; the message says which, and who makes it.
        """
        from nightlab.data.runs import Run
        from nightlab.pipelines.inputs import stage_inputs

        try:
            return stage_inputs(stage, Run(self.repository, self.run), **self.data_id(stage))
        except MissingData as error:
            makers = {row.name: name for name, other in STAGES.items() for row in other.outputs.values()}
            name = str(error.facts.get("dataset", ""))
            if name not in makers:
                raise
            raise MissingData(error.message, hint=f"{name} is made by {makers[name]}: run that first") from error

    def data_id(self, stage: str) -> dict[str, int]:
        """Give the data id of a stage's work, without instrument."""
        dimensions = STAGES[stage].dimensions
        return {key: value for key, value in (("visit", self.visit), ("detector", self.detector)) if key in dimensions}


@dataclass(frozen=True, kw_only=True)
class FromFiles:
    """Two images of the same sky; what a stage needs besides is made from them with default knobs.

    Attributes
    ----------
    science, template
        FITS files with a WCS.
    """

    science: str
    template: str

    def inputs(self, stage: str) -> dict[str, Any]:
        """Make what a stage is called with.

        Raises
        ------
        BadInput
            When two images are not enough for the stage, or a file is no image.
        MissingData
            When a file is not there.
        """
        return _inputs_of_two(stage, _Made(self.science, self.template))


@dataclass(frozen=True, kw_only=True)
class FromSeed:
    """A small simulated pair.

    Attributes
    ----------
    seed
        Of positions, fluxes and noise.
    folder
        Where the two images are written.
    """

    seed: int
    folder: str

    def files(self) -> FromFiles:
        """Write the pair, unless it is there."""
        paths = [Path(self.folder, f"{name}-{self.seed}.fits") for name in ("science", "template")]
        if not all(path.exists() for path in paths):
            write_small_pair(self.seed, *paths)
        return FromFiles(science=str(paths[0]), template=str(paths[1]))

    def inputs(self, stage: str) -> dict[str, Any]:
        """Make what a stage is called with."""
        return self.files().inputs(stage)


Source = FromRun | FromFiles | FromSeed


class _Made:
    """What follows from two files with default knobs, made when first asked for."""

    def __init__(self, science: str, template: str) -> None:
        self._paths = (science, template)

    @cached_property
    def frames(self) -> tuple[Any, Any]:
        from nightlab.data.instruments.generic import read_generic
        from nightlab.stages.single_frame import calibrate

        first, second = (calibrate(read_generic(path)) for path in self._paths)
        return first, second

    @cached_property
    def coadd(self) -> Any:
        from nightlab.pipelines.pair import on_grid_of

        return on_grid_of(self.frames[0].visit_image, self.frames[1].visit_image)

    @cached_property
    def template(self) -> Any:
        from nightlab.stages.templates import warp_template

        return warp_template(self.frames[0].visit_image, [self.coadd]).template_detector

    @cached_property
    def difference(self) -> Any:
        from nightlab.stages.differencing import subtract

        return subtract(self.frames[0].visit_image, self.template, self.frames[0].source).difference_image

    @property
    def raw(self) -> Any:
        from nightlab.data.instruments.generic import read_generic

        return read_generic(self._paths[0])


def _inputs_of_two(stage: str, made: _Made) -> dict[str, Any]:
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "calibrate": lambda: {"raw": made.raw},
        "warp_template": lambda: {"visit_image": made.frames[0].visit_image, "template_coadd": [made.coadd]},
        "subtract": lambda: {
            "science": made.frames[0].visit_image,
            "template": made.template,
            "source": made.frames[0].source,
        },
        "detect_dia_sources": lambda: {
            "difference_image": made.difference,
            "visit_image": made.frames[0].visit_image,
            "template_detector": made.template,
        },
    }
    if stage not in ways:
        raise BadInput(f"two images are not enough for {stage}", hint=f"they are for {', '.join(OF_TWO)}")
    return ways[stage]()


def write_small_pair(seed: int, science: Path, template: Path) -> None:
    """Write a small simulated pair as FITS images with a WCS, a slope in the sky and a pointing error."""
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    from nightlab.simulate import small_pair

    shift = (2.3, -1.6)
    made = small_pair(seed, size=400, n_stars=90, n_transients=8, shift=shift)
    for path, pixels, offset in (
        (science, made.science + 500.0, (0.0, 0.0)),
        (template, made.template + 300.0, shift),
    ):
        wcs = WCS(naxis=2)
        wcs.wcs.crval = 210.5, -45.2
        wcs.wcs.crpix = 200.0 + offset[0], 200.0 + offset[1]
        wcs.wcs.cd = np.array([[-7e-5, 0.0], [0.0, 7e-5]])
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        fits.PrimaryHDU(pixels.astype(np.float32), wcs.to_header()).writeto(path, overwrite=True)


def file_within(text: str, folders: tuple[Path, ...] | None) -> Path:
    """Turn what was typed into the path of a file that may be read.

    Parameters
    ----------
    text
        A path; relative ones are looked for in every folder.
    folders
        Nothing outside them may be read, whatever links say; None where everything may.

    Raises
    ------
    BadInput
        When the file is outside.
    MissingData
        When there is none.
    """
    if not text.strip():
        raise MissingData("no file is named", hint="give the path of a FITS image")
    roots = folders if folders is not None else (Path.cwd(),)
    tried = [(root / text.strip()).resolve() for root in roots]
    allowed = [path for path in tried if folders is None or any(path.is_relative_to(root.resolve()) for root in roots)]
    if not allowed:
        raise BadInput(f"{text} is not below a folder that is served", hint="name a file relative to one of them")
    found = next((path for path in allowed if path.is_file()), None)
    if found is None:
        raise MissingData(f"there is no file {text}", hint="check the path")
    return found
