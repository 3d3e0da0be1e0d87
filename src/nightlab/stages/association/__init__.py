"""Association: which difference-image sources are the same object, what it did, and how bright it was elsewhere."""

from nightlab.stages.association.associate import AssociateConfig, Association, assign, associate
from nightlab.stages.association.forced import ForcedConfig, ForcedPhotometry, force_photometry
from nightlab.stages.association.light_curves import (
    ObjectVersions,
    flux_statistics,
    object_statistics,
    object_versions,
)

__all__ = [
    "AssociateConfig",
    "Association",
    "ForcedConfig",
    "ForcedPhotometry",
    "ObjectVersions",
    "assign",
    "associate",
    "flux_statistics",
    "force_photometry",
    "object_statistics",
    "object_versions",
]
