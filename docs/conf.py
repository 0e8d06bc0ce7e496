"""The site: `pip install '.[tensorflow,docs]'`, then `sphinx-build -W -b html docs build/site`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fastneg

project = "fastneg"
author = "the fastneg authors"
copyright = "the fastneg authors, Apache-2.0"
version = release = fastneg.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "extension",
]
exclude_patterns = ["extension", "_build"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
suppress_warnings = ["config.cache"]  # Options of this file hold functions.

# Pages.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "remove"

# Docstrings; `extension/docstrings.py` says how they are read.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_custom_sections = [("Call arguments", "params_style"), "Source"]

# The look.
html_theme = "furo"
html_title = "fastneg"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5394",
        "color-brand-content": "#0b5394",
        "color-picture-positive": "#0b7a4b",
        "color-picture-negative": "#7fa7d1",
        "color-picture-left-out": "#c0504d",
        "color-picture-line": "#8a8f98",
        "color-picture-peer": "#b9770e",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7ab8f5",
        "color-brand-content": "#7ab8f5",
        "color-picture-positive": "#3fc98a",
        "color-picture-negative": "#4a76a8",
        "color-picture-left-out": "#e5817c",
        "color-picture-line": "#8a8f98",
        "color-picture-peer": "#e0a458",
    },
}
