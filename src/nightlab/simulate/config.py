"""What a simulated survey looks like: its knobs, their units, and four sizes ready to use."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nightlab.config import Config
from nightlab.errors import BadInput

Band = Literal["u", "g", "r", "i", "z", "y"]

# AB magnitude that gives one electron per second above the atmosphere, dark-sky brightness [mag arcsec^-2] and
# extinction [mag per airmass], all typical of a wide-field telescope of eight metres on a good site.
ZERO_POINTS: dict[str, float] = {"u": 26.9, "g": 28.6, "r": 28.4, "i": 28.0, "z": 27.6, "y": 26.8}
SKY_BRIGHTNESS: dict[str, float] = {"u": 22.9, "g": 22.3, "r": 21.2, "i": 20.5, "z": 19.6, "y": 18.6}
EXTINCTION: dict[str, float] = {"u": 0.45, "g": 0.20, "r": 0.11, "i": 0.07, "z": 0.05, "y": 0.10}

# One stream of random numbers per purpose: what is drawn for one never depends on how much another has drawn.
STREAMS = (
    "stars",
    "variables",
    "galaxies",
    "transients",
    "movers",
    "visits",
    "electronics",
    "calibration",
    "exposure",
)


class SurveyConfig(Config):
    """A camera, a field and a plan of visits."""

    seed: int = Field(default=20270310, ge=0, description="seed of every random number of the survey")
    ra: float = Field(default=150.1, ge=0, lt=360, description="right ascension of the field centre, ICRS [deg]")
    dec: float = Field(default=2.2, gt=-80, lt=80, description="declination of the field centre, ICRS [deg]")
    bands: tuple[Band, ...] = Field(default=("r",), min_length=1, description="bands in the order of a night")
    first_night: float = Field(default=61474.0, description="date of the first night, MJD TAI [d]")
    n_template: int = Field(default=3, ge=1, description="visits per band meant for the template")
    n_science: int = Field(default=5, ge=0, description="visits per band meant for differencing")
    science_delay: float = Field(default=40.0, gt=0, description="first template night to first science night [d]")
    cadence: float = Field(default=3.0, ge=1, description="time between nights on which the field is visited [d]")
    visits_per_night: int = Field(default=2, ge=1, description="visits per band and night; half an hour apart")
    exposure_time: float = Field(default=30.0, gt=0, description="open-shutter time of a visit [s]")

    detector_columns: int = Field(default=1, ge=1, description="detectors side by side in the focal plane")
    detector_rows: int = Field(default=1, ge=1, description="detectors above one another in the focal plane")
    width: int = Field(default=1024, ge=64, description="columns of an assembled detector [pixel]")
    height: int = Field(default=1024, ge=64, description="rows of an assembled detector [pixel]")
    gap: int = Field(default=40, ge=0, description="space between neighbouring detectors [pixel]")
    amp_columns: int = Field(default=4, ge=1, description="amplifiers side by side; odd ones are mirrored in x")
    amp_rows: Literal[1, 2] = Field(default=1, description="rows of amplifiers; the upper of two is mirrored in y")
    serial_overscan: int = Field(default=32, ge=4, description="overscan columns read after each row [pixel]")
    parallel_overscan: int = Field(default=16, ge=1, description="overscan rows read after the last one [pixel]")
    pixel_scale: float = Field(default=0.25, gt=0, description="size of a pixel [arcsec]")
    gain: float = Field(default=1.7, gt=0, description="mean gain of the amplifiers [electron/adu]")
    gain_spread: float = Field(default=0.03, ge=0, lt=0.3, description="scatter of gain between amplifiers, relative")
    read_noise: float = Field(default=6.0, ge=0, description="mean read noise of the amplifiers [electron]")
    bias_level: float = Field(default=1000.0, gt=0, description="mean level of an unexposed amplifier [adu]")
    full_well: float = Field(default=98000.0, gt=0, description="charge at which a pixel is full [electron]")
    distortion: float = Field(default=0.8, ge=0, description="cubic radial distortion at the camera's corner [pixel]")

    star_density: float = Field(default=25.0, ge=0, description="constant stars [arcmin^-2]")
    star_bright: float = Field(default=15.5, description="brightest star, r band [mag]")
    star_faint: float = Field(default=24.5, description="faintest star, r band [mag]")
    galaxy_density: float = Field(default=60.0, ge=0, description="galaxies [arcmin^-2]")
    galaxy_bright: float = Field(default=17.5, description="brightest galaxy, r band [mag]")
    galaxy_faint: float = Field(default=25.0, description="faintest galaxy, r band [mag]")
    n_variables: int = Field(default=20, ge=0, description="variable stars, r = 17.5 to 21.5 mag")
    n_transients: int = Field(default=100, ge=0, description="transients that explode after the template visits")
    transient_bright: float = Field(default=19.5, description="brightest peak of a transient, r band [mag]")
    transient_faint: float = Field(default=23.5, description="faintest peak of a transient, r band [mag]")
    hosted: float = Field(default=0.5, ge=0, le=1, description="fraction of the transients placed on or near a galaxy")
    n_movers: int = Field(
        default=12, ge=0, description="solar-system objects, each inside the field during at least one visit"
    )
    mover_rate: float = Field(default=25.0, gt=0, description="fastest motion of a mover [arcsec/h]")

    dither: float = Field(default=20.0, ge=0, description="largest offset of a pointing from the field [arcsec]")
    rotation_spread: float = Field(default=3.0, ge=0, description="largest rotation of a visit [deg]")
    pointing_error: float = Field(
        default=0.8, ge=0, description="true minus nominal pointing, up to 0.3 of itself more or less [arcsec]"
    )
    seeing_best: float = Field(default=0.7, gt=0, description="best FWHM of the PSF at the field centre [arcsec]")
    seeing_worst: float = Field(default=1.1, gt=0, description="worst FWHM of the PSF at the field centre [arcsec]")
    psf_variation: float = Field(
        default=0.03, ge=0, lt=0.3, description="change of FWHM from centre to corner, relative"
    )
    psf_ellipticity: float = Field(default=0.03, ge=0, lt=0.3, description="ellipticity of the PSF, (1 - q) / (1 + q)")
    cosmic_rays: float = Field(default=30.0, ge=0, description="mean number of cosmic rays per 10^6 pixels and visit")
    n_satellites: int = Field(default=1, ge=0, description="science visits crossed by a satellite, per band")

    reference_faint: float = Field(default=21.5, description="faintest star of the reference catalogue, r band [mag]")
    reference_epoch: float = Field(default=57388.5, description="epoch of star positions (J2016.0), MJD TAI [d]")
    reference_scatter: float = Field(
        default=7.0, ge=0, description="position error of a reference star, each way [mas]"
    )
    reference_flux_scatter: float = Field(default=0.01, ge=0, description="relative flux error of a reference star")

    @model_validator(mode="after")
    def _check(self) -> Self:
        columns, rows = self.width % self.amp_columns, self.height % self.amp_rows
        if columns or rows:
            raise BadInput(
                f"{self.amp_columns} x {self.amp_rows} amplifiers do not divide {self.width} x {self.height} pixels",
                hint="choose a size that is a multiple of the number of amplifiers",
            )
        if len(set(self.bands)) != len(self.bands):
            raise BadInput(f"bands {self.bands} repeat", hint="name each band once")
        if self.seeing_worst < self.seeing_best:
            raise BadInput("seeing_worst is better than seeing_best", hint="exchange them")
        return self

    @property
    def n_detectors(self) -> int:
        """Number of detectors of the camera."""
        return self.detector_columns * self.detector_rows

    @property
    def half_size(self) -> tuple[float, float]:
        """Half the extent of the camera (y, x) [pixel]."""
        height = self.detector_rows * self.height + (self.detector_rows - 1) * self.gap
        width = self.detector_columns * self.width + (self.detector_columns - 1) * self.gap
        return height / 2.0, width / 2.0

    @property
    def radius(self) -> float:
        """Distance from the middle of the camera to its corner [pixel]."""
        return float(np.hypot(*self.half_size))


PRESETS: dict[str, SurveyConfig] = {
    "tiny": SurveyConfig(
        width=448,
        height=448,
        gap=0,
        amp_columns=2,
        n_template=2,
        n_science=5,
        cadence=6.0,
        visits_per_night=1,
        dither=4.0,
        star_density=60.0,
        star_bright=16.5,
        galaxy_density=30.0,
        n_transients=18,
        n_variables=6,
        n_movers=4,
        n_satellites=0,
        cosmic_rays=15.0,
    ),
    "small": SurveyConfig(),
    "medium": SurveyConfig(
        bands=("g", "r", "i"),
        detector_columns=2,
        detector_rows=2,
        n_science=6,
        amp_rows=2,
        n_variables=80,
        n_transients=240,
        n_movers=40,
        dither=30.0,
    ),
    "large": SurveyConfig(
        detector_columns=2,
        width=4096,
        height=4096,
        amp_columns=8,
        amp_rows=2,
        distortion=4.0,
        n_variables=600,
        n_transients=1500,
        n_movers=200,
        dither=60.0,
    ),
}


def random_stream(config: SurveyConfig, stream: str, *key: int) -> np.random.Generator:
    """Give the random numbers of one purpose, the same whatever else was drawn before.

    Parameters
    ----------
    config
        Whose `seed` is used.
    stream
        One of `STREAMS`.
    *key
        Non-negative integers that tell siblings apart, such as a visit and a detector.
    """
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(STREAMS.index(stream), *key)))
