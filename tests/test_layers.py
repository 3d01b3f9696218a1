"""What concerns all layers together."""

import importlib
import inspect
from pathlib import Path

import mechanisms
import numpy as np
import paddle
import pytest

import paddle_attention as pa
from paddle_attention import layers, list_attentions
from paddle_attention.layers import _chunked_attention

ROOT = Path(__file__).parent.parent
FILES = mechanisms.all_files()


def file_of(entry):
    """Name of the file that a mechanism is written in."""
    return entry.cls.__module__.rpartition(".")[2]


@pytest.mark.parametrize("entry", list_attentions(), ids=lambda entry: entry.name)
def test_a_mechanism_is_complete(entry):
    """One file of its name, and one of tests: cases, some with maps to look at, and mutants."""
    name = file_of(entry)
    for path in (ROOT / f"paddle_attention/layers/{name}.py", ROOT / f"tests/mechanisms/{name}.py"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        todo = [i for i, line in enumerate(lines, 1) if "TODO" in line]
        assert not todo, f"{path.relative_to(ROOT)}:{todo[0]} still says TODO"
    assert name.replace("_", "") == entry.name.lower(), f"{name}.py must have the name of {entry.name}"
    assert name in FILES, f"tests/mechanisms/{name}.py is missing"
    tests = FILES[name]
    cases = [case for case in getattr(tests, "CASES", []) if case.name == entry.name]
    assert cases, f"tests/mechanisms/{name}.py has no CASES of {entry.name}"
    assert any(case.maps for case in cases), f"no case of {entry.name} has maps"
    assert len(getattr(tests, "MUTANTS", [])) >= 3, f"tests/mechanisms/{name}.py has fewer than three MUTANTS"
    assert issubclass(entry.cls, layers.AttentionLayer), f"{entry.name} is no AttentionLayer"


@pytest.mark.parametrize("name", FILES)
def test_mutants_fit(name):
    """Each changes something that is there once, or everywhere alike."""
    for mutant in getattr(FILES[name], "MUTANTS", []):
        *file, old, new = mutant
        module = importlib.import_module(
            f"paddle_attention.layers.{(file[0] if file else name).removesuffix('.py')}"
        )
        assert old in inspect.getsource(module), f"{module.__name__} no longer holds {old!r}"
        assert old != new


def test_every_class_has_a_docstring_with_its_source():
    for name in layers.__all__:
        assert inspect.getdoc(getattr(layers, name)), name
    for entry in list_attentions():
        text = inspect.getdoc(inspect.getmodule(entry.cls)) + inspect.getdoc(entry.cls)
        assert entry.arxiv is None or entry.arxiv in text, entry.name


def test_gates_are_the_weights_applied():
    for layer in (pa.SEBlock(8, 2), pa.ChannelAttention(8, 2), pa.SpatialAttention(8)):
        layer.eval()
        x = paddle.randn([2, 8, 4, 5])
        gate = layer.gate(x)
        assert 0 <= gate.min() <= gate.max() <= 1
        np.testing.assert_allclose(layer(x).numpy(), (x * gate).numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_of_a_thousand(dtype):
    """Attention scores, sums of squares and softmax are in float32, whatever comes in."""
    random = np.random.RandomState(0)

    def tensor(*shape):
        return paddle.to_tensor((random.standard_normal(shape) * 1e3).astype("float32")).astype(dtype)

    q, k, v = tensor(1, 8, 20), tensor(1, 8, 20), tensor(1, 8, 20)
    x = tensor(1, 8, 5, 4)
    outputs = [
        _chunked_attention.softmax_attention(q, k, v),
        _chunked_attention.concatenation_attention(q[:, 0], k[:, 0], v / 1e3),
        _chunked_attention.dot_product_attention(q / 100, k / 100, v / 100),
        pa.CAM(8).attention_maps(x),
        pa.SimAM(8).gate(x),
        pa.GCT(8).gate(x),
        pa.SGE(8, groups=2).gate(x),
    ]
    for i, y in enumerate(outputs):
        assert np.isfinite(y.astype("float32").numpy()).all(), i
    assert all(str(y.dtype)[7:] == dtype for y in outputs[:3])
