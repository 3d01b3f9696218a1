"""Every attention layer through the shared tester."""

import numpy as np
import paddle
import pytest
from cases import CASES
from layer_tester import LayerTester

from paddle_attention import CBAM, ChannelAttention, SEBlock, SpatialAttention, list_attentions
from paddle_attention.layers import channel_attention, spatial_attention


def those(**wanted):
    """The cases whose attributes of these names are set, as arguments of a parametrisation."""
    cases = [c for c in CASES if all(bool(getattr(c, k)) == v for k, v in wanted.items())]
    return {"argvalues": cases, "ids": str}


def test_every_mechanism_has_a_case():
    """And maps to look at in one of them, or declares none."""
    names = {entry.name for entry in list_attentions()}
    assert {case.name for case in CASES} == names
    assert {case.name for case in CASES if case.maps} == names


@pytest.mark.parametrize("case", **those())
class TestLayer:
    def test_forward(self, case):
        LayerTester.check_forward(case, training=False)

    def test_gradient_reaches_everything(self, case):
        LayerTester.check_gradient_reaches_everything(case)

    def test_copies(self, case):
        LayerTester.check_copies(case)

    def test_sizes(self, case):
        LayerTester.check_sizes(case)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_autocast(self, case, dtype):
        LayerTester.check_autocast(case, dtype)

    def test_export(self, case, tmp_path):
        LayerTester.check_export(case, tmp_path)

    def test_contract(self, case):
        LayerTester.check_contract(case)


@pytest.mark.parametrize("case", **those(differentiable=True))
class TestDifferentiable:
    """Not for choices: these are random in training, and their gradient is an estimate."""

    def test_forward_in_training(self, case):
        LayerTester.check_forward(case, training=True)

    @pytest.mark.parametrize("training", [False, True])
    def test_gradients(self, case, training):
        LayerTester.check_gradients(case, training)


@pytest.mark.parametrize("case", **those(maps=True))
class TestMaps:
    def test_attention_maps(self, case):
        LayerTester.check_attention_maps(case)

    def test_statistics(self, case):
        LayerTester.check_statistics(case)


@pytest.mark.parametrize("case", **those(start=True))
def test_start(case):
    LayerTester.check_start(case)


# What only some layers reject: builder, part of the message.
BAD_ARGUMENTS = [
    (lambda: SEBlock(8, reduction=16), "channels=8 // reduction=16 leaves no hidden channel"),
    (lambda: SEBlock(8, reduction=0), "reduction must be a positive integer, but got 0"),
    (lambda: SEBlock(8, hidden_channels=-1), "hidden_channels must be a positive integer, but got -1"),
    (lambda: SEBlock(8, reduction=2, gate="tanh"), r"\['hard_sigmoid', 'sigmoid'\], but got 'tanh'"),
    (lambda: ChannelAttention(8, 9), "channels=8 // reduction=9"),
    (lambda: ChannelAttention(8, 2, pool_types=["avg", "mean"]), r"\['avg', 'mean'\]"),
    (lambda: ChannelAttention(8, 2, pool_types=[]), r"got \[\]"),
    (lambda: ChannelAttention(8, 2, pool_types=["max", "max"]), r"\['max', 'max'\]"),
    (lambda: SpatialAttention(8, kernel_size=4), "kernel_size must be odd.*got 4; use 3 or 5"),
    (lambda: CBAM(8), "channels=8 // reduction=16"),
    (lambda: CBAM(16, kernel_size=0), "kernel_size must be a positive integer, but got 0"),
]


@pytest.mark.parametrize(("build", "message"), BAD_ARGUMENTS)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 3, 1, 1), (3, 1, 6, 2)])
def test_deployed_maxima_equal_the_trained_ones(shape):
    """CBAM has two forms of each maximum: one fast in training, one fast when deployed."""
    x = paddle.randn(shape)
    expected = x.numpy()
    for form in (
        spatial_attention.max_over_channels(x),
        spatial_attention.max_over_channels_deployed(x),
    ):
        assert np.array_equal(form.numpy(), expected.max(1, keepdims=True))
    for form in (channel_attention.max_over_pixels(x), channel_attention.max_over_pixels_deployed(x)):
        assert np.array_equal(form.numpy(), expected.max((2, 3), keepdims=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_maximum_is_exact(dtype):
    x = paddle.randn([2, 6, 3, 4]).astype(dtype)
    x.stop_gradient = False
    y = spatial_attention.max_over_channels(x)
    assert y.dtype == x.dtype
    values = x.astype("float32").numpy()
    assert np.array_equal(y.astype("float32").numpy(), values.max(1, keepdims=True))
    y.astype("float32").sum().backward()
    expected = values == values.max(1, keepdims=True)
    assert np.array_equal(x.grad.astype("float32").numpy(), expected.astype("float32"))


def test_gates_are_the_weights_applied():
    for layer in (SEBlock(8, 2), ChannelAttention(8, 2), SpatialAttention(8)):
        layer.eval()
        x = paddle.randn([2, 8, 4, 5])
        gate = layer.gate(x)
        assert 0 <= gate.min() <= gate.max() <= 1
        np.testing.assert_allclose(layer(x).numpy(), (x * gate).numpy(), rtol=1e-6)


def test_initial_weights():
    """Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) and zero biases, as in the fluid SE block."""
    layer = SEBlock(400, reduction=4)
    for fc, fan_in in ((layer.fc1, 400), (layer.fc2, 100)):
        weight, bound = fc.weight.numpy(), fan_in**-0.5
        assert abs(weight).max() <= bound
        assert abs(weight).max() > 0.99 * bound
        assert abs(weight.std() - bound / 3**0.5) < 0.02 * bound
        assert not fc.bias.numpy().any()
    assert SEBlock(400, bias=False).fc1.bias is None


def test_running_statistics():
    """BatchNorm in the spatial gate moves by 0.01 a step, as in the authors' code."""
    layer = SpatialAttention(4)
    x = paddle.randn([2, 4, 6, 6])
    layer.train()
    logits = layer.conv(layer.pool(x)).numpy()
    layer(x)
    np.testing.assert_allclose(layer.bn._mean.numpy(), [0.01 * logits.mean()], rtol=1e-4)
    assert abs(float(layer.bn._variance[0]) - 1) < 0.02 * max(1, logits.var())
