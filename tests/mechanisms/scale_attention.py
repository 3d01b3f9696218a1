"""ScaleAttention and MultiScaleNet."""

import numpy as np
import paddle
import pytest
from layer_tester import parameters_of, relative, shared_tests

import paddle_attention as pa

from ._case import randomise
from ._numpy import conv, relu, resize, softmax

BAD_ARGUMENTS = [
    (lambda: pa.ScaleAttention(8, num_scales=0), "num_scales must be a positive integer, but got 0"),
    (lambda: pa.MultiScaleNet(None, 8, 2, scales=[0]), r"scales must be positive numbers, but got \(0,\)"),
    (lambda: pa.MultiScaleNet(None, 8, 2, task="pixels"), "task must be one of .* but got 'pixels'"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(widen(logits), axis=1)", "F.sigmoid(widen(logits))"),
    ("self.conv2(F.relu(self.conv1(", "self.conv2((self.conv1("),
    ("part = weights[:, i : i + 1] *", "part = weights[:, :1] *"),
]


class TestScaleAttention(shared_tests([], BAD_ARGUMENTS)):
    """Bad arguments."""


def test_scale_attention():
    layer = randomise(pa.ScaleAttention(3, num_scales=2, hidden_channels=5).to(dtype="float64"))
    random = np.random.RandomState(1)
    large, small = random.standard_normal((2, 3, 6, 4)), random.standard_normal((2, 3, 3, 2))
    p = parameters_of(layer)
    resized = resize(small, 6, 4, align_corners=False)
    hidden = relu(conv(np.concatenate([large, resized], 1), p, "conv1", padding=1))
    weights = softmax(conv(hidden, p, "conv2"), axis=1)
    features = [paddle.to_tensor(large), paddle.to_tensor(small)]
    assert relative(layer.attention_maps(features).numpy(), weights) < 1e-6
    expected = weights[:, :1] * large + weights[:, 1:] * resized
    assert relative(layer(features).numpy(), expected) < 1e-6
    with pytest.raises(ValueError, match="list of num_scales=2 maps, but got 1"):
        layer(features[:1])
    with pytest.raises(ValueError, match="2 maps to merge, but got 1"):
        layer(features, features[:1])


def test_multi_scale_net():
    backbone = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3, stride=2, padding=1), paddle.nn.ReLU())
    net = pa.MultiScaleNet(backbone, 8, 5, scales=(1.0, 0.5), hidden_channels=4)
    x = paddle.randn([2, 3, 16, 12])
    assert net(x).shape == [2, 5]
    maps = net.attention_maps(x)
    assert maps.shape == [2, 2, 8, 6]
    np.testing.assert_allclose(maps.sum(axis=1).numpy(), 1, rtol=1e-6)
    dense = pa.MultiScaleNet(backbone, 8, 5, task="dense", hidden_channels=4, extra_supervision=True)
    merged, *scores = dense(x)
    assert [list(y.shape) for y in (merged, *scores)] == [[2, 5, 8, 6], [2, 5, 8, 6], [2, 5, 4, 3]]
    dense.eval()
    assert dense(x).shape == [2, 5, 8, 6]
    # With one scale there is nothing to choose: the classifier alone.
    one = pa.MultiScaleNet(backbone, 8, 5, scales=[1], hidden_channels=4, task="dense")
    np.testing.assert_allclose(one(x).numpy(), one.classifier(backbone(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_multi_scale_net_exports(tmp_path):
    from paddle_attention.deploy import InferencePredictor

    backbone = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3, stride=2, padding=1), paddle.nn.ReLU())
    net = pa.MultiScaleNet(backbone, 8, 5, scales=(1.0, 0.75, 0.5), hidden_channels=4, task="dense")
    net.eval()
    inputs = [paddle.randn([n, 3, h, w]) for n, h, w in ((2, 16, 12), (1, 9, 30))]
    expected = [net(x).numpy() for x in inputs]
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    static = paddle.jit.to_static(net, input_spec=spec, full_graph=True)
    paddle.jit.save(static, str(tmp_path / "inference"))
    for onednn in (True, False):
        predictor = InferencePredictor(str(tmp_path), onednn=onednn)
        for x, y in zip(inputs, expected, strict=True):
            assert relative(predictor(x.numpy()), y) < 1e-5
