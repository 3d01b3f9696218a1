"""The shared tester: what every mechanism must hold, given a table of cases. :func:`shared_tests` makes a test class of it."""

import copy
import fnmatch
import functools
import importlib.util
import os
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import paddle
import pytest
import yaml

from paddle_attention import build_attention, get_attention, insert_attention
from paddle_attention.deploy import FORMATS, InferencePredictor
from paddle_attention.deploy.formats import run_engine
from paddle_attention.layers import map_axes

needs_converters = pytest.mark.skipif(
    paddle.__version__ < "3"
    or not importlib.util.find_spec("paddle2onnx")
    or not importlib.util.find_spec("openvino"),
    reason="needs Paddle 3 and the extra 'openvino'",
)


# OpenVINO 2026.4 returns the output before this one.
_STALE = ("openvino", "SqueezeAttention", "(3, 3, 1, 1)")


@dataclass
class Case:
    """One configuration of one mechanism.

    Attributes:
        name: registry name.
        reference: ``(x, parameters, training) -> y`` in float64 NumPy.
        kwargs: arguments of the mechanism.
        shape: shape of the input.
        sizes: ``(H, W)`` to run on besides; by default down to a single pixel.
        maps: shape of what ``attention_maps`` returns, in n, c, h, w, l = h * w and numbers,
            or a dict or list of such; None if there is nothing to return.
        applied: ``(x, maps) -> y`` in NumPy: how the maps make the output, where they do alone.
        weights_of: axis of the maps along which they sum to 1, where they do.
        start: ``'identity'`` if the layer starts as the identity, ``'gate'`` if it does
            with ``identity_init=True``.
        dead: patterns of parameters that get no gradient, or one that is 0 but for rounding.
        differentiable: whether the gradient is that of the forward pass.
        constants: ``(x, parameters) -> keywords of the reference`` that the gradient takes as constants.
        tolerance: of the float64 comparison.
        gentle: whether weights stay near their start, which is not 0.
    """

    name: str
    reference: callable
    kwargs: dict = field(default_factory=dict)
    shape: tuple = (2, 8, 5, 7)
    sizes: tuple | None = None
    maps: str | dict | list | None = None
    applied: callable = None
    weights_of: int | None = None
    start: str | None = None
    dead: tuple = ()
    differentiable: bool = True
    constants: callable = None
    tolerance: float = 1e-9  # Paddle's normalisation and softmax are not quite float64
    gentle: bool = False

    @property
    def one_size(self):
        """Whether its weights are made for maps of one size."""
        return "feat_size" in self.kwargs

    def __str__(self):
        arguments = ",".join(f"{k}={v}" for k, v in self.kwargs.items())
        return f"{self.name}({arguments})-{'x'.join(map(str, self.shape))}"

    def build(self, dtype="float32", seed=0):
        """The layer with random weights and statistics, none of them 0 or 1."""
        paddle.seed(seed)
        layer = build_attention(self.name, self.shape[1], **self.kwargs)
        layer = layer.to(dtype=dtype)
        random = np.random.RandomState(seed)
        fixed = {k for k, b in layer.named_buffers() if b.stop_gradient and k == "weight"}  # a basis
        for key, value in layer.state_dict().items():
            # of the order of 1 whatever the number of inputs
            fan_in = np.prod(value.shape[1:]) if len(value.shape) > 1 else 1
            new = (
                random.standard_normal(value.shape) * max(0.5, 1.0 / fan_in**0.5) * min(1.0, 3 / fan_in**0.5)
            )
            if key.endswith("_variance"):
                new = np.abs(new) + 0.5
            elif key.endswith("weight") and len(value.shape) == 1:  # of a normalisation: of either sign
                new = np.copysign(np.abs(new) + 0.5, new)
            if self.gentle:
                new = value.numpy() + 0.2 * new
            if key not in fixed:
                value.set_value(new.astype(dtype))
        return layer

    def spatial_sizes(self):
        """``(n, h, w)`` to run on besides ``shape``."""
        if self.sizes is None:
            return ((1, 1, 1), (3, 1, 9), (2, 6, 4))
        return tuple((1 + i, *size) for i, size in enumerate(self.sizes))

    def is_dead(self, key):
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.dead)

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


