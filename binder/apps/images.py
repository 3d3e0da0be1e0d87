"""The image viewer, as ``panel/images`` below JupyterLab's address."""

from nightlab.dashboards.library import Library
from nightlab.dashboards.serve import applications

applications(Library.below("."))["/images"]().servable()
