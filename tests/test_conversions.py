"""Attention stays in use through whatever replaces or merges layers, or it is refused there."""

import copy
import pickle

import numpy as np
import paddle
import pytest
from modes import evaluating, training
from paddle import nn
from paddle.quantization import PTQ, QAT, ImperativePTQ, QuantConfig
from paddle.quantization.imperative import ImperativeQuantAware
from paddle.quantization.imperative.fuse_utils import fuse_layers
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver
from paddle.vision.models import resnet18

from paddle_attention import attention_disabled, insert_attention, remove_attention, watch_attention
from paddle_attention.deploy import ExportError, export_inference_model
from paddle_attention.engine import Engine
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

    return PTQ(QuantConfig(activation=AbsmaxObserver(), weight=AbsmaxObserver())).quantize(evaluating(model))


def quantised_in_place(model):
    ImperativeQuantAware().quantize(model)
    return model


def calibrated_in_place(model):
    return ImperativePTQ().quantize(evaluating(model), inplace=True)


def fused(model):
    pairs = [[f"layer{s}.{b}.conv2", f"layer{s}.{b}.bn2"] for s in (1, 2, 3, 4) for b in (0, 1)]
    return fuse_layers(evaluating(model), pairs)


CONVERSIONS = [
    (conversion, at)
    for conversion in (quantised, calibrated, quantised_in_place, calibrated_in_place)
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
        expected, got = evaluating(model)(x).numpy(), evaluating(converted)(x).numpy()
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
        expected = evaluating(model)(x).numpy()
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
    expected = evaluating(model)(x).numpy()
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
    expected = evaluating(model)(x).numpy()
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


def test_fusion_keeps_two_attentions_apart():
    """One before the convolution, one after the normalisation: both are called 'attention' where they are."""
    model = resnet18()
    insert_attention(model, {"name": "SE", "at": "layer1.0.conv2", "before": True})
    insert_attention(model, {"name": "SE", "reduction": 4, "at": "layer1.0.bn2"})
    for key, value in model.state_dict().items():
        if key.endswith("attention.fc2.bias"):
            value.set_value(np.random.RandomState(len(key)).standard_normal(value.shape).astype("float32"))
    x = image()
    with paddle.no_grad():
        expected = evaluating(model)(x).numpy()
        merged = fuse_layers(model, [["layer1.0.conv2", "layer1.0.bn2"]])
        np.testing.assert_allclose(merged(x).numpy(), expected, atol=1e-4)
    assert runs(merged) == (2, 2)


def test_quantisation_keeps_the_names():
    """Of two attentions on one convolution, the second before it: weights saved before load after."""
    model = resnet18()
    insert_attention(model, {"name": "SE", "at": "layer1.0.conv2"})
    insert_attention(model, {"name": "SE", "reduction": 4, "at": "layer1.0.conv2", "before": True})
    shapes = {key: value.shape for key, value in model.state_dict().items() if "attention" in key}
    assert any("attention2" in key for key in shapes)
    model.train()
    # Paddle 2 also wraps the layers in the attention.
    converted = {key.replace("._observed", ""): v for key, v in quantised(model).state_dict().items()}
    assert {key: value.shape for key, value in converted.items() if key in shapes} == shapes


@pytest.mark.parametrize("method", ["switch_to_deploy", "merge_bn", "convert_to_deploy", "fuse"])
def test_merging_that_keeps_the_name_is_seen(method):
    """The new layer of the old name has not the attention of the old one."""

    class Fusing(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2D(16, 16, 3, padding=1), nn.BatchNorm2D(16)

        def forward(self, x):
            return self.bn(self.conv(x))

        def merge(self):
            self.conv, self.bn = nn.Conv2D(16, 16, 3, padding=1), nn.Identity()

    setattr(Fusing, method, Fusing.merge)
    model = nn.Sequential(nn.Conv2D(3, 16, 3), Fusing())
    for at in ("1.conv", "1.bn"):
        with pytest.raises(ValueError, match=rf"{at}' of Sequential disappears when '1' merges .*{method}"):
            insert_attention(model, "SE", at=at)


def test_a_harmless_fuse_of_a_network_of_dicts():
    class Harmless(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 16, 3)

        def forward(self, inputs):
            return self.conv(inputs["image"])

        def fuse(self):
            pass

    assert insert_attention(Harmless(), "SE", at="conv", inputs={"image": paddle.randn([1, 3, 16, 16])})


def test_conversions_in_the_process_that_reads_a_pickle():
    """Nothing is inserted there, which is when Paddle's conversions are wrapped."""
    from paddle_attention.insertion import conversions, hooks

    hook = hooks.ApplyAttention("attention")
    called = []
    original = conversions.keep_through_conversions
    conversions.keep_through_conversions = lambda: called.append(True)
    try:
        read = pickle.loads(pickle.dumps(hook))
    finally:
        conversions.keep_through_conversions = original
    assert called
    assert read.name == "attention"


def test_static_networks_are_told():
    model = resnet18()
    model.layer1 = paddle.jit.to_static(model.layer1, full_graph=True)
    with pytest.raises(
        ValueError, match=r"'layer1' was converted by paddle.jit.to_static, and its layers cannot be seen"
    ):
        insert_attention(model, "SE")
    model = resnet18()
    insert_attention(model, "SE")
    model = paddle.jit.to_static(model, full_graph=True)
    check_attention(model, image())  # its program has it
    for function in (remove_attention, lambda m: attention_disabled(m).__enter__()):
        with pytest.raises(
            ValueError, match=r"'the network' was converted by paddle.jit.to_static|the network was"
        ):
            function(model)


def test_a_tuple_in_training_only_is_told():
    class Auxiliary(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(16, 16, 3, padding=1)

        def forward(self, x):
            y = x + self.conv(x)
            return (y, y) if self.training else y

    model = nn.Sequential(nn.Conv2D(3, 16, 3), Auxiliary())
    insert_attention(model, "SE", at="1")
    with pytest.raises(
        ValueError, match=r"attention '1.attention' needs one feature map .* holds a tuple here"
    ):
        training(model)(image())


def test_the_export_and_the_engine_ask(tmp_path):
    """A network that has lost attention is neither exported nor trained."""
    model = resnet18(num_classes=10)
    insert_attention(model, "SE")
    model.layer1[0].bn2 = nn.BatchNorm2D(64)
    with pytest.raises(
        ExportError, match=r"1 of 8 attention layers of ResNet do not run: .*; nothing was written"
    ):
        export_inference_model(model, str(tmp_path), [3, 32, 32], report=lambda line: None)
    assert not list(tmp_path.iterdir())
    config = {
        "Global": {"epochs": 1, "device": "cpu", "output_dir": str(tmp_path)},
        "Arch": {"name": "Any"},
        "Loss": {"Train": [{"CELoss": None}]},
        "Optimizer": {"name": "SGD", "lr": {"name": "ConstLR", "learning_rate": 0.1}},
        "DataLoader": {"Train": {}},
    }
    with pytest.raises(ValueError, match="1 of 8 attention layers of ResNet do not run"):
        Engine(config, lambda *_: model, "train")
