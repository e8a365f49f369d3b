"""How the pages become a site: `make docs`.

The sources are the pages as they lie in the tree, so that links between folders are those that work everywhere else too;
a link that leads nowhere, a heading that is not there or a page that no list names is a warning, and those are errors.
"""

from __future__ import annotations

from tcompile.version import __version__

project = "tcompile"
author = "tcompile contributors"
version = release = __version__

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md", "benchmarks/*.md", "examples/**.md"]
exclude_patterns = [".*", "build", "dist", "tests"]
myst_heading_anchors = 4
highlight_language = "text"

html_theme = "furo"  # system fonts, light and dark, nothing from other hosts
html_title = f"tcompile {__version__}"
html_extra_path = ["site"]  # index.html, which leads to the first page
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_use_index = False
