"""The metrics, as ``panel/metrics`` below JupyterLab's address."""

from nightlab.dashboards.library import Library
from nightlab.dashboards.serve import applications

applications(Library.below("."))["/metrics"]().servable()
