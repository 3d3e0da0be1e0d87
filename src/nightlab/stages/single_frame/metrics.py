"""What single-frame processing reports about itself."""

from nightlab.report import Metric

METRICS: dict[str, Metric] = {
    "n_sources": Metric("sources measured"),
    "psf_sigma": Metric("Gaussian sigma of the PSF in the middle of the detector", "pixel"),
    "psf_fwhm": Metric("full width at half maximum of the PSF, as a Gaussian", "arcsec"),
    "n_psf_stars": Metric("stars behind the PSF; 0 when the instrument supplied it"),
    "n_psf_stars_matched": Metric("stars behind the PSF that are among the sources"),
    "psf_size_residual": Metric("median (star - model) / model of Ixx + Iyy of the PSF stars"),
    "sky_level": Metric("median of the background model [instrumental unit]"),
    "sky_noise": Metric("clipped standard deviation of source-free pixels [instrumental unit]"),
    "sky_noise_ratio": Metric("noise of source-free pixels over what the variance plane said"),
    "zero_point": Metric("AB magnitude of one instrumental unit", "mag"),
    "zero_point_error": Metric("standard error of the zero point", "mag"),
    "zero_point_scatter": Metric("robust scatter of bright stars about the zero point", "mag"),
    "zero_point_offset": Metric("zero point minus the one the instrument delivered", "mag"),
    "astrometric_scatter": Metric("1.4826 MAD per coordinate of sources with S/N > 20 about the reference", "mas"),
    "pointing_error": Metric("shift between the nominal and the fitted projection", "arcsec"),
    "n_astrometric_matches": Metric("sources matched to the reference"),
    "astrometric_corner_error": Metric("error of the fitted projection at the worst corner of the detector", "mas"),
    "n_photometric_stars": Metric("stars behind the zero point"),
    "n_aperture_correction_stars": Metric("stars behind the aperture correction; 0 leaves PSF fluxes uncorrected"),
    "aperture_correction": Metric("calibration aperture over PSF flux of stars in the middle of the detector"),
    "aperture_correction_scatter": Metric("robust scatter of the aperture correction of stars about its fit"),
    "m5": Metric("magnitude of a point source at five sigma of the sky noise", "mag"),
    "n_cosmic_rays": Metric("cosmic rays masked"),
    "saturated_fraction": Metric("part of the pixels that is saturated"),
    "n_dead_amplifiers": Metric("amplifiers without a single usable pixel"),
    "flagged_centroids": Metric("part of the sources whose centroid did not settle"),
}
