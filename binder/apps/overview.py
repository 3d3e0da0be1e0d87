"""The pipeline runner, as ``panel/overview`` below JupyterLab's address."""

from nightlab.dashboards.library import Library
from nightlab.dashboards.serve import applications

applications(Library.below("."))["/overview"]().servable()
