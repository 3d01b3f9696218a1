"""tools/benchmark.py on a small network: what it writes, goes on from, and refuses."""

import csv
import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = ("--quick", "--size", "64", "--engines", "paddle", "--rounds", "1", "--threads", "1")


def benchmark(*arguments):
    command = [sys.executable, os.path.join(ROOT, "tools", "benchmark.py"), *SMALL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    page = folder / "page.md"
    page.write_text("before\n<!-- benchmark -->\n<!-- end of benchmark -->\nafter\n", encoding="utf-8")
    options = ("--mechanisms", "SE", "PAM", "--training", "--memory", "--growth")
    done = benchmark(*options, "--output", folder / "out", "--write", page)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_table(measured):
    folder, done = measured
    with open(folder / "out" / "benchmark.csv", newline="", encoding="utf-8") as file:
        bare, *rows = list(csv.DictReader(file))
    assert bare["mechanism"] == "(bare, ms)"
    assert {row["mechanism"] for row in rows} == {"SE", "PAM"}
    for row in rows:
        assert 0.5 < float(row["Paddle Inference, 1"]) < 20
        assert float(row["floor"]) >= 1
        assert float(row["training step"]) > 0
        assert float(row["memory, MB"]) > 0
        assert float(row["parameters +%"]) > 0
    growth = {row["mechanism"]: float(row["side to the power"]) for row in rows}
    assert growth["PAM"] > growth["SE"]  # all pairs of positions, against positions
    assert (folder / "out" / "benchmark.png").stat().st_size > 10_000
    text = (folder / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert text.strip() in (folder / "page.md").read_text(encoding="utf-8")
    assert text.strip() in done.stdout


def test_it_goes_on_from_what_was_measured(measured):
    folder, _ = measured
    before = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))["latency"]
    done = benchmark("--mechanisms", "SE", "ECA", "--output", folder / "out")
    assert done.returncode == 0, done.stderr
    after = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))["latency"]
    (old,), (new,) = before.values(), after.values()
    assert new["SE"] == old["SE"]
    assert new["PAM"] == old["PAM"]
    assert len(new["ECA"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mechanisms", "SEE"], "--mechanisms: unknown attention 'SEE'"),
        (["--size", "0"], "must be a positive integer, but got '0'"),
        (["--mechanisms", "SE", "--backbone", "resnet34"], "was measured with another network"),
        (["--backbone", "ResNet"], "paddle.vision.models has no network 'ResNet'"),
    ],
)
def test_mistakes_are_one_line(measured, arguments, message):
    folder, _ = measured
    done = benchmark(*arguments, "--output", folder / "out")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("tool", ["format_table", "architectures"])
@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no JSON"), ("[1]", "is not what this command has written"), ('{"SE": 1}', "is not what")],
)
def test_damaged_results_of_other_tools(tmp_path, tool, content, message):
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    command = [sys.executable, os.path.join(ROOT, "tools", f"{tool}.py"), "--results"]
    done = subprocess.run([*command, tmp_path / "results.json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("tool", "message"),
    [("format_table", "unknown attention 'SEE'"), ("architectures", "PaddleClas has no network 'SEE'")],
)
def test_unknown_names_in_other_tools(tool, message):
    command = [sys.executable, os.path.join(ROOT, "tools", f"{tool}.py"), "SEE"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
