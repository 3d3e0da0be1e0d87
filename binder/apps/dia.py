"""The explorer of DIASources and DIAObjects, as ``panel/dia`` below JupyterLab's address."""

from nightlab.dashboards.library import Library
from nightlab.dashboards.serve import applications

applications(Library.below("."))["/dia"]().servable()
