"""All knobs of single-frame processing."""

from pydantic import Field

from nightlab.config import Config
from nightlab.stages.single_frame.astrometry import AstrometryConfig
from nightlab.stages.single_frame.background import BackgroundConfig
from nightlab.stages.single_frame.cosmic_rays import CosmicRayConfig
from nightlab.stages.single_frame.detect import DetectConfig
from nightlab.stages.single_frame.isr import IsrConfig
from nightlab.stages.single_frame.measure import MeasureConfig
from nightlab.stages.single_frame.photometry import PhotometryConfig
from nightlab.stages.single_frame.psf import PsfConfig


class CalibrateConfig(Config):
    """Knobs of `calibrate`, from the instrument signature to the zero point."""

    isr: IsrConfig = Field(default=IsrConfig(), description="instrument signature removal")
    background: BackgroundConfig = Field(default=BackgroundConfig(), description="background model")
    cosmic_rays: CosmicRayConfig = Field(default=CosmicRayConfig(), description="cosmic-ray finder")
    psf: PsfConfig = Field(default=PsfConfig(), description="PSF fit, where the instrument supplies none")
    detect: DetectConfig = Field(default=DetectConfig(), description="source detection")
    measure: MeasureConfig = Field(default=MeasureConfig(), description="source measurement")
    astrometry: AstrometryConfig = Field(default=AstrometryConfig(), description="astrometric calibration")
    photometry: PhotometryConfig = Field(default=PhotometryConfig(), description="photometric calibration")
    scale_variance: bool = Field(
        default=True, description="scale the variance plane to the noise seen in source-free pixels"
    )
    max_noise_ratio: float = Field(
        default=10.0, gt=1, description="a larger ratio of seen to expected noise is an error"
    )
