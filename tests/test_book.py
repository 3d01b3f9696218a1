"""The site's pages: every cell runs, and every mechanism has a page of its name with all its parts."""

import re
import sys
import types
from pathlib import Path

import paddle
import pytest
import yaml

from paddle_attention import list_attentions
from paddle_attention.ppcls import build_network

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "{code-cell}" in p.read_text(encoding="utf-8"))
SLOW = {"choosing", "errata"}  # they build ResNet-50 again and again
PARTS = (
    "## 它解决什么问题",
    "## 想法",
    "## 数据流",
    "## 公式，一步一步写出来",
    "## 形状",
    "## 写进 YAML",
    "## 代价",
    "## 它看哪里",
    "## 容易弄错的地方",
    "## 接着读",
)


def cells(page):
    """The code of a page's cells, without their options."""
    found = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"\A(:[^\n]*\n)+", "", cell) for cell in found]


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook has: the pages' helpers, and IPython's display, which the test environment lacks."""
    display = types.ModuleType("IPython.display")
    for name in ("HTML", "SVG", "Image", "Markdown"):
        setattr(display, name, type(name, (str,), {}))
    ipython = types.ModuleType("IPython")
    ipython.display, ipython.version_info, ipython.get_ipython = display, (9, 0), lambda: None  # pyplot asks
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    sys.modules.pop("book", None)


def name_of(page):
    return str(page.relative_to(DOCS).with_suffix(""))


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else (), id=name_of(p)) for p in PAGES]
)
def test_cells_run(page, notebook):
    namespace = {}
    for number, cell in enumerate(cells(page), 1):
        exec(compile(cell, f"{name_of(page)}, cell {number}", "exec"), namespace)
    paddle.seed(0)


def mechanisms():
    """``(name, file)`` of the library's mechanisms, not of those that tests register."""
    found = ((entry.name, entry.cls.__module__) for entry in list_attentions())
    return [
        (name, module.rpartition(".")[2]) for name, module in found if module.startswith("paddle_attention.")
    ]


@pytest.mark.parametrize(("name", "file"), mechanisms(), ids=[file for _, file in mechanisms()])
def test_every_mechanism_has_a_page(name, file, arch):
    """With all its parts, in their order, asserting that the formula is the layer; its YAML builds."""
    page = DOCS / "mechanisms" / f"{file}.md"
    assert page.is_file(), f"docs/mechanisms/{file}.md is missing: the page of {name}"
    text = page.read_text(encoding="utf-8")
    todo = [i for i, line in enumerate(text.splitlines(), 1) if "TODO" in line]
    assert not todo, f"docs/mechanisms/{file}.md:{todo[0]} still says TODO"
    places = [text.find(f"\n{part}\n") for part in PARTS]
    assert -1 not in places, PARTS[places.index(-1)]
    assert places == sorted(places)
    assert "assert error < 1e-4" in text
    assert "layer(x)" in text
    assert f'facts("{name}")' in text
    (section,) = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    settings = yaml.safe_load(section)["Arch"]
    attention = settings["attention"]
    assert attention["name"] == name
    if name != "ShuffleAttention":  # which needs more channels
        settings["backbone"]["name"] = "ResNet18"  # ResNet50 would do the same, more slowly
    if attention.get("blocks") == [2, 4]:
        attention["blocks"] = [2]
    build_network({"Arch": settings, "Global": {}})


def test_every_page_is_in_the_contents():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/]+)$", text, re.M))
    assert "\nmechanisms/*\n" in text
    assert listed == {p.stem for p in DOCS.glob("*.md") if p.stem != "index"}


def test_pages_of_mechanisms_are_of_mechanisms():
    assert {p.stem for p in (DOCS / "mechanisms").glob("*.md")} == {file for _, file in mechanisms()}
