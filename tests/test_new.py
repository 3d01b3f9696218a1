"""``python -m paddle_attention new``: two files and a page that run, and say what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_attention import list_attentions
from paddle_attention.cli.new import file_name, write_skeletons

ROOT = Path(__file__).parent.parent


def test_names_of_files():
    """The rule for new ones; those there are have their own underscores."""
    for entry in list_attentions():
        assert file_name(entry.name).replace("_", "") == entry.name.lower()
    assert file_name("CoordAttention") == "coord_attention"
    assert file_name("SKConv") == "sk_conv"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my gate", "letters and digits, such as MyGate, but got 'my gate'"),
        ("se", r"'se' is taken by paddle_attention\.layers\.se"),
        ("None", "'None' cannot be the name of a class"),
        ("test", "'test' cannot be the name of a class"),
        ("nn", "'nn' cannot be the name of a class"),
        ("Sigmoid", "'Sigmoid' cannot be the name of a class"),
        ("FullyConnected", "'FullyConnected' cannot be the name of a class"),
        ("A" * 300, "cannot be the name of a class"),
        ("SEBlock", r"'SEBlock' is taken by paddle_attention\.SEBlock"),
        ("AttentionLayer", r"is taken by paddle_attention\.AttentionLayer"),
        ("MyGate", "is no checkout of the project"),
    ],
)
def test_bad_names(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_skeletons(name, tmp_path)


def test_skeletons(tmp_path):
    """They are a mechanism at once; the suite names what is yet to be filled in, in one line."""
    project = tmp_path / "project"
    for name in ("paddle_attention", "tests", "docs"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    shutil.copy(ROOT / "pyproject.toml", project)
    before = set(project.rglob("*.*"))
    text = write_skeletons("MyGate", project)
    new = sorted(str(p.relative_to(project)) for p in set(project.rglob("*.*")) - before)
    assert new == [
        "docs/mechanisms/my_gate.md",
        "paddle_attention/layers/my_gate.py",
        "tests/mechanisms/my_gate.py",
    ]
    assert "python tests/mutations.py my_gate" in text
    with pytest.raises(ValueError, match=r"my_gate\.py exists"):
        write_skeletons("MyGate", project)

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    done = run("tests/mechanisms/my_gate.py", "-k", "forward or gradients or maps or contract or bad")
    assert done.returncode == 0, done.stdout
    done = run("tests/test_layers.py", "-k", "complete and MyGate")
    assert done.returncode == 1
    assert "paddle_attention/layers/my_gate.py:1 still says TODO" in done.stdout
    done = run("tests/test_book.py", "-k", "my_gate")
    assert done.returncode == 1
    assert "docs/mechanisms/my_gate.md:7 still says TODO" in done.stdout
    assert "1 failed, 1 passed" in done.stdout  # its cells run
