"""The built site in a browser, from the disk: pages, formulas, search. Needs tools/build_docs.sh and Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SITE = Path(__file__).parent.parent / "docs/_build/html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium"),
    pytest.mark.skipif(
        not (SITE / "index.html").is_file(), reason="the site is not built; run tools/build_docs.sh"
    ),
]


def dom(page):
    """The page after its scripts have run, without any network."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--proxy-server=127.0.0.1:9",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"file://{SITE}/{page}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_home_names_the_chapters():
    text = dom("index.html")
    for chapter in ("入门", "使用", "机制", "证据", "手册"):
        assert chapter in text


def test_formulas_are_set_without_a_network():
    text = dom("mechanisms/se.html")
    assert "<mjx-container" in text
    assert "</svg>" in text


@pytest.mark.parametrize(
    ("query", "wanted"),
    [("空间注意力", "mechanisms/spatial_attention.html"), ("CBAM", "mechanisms/cbam.html")],
)
def test_search(query, wanted):
    text = dom(f"search.html?q={query}")
    results = re.findall(r'<a href="([\w/]+\.html)', text.partition('id="search-results"')[2])
    assert wanted in results[:3], results[:5]
