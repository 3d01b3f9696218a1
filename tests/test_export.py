"""Verified export, and prediction from the result."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_attention import CBAM, SEBlock, build_attention
from paddle_attention.deploy import ExportError, InferencePredictor, export_inference_model
from paddle_attention.deploy.comparing import relative_error


def network():
    paddle.seed(1)
    return nn.Sequential(
        nn.Conv2D(3, 16, 3, padding=1),
        SEBlock(16),
        CBAM(16),
        nn.BatchNorm2D(16),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("shape", [[3, 20, 24], [3, None, None]])
def test_export(tmp_path, activation, shape):
    model, lines = network(), []
    model.train()
    errors = export_inference_model(model, str(tmp_path), shape, activation, report=lines.append)
    assert model.training
    assert set(errors) == {(1, True), (3, True), (1, False), (3, False)}
    assert max(errors.values()) < 1e-4
    assert len(lines) == 4
    assert "batch 3, oneDNN off: relative error" in lines[-1]
    program = "inference.json" if paddle.__version__ >= "3" else "inference.pdmodel"
    files = {p.name for p in tmp_path.iterdir()}
    assert (
        {program, "inference.pdiparams", "inference.manifest.json"}
        <= files
        <= {program, "inference.pdiparams", "inference.pdiparams.info", "inference.manifest.json"}
    )
    model.eval()
    x = np.random.RandomState(0).standard_normal([2, 3, 20, 24]).astype("float32")
    expected = model(paddle.to_tensor(x))
    expected = getattr(nn.functional, activation)(expected) if activation else expected
    np.testing.assert_allclose(InferencePredictor(str(tmp_path))(x), expected.numpy(), rtol=1e-4, atol=1e-5)


class Wrong(nn.Layer):
    """Computes something else once exported."""

    def __init__(self, factor):
        super().__init__()
        self.fc, self.factor = nn.Linear(3, 4), factor

    def forward(self, x):
        y = self.fc(x.mean([2, 3]))
        if paddle.in_dynamic_mode():
            return y
        return y / (y - y) if self.factor is None else y * self.factor


@pytest.mark.parametrize("factor", [1.001, float("nan"), None])
def test_a_wrong_export_leaves_nothing(tmp_path, factor):
    with pytest.raises(
        ExportError,
        match=r"(differs from the live one by (1\.0e-03|nan|inf) relative|cannot run).*nothing was written",
    ):
        export_inference_model(Wrong(factor), str(tmp_path), [3, 8, 8], report=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_export_leaves_the_old_one(tmp_path):
    export_inference_model(Wrong(1.0), str(tmp_path), [3, 8, 8], report=lambda line: None)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ExportError):
        export_inference_model(Wrong(2.0), str(tmp_path), [3, 8, 8], report=lambda line: None)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_export_by_another_paddle_is_replaced_whole(tmp_path):
    for name in ("inference.json", "inference.pdmodel", "inference.pdiparams.info"):
        (tmp_path / name).write_text("old")
    export_inference_model(Wrong(1.0), str(tmp_path), [3, 8, 8], report=lambda line: None)
    assert not [p for p in tmp_path.iterdir() if p.read_bytes() == b"old"]


class Folds(nn.Layer):
    """A re-parameterised layer whose folding loses what a hook adds to one of its parts."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.folded = nn.Linear(3, 4), nn.Linear(3, 4), None

    def re_parameterize(self):
        self.folded = nn.Linear(3, 4)
        self.folded.weight.set_value(self.a.weight + self.b.weight)
        self.folded.bias.set_value(self.a.bias + self.b.bias)

    def forward(self, x):
        x = x.mean([2, 3])
        return self.a(x) + self.b(x) if self.folded is None else self.folded(x)


def test_reparameterisation_is_checked_against_the_unfolded_network(tmp_path):
    export_inference_model(Folds(), str(tmp_path), [3, 8, 8], report=lambda line: None)
    model = Folds()
    model.a.register_forward_post_hook(lambda layer, x, y: y * 2)
    with pytest.raises(ExportError, match="differs from the live one"):
        export_inference_model(model, str(tmp_path), [3, 8, 8], report=lambda line: None)
    assert model.folded is None


def test_relative_error_sees_through_the_softmax():
    """Also where the logits, as those of an untrained network, hardly differ."""
    random = np.random.RandomState(0)
    for scale in (1e-3, 0.1, 10.0):
        logits = random.standard_normal([2, 1000]) * scale
        wrong = logits * 0.5

        def softmax(v):
            return (np.exp(v) / np.exp(v).sum(1, keepdims=True)).astype("float32")

        assert relative_error(softmax(wrong), softmax(logits), "softmax") > 1e-2
        rounded = (softmax(logits) * (1 + 1e-7 * random.standard_normal([2, 1000]))).astype("float32")
        assert relative_error(rounded, softmax(logits), "softmax") < 1e-4
        assert abs(relative_error(wrong, logits) - 0.5) < 1e-6


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no exported model"):
        InferencePredictor(str(tmp_path))


_PEAK = """
import sys
import numpy as np
from paddle_attention.deploy import open_predictor

def peak():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

before = peak()
open_predictor(sys.argv[1], "paddle")(np.zeros([1, 3, 128, 128], "float32"))
print(peak() - before)
"""


@pytest.mark.parametrize(
    "name",
    ["NonLocal2D", *(pytest.param(n, marks=pytest.mark.slow) for n in ("PAM", "BaseOC", "SelfAttention2D"))],
)
def test_exported_attention_over_positions_keeps_no_square_matrix(tmp_path, name):
    """The scores of 128 x 128 positions are 1 GB: within 200 MB only if a part of the queries is taken at a time."""
    paddle.seed(0)
    model = nn.Sequential(nn.Conv2D(3, 64, 3, padding=1), build_attention(name, 64))
    for value in model.parameters():
        if not value.stop_gradient and float(value.abs().sum()) == 0:  # what would hide it
            value.set_value(paddle.randn(value.shape) * 0.1)
    export_inference_model(
        model, str(tmp_path), [3, 128, 128], None, batch_sizes=(1,), onednn=(True,), report=lambda line: None
    )
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) < 200
