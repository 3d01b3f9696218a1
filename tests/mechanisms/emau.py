"""EMAU: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import parameters_of, shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import batch_norm, conv, flat, relu, softmax


def expectation_maximisation(x, p, stages=3):
    """arXiv 1907.13426, equations 7 to 9: bases and rebuilt features."""
    features = flat(conv(x, p, "conv1"))
    mu = np.repeat(p["mu"], len(x), axis=0)
    for _ in range(stages):
        z = softmax(np.einsum("ncl,nck->nlk", features, mu))
        mu = np.einsum("ncl,nlk->nck", features, z / (1e-6 + z.sum(1, keepdims=True)))
        mu = mu / (1e-6 + np.sqrt((mu**2).sum(1, keepdims=True)))
    return mu, np.einsum("nck,nlk->ncl", mu, z).reshape(x.shape)


def emau(x, p, training=False, stages=3, rebuilt=None):
    """arXiv 1907.13426; ``rebuilt`` features are a constant of the gradient."""
    rebuilt = expectation_maximisation(x, p, stages)[1] if rebuilt is None else rebuilt
    return relu(batch_norm(conv(relu(rebuilt), p, "conv2.0"), p, "conv2.1", training) + x)


def emau_constants(stages):
    """Expectation-maximisation has no gradient: its result is a constant."""
    return lambda x, p: {"rebuilt": expectation_maximisation(x, p, stages)[1]}


CASES = [
    Case(
        "EMAU",
        emau,
        {"k": 3},
        (3, 6, 4, 5),
        weights_of=2,
        maps="n l 3",
        dead=("conv1.*",),
        constants=emau_constants(3),
    ),
    Case(
        "EMAU",
        partial(emau, stages=1),
        {"k": 5, "stage_num": 1},
        (2, 4, 6, 3),
        dead=("conv1.*",),
        constants=emau_constants(1),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.EMAU(8, bn_momentum=float("nan")), r"EMAU: bn_momentum must be within \[0, 1\], but got nan"),
    (lambda: pa.EMAU(8, momentum=1.5), r"momentum must be within \[0, 1\], but got 1.5"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("transpose_x=True), axis=2)", "transpose_x=True), axis=1)"),
    ("mu = self._unit_length(mu)\n        return", "return"),
    (
        "self.momentum * self.mu + (1.0 - self.momentum) * mean",
        "(1.0 - self.momentum) * self.mu + self.momentum * mean",
    ),
    ("paddle.distributed.all_reduce(mean)", "pass"),
    ("mean = mean / paddle.distributed.get_world_size()", "mean = mean"),
    ("if self.training:", "if True:"),
]


class TestEMAU(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_bases_move_in_training_only():
    layer = pa.EMAU(6, k=3)
    assert abs(np.linalg.norm(layer.mu.numpy()[0], axis=0) - 1).max() < 1e-5
    x = paddle.randn([4, 6, 5, 5])
    start = layer.mu.numpy()
    layer.eval()
    layer(x)
    assert np.array_equal(layer.mu.numpy(), start)
    batch, _ = expectation_maximisation(x.numpy(), parameters_of(layer))
    layer.train()
    layer(x)
    np.testing.assert_allclose(layer.mu.numpy(), 0.9 * start + 0.1 * batch.mean(0, keepdims=True), atol=1e-5)


def test_bases_are_averaged_over_processes(tmp_path, workspace):
    """Two processes with half a batch each have the bases of one process with all of it."""
    script = tmp_path / "bases.py"
    script.write_text(f"""
import numpy as np
import paddle
from paddle_attention import EMAU

paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
paddle.seed(0)
layer = EMAU(6, k=3)
x = np.random.RandomState(0).standard_normal((4, 6, 5, 5)).astype("float32")
layer(paddle.to_tensor(x[2 * rank : 2 * rank + 2]))
np.save({str(tmp_path)!r} + f"/mu{{rank}}.npy", layer.mu.numpy())
""")
    workspace.launch(script, timeout=300)
    paddle.seed(0)
    layer = pa.EMAU(6, k=3)
    x = np.random.RandomState(0).standard_normal((4, 6, 5, 5)).astype("float32")
    layer(paddle.to_tensor(x))
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"mu{rank}.npy"), layer.mu.numpy(), atol=1e-6)
