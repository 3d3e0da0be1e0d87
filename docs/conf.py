"""Settings of the documentation: ``make docs`` builds it into build/docs, warnings are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from nightlab import __version__

project = "NightLab"
author = "The NightLab developers"
copyright = author  # noqa: A001
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "mathml",
    "reference_pages",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = False

autosummary_generate = False
autodoc_typehints = "none"  # numpydoc has them
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = "NightLab"
html_favicon = "../src/nightlab/dashboards/icons/nightlab.svg"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2a6f97", "color-brand-content": "#2a6f97"},
    "dark_css_variables": {"color-brand-primary": "#7fb8da", "color-brand-content": "#7fb8da"},
    "footer_icons": [],
}
html_math_renderer = "mathml"
