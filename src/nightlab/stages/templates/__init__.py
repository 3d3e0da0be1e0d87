"""Templates: visits averaged on the patches of a sky map, and patches brought onto the pixels of a detector."""

from nightlab.stages.templates.build import BUILD_METRICS, Template, TemplateConfig, build_template
from nightlab.stages.templates.warped import WARP_METRICS, WarpedTemplate, warp_template

METRICS = BUILD_METRICS | WARP_METRICS

__all__ = ["METRICS", "Template", "TemplateConfig", "WarpedTemplate", "build_template", "warp_template"]