def gradient_differences(case, training, directions=1):
    """Gradients against central differences of the reference, in float64, along random directions.

    Returns:
        list of ``(name, difference, norm of the gradient, length of the direction)`` for the input
        ``x`` and every parameter; all but the name are None where there is no gradient.
    """
    layer = case.build("float64")
    layer.train() if training else layer.eval()
    x = case.input("float64")
    random = np.random.RandomState(2)
    values = {"x": x, **parameters_of(layer)}
    tensor = paddle.to_tensor(x, stop_gradient=False)
    y = layer(tensor)
    weight = random.standard_normal(y.shape)
    (y * paddle.to_tensor(weight)).sum().backward()
    gradients = {"x": tensor.grad, **{k: p.grad for k, p in trainable(layer)}}
    constants = case.constants(x, values) if case.constants else {}

    def objective(**moved):
        p = {**values, **moved}
        return (case.reference(p.pop("x"), p, training, **constants) * weight).sum()

    step, found = 1e-6, []
    for name, gradient in gradients.items():
        if gradient is None:
            found.append((name, None, None, None))
            continue
        for _ in range(directions):
            direction = random.standard_normal(values[name].shape)
            ahead = objective(**{name: values[name] + step * direction})
            behind = objective(**{name: values[name] - step * direction})
            difference = abs((gradient.numpy() * direction).sum() - (ahead - behind) / (2 * step))
            found.append((name, difference, np.linalg.norm(gradient.numpy()), np.linalg.norm(direction)))
    return found


def in_a_network(case):
    """The layer between two convolutions, which bring the layouts of a real network."""
    channels = case.shape[1]
    network = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, channels, 3, padding=1),
        case.build(),
        paddle.nn.Conv2D(case.kwargs.get("out_channels", channels), 4, 1),
    )
    network.eval()
    return network


