"""The shared tester: what every plug-in attention layer must hold, given one case of a table."""

import copy
import os
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import paddle
import pytest

from paddle_attention import build_attention
from paddle_attention.deploy import InferencePredictor


@dataclass
class Case:
    """One configuration of one mechanism.

    Attributes:
        name: registry name.
        reference: ``(x, parameters, training) -> y`` in float64 NumPy.
        kwargs: arguments of the mechanism.
        shape: shape of the input.
    """

    name: str
    reference: callable
    kwargs: dict = field(default_factory=dict)
    shape: tuple = (2, 8, 5, 7)

    def __str__(self):
        arguments = ",".join(f"{k}={v}" for k, v in self.kwargs.items())
        return f"{self.name}({arguments})-{'x'.join(map(str, self.shape))}"

    def build(self, dtype="float32", seed=0):
        """The layer with random weights and statistics, none of them 0 or 1."""
        layer = build_attention(self.name, self.shape[1], **self.kwargs)
        layer = layer.to(dtype=dtype)
        random = np.random.RandomState(seed)
        for key, value in layer.state_dict().items():
            new = random.standard_normal(value.shape) * 0.5
            if key.endswith(("_variance", "bn.weight")):
                new = np.abs(new) + 0.5
            value.set_value(new.astype(dtype))
        return layer

    def input(self, dtype="float32", seed=1):
        return np.random.RandomState(seed).standard_normal(self.shape).astype(dtype)


def parameters_of(layer):
    return {k: v.numpy().astype("float64") for k, v in layer.state_dict().items()}


def trainable(layer):
    """``(key, parameter)`` pairs; Paddle counts running statistics as parameters without gradient."""
    return [(k, p) for k, p in layer.named_parameters() if not p.stop_gradient]


def relative(got, expected):
    got, expected = np.asarray(got, "float64"), np.asarray(expected, "float64")
    return np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30)


