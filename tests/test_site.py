"""The built site in a browser, from the disk: pages, formulas, search; and VisualDL. Needs Chromium."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from paddle_attention import insert_attention
from paddle_attention.analysis.attention_log import AttentionLog
from paddle_attention.networks import BACKBONES

SITE = Path(__file__).parent.parent / "docs/_build/html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")]
needs_site = pytest.mark.skipif(
    not (SITE / "index.html").is_file(), reason="the site is not built; run tools/build_docs.sh"
)


def dom(page, *options):
    """The page after its scripts have run."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
        "--dump-dom",
        *options,
        page,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def site(page):
    """A page of the site, without any network."""
    return dom(f"file://{SITE}/{page}", "--proxy-server=127.0.0.1:9")


@needs_site
def test_home_names_the_chapters():
    text = site("index.html")
    for chapter in ("入门", "使用", "机制", "证据", "手册"):
        assert chapter in text


@needs_site
def test_formulas_are_set_without_a_network():
    text = site("mechanisms/se.html")
    assert "<mjx-container" in text
    assert "</svg>" in text


@needs_site
@pytest.mark.parametrize(
    ("query", "wanted"),
    [("空间注意力", "mechanisms/spatial_attention.html"), ("CBAM", "mechanisms/cbam.html")],
)
def test_search(query, wanted):
    text = site(f"search.html?q={query}")
    results = re.findall(r'<a href="([\w/]+\.html)', text.partition('id="search-results"')[2])
    assert wanted in results[:3], results[:5]


def test_visualdl_shows_gates_maps_and_the_graph(tmp_path):
    """What a training logs is what the browser shows. (Its index wants an Accept-Language header, which browsers send.)"""
    visualdl = pytest.importorskip("visualdl")
    network = BACKBONES["CifarResNet20"]()
    insert_attention(network, {"name": "CBAM", "reduction": 4}, stages=3, input_shape=[3, 32, 32])
    images = np.random.RandomState(0).rand(1, 3, 32, 32).astype("float32")
    with visualdl.LogWriter(logdir=str(tmp_path)) as writer:
        for epoch in (1, 2):
            AttentionLog(images, [images[0].transpose(1, 2, 0)])(writer, network, epoch)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "visualdl.server.app", "--logdir", str(tmp_path), "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(60):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        assert "maps/stages.2.2.bn2.attention CBAM spatial/0" in dom(f"http://127.0.0.1:{port}/app/image")
        assert "gates" in dom(f"http://127.0.0.1:{port}/app/histogram")
        shown = dom(f"http://127.0.0.1:{port}/app/graph/dynamic_graph")
        assert "graphs" in shown.lower()
        query = f"run={tmp_path}&refresh=true&expand_all=true"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/app/api/graph/graph?{query}") as answer:
            assert b"/stages/2/2/bn2/attention/channel_gate" in answer.read()
    finally:
        server.terminate()
        server.wait(30)
