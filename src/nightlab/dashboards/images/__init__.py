"""Pixels in the browser: layers, linked panes, exact readout."""

from nightlab.dashboards.images.layers import Layer, as_layer
from nightlab.dashboards.images.marks import Marks
from nightlab.dashboards.images.panes import ImagePanes
from nightlab.dashboards.images.scaling import Look

__all__ = ["ImagePanes", "Layer", "Look", "Marks", "as_layer"]
