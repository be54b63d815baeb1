"""Sphinx configuration: `make docs` builds the site into docs/_build without internet."""

from __future__ import annotations

import sys
from pathlib import Path

import cprune_rl

sys.path.insert(0, str(Path(__file__).parent))
from generated_pages import write_pages

write_pages()
project = "cprune-rl"
author = "the cprune-rl developers"
version = release = cprune_rl.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"cprune-rl {release}"
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports = ["tvm"]
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
