"""The README and the docs: every Python block runs, every command and file named exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README_cn.md",
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]  # cells: see test_book.py
BLOCKS = [
    (page, index, language, code)
    for page in PAGES
    for index, (language, code) in enumerate(
        re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    )
]


def blocks(language):
    found = [b for b in BLOCKS if b[2] == language]
    return {"argvalues": found, "ids": [f"{b[0].name}-{b[1]}" for b in found]}


@pytest.mark.parametrize("block", **blocks("python"))
def test_python_blocks(block, workspace, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block[3], encoding="utf-8")
    workspace.run(script)


@pytest.mark.parametrize("block", **blocks("yaml"))
def test_yaml_blocks(block, arch):
    import yaml

    from paddle_attention.ppcls import build_network

    build_network({**yaml.safe_load(block[3]), "Global": {}})


@pytest.mark.parametrize("block", **blocks("bash"))
def test_commands_name_what_exists(block):
    for line in block[3].splitlines():
        for word in line.partition("#")[0].split():
            if re.match(r"(tools|tests|ppcls_configs|docs)/", word):
                assert (ROOT / word).exists(), line
    assert "\t" not in block[3]


def test_every_block_is_of_a_known_kind():
    assert {b[2] for b in BLOCKS} == {"python", "yaml", "bash", "text"}
    assert len([b for b in BLOCKS if b[2] == "python"]) >= 5


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_links(page):
    for target in re.findall(r"\]\(([^)#:{}]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_engine_page_is_complete():
    """What the engine supports is what its page lists."""
    from paddle_attention import preprocess
    from paddle_attention.config.schema import AMP, GLOBAL
    from paddle_attention.engine import data, datasets, losses, optim, schedules, scores

    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    names = [
        *preprocess.OPERATORS,
        *preprocess.BATCH_OPERATORS,
        *losses.LOSSES,
        *optim.OPTIMIZERS,
        *(n for n in schedules.SCHEDULES if n != "Constant"),
        *datasets.DATASETS,
        *scores.METRICS,
        *preprocess.POSTPROCESSES,
        *data.SAMPLERS,
        *(k for k, allowed in GLOBAL["properties"].items() if "enum" not in allowed),
        *(k for k in AMP["properties"] if k != "use_promote"),
        "on_bad_image",
    ]
    missing = [n for n in names if f"`{n}`" not in text]
    assert not missing


def test_the_rooms_are_drawn_as_they_are_enforced():
    """docs/architecture.md has the layers of the import contract, and a line for every room."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r'^    "([\w |]+)",$', settings.partition("\nlayers = [")[2].partition("]")[0], re.M)
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(layers) > 5
    assert "```text\n" + "\n".join(layers) + "\n```" in text
    for room in (name for layer in layers for name in layer.split(" | ")):
        assert f"| `{room}/` |" in text or f"| `{room}.py` |" in text, room
