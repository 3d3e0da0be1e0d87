"""The runs found below JupyterLab's folder, as ``panel/start`` below its address."""

from nightlab.dashboards.library import Library
from nightlab.dashboards.serve import applications

applications(Library.below("."))["/"]().servable()
