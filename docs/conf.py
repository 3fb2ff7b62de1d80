"""Sphinx: `pip install '.[docs]'`, then `sphinx-build -n -W docs docs/_build`."""

project = "OpenLedger"
author = "the OpenLedger authors"
extensions = ["myst_parser"]
html_theme = "furo"
myst_heading_anchors = 3
exclude_patterns = ["_build"]