class LayerTester:
    """Checks of one case; a test class runs each of them for a table of cases."""

    @staticmethod
    def check_forward(case, training):
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
            layer = case.build(dtype)
            layer.train() if training else layer.eval()
            parameters, x = parameters_of(layer), case.input(dtype)
            got = layer(paddle.to_tensor(x)).numpy()
            assert got.dtype == dtype
            assert got.shape == x.shape
            assert relative(got, case.reference(x.astype("float64"), parameters, training)) < tolerance

    @staticmethod
    def check_gradients(case, training):
        """Gradients along random directions against central differences of the reference."""
        layer = case.build("float64")
        layer.train() if training else layer.eval()
        x = case.input("float64")
        random = np.random.RandomState(2)
        weight = random.standard_normal(case.shape)
        values = {"x": x, **parameters_of(layer)}
        tensor = paddle.to_tensor(x, stop_gradient=False)
        (layer(tensor) * paddle.to_tensor(weight)).sum().backward()
        gradients = {"x": tensor.grad, **{k: p.grad for k, p in trainable(layer)}}

        def objective(**moved):
            p = {**values, **moved}
            return (case.reference(p.pop("x"), p, training) * weight).sum()

        step = 1e-6
        for name, gradient in gradients.items():
            assert gradient is not None, f"no gradient reaches {name}"
            for _ in range(3):
                direction = random.standard_normal(values[name].shape)
                ahead = objective(**{name: values[name] + step * direction})
                behind = objective(**{name: values[name] - step * direction})
                expected = (ahead - behind) / (2 * step)
                got = (gradient.numpy() * direction).sum()
                scale = np.linalg.norm(gradient.numpy()) * np.linalg.norm(direction)
                assert abs(got - expected) < 1e-6 * max(scale, 1.0), name

    @staticmethod
    def check_gradient_reaches_everything(case):
        layer = case.build()
        layer.train()
        x = paddle.to_tensor(case.input(), stop_gradient=False)
        (layer(x) ** 2).sum().backward()
        dead = [k for k, p in trainable(layer) if p.grad is None or not np.any(p.grad.numpy())]
        assert not dead
        assert np.any(x.grad.numpy())

    @staticmethod
    def check_copies(case):
        layer = case.build()
        layer.eval()
        x = paddle.to_tensor(case.input())
        expected = layer(x).numpy()
        assert np.array_equal(copy.deepcopy(layer)(x).numpy(), expected)
        other = case.build(seed=5)
        other.eval()
        assert not np.allclose(other(x).numpy(), expected)
        other.set_state_dict(layer.state_dict())
        assert np.array_equal(other(x).numpy(), expected)

    @staticmethod
    def check_sizes(case):
        """One layer serves every batch and image size, also a single pixel."""
        layer = case.build()
        layer.eval()
        for n, h, w in ((1, 1, 1), (3, 1, 9), (2, 6, 4)):
            x = np.random.RandomState(3).standard_normal((n, case.shape[1], h, w))
            got = layer(paddle.to_tensor(x.astype("float32"))).numpy()
            assert relative(got, case.reference(x, parameters_of(layer), False)) < 1e-5

    @staticmethod
    def check_autocast(case, dtype):
        """Mixed precision stays close to float32, in the forward and the backward pass.

        Paddle's CPU builds accept autocast and compute in float32 all the same, so
        only on a GPU does this compare two precisions.
        """
        layer = case.build()
        layer.train()
        results = {}
        for level in ("O0", "O1"):
            x = paddle.to_tensor(case.input(), stop_gradient=False)
            with paddle.amp.auto_cast(enable=level != "O0", level="O1", dtype=dtype):
                y = layer(x)
            y.astype("float32").sum().backward()
            results[level] = y.astype("float32").numpy(), x.grad.numpy()
        for got, expected in zip(results["O1"], results["O0"], strict=True):
            assert np.isfinite(got).all()
            assert relative(got, expected) < 0.05

    @staticmethod
    def check_export(case, directory):
        """Dynamic batch and size through ``paddle.jit.save`` and Paddle Inference.

        A convolution before and after brings the layouts of a real network.
        """
        channels = case.shape[1]
        network = paddle.nn.Sequential(
            paddle.nn.Conv2D(3, channels, 3, padding=1), case.build(), paddle.nn.Conv2D(channels, 4, 1)
        )
        network.eval()
        spec = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
        static = paddle.jit.to_static(copy.deepcopy(network), input_spec=[spec])
        paddle.jit.save(static, os.path.join(directory, "inference"))
        for onednn in (True, False):
            predictor = InferencePredictor(str(directory), onednn=onednn)
            for shape in ((1, 3, 9, 12), (3, 3, 16, 6), (2, 3, 1, 1)):
                x = np.random.RandomState(4).standard_normal(shape).astype("float32")
                expected = network(paddle.to_tensor(x)).numpy()
                assert relative(predictor(x), expected) < 1e-4, (onednn, shape)

    @staticmethod
    def check_contract(case):
        """What every plug-in must reject, with the offending values in the message."""
        channels = case.shape[1]
        layer = case.build()
        build = partial(build_attention, case.name)
        bad_inputs = (
            ((2, channels, 5), rf"\[2, {channels}, 5\]"),
            ((2, channels, 5, 5, 1), rf"\[2, {channels}, 5, 5, 1\]"),
            ((2, channels + 1, 5, 5), rf"channels={channels}.*{channels + 1}"),
        )
        for shape, message in bad_inputs:
            with pytest.raises(ValueError, match=message):
                layer(paddle.zeros(shape))
        for channels in (0, -3, 2.5, "8", True):
            with pytest.raises(ValueError, match=f"channels must be .* but got {channels!r}"):
                build(channels)
        with pytest.raises(ValueError, match="no argument 'reductoin'"):
            build(16, reductoin=4)
        with pytest.raises(TypeError, match="reductoin"):
            type(layer)(16, reductoin=4)