class LayerTester:
    """Checks of one case; a test class runs each of them for a table of cases."""

    @staticmethod
    def check_forward(case, training):
        for dtype, tolerance in (("float64", case.tolerance), ("float32", 2e-5)):
            layer = case.build(dtype)
            layer.train() if training else layer.eval()
            parameters, x = parameters_of(layer), case.input(dtype)
            got = layer(paddle.to_tensor(x)).numpy()
            expected = case.reference(x.astype("float64"), parameters, training)
            assert got.dtype == dtype
            assert got.shape == expected.shape
            if not get_attention(case.name).replaces_conv:
                assert got.shape == x.shape
            assert relative(got, expected) < tolerance, dtype

    @staticmethod
    def check_gradients(case, training):
        """Gradients along random directions against central differences of the reference."""
        found = gradient_differences(case, training, directions=2)
        largest = max(norm for _, _, norm, _ in found if norm is not None)
        for name, difference, norm, length in found:
            if norm is None:
                assert case.is_dead(name), f"no gradient reaches {name}"
            else:
                assert difference < 2e-6 * max(norm * length, 1.0, 0.02 * largest), name

    @staticmethod
    def check_gradient_reaches_everything(case):
        """Every parameter but the declared ones is used, and every buffer changes the output."""
        layer = case.build()
        layer.eval()
        x = paddle.to_tensor(case.input(), stop_gradient=False)
        y = layer(x)
        (
            y * paddle.to_tensor(np.random.RandomState(2).standard_normal(y.shape).astype("float32"))
        ).sum().backward()
        sizes = {k: 0.0 if p.grad is None else float(p.grad.abs().max()) for k, p in trainable(layer)}
        dead = [k for k, size in sizes.items() if size <= 1e-5 * max(sizes.values())]
        assert [k for k in dead if not case.is_dead(k)] == []
        assert [k for k in sizes if case.is_dead(k) and k not in dead] == []
        assert np.any(x.grad.numpy())
        for key, buffer in layer.named_buffers():
            value = buffer.numpy()
            buffer.set_value(value * 1.5 + 0.1)
            assert not np.allclose(layer(x).numpy(), y.numpy(), atol=1e-6), f"{key} is not used"
            buffer.set_value(value)

    @staticmethod
    def check_copies(case):
        layer = case.build()
        layer.eval()
        x = paddle.to_tensor(case.input())
        expected = layer(x).numpy()
        assert np.array_equal(copy.deepcopy(layer)(x).numpy(), expected)
        other = case.build(seed=5)
        other.eval()
        if layer.state_dict():
            assert not np.allclose(other(x).numpy(), expected)
        other.set_state_dict(layer.state_dict())
        assert np.array_equal(other(x).numpy(), expected)

    @staticmethod
    def check_sizes(case):
        """One layer serves every batch and image size, also a single pixel where that makes sense."""
        layer = case.build()
        layer.eval()
        for n, h, w in case.spatial_sizes():
            x = np.random.RandomState(3).standard_normal((n, case.shape[1], h, w))
            got = layer(paddle.to_tensor(x.astype("float32"))).numpy()
            assert relative(got, case.reference(x, parameters_of(layer), False)) < 2e-5, (n, h, w)

    @staticmethod
    def check_autocast(case, dtype):
        """Mixed precision stays close to float32, in the forward and the backward pass.

        Paddle's CPU builds accept autocast and compute in float32 all the same, so
        only on a GPU does this compare two precisions.
        """
        results = {}
        for level in ("O0", "O1"):
            layer = case.build()
            layer.train() if case.differentiable else layer.eval()
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
        """Dynamic batch, with dynamic and with fixed size, through ``paddle.jit.save`` and Paddle Inference.

        The optimizations of Paddle Inference are other ones where it knows the size.
        """
        network = in_a_network(case)
        sizes = ((9, 12), (16, 6), (1, 1)) if case.sizes is None else case.sizes
        for fixed in (None, sizes[0]):
            spec = paddle.static.InputSpec([None, 3, *(fixed or (None, None))], "float32", "x")
            static = paddle.jit.to_static(copy.deepcopy(network), input_spec=[spec])
            path = os.path.join(directory, str(fixed))
            paddle.jit.save(static, os.path.join(path, "inference"))
            for onednn in (True, False):
                predictor = InferencePredictor(path, onednn=onednn)
                for shape in [(1 + i, 3, *(fixed or size)) for i, size in enumerate(sizes)]:
                    x = np.random.RandomState(4).standard_normal(shape).astype("float32")
                    expected = network(paddle.to_tensor(x)).numpy()
                    assert relative(predictor(x), expected) < 1e-4, (onednn, fixed, shape)

    @staticmethod
    def check_converted(case, directory):
        """The same through paddle2onnx in ONNX Runtime and in OpenVINO."""
        network = in_a_network(case)
        sizes = ((9, 12), (16, 6), (1, 1)) if case.sizes is None else case.sizes
        for fixed in (None, sizes[0]):
            spec = paddle.static.InputSpec([None, 3, *(fixed or (None, None))], "float32", "x")
            static = paddle.jit.to_static(copy.deepcopy(network), input_spec=[spec])
            prefix = os.path.join(directory, str(fixed), "inference")
            paddle.jit.save(static, prefix)
            random = np.random.RandomState(4)
            shapes = [(1 + i, 3, *(fixed or size)) for i, size in enumerate(sizes)]
            images = {str(shape): random.standard_normal(shape).astype("float32") for shape in shapes}
            expected = {shape: network(paddle.to_tensor(x)).numpy() for shape, x in images.items()}
            for _attempt in range(3):  # see export: the converter is wrong in some runs
                errors = {}
                for name in ("onnx", "openvino"):
                    FORMATS[name].make(prefix, None)
                    outputs = run_engine(FORMATS[name].engine, prefix + FORMATS[name].endings[-1], images)
                    errors.update(
                        {
                            (name, k): relative(outputs[k], expected[k])
                            for k in images
                            if (name, case.name, k) != _STALE
                        }
                    )
                if max(errors.values()) < 1e-4:
                    break
            assert max(errors.values()) < 1e-4, (fixed, errors)

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
            ((0, channels, 5, 5), rf"\[0, {channels}, 5, 5\], which holds no numbers"),
            ((2, channels, 0, 5), "which holds no numbers"),
        )
        for shape, message in bad_inputs:
            with pytest.raises(ValueError, match=message):
                layer(paddle.zeros(shape))
        for kind in ("int64", "bool"):
            with pytest.raises(ValueError, match=f"must be of real numbers, but is {kind}"):
                layer(paddle.zeros(case.shape).astype(kind))
        for channels in (0, -3, 2.5, "8", True):
            with pytest.raises(ValueError, match=f"channels must be .* but got {channels!r}"):
                build(channels)
        with pytest.raises(ValueError, match="no argument 'reductoin'"):
            build(16, reductoin=4)
        with pytest.raises(TypeError, match="reductoin"):
            type(layer)(16, reductoin=4)

    @staticmethod
    def check_attention_maps(case):
        """They have the documented shapes, and looking changes nothing."""
        layer = case.build()
        layer.eval()
        x = paddle.to_tensor(case.input())
        before = layer(x).numpy()
        n, c, h, w = case.shape
        sizes = {"n": n, "c": c, "h": h, "w": w, "l": h * w}

        kinds = getattr(layer, "MAPS", {})

        default = kinds.get("", "gate")

        def check(maps, expected, kind=default):
            if isinstance(expected, dict):
                assert list(maps) == list(expected)
                for name in expected:
                    check(maps[name], expected[name], kinds.get(name, "gate"))
            elif isinstance(expected, list):
                assert len(maps) == len(expected)
                for one, other in zip(maps, expected, strict=True):
                    check(one, other, kind)
            else:
                assert len(maps.shape) == map_axes(kind), f"{type(layer).__name__}.MAPS says {kind!r}"
                assert list(maps.shape) == [int(sizes.get(s, s)) for s in expected.split()]
                assert np.isfinite(maps.numpy()).all()

        maps = layer.attention_maps(x)
        check(maps, case.maps)
        if case.applied is not None:
            arrays = {k: m.numpy() for k, m in maps.items()} if isinstance(maps, dict) else maps.numpy()
            np.testing.assert_allclose(before, case.applied(x.numpy(), arrays), rtol=1e-4, atol=1e-5)
        elif case.weights_of is not None:  # what is weighed sums to 1
            total = maps[0] if isinstance(maps, list) else maps
            for one in total.values() if isinstance(total, dict) else [total]:
                np.testing.assert_allclose(one.sum(axis=case.weights_of).numpy(), 1.0, rtol=1e-4)
        assert np.array_equal(layer(x).numpy(), before)

    @staticmethod
    def check_statistics(case):
        """Training moves every running statistic; looking at the maps moves none."""
        layer = case.build()
        statistics = [k for k in layer.state_dict() if k.endswith(("_mean", "_variance"))]
        layer.train()
        x = paddle.to_tensor(case.input())
        before = parameters_of(layer)
        layer.attention_maps(x)
        assert all(np.array_equal(v, before[k]) for k, v in parameters_of(layer).items())
        layer(x)
        after = parameters_of(layer)
        assert [k for k in statistics if np.array_equal(after[k], before[k])] == []

    @staticmethod
    def check_start(case):
        """As built, without any training, the layer is the identity in eval mode."""
        kwargs = dict(case.kwargs, identity_init=True) if case.start == "gate" else case.kwargs
        layer = build_attention(case.name, case.shape[1], **kwargs)
        layer.eval()
        x = paddle.to_tensor(case.input())
        if case.start == "identity":
            assert np.array_equal(layer(x).numpy(), x.numpy())
        else:
            np.testing.assert_allclose(layer(x).numpy(), x.numpy(), rtol=1e-6)

    @staticmethod
    def check_training_in_a_network(case):
        """In every block of a ResNet-18, one step of training changes every weight it should."""
        network = paddle.vision.models.resnet18(num_classes=4)
        kwargs = {k: v for k, v in case.kwargs.items() if k not in ("out_channels", "stride")}
        inserted = insert_attention(network, dict(kwargs, name=case.name), stages=[1])
        assert len(inserted) == 2
        layers = [dict(network.named_sublayers())[i.key] for i in inserted]
        before = [{k: v.numpy() for k, v in trainable(layer)} for layer in layers]
        network.train()
        optimizer = paddle.optimizer.Momentum(0.1, parameters=network.parameters())
        loss = paddle.nn.functional.cross_entropy(
            network(paddle.randn([4, 3, 32, 32])), paddle.to_tensor([0, 1, 2, 3])
        )
        loss.backward()
        optimizer.step()
        assert np.isfinite(float(loss))
        for layer, old in zip(layers, before, strict=True):
            after = {k: v.numpy() for k, v in trainable(layer)}
            assert all(np.isfinite(v).all() for v in after.values())
            if after:
                assert any(not np.array_equal(after[k], old[k]) for k in after)

    @staticmethod
    def check_inputs_of_a_thousand(case, training):
        """As the layer is constructed: outputs and gradients are finite."""
        layer = build_attention(case.name, case.shape[1], **case.kwargs)
        layer.train() if training else layer.eval()
        x = paddle.to_tensor(case.input() * 1e3, stop_gradient=False)
        y = layer(x)
        y.mean().backward()
        values = [y, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
        assert all(bool(paddle.isfinite(value).all()) for value in values if value is not None)

    @staticmethod
    def check_two_hundred_steps(case):
        """With a learning rate that the network around it stands, the layer learns and stays finite."""
        paddle.seed(0)
        channels = case.shape[1]
        network = paddle.nn.Sequential(
            paddle.nn.Conv2D(3, channels, 3, padding=1),
            paddle.nn.BatchNorm2D(channels),
            build_attention(case.name, channels, **case.kwargs),
            paddle.nn.AdaptiveAvgPool2D(1),
            paddle.nn.Flatten(),
            paddle.nn.Linear(case.kwargs.get("out_channels", channels), 4),
        )
        optimizer = paddle.optimizer.Momentum(0.02, parameters=network.parameters())
        images, labels = paddle.randn([8, 3, *case.shape[2:]]), paddle.arange(8) % 4
        losses = []
        for _ in range(200):
            loss = paddle.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.95 * losses[0]
        assert all(
            bool(paddle.isfinite(v).all()) for v in network.state_dict().values() if v.is_floating_point()
        )

    @staticmethod
    def check_switched_on_from_yaml(arch, entry):
        """By its name alone; the network takes a step of training."""
        from paddle_attention.ppcls import bridge

        config = yaml.safe_load(f"""
            Arch:
              name: AttentionNet
              class_num: 5
              backbone: {{name: ResNet18}}
              attention: {{name: {entry.name}, stages: [2]}}
        """)
        network = bridge.build_network(config, "train")
        network.eval()
        keys = set(network.state_dict())
        plain = set(arch.ResNet18(class_num=5).state_dict())
        if entry.replaces_conv:
            assert len(plain - keys) >= 2 * 4  # two normalisations, at least
        else:
            assert plain <= keys
        images = paddle.randn([2, 3, 64, 64])
        assert network(images).shape == [2, 5]
        network.train()
        before = {k: v.numpy() for k, v in network.state_dict().items()}
        optimizer = paddle.optimizer.Momentum(0.1, parameters=network.parameters())
        paddle.nn.functional.cross_entropy(network(images), paddle.to_tensor([0, 1])).backward()
        optimizer.step()
        added = {k: v.numpy() for k, v in network.state_dict().items() if k not in plain}
        assert all(np.isfinite(v).all() for v in added.values())
        assert not added or any(not np.array_equal(v, before[k]) for k, v in added.items())


def _where(**wanted):
    """Only for cases whose attributes of these names are set, or not."""

    def mark(test):
        test.applies = lambda case: all(bool(getattr(case, k)) == v for k, v in wanted.items())
        return test

    return mark


def _once(test):
    """Only for the first case of a mechanism."""
    test.once = True
    return test


class _Tests:
    """The tests of a mechanism; :func:`shared_tests` gives them their cases."""

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

    @needs_converters
    @pytest.mark.slow
    @_once
    def test_onnx_and_openvino(self, case, tmp_path):
        LayerTester.check_converted(case, tmp_path)

    def test_contract(self, case):
        LayerTester.check_contract(case)

    # Not for choices: these are random in training, and their gradient is an estimate.
    @_where(differentiable=True)
    def test_forward_in_training(self, case):
        LayerTester.check_forward(case, training=True)

    @_where(differentiable=True)
    @pytest.mark.parametrize("training", [False, True])
    def test_gradients(self, case, training):
        LayerTester.check_gradients(case, training)

    @_where(maps=True)
    def test_attention_maps(self, case):
        LayerTester.check_attention_maps(case)

    @_where(maps=True)
    def test_statistics(self, case):
        LayerTester.check_statistics(case)

    @_where(start=True)
    def test_start(self, case):
        LayerTester.check_start(case)

    @_once
    @_where(one_size=False)  # else it cannot serve every block
    def test_training_in_a_network(self, case):
        LayerTester.check_training_in_a_network(case)

    @_once
    @pytest.mark.parametrize("training", [True, False])
    def test_inputs_of_a_thousand(self, case, training):
        LayerTester.check_inputs_of_a_thousand(case, training)

    @_once
    def test_two_hundred_steps(self, case):
        LayerTester.check_two_hundred_steps(case)

    @_once
    def test_switched_on_from_yaml(self, case, arch):
        LayerTester.check_switched_on_from_yaml(arch, get_attention(case.name))


def shared_tests(cases, bad_arguments=()):
    """A base class that runs the shared tests for ``cases``.

    Args:
        cases (list of Case): of one mechanism.
        bad_arguments (list): ``(function that raises ValueError, part of the message)``.
    """
    body = {}
    for name, test in vars(_Tests).items():
        if not name.startswith("test_"):
            continue
        chosen = [case for case in cases if getattr(test, "applies", lambda case: True)(case)]
        chosen = chosen[:1] if hasattr(test, "once") else chosen
        if chosen:
            body[name] = pytest.mark.parametrize("case", chosen, ids=str)(_copy(test))
    if bad_arguments:

        @pytest.mark.parametrize(("build", "message"), bad_arguments)
        def test_bad_arguments(self, build, message):
            with pytest.raises(ValueError, match=message):
                build()

        body["test_bad_arguments"] = test_bad_arguments
    return type("Tests", (), body)


def _copy(test):
    """Another function that does the same: marks belong to a function."""

    @functools.wraps(test)
    def call(*args, **kwargs):
        return test(*args, **kwargs)

    call.pytestmark = list(getattr(test, "pytestmark", []))
    return call
