"""The site's settings; see tools/build_docs.sh."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [*map(str, sys.path[:2]), os.environ.get("PYTHONPATH")])
)
os.environ.setdefault("OMP_NUM_THREADS", "2")

project = "paddle_attention"
author = "paddle_attention"
copyright = "paddle_attention，Apache-2.0"
language = "zh_CN"
html_search_language = "zh"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
nb_render_markdown_format = "myst"

html_theme = "furo"
html_title = "paddle_attention 教程"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["search_zh.js"]
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_show_sourcelink = False
pygments_style = "tango"
pygments_dark_style = "monokai"

autodoc_member_order = "bysource"
napoleon_google_docstring = True
