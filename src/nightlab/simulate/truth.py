"""Truth beside the pixels: predicted signal-to-noise ratios, tables of visits, and the reference catalogue."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import ArrayLike, NDArray

from nightlab.simulate.config import SurveyConfig, random_stream
from nightlab.simulate.optics import moffat_radius
from nightlab.simulate.visit import Visit

Floats = NDArray[np.float64]

_WAVE_NUMBERS = (np.arange(160) + 0.5) * (np.pi / 160.0)  # up to Nyquist [rad/pixel]


def moffat_transfer(fwhm: ArrayLike) -> Floats:
    """Give the azimuthal transfer function of PSF and pixel up to Nyquist: (n, 160) for (n,) FWHM [pixel]."""
    k = _WAVE_NUMBERS[None, :]
    scaled = k * moffat_radius(np.atleast_1d(np.asarray(fwhm, float)))[:, None]
    # azimuthal mean of the pixel's own transfer function, to fourth order in k
    pixel = 1.0 - k**2 / 24.0 + k**4 / 2560.0
    return np.asarray(np.exp(-scaled) * (3.0 + 3.0 * scaled + scaled**2) / 3.0 * pixel, np.float64)


def flux_variance(transfer: Floats, pixel_variance: ArrayLike) -> Floats:
    """Give the variance of a PSF flux in white noise: 1 / integral of |P|^2 / sigma^2 over wave numbers."""
    density = _WAVE_NUMBERS * (np.pi / 160.0) / (2.0 * np.pi)
    return np.asarray(pixel_variance, float) / (transfer**2 @ density)


def difference_variance(
    science: Floats, science_variance: Floats, template: Floats, template_variance: Floats
) -> Floats:
    """Give the variance of a PSF flux in the best difference of two images.

    Parameters
    ----------
    science, template
        (n, 160) transfer functions.
    science_variance, template_variance
        (n,) variances per pixel, in one unit squared.

    Notes
    -----
    The statistic is the one of Zackay, Ofek & Gal-Yam (2016, ApJ 830, 27), to which a decorrelated Alard-Lupton
    difference is equivalent where the template is the sharper image.
    """
    s2, t2 = science**2, template**2
    noise = science_variance[:, None] * t2 + template_variance[:, None] * s2
    density = _WAVE_NUMBERS * (np.pi / 160.0) / (2.0 * np.pi)
    return np.asarray(1.0 / ((s2 * t2 / noise) @ density), np.float64)


def predict_snr(sources: Table, visits: Sequence[Visit]) -> Table:
    """Complete the table of true sources with what a perfect measurement would find.

    Parameters
    ----------
    sources
        Rows of all visits, with the columns of `Scene.sources` and visit, detector and band.
    visits
        Their conditions and roles.

    Returns
    -------
    astropy.table.Table
        The same rows with snr (of a PSF fit on the science image; NaN for galaxies), templateFlux (mean of the
        template visits [nJy]), and snr_difference (of flux minus templateFlux in a difference against the
        inverse-variance mean of the template visits; NaN for galaxies, template visits, and where no template is).
    """
    by_visit = {visit.visit: visit for visit in visits}
    found = sources.copy()
    transfer = moffat_transfer(sources["fwhm"])
    variance = flux_variance(transfer, sources["pixelVariance"])
    njy_per_electron = np.array([1.0 / by_visit[int(v)].electrons_per_njy for v in sources["visit"]])
    flux = np.asarray(sources["flux"], float)
    variance += _own_noise(flux, njy_per_electron)
    galaxy = np.asarray(sources["kind"]) == "galaxy"
    found["snr"] = np.where(galaxy, np.nan, flux / np.sqrt(variance))

    template_flux, template_variance, template_transfer = _template(sources, transfer, by_visit)
    with np.errstate(invalid="ignore"):
        noise = difference_variance(
            transfer, np.asarray(sources["pixelVariance"], float), template_transfer, template_variance
        )
        noise += _own_noise(flux, njy_per_electron)
        snr = (flux - template_flux) / np.sqrt(noise)
    science = np.array([by_visit[int(v)].role == "science" for v in sources["visit"]], bool)
    found["templateFlux"] = template_flux
    found["templateFlux"].unit = "nJy"
    found["snr_difference"] = np.where(galaxy | ~science, np.nan, snr)
    return found


def _own_noise(flux: Floats, njy_per_electron: Floats) -> Floats:
    """Photon noise of the source itself in a matched filter: flux times sum p^3 / (sum p^2)^2, 4/3 for a Gaussian."""
    return np.asarray(4.0 / 3.0 * np.clip(flux, 0.0, None) * njy_per_electron, np.float64)


def _template(sources: Table, transfer: Floats, by_visit: dict[int, Visit]) -> tuple[Floats, Floats, Floats]:
    """Give flux, variance per pixel and transfer function of the template at every source, by object and band."""
    n = len(sources)
    flux, variance = np.full(n, np.nan), np.full(n, np.nan)
    mean_transfer = np.full((n, transfer.shape[1]), np.nan)
    visit, band = np.asarray(sources["visit"]), np.asarray(sources["band"])
    kind, own_flux = np.asarray(sources["kind"]), np.asarray(sources["flux"], float)
    in_template = np.array([by_visit[int(v)].role == "template" for v in visit], bool)
    weight = 1.0 / np.asarray(sources["pixelVariance"], float)
    for name in sorted(set(band.tolist())):
        here = band == name
        rows = here & in_template & (kind != "mover")
        if not rows.any():
            continue
        ids, group = np.unique(np.asarray(sources["objectId"])[rows], return_inverse=True)
        total = np.bincount(group, weight[rows])
        sums = np.zeros((len(ids), transfer.shape[1]))
        np.add.at(sums, group, transfer[rows] * weight[rows, None])
        sums /= total[:, None]
        mean_flux = np.bincount(group, weight[rows] * own_flux[rows]) / total
        where = np.searchsorted(ids, np.asarray(sources["objectId"])).clip(max=len(ids) - 1)
        known = here & (ids[where] == np.asarray(sources["objectId"]))
        flux[known], variance[known] = mean_flux[where[known]], 1.0 / total[where[known]]
        mean_transfer[known] = sums[where[known]]
        # a mover was elsewhere: it meets blank sky of the usual template
        mover = here & (kind == "mover")
        flux[mover], variance[mover] = 0.0, 1.0 / np.median(total)
        mean_transfer[mover] = np.median(sums, axis=0)
    return flux, variance, mean_transfer


def visit_table(visits: Sequence[Visit], config: SurveyConfig) -> Table:
    """List the visits with their true conditions and the coefficients of their true projection.

    The true projection: gnomonic about (trueRa, trueDec), turned by trueRotation, divided by pixelScale, and stretched
    radially by 1 + distortion r^2 with r the undistorted distance from the boresight [pixel].
    """
    rows = [
        {
            "visit": v.visit,
            "mjd": v.mjd,
            "band": v.band,
            "role": v.role,
            "dayObs": v.day_obs,
            "seqNum": v.seq_num,
            "exposureTime": v.exposure_time,
            "airmass": v.airmass,
            "seeing": v.seeing,
            "zeroPoint": v.zero_point,
            "sky": v.sky,
            "satellite": v.satellite,
            "ra": v.ra,
            "dec": v.dec,
            "rotation": v.rotation,
            "trueRa": v.true_ra,
            "trueDec": v.true_dec,
            "trueRotation": v.true_rotation,
            "pixelScale": config.pixel_scale,
            "distortion": config.distortion / config.radius**3,
            **{f"psfFwhm{i}": value for i, value in enumerate(v.psf_fwhm)},
            **{f"psfE1_{i}": value for i, value in enumerate(v.psf_e1)},
            **{f"psfE2_{i}": value for i, value in enumerate(v.psf_e2)},
        }
        for v in visits
    ]
    table = Table(rows)
    angles = ("ra", "dec", "rotation", "trueRa", "trueDec", "trueRotation")
    units = {**dict.fromkeys(angles, "deg"), "mjd": "d", "exposureTime": "s", "seeing": "arcsec", "zeroPoint": "mag"}
    units |= {"sky": "electron/pix", "pixelScale": "arcsec/pix", "distortion": "pix-2"}
    for name, unit in units.items():
        table[name].unit = unit
    return table


def reference_catalogue(sky: Table, config: SurveyConfig) -> Table:
    """Give the stars a survey of the whole sky would list, with its errors.

    Parameters
    ----------
    sky
        As `make_sky` gives it; constant and variable stars brighter than `reference_faint` are listed.
    config
        Limits and errors.

    Returns
    -------
    astropy.table.Table
        refId, ra, dec [deg] at `epoch` [MJD TAI], raErr, decErr [deg], pmRa (with cos dec), pmDec [mas/yr], isStar,
        and <band>_flux, <band>_fluxErr [nJy].
    """
    rng = random_stream(config, "calibration", config.n_detectors)
    kind = np.asarray(sky["kind"])
    first = f"{'r' if 'r' in config.bands else config.bands[0]}_mag"
    stars = sky[np.isin(kind, ("star", "variable")) & (np.asarray(sky[first]) < config.reference_faint)]
    n = len(stars)
    error = config.reference_scatter / 3.6e6
    cos_dec = np.cos(np.deg2rad(np.asarray(stars["dec"])))
    table = Table(
        {
            "refId": np.asarray(stars["objectId"]),
            "ra": (np.asarray(stars["ra"]) + rng.normal(0.0, 1.0, n) * error / cos_dec) % 360.0,
            "dec": np.asarray(stars["dec"]) + rng.normal(0.0, 1.0, n) * error,
            "raErr": np.full(n, error),
            "decErr": np.full(n, error),
            "pmRa": np.asarray(stars["pmRa"]) + rng.normal(0.0, 0.2, n),
            "pmDec": np.asarray(stars["pmDec"]) + rng.normal(0.0, 0.2, n),
            "epoch": np.asarray(stars["epoch"]),
            "isStar": np.ones(n, bool),
        },
        units={
            "ra": "deg",
            "dec": "deg",
            "raErr": "deg",
            "decErr": "deg",
            "pmRa": "mas/yr",
            "pmDec": "mas/yr",
            "epoch": "d",
        },
        meta={"epoch": config.reference_epoch},
    )
    for band in config.bands:
        flux = 10.0 ** (-0.4 * (np.asarray(stars[f"{band}_mag"]) - 31.4))
        table[f"{band}_flux"] = flux * (1.0 + config.reference_flux_scatter * rng.standard_normal(n))
        table[f"{band}_fluxErr"] = flux * config.reference_flux_scatter
        table[f"{band}_flux"].unit = table[f"{band}_fluxErr"].unit = "nJy"
    return table


def join_sources(parts: Sequence[Table]) -> Table:
    """Stack the sources of all visits and detectors, in that order."""
    return vstack(list(parts), metadata_conflicts="silent")
