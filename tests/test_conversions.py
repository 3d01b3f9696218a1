"""Attention stays in use through whatever replaces or merges layers, or it is refused there."""

import copy

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.quantization import PTQ, QAT, QuantConfig
from paddle.quantization.imperative import ImperativeQuantAware
from paddle.quantization.imperative.fuse_utils import fuse_layers
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver
from paddle.vision.models import resnet18

from paddle_attention import insert_attention, watch_attention
from paddle_attention.insertion import check_attention


def image(size=32):
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([2, 3, size, size]).astype("float32"))


def runs(model, x=None):
    """How many attention layers were inserted, and how many ran."""
    with watch_attention(model) as seen, paddle.no_grad():
        model(image() if x is None else x)
    return len(seen.expected), len(seen.ran)


def quantised(model):
    quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
    return QAT(QuantConfig(activation=quanter, weight=quanter)).quantize(model)


def calibrated(model):
    from paddle.quantization.observers import AbsmaxObserver

    return PTQ(QuantConfig(activation=AbsmaxObserver(), weight=AbsmaxObserver())).quantize(model.eval())


def quantised_in_place(model):
    ImperativeQuantAware().quantize(model)
    return model


def fused(model):
    pairs = [[f"layer{s}.{b}.conv2", f"layer{s}.{b}.bn2"] for s in (1, 2, 3, 4) for b in (0, 1)]
    return fuse_layers(model.eval(), pairs)


CONVERSIONS = [
    (conversion, at)
    for conversion in (quantised, calibrated, quantised_in_place)
    for at in ("residual", "layer*.*.conv1", "layer*.*.conv2", "identity", "pre", "block")
]
CONVERSIONS += [(fused, at) for at in ("residual", "layer*.*.bn2", "block", "pre")]
CONVERSIONS += [(copy.deepcopy, "identity")]


@pytest.mark.parametrize(("conversion", "at"), CONVERSIONS)
def test_conversions_keep_attention(conversion, at):
    model = resnet18()
    count = len(insert_attention(model, "SE", at=at))
    assert runs(model) == (count, count)
    converted = conversion(model)
    assert runs(converted) == (count, count)
    check_attention(converted, image())


def test_quantised_attention_is_the_attention_that_was_there():
    model = nn.Sequential(nn.Conv2D(3, 16, 3), nn.ReLU())
    insert_attention(model, "SE", at="0")
    bias = model.state_dict()["0.attention.fc2.bias"]
    bias.set_value(np.linspace(-4, 4, 16).astype("float32"))  # every channel its own weight
    converted, x = quantised(model), image()
    with paddle.no_grad():
        for _ in range(50):  # the quanters' moving averages
            converted(x)
        expected, got = model.eval()(x).numpy(), converted.eval()(x).numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_attention_on_the_identity_is_not_doubled_by_quantisation():
    """The hook that hands the branch its raw input moves along with its convolution."""
    model = resnet18()
    insert_attention(model, "SE", at="identity")
    model.train()
    seen = []
    converted = quantised(model)
    block = converted.layer1[0]
    block.register_forward_pre_hook(lambda layer, x: seen.append(x[0]))
    block._forward_pre_hooks.move_to_end(next(reversed(block._forward_pre_hooks)), last=False)
    block.conv1.register_forward_post_hook(lambda layer, x, y: seen.append(x[0]))
    converted(image())
    np.testing.assert_array_equal(seen[0].numpy(), seen[1].numpy())


def test_fusion_keeps_the_numbers_and_refuses_what_stands_between():
    model = resnet18()
    insert_attention(model, "SE")
    x = image()
    with paddle.no_grad():
        expected = model.eval()(x).numpy()
        np.testing.assert_allclose(fused(model)(x).numpy(), expected, atol=1e-4)
    insert_attention(model, "SE", at="layer1.0.conv2")
    with pytest.raises(ValueError, match="Conv2D and BatchNorm2D cannot become one layer, since attention"):
        fused(model)


