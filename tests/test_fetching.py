"""Fetching PaddleClas: from a repository like it, whole or not at all."""

import subprocess

import pytest

from paddle_attention.cli import parser
from paddle_attention.ppcls import fetching, get_paddleclas

FILES = {
    "ppcls/arch/__init__.py": "x = 1",
    "ppcls/engine/engine.py": "",
    "ppcls/configs/a.yaml": "Arch: {}",
    "tools/train.py": "",
    "deploy/utils/simfang.ttf": "large",
    "deploy/python/predict_cls.py": "",
    "docs/picture.png": "large",
    "paddleclas.py": "",
}


def git(folder, *arguments):
    command = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def source(tmp_path):
    """A repository of two commits; returns its path and the first commit."""
    folder = tmp_path / "source"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    first = git(folder, "rev-parse", "HEAD")
    (folder / "ppcls/arch/__init__.py").write_text("x = 2")
    git(folder, "commit", "-qam", "second")
    return str(folder), first


def test_what_the_tools_need_is_fetched_at_the_commit(source, tmp_path):
    path, first = source
    target = tmp_path / "new" / "PaddleClas"
    target.parent.mkdir()
    assert get_paddleclas(str(target), path, first) == str(target)
    found = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file() and ".git" not in p.parts}
    assert found == set(FILES) - {"docs/picture.png", "deploy/utils/simfang.ttf"}
    assert (target / "ppcls/arch/__init__.py").read_text() == "x = 1"
    with pytest.raises(ValueError, match="is not empty; name a folder that does not exist yet"):
        get_paddleclas(str(target), path, first)


def test_nothing_is_left_behind(source, tmp_path, monkeypatch):
    path, first = source
    target = tmp_path / "PaddleClas"
    for arguments, message in (
        ((str(tmp_path / "nowhere"), first), "git clone failed: .*nowhere"),
        ((path, "0" * 40), "git checkout failed: "),
    ):
        with pytest.raises(OSError, match=message):
            get_paddleclas(str(target), *arguments)
        assert not list(tmp_path.glob("*PaddleClas*"))
    git(path, "rm", "-q", "tools/train.py")
    git(path, "commit", "-qm", "third")
    with pytest.raises(ValueError, match=r"is no PaddleClas: it has no tools/train\.py"):
        get_paddleclas(str(target), path, git(path, "rev-parse", "HEAD"))
    assert not list(tmp_path.glob("PaddleClas*"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="git is not installed"):
        get_paddleclas(str(target), path, first)


def test_neighbours_are_left_alone(source, tmp_path):
    """A folder that happens to be named like the one that is fetched into."""
    own = tmp_path / "PaddleClas.partial"
    own.mkdir()
    (own / "thesis.txt").write_text("precious")
    with pytest.raises(OSError, match="git clone failed"):
        get_paddleclas(str(tmp_path / "PaddleClas"), str(tmp_path / "nowhere"))
    get_paddleclas(str(tmp_path / "PaddleClas"), *source)
    assert (own / "thesis.txt").read_text() == "precious"


def test_the_command(source, tmp_path, workspace):
    path, first = source
    done = workspace.run(
        "-m", "paddle_attention", "get_paddleclas", tmp_path / "P", "--source", path, "--commit", first
    )
    assert f"export PADDLECLAS_HOME={tmp_path / 'P'}" in done.stdout
    failed = workspace.run("-m", "paddle_attention", "get_paddleclas", tmp_path / "P", check=False)
    assert failed.returncode == 2
    assert failed.stdout.splitlines()[-1].startswith("error: ")


def test_the_defaults_of_the_command_are_those_of_the_function():
    options = parser.build_parser(None).parse_args(["get_paddleclas", "DIR"])
    assert (options.source, options.commit) == (fetching.SOURCE, fetching.COMMIT)
