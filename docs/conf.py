"""How the site is built: `make docs`."""

import importlib.metadata

project = "SPP-detect"
author = "The SPP-detect authors"
release = version = importlib.metadata.version("spp-detect")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
html_show_copyright = False
highlight_language = "sh"
myst_heading_anchors = 3
napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes and units, too