class Merging(nn.Layer):
    """Two convolutions that become one for deployment, and one that stays."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2D(16, 16, 3, padding=1), nn.Conv2D(16, 16, 1)
        self.last, self.merged = nn.Conv2D(16, 16, 1), None

    def forward(self, x):
        y = self.wide(x) + self.narrow(x) if self.merged is None else self.merged(x)
        return x + self.last(nn.functional.relu(y))

    def re_parameterize(self):
        self.merged = nn.Conv2D(16, 16, 3, padding=1)
        weight = self.wide.weight + nn.functional.pad(self.narrow.weight, [1, 1, 1, 1])
        self.merged.weight.set_value(weight)
        self.merged.bias.set_value(self.wide.bias + self.narrow.bias)


class Network(nn.Layer):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2D(3, 16, 3), nn.Sequential(Merging(), Merging())

    def forward(self, x):
        return self.blocks(self.stem(x))


@pytest.mark.parametrize("at", ["blocks.*.wide", "blocks.1.narrow"])
def test_places_that_are_merged_away_are_refused(at):
    model = Network()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=r"'blocks.\d.\w+' of Network disappears when 'blocks.\d' merges"):
        insert_attention(model, "SE", at=at)
    assert list(model.state_dict()) == keys
    assert all(block.merged is None for block in model.blocks)


@pytest.mark.parametrize("at", ["residual", "block", "blocks.*.last"])
def test_places_that_stay_are_not_refused(at):
    model = Network()
    insert_attention(model, {"name": "SE", "reduction": 4}, at=at)
    x = image()
    expected = model.eval()(x).numpy()
    for block in model.blocks:
        block.re_parameterize()
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert runs(model) == (2, 2)


def test_merging_that_cannot_be_tried_refuses_all_inside():
    class Broken(Merging):
        def re_parameterize(self):
            raise RuntimeError("not without a GPU")

    model = nn.Sequential(nn.Conv2D(3, 16, 3), Broken())
    with pytest.raises(ValueError, match=r"'1\.last' of Sequential disappears"):
        insert_attention(model, "SE", at="1.last")
    insert_attention(model, "SE", at="1")


def test_re_parameterised_backbones(arch):
    """At PaddleClas' export the class of 3 of 8 images changed, in silence."""
    model = arch.RepVGG_A0(class_num=10)
    with pytest.raises(ValueError, match=r"'stage1.0.rbr_dense' of RepVGG disappears when 'stage1.0' merges"):
        insert_attention(model, "SE", at="stage*.*.rbr_dense")
    assert len(insert_attention(model, "SE")) == 22
    x = image(64)
    expected = model.eval()(x).numpy()
    for layer in model.sublayers():
        if hasattr(layer, "re_parameterize"):
            layer.re_parameterize()
    assert runs(model, x) == (22, 22)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_lost_attention_is_told():
    """Whatever replaces a layer: the guard names what no longer runs."""
    model = resnet18()
    insert_attention(model, "SE")
    check_attention(model)
    model.layer1[0].bn2 = nn.BatchNorm2D(64)
    model.layer4[1] = nn.Conv2D(512, 512, 1)
    assert runs(model) == (8, 6)
    with pytest.raises(
        ValueError, match=r"2 of 8 attention layers of ResNet do not run: layer1.0.bn2.attention, "
    ):
        check_attention(model)


def test_the_guard_sees_parts_and_wrappers():
    class Whole(nn.Layer):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def forward(self, x):
            return self.backbone(x)

    part = resnet18()
    insert_attention(part, ["SE", {"name": "SKConv", "stages": 1}])
    assert runs(paddle.DataParallel(part)) == (10, 10)
    whole = copy.deepcopy(Whole(part))
    assert runs(whole) == (10, 10)
    whole.backbone.layer1[0].conv1 = nn.Conv2D(64, 64, 3, padding=1)
    with watch_attention(whole) as seen:
        whole(image())
    assert seen.silent == ("backbone.layer1.0.conv1",)
    assert runs(part) == (10, 10)
