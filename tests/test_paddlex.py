"""Exports in PaddleX: its predictor and its server, in an environment of their own (made once, some minutes)."""

import base64
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import paddle
import pytest

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "ppcls_configs" / "quick_start" / "se_resnet18_digits.yaml")
CLIENTS = 100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(paddle.__version__ < "3", reason="PaddleX 3 reads the exports of Paddle 3"),
]

PREDICT = """
import json, sys
from paddlex import create_model
model = create_model("ResNet18", model_dir=sys.argv[1], device="cpu")
for result in model.predict(sys.argv[2:]):
    print("RESULT", json.dumps([result["label_names"][0], round(float(result["scores"][0]), 5)]))
"""


@pytest.fixture(scope="module")
def python():
    """Python of the environment with PaddleX; PADDLEX_PYTHON names one that is there already."""
    given = os.environ.get("PADDLEX_PYTHON")
    if given:
        return given
    command = "unset VIRTUAL_ENV; source tools/setup_venv.sh .venv-paddlex paddlex"
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, timeout=1800)
    return str(ROOT / ".venv-paddlex" / "bin" / "python")


@pytest.fixture(scope="module")
def exported(workspace):
    """An export of the digits' network, and what it says of some images."""
    weights, directory = workspace.path / "start.pdparams", workspace.path / "exported"
    workspace.start_weights(CONFIG, weights)
    overrides = (f"Global.pretrained_model={weights}", f"Global.save_inference_dir={directory}")
    workspace.tool("export_model", CONFIG, *overrides)
    folder = workspace.path / "dataset" / "digits" / "8"
    text = workspace.tool("predict", CONFIG, *overrides, f"Infer.infer_imgs={folder}").stdout
    found = re.findall(r"^(\S+\.bmp): (\S+) ([\d.]+)", text, re.M)
    assert len(found) > 10
    return str(directory), {path: [name, float(score)] for path, name, score in found}


def environment():
    """Without this environment's paths."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_paddlex_predicts_the_same(python, exported):
    directory, expected = exported
    paths = list(expected)[:8]
    command = [python, "-c", PREDICT, directory, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    got = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert [name for name, _ in got] == [expected[path][0] for path in paths]
    for (_, score), path in zip(got, paths, strict=True):
        assert score == pytest.approx(expected[path][1], abs=2e-4)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, path):
    body = json.dumps({"image": base64.b64encode(Path(path).read_bytes()).decode(), "topk": 3}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["result"]["categories"]
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def server(python, exported, tmp_path):
    port = free_port()
    command = [python, str(ROOT / "tools" / "paddlex_serve.py"), exported[0], "--port", str(port)]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment())
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/image-classification"
    finally:
        process.kill()
        process.wait()


def test_a_hundred_clients_at_once(server, exported):
    """PaddleX' own server answers all of them, each with what the export says of its image."""
    expected = exported[1]
    paths = (list(expected) * CLIENTS)[:CLIENTS]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda path: ask(server, path), paths))
    print(f"{CLIENTS} clients at once: {time.perf_counter() - start:.1f} s")
    assert not [answer for answer in answers if isinstance(answer, int)]
    for path, answer in zip(paths, answers, strict=True):
        assert [answer[0]["name"], round(answer[0]["score"], 5)] == [
            expected[path][0],
            pytest.approx(expected[path][1], abs=2e-4),
        ]
    assert len(answers[0]) == 3


def test_a_folder_without_its_description(python, tmp_path):
    command = [python, str(ROOT / "tools" / "paddlex_serve.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert "holds no inference.yml; export with tools/export_model.py" in done.stderr
