import copy
import gc
import inspect

import numpy as np
import paddle
import pytest
from modes import evaluating
from paddle import nn
from paddle.vision.models import mobilenet_v2, resnet18, resnet50, vgg11

from paddle_attention import SEBlock, describe_blocks, insert_attention, list_attentions, register_attention
from paddle_attention.deploy import InferencePredictor
from paddle_attention.insertion import attention_prefixes
from paddle_attention.registry import core


def attentions(model):
    """Dotted names of the inserted layers."""
    return [n for n, _ in model.named_sublayers() if n.rpartition(".")[2].startswith("attention")]


def image(n=2, size=64):
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([n, 3, size, size]).astype("float32"))


# model, blocks per stage, the first block's branch end, the last block and its channels
STRUCTURES = [
    (resnet18, [2, 2, 2, 2], "layer1.0.bn2", "layer4.1", 512),
    (resnet50, [3, 4, 6, 3], "layer1.0.bn3", "layer4.2", 2048),
    ("ResNet18", [2, 2, 2, 2], "blocks.0.conv1", "blocks.7", 512),
    ("ResNet34", [3, 4, 6, 3], "blocks.0.conv1", "blocks.15", 512),
    ("ResNet50", [3, 4, 6, 3], "blocks.0.conv2", "blocks.15", 2048),
    ("ResNet50_vd", [3, 4, 6, 3], "blocks.0.conv2", "blocks.15", 2048),
    ("Res2Net50_26w_4s", [3, 4, 6, 3], "bb_0_0.conv2", "bb_3_2", 2048),
    ("MobileNetV3_small_x1_0", [1, 2, 5, 3], "blocks.0", "blocks.10", 96),
]


@pytest.mark.parametrize(("model", "stages", "branch_end", "last", "channels"), STRUCTURES)
def test_structure_is_found(arch, model, stages, branch_end, last, channels):
    model = getattr(arch, model)() if isinstance(model, str) else model()
    blocks = describe_blocks(model)
    assert [sum(b.stage == s + 1 for b in blocks) for s in range(len(stages))] == stages
    assert blocks[0].branch_end == branch_end
    assert (blocks[-1].name, blocks[-1].channels) == (last, channels)


def test_dilated_stages(arch):
    """An output stride of 8 keeps the resolution of the last stages; they are told by their channels."""
    blocks = describe_blocks(arch.ResNet50(stride_list=[2, 2, 2, 1, 1]))
    assert [sum(b.stage == s for b in blocks) for s in (1, 2, 3, 4)] == [3, 4, 6, 3]


# at and selectors, the layers that must get attention in resnet18
PLACEMENTS = [
    ({"at": "residual"}, [f"layer{s}.{b}.bn2" for s in (1, 2, 3, 4) for b in (0, 1)]),
    ({"at": "block"}, [f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)]),
    ({"at": "stage"}, [f"layer{s}.1" for s in (1, 2, 3, 4)]),
    ({"at": "stage", "stages": [1, 3]}, ["layer1.1", "layer3.1"]),
    ({"at": "residual", "stages": 4}, ["layer4.0.bn2", "layer4.1.bn2"]),
    ({"stages": -1}, ["layer4.0.bn2", "layer4.1.bn2"]),
    ({"at": "stage", "stages": [1, -2]}, ["layer1.1", "layer3.1"]),
    ({"at": "residual", "blocks": [-1]}, [f"layer{s}.1.bn2" for s in (1, 2, 3, 4)]),
    ({"at": "block", "stages": [2, 3], "blocks": 1}, ["layer2.0", "layer3.0"]),
    ({"at": "layer?.*.conv1"}, [f"layer{s}.{b}.conv1" for s in (1, 2, 3, 4) for b in (0, 1)]),
    ({"at": "layer1[0].conv1"}, ["layer1.0.conv1"]),
    ({"at": "layer*.*.bn1", "stages": [2]}, ["layer2.0.bn1", "layer2.1.bn1"]),
    ({"at": "maxpool"}, ["maxpool"]),
]


@pytest.mark.parametrize(("where", "expected"), PLACEMENTS, ids=[str(p[0]) for p in PLACEMENTS])
def test_placements(where, expected):
    model = resnet18()
    done = insert_attention(model, {"name": "SE", "reduction": 4}, **where)
    assert [i.layer for i in done] == expected
    assert attentions(model) == [f"{name}.attention" for name in expected]
    assert [i.key for i in done] == attentions(model)
    layers = dict(model.named_sublayers())
    assert all(layers[i.key].channels == i.channels for i in done)


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_residual_is_before_the_addition(build):
    """y = relu(SE(branch(x)) + shortcut(x)), computed by hand for one block of either kind."""
    model = build()
    insert_attention(model, "SE")
    model.eval()
    block = model.layer2[0]
    end = block.bn3 if build is resnet50 else block.bn2
    x = paddle.randn([2, 256 if build is resnet50 else 64, 8, 8])
    attention = end._sub_layers["attention"]
    if build is resnet50:
        branch = block.bn3.forward(
            block.conv3(block.relu(block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))))
        )
    else:
        branch = block.bn2.forward(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    expected = nn.functional.relu(attention(branch) + block.downsample(x))
    np.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_order_of_a_chain():
    """Several attentions at one place act in the order written, over one call or two."""
    first, second = {"name": "SE", "reduction": 4}, {"name": "SpatialAttention", "kernel_size": 3}
    together, apart = resnet18(), resnet18()
    insert_attention(together, [first, second], at="stage", stages=2)
    apart.set_state_dict(together.state_dict())
    insert_attention(apart, first, at="stage", stages=2)
    insert_attention(apart, second, at="stage", stages=2)
    assert attentions(together) == ["layer2.1.attention", "layer2.1.attention2"]
    apart.set_state_dict(together.state_dict())
    evaluating(together), apart.eval()
    x = image()
    assert np.array_equal(together(x).numpy(), apart(x).numpy())
    block = together.layer2[1]
    x = paddle.randn([1, 128, 8, 8])
    expected = block.attention2(block.attention(type(block).forward(block, x)))
    assert np.array_equal(block(x).numpy(), expected.numpy())


def test_backbone_keys_are_unchanged():
    plain, model = resnet18(), resnet18()
    insert_attention(model, [{"name": "SE"}, {"name": "CBAM", "at": "stage"}])
    keys = list(model.state_dict())
    assert [k for k in keys if "attention" not in k] == list(plain.state_dict())
    missing, unexpected = model.set_state_dict(plain.state_dict())
    assert unexpected == []
    assert missing
    assert all("attention" in k for k in missing)


def test_the_trial_run_leaves_no_trace():
    model = resnet18()
    model.train()
    model.layer1.eval()
    before = {k: v.numpy() for k, v in model.state_dict().items()}
    modes = [layer.training for layer in model.sublayers(include_self=True)]
    random = paddle.get_rng_state()[0].current_seed()
    describe_blocks(model)
    assert [layer.training for layer in model.sublayers(include_self=True)] == modes
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert paddle.get_rng_state()[0].current_seed() == random
    hooks = [len(x._forward_pre_hooks) + len(x._forward_post_hooks) for x in model.sublayers()]
    assert sum(hooks) == 0
    insert_attention(model, "SE")
    assert not model.layer1[0].bn2.attention.training
    assert model.layer2[0].bn2.attention.fc1.training


def test_deepcopy_is_independent():
    model = resnet18()
    insert_attention(model, {"name": "CBAM", "reduction": 4})
    model.eval()
    clone = copy.deepcopy(model)
    x = image()
    expected = model(x).numpy()
    assert np.array_equal(clone(x).numpy(), expected)
    for layer in clone.sublayers():
        if isinstance(layer, nn.Conv2D):
            layer.weight.set_value(paddle.zeros_like(layer.weight))
    assert not np.allclose(clone(x).numpy(), expected)
    assert np.array_equal(model(x).numpy(), expected)


def test_data_parallel_and_flops():
    model = resnet18(num_classes=10)
    plain = paddle.flops(model, [1, 3, 64, 64])
    insert_attention(model, "SE")
    model.eval()
    x = image()
    expected = model(x).numpy()
    assert np.array_equal(paddle.DataParallel(model)(x).numpy(), expected)
    more = paddle.flops(model, [1, 3, 64, 64]) - plain
    assert 0 < more < 0.05 * plain


@pytest.mark.parametrize("attention", ["SE", "CBAM"])
def test_export(attention, tmp_path):
    """to_static and Paddle Inference, with dynamic batch and size."""
    model = resnet18(num_classes=10)
    insert_attention(model, attention)
    model.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
    static = paddle.jit.to_static(copy.deepcopy(model), input_spec=[spec])
    x = image()
    expected = model(x).numpy()
    np.testing.assert_allclose(static(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    paddle.jit.save(static, str(tmp_path / "inference"))
    for onednn in (True, False):
        predictor = InferencePredictor(str(tmp_path), onednn=onednn)
        for x in (image(), image(3, 96)):
            np.testing.assert_allclose(predictor(x.numpy()), model(x).numpy(), rtol=1e-3, atol=1e-4)


def test_theseus_features(arch):
    """PaddleClas' ways of taking a network apart work with attention inside its blocks."""
    x = image()

    def build(**kwargs):
        model = arch.ResNet18(class_num=10, **kwargs)
        insert_attention(model, "SE")
        model.eval()
        return model

    model = build(return_patterns=["blocks[1]", "blocks[7]"])
    model(x)
    out = model(x)
    assert sorted(out) == ["blocks[1]", "blocks[7]", "logits"]
    state = model.state_dict()

    plain = build()
    plain.set_state_dict(state)
    assert np.array_equal(plain(x).numpy(), out["logits"].numpy())

    assert plain.stop_after("blocks[1]") is True
    stopped = plain(x)
    assert stopped.shape == [2, 64, 16, 16]
    assert np.array_equal(stopped.numpy(), out["blocks[1]"].numpy())

    seen = []
    upgraded = build()
    upgraded.set_state_dict(state)

    def wrap(layer, pattern):
        seen.append(pattern)
        return nn.Sequential(layer)

    assert upgraded.upgrade_sublayer("blocks[2].conv1", wrap) == ["blocks[2].conv1"]
    assert np.array_equal(upgraded(x).numpy(), out["logits"].numpy())

    block_end = arch.ResNet18(class_num=10, return_patterns=["blocks[1]"])
    insert_attention(block_end, {"name": "SE", "at": "block"})
    block_end.eval()
    features = block_end(x)["blocks[1]"]
    layers = block_end.blocks
    by_hand = layers[1](layers[0](block_end.max_pool(block_end.stem(x))))
    assert np.array_equal(features.numpy(), by_hand.numpy())


def test_shortcutless_blocks_and_other_networks():
    """Blocks of a residual class without an addition end at their output (stride 2 in MobileNetV2)."""
    model = mobilenet_v2(num_classes=10)
    blocks = describe_blocks(model)
    assert len(blocks) == 17
    ends = {b.name: b.branch_end for b in blocks}
    assert any(name == end for name, end in ends.items())
    assert any(name != end for name, end in ends.items())
    insert_attention(model, {"name": "SE", "reduction": 4})
    model.train()
    model(image()).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "attention" in n)


class TwoInputsDeep(nn.Layer):
    """Adds its two inputs: not a residual block, neither operand is deeper."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3)
        self.other = nn.Conv2D(3, 4, 3)

    def forward(self, x):
        return self.conv(x) + self.other(x)


class Wrapped(nn.Layer):
    """A residual block whose branch is scaled and whose addition is in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.block = Inner()

    def forward(self, x):
        return self.block(self.stem(x))


class Inner(nn.Layer):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm2D(8))

    def forward(self, x):
        y = self.branch(x) * 0.5
        y += x
        return nn.functional.relu(y)


class Scaled(nn.Layer):
    """Layer scale: the branch's output is multiplied by a parameter that comes first."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 3, padding=1)
        self.gamma = self.create_parameter([1, 3, 1, 1])

    def forward(self, x):
        return x + self.gamma * self.conv(x)


class Transposed(nn.Layer):
    """The branch ends in NHWC: no layer returns what is added."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2D(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x):
        return x + self.fc(self.conv(x).transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


def test_sync_batch_norm():
    """Conversion replaces the layers that hold the attention, and must keep it in use."""
    model = resnet18()
    insert_attention(model, "SE")
    keys = set(model.state_dict())
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert set(model.state_dict()) == keys
    norm = model.layer1[0].bn2
    assert isinstance(norm, nn.SyncBatchNorm)
    calls = []
    norm.attention.register_forward_pre_hook(lambda layer, x: calls.append(layer))
    (hook,) = norm._forward_post_hooks.values()
    hook(norm, None, paddle.ones([1, 64, 4, 4]))
    assert calls == [norm.attention]
    insert_attention(resnet18(), "SE")  # patched once, not over and over
    assert nn.SyncBatchNorm.convert_sync_batchnorm.__func__.__code__.co_name == "convert_and_keep"


def test_unusual_additions():
    assert [block.branch_end for block in describe_blocks(TwoInputsDeep())] == [
        None,
        None,
    ]  # just convolutions
    blocks = describe_blocks(Wrapped())
    assert [(b.name, b.branch_end) for b in blocks] == [("block", "block.branch")]
    blocks = describe_blocks(nn.Sequential(Scaled(), Scaled()))
    assert [(b.name, b.branch_end) for b in blocks] == [("0", "0.conv"), ("1", "1.conv")]
    blocks = describe_blocks(nn.Sequential(Transposed(), Transposed()))
    assert [(b.name, b.branch_end) for b in blocks] == [("0", None), ("1", None)]


def test_unclear_branches_are_not_guessed(workspace):
    """A downsampling block of as many calls on either side, among others that are clear."""

    class Unclear(nn.Layer):
        def __init__(self, down):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2D(3, 3, 3, padding=1), nn.BatchNorm2D(3))
            self.short = nn.Sequential(nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3)) if down else None

        def forward(self, x):
            return self.branch(x) + (x if self.short is None else self.short(x))

    model = nn.Sequential(Unclear(True), Unclear(False))
    assert [b.branch_end for b in describe_blocks(model)] == [None, "1.branch"]
    with pytest.raises(ValueError, match="block '0' of Sequential adds something"):
        insert_attention(model, {"name": "SE", "reduction": 1}, at="residual")
    assert attentions(model) == []
    assert [i.layer for i in insert_attention(model, {"name": "SE", "reduction": 1})] == ["0", "1"]
    # A downsampling shortcut of three layers; in a process of its own, as its parameters have fixed names.
    code = (
        "import paddle_attention.ppcls as bridge; from paddle_attention import describe_blocks; bridge.register(); bridge.init_logger();"
        "import ppcls.arch; model = ppcls.arch.ResNeSt50_fast_1s1x64d();"
        "print({b.branch_end.rpartition('.')[2] for b in describe_blocks(model)})"
    )
    assert workspace.run("-c", code).stdout.splitlines()[-1] == "{'conv3'}"


def test_a_branch_end_that_cannot_be_used_leaves_the_block():
    """As in LeViT: the layer that ends the branch unpacks its own sublayers."""

    class Unpacking(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2D(3, 3, 3, padding=1), nn.BatchNorm2D(3)

        def forward(self, x):
            conv, bn = self._sub_layers.values()
            return bn(conv(x))

    class Block(nn.Layer):
        def __init__(self):
            super().__init__()
            self.branch = Unpacking()

        def forward(self, x):
            return x + self.branch(x)

    model = nn.Sequential(Block(), Block())
    assert [i.layer for i in insert_attention(model, {"name": "SE", "reduction": 1})] == ["0", "1"]
    with pytest.raises(ValueError, match=r"'0\.branch' of Sequential runs no longer"):
        insert_attention(nn.Sequential(Block(), Block()), {"name": "SE", "reduction": 1}, at="residual")


def test_a_shared_first_convolution_is_replaced_for_both_blocks():
    """Not the next one of the second block, in silence."""

    class Block(nn.Layer):
        def __init__(self, first):
            super().__init__()
            self.first, self.second = first, nn.Conv2D(8, 8, 3, padding=1)

        def forward(self, x):
            return x + self.second(self.first(x))

    shared = nn.Conv2D(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2D(3, 8, 3), Block(shared), Block(shared))
    done = insert_attention(model, {"name": "SKConv", "groups": 1})
    assert [insertion.layer for insertion in done] == ["1.first"]
    assert model[1].first is model[2].first
    assert type(model[1].first).__name__ == "SKConv"
    assert type(model[2].second) is nn.Conv2D


class Plain(nn.Layer):
    """A residual block; ``cut`` stops its gradients, as a frozen stage does."""

    def __init__(self, cut=False, twice=False):
        super().__init__()
        self.conv, self.act, self.cut, self.twice = nn.Conv2D(3, 3, 3, padding=1), nn.ReLU(), cut, twice

    def forward(self, x):
        y = self.act(self.conv(self.act(self.conv(x)))) if self.twice else self.conv(x)
        return (x + y).detach() if self.cut else x + y


def test_parts_without_gradients_are_told():
    """What is added there cannot be seen: not put silently after the addition."""
    spec = {"name": "SE", "reduction": 1}
    for model in (
        nn.Sequential(Plain(), Plain(cut=True), Plain(), Plain()),
        nn.Sequential(Plain(), Plain(cut=True)),
    ):
        for at in (None, "residual"):
            with pytest.raises(ValueError, match=r"of Sequential runs without gradients .* use at='block'"):
                insert_attention(model, spec, at=at)
    assert insert_attention(nn.Sequential(Plain(), Plain(cut=True)), spec, at="*.conv")
    integers = paddle.ones([1, 3, 8, 8], "uint8")

    class Casting(nn.Sequential):
        def forward(self, x):
            return super().forward(x.astype("float32"))

    with pytest.raises(ValueError, match="'the network' of Casting runs without gradients"):
        insert_attention(Casting(Plain(), Plain()), spec, inputs=integers)


def test_layers_that_run_twice_in_a_block_are_no_place():
    """Attention would run in the middle of the branch, too."""
    spec = {"name": "SE", "reduction": 1}
    with pytest.raises(ValueError, match=r"layer '0.act' of Sequential runs 2 times in block '0'"):
        insert_attention(nn.Sequential(Plain(twice=True), Plain(twice=True)), spec, at="residual")
    done = insert_attention(nn.Sequential(Plain(twice=True), Plain(twice=True)), spec)
    assert [insertion.layer for insertion in done] == ["0", "1"]


def test_statistics_are_not_touched_by_trials():
    """trainable_statistics changes them in evaluation mode as well."""
    model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm(4, trainable_statistics=True))
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    insert_attention(model, {"name": "SE", "reduction": 1}, at="1")
    for key, value in before.items():
        np.testing.assert_array_equal(model.state_dict()[key].numpy(), value)


class Adding(nn.Layer):
    """A residual block whose addition is a layer, as in PaddleSeg."""

    class Add(nn.Layer):
        def forward(self, x, y):
            return paddle.add(x, y)

    def __init__(self):
        super().__init__()
        self.conv, self.add = nn.Conv2D(3, 3, 3, padding=1), self.Add()

    def forward(self, x):
        return nn.functional.relu(self.add(self.conv(x), x))


class AddsBy(nn.Layer):
    """A residual block that adds by a function, in a network that calls it with a keyword."""

    def __init__(self, add, by_keyword):
        super().__init__()
        self.by_keyword = by_keyword
        self.block = self.Block(add)

    class Block(nn.Layer):
        def __init__(self, add):
            super().__init__()
            self.conv, self.add = nn.Conv2D(3, 3, 3, padding=1), add

        def forward(self, x):
            return nn.functional.relu(self.add(self.conv(x), x))

    def forward(self, x):
        return self.block(x=x) if self.by_keyword else self.block(x)


def needs_hooks_with_keywords():
    if "with_kwargs" not in inspect.signature(nn.Layer.register_forward_pre_hook).parameters:
        pytest.skip("hooks of Paddle 2 see no keyword arguments")


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("name", ["add", "add by keywords", "in place", "add_n"])
def test_additions_and_calls_of_all_kinds(name, by_keyword):
    if by_keyword:
        needs_hooks_with_keywords()
    add = {
        "add": lambda y, x: y + x,
        "add by keywords": lambda y, x: paddle.add(x=y, y=x),
        "in place": lambda y, x: y.add_(x),
        "add_n": lambda y, x: paddle.add_n([y, x]),
    }[name]
    (block,) = describe_blocks(AddsBy(add, by_keyword))
    assert (block.name, block.branch_end, block.shortcut) == ("block", "block.conv", "")


def test_before_a_layer_that_is_called_with_keywords_alone():
    needs_hooks_with_keywords()
    model = AddsBy(lambda y, x: y + x, by_keyword=True)
    with pytest.raises(
        ValueError, match=r"'block' .* \(.*needs the first argument of its layer, which is called with"
    ):
        insert_attention(model, {"name": "SE", "reduction": 1}, at="identity")


def test_additions_made_by_a_layer_are_seen():
    blocks = describe_blocks(nn.Sequential(Adding(), Adding()))
    assert [(b.name, b.branch_end, b.shortcut) for b in blocks] == [("0", "0.conv", ""), ("1", "1.conv", "")]
    for at, layers in (
        ("residual", ["0.conv", "1.conv"]),
        ("identity", ["0", "1"]),
        ("pre", ["0.conv", "1.conv"]),
    ):
        model = nn.Sequential(Adding(), Adding())
        assert [i.layer for i in insert_attention(model, {"name": "SE", "reduction": 1}, at=at)] == layers


class TakesDict(nn.Layer):
    """As PaddleDetection's backbones."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2D(3, 16, 3, stride=2), nn.Sequential(nn.Conv2D(16, 16, 3, padding=1))

    def forward(self, inputs, scale=1.0):
        x = self.stem(inputs["image"])
        return [x, x + self.body(x) * scale]


@pytest.mark.parametrize("several", [False, True])
def test_inputs_of_ones_own(several):
    image = {"image": paddle.randn([2, 3, 32, 32]), "shape": paddle.to_tensor([[32, 32]])}
    inputs = (image, paddle.to_tensor([0.5])) if several else image
    model = TakesDict()
    with pytest.raises(ValueError, match=r"does not run on a trial image; give input_shape=.*, or inputs="):
        insert_attention(model, "SE")
    assert [i.layer for i in insert_attention(model, "SE", at="body.0", inputs=inputs)] == ["body.0"]
    with pytest.raises(ValueError, match="give either input_shape or inputs"):
        insert_attention(model, "SE", inputs=inputs, input_shape=[3, 32, 32])
    assert describe_blocks(TakesDict(), inputs=inputs)
    assert image["image"].stop_gradient


# PaddleClas network, blocks of each stage, the first and the last
UNITS = [
    ("MobileNetV1_x0_25", [1, 2, 2, 6, 2], "blocks.0", "blocks.12"),
    ("VGG11", [1, 1, 1, 1, 1], "conv_block_1", "conv_block_5"),
    ("PPLCNet_x0_25", [1, 2, 2, 6, 2], "blocks2.0", "blocks6.1"),
    ("DenseNet121", [1, 1, 1, 1], "db_conv_2", "db_conv_5"),
    ("InceptionV3", [3, 5, 3], "inception_block_list.0", "inception_block_list.10"),
    ("ShuffleNetV2_x0_25", [4, 8, 4], "2_1", "4_4"),
    ("RepVGG_A0", [1, 2, 4, 14, 1], "stage0", "stage4.0"),
]


@pytest.mark.parametrize(("name", "stages", "first", "last"), UNITS)
def test_networks_without_residual_blocks_have_units(arch, name, stages, first, last):
    with paddle.utils.unique_name.guard():
        model = getattr(arch, name)()
    blocks = describe_blocks(model)
    assert [sum(b.stage == s + 1 for b in blocks) for s in range(len(stages))] == stages
    assert (blocks[0].name, blocks[-1].name) == (first, last)
    done = insert_attention(model, {"name": "SE", "min_hidden": 2})
    assert len(done) == len(blocks)
    assert len(insert_attention(model, {"name": "SE", "min_hidden": 2}, at="stage", stages=[1, -1])) == 2
    assert evaluating(model)(image(1, 224 if "VGG" in name else 64)).shape[-1] == 1000


def test_a_network_without_classes_has_its_convolutions():
    assert [i.layer for i in insert_attention(vgg11(), "SE", stages=[-1])] == ["features.16", "features.18"]
    done = insert_attention(vgg11(), {"name": "SKConv", "groups": 1, "stages": 2})
    assert [i.layer for i in done] == ["features.3"]


class Nhwc(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, data_format="NHWC")

    def forward(self, x):
        return self.conv(x.transpose([0, 2, 3, 1]))


class Fussy(nn.Layer):
    def forward(self, x):
        raise RuntimeError("only squares of 17")


def test_replacing_convolutions(tmp_path):
    """SKConv takes the place of a convolution, with its channels and stride, in the chosen blocks."""
    model = resnet18(num_classes=3)
    model.eval()
    before = {k: v.numpy() for k, v in model.state_dict().items()}
    done = insert_attention(model, [{"name": "SKConv", "stages": [2, 4], "groups": 1}, "SE"])
    replaced = [i for i in done if i.attention == "SKConv"]
    names = ["layer2.0.conv1", "layer2.1.conv1", "layer4.0.conv1", "layer4.1.conv1"]
    assert [i.layer for i in replaced] == [i.key for i in replaced] == names
    assert [i.channels for i in replaced] == [64, 128, 256, 512]
    assert len(done) == 4 + 8
    layers = dict(model.named_sublayers())
    assert layers["layer2.0.conv1"].branches[0].conv._stride == [2, 2]
    assert layers["layer4.1.conv1"].out_channels == 512
    assert not layers["layer2.0.conv1"].training
    after = {k: v.numpy() for k, v in model.state_dict().items()}
    assert set(before) - set(after) == {f"{name}.weight" for name in names}
    assert all(np.array_equal(after[k], v) for k, v in before.items() if k in after)
    x = paddle.randn([2, 3, 64, 64])
    expected = model(x)
    assert np.array_equal(copy.deepcopy(model)(x).numpy(), expected.numpy())
    # The attention put on a layer before stays on what replaces it.
    insert_attention(model, {"name": "SE", "at": "layer1.0.conv1"})
    insert_attention(model, {"name": "SKConv", "at": "layer1.0.conv1", "groups": 1})
    assert "layer1.0.conv1.attention.fc1.weight" in model.state_dict()
    assert model(x).shape == [2, 3]


def test_replacing_a_layer_of_convolution_and_normalisation(arch):
    """In PaddleClas one layer holds a convolution and what belongs to it; the whole is replaced."""
    model = arch.ResNet50()
    done = insert_attention(model, "SplitAttention", stages=1)
    assert [i.layer for i in done] == [f"blocks.{i}.conv1" for i in range(3)]
    assert model(paddle.randn([1, 3, 64, 64])).shape == [1, 1000]


class Listed(nn.Layer):
    """A block that calls a layer it keeps in a plain list, as older PaddleClas networks do."""

    def __init__(self, body=None):
        super().__init__()
        self.units = [self.add_sublayer("unit", body or nn.Conv2D(8, 8, 3, padding=1))]
        self.last = nn.Conv2D(8, 8, 1)

    def forward(self, x):
        for unit in self.units:
            x = x + self.last(unit(x))
        return x


SK = {"name": "SKConv", "groups": 1}


def test_replacing_what_a_list_holds():
    model = nn.Sequential(Listed())
    assert [i.layer for i in insert_attention(model, SK, input_shape=[8, 16, 16])] == ["0.unit"]
    assert type(model[0].units[0]).__name__ == "SKConv"
    assert model(paddle.randn([1, 8, 9, 9])).shape == [1, 8, 9, 9]
    with pytest.raises(ValueError, match="block '0' of Sequential already has SKConv"):
        insert_attention(model, SK, input_shape=[8, 16, 16])


def test_only_the_convolution_is_replaced_where_a_layer_holds_more():
    body = nn.Sequential(
        nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU()), nn.Dropout()
    )
    assert [i.layer for i in insert_attention(nn.Sequential(Listed(body)), SK, input_shape=[8, 16, 16])] == [
        "0.unit.0"
    ]
    body = nn.Sequential(nn.MaxPool2D(3, stride=1, padding=1), nn.Conv2D(8, 8, 3, padding=1))
    assert [i.layer for i in insert_attention(nn.Sequential(Listed(body)), SK, input_shape=[8, 16, 16])] == [
        "0.unit.1"
    ]


def test_what_does_not_fit_is_not_replaced():
    """A convolution without padding, found out by running the network; everything is as before."""
    model = nn.Sequential(Listed(nn.Sequential(nn.Pad2D(1), nn.Conv2D(8, 8, 3))))
    keys, before = list(model.state_dict()), model(paddle.ones([1, 8, 7, 7])).numpy()
    with pytest.raises(
        ValueError, match=r"at='conv': 0.unit.1 of Sequential cannot be replaced .*choose layers"
    ):
        insert_attention(model, SK, input_shape=[8, 16, 16])
    assert list(model.state_dict()) == keys
    assert np.array_equal(model(paddle.ones([1, 8, 7, 7])).numpy(), before)


def test_attention_inserted_before_is_no_backbone():
    """A second call finds the same blocks, and the same convolution to replace."""
    model = resnet18()
    names = [b.name for b in describe_blocks(model)]
    insert_attention(model, {"name": "GCBlock", "at": "residual"})
    insert_attention(model, {"name": "PAM", "at": "stage"})
    insert_attention(model, {"name": "SpatialAttention", "at": "layer1.*.conv2"})
    assert [b.name for b in describe_blocks(model)] == names
    assert [i.layer for i in insert_attention(model, {"name": "SE", "stages": 1})] == [
        "layer1.0.bn2",
        "layer1.1.bn2",
    ]
    done = insert_attention(model, {**SK, "stages": 1})
    assert [i.layer for i in done] == ["layer1.0.conv1", "layer1.1.conv1"]


def test_attention_has_the_type_of_the_network():
    model = resnet18(num_classes=2)
    model.to(dtype="float64")
    insert_attention(model, ["SE", {**SK, "stages": 1}])
    assert model(paddle.randn([1, 3, 32, 32], "float64")).dtype == paddle.float64


BAD = [
    (resnet18, ({"name": "SKConv", "at": "block"},), {}, "SKConv takes the place of a convolution"),
    (resnet18, ({"name": "SKConv", "stride": 2},), {}, "stride is found from the convolution"),
    (resnet18, ({"name": "SKConv", "at": "layer1"},), {}, "'layer1' of ResNet holds 4 convolutions"),
    (resnet18, ({"name": "SKConv", "at": "bn1"},), {}, "'bn1' of ResNet holds 0 convolutions"),
    (resnet18, (["SKConv", "SplitAttention"],), {}, "'layer1.0.conv1' would be replaced twice"),
    (resnet18, ({"name": "SKConv", "groups": 3},), {}, "at layer 'layer1.0.conv1' with 64 channels.*groups"),
    (
        vgg11,
        ("SE",),
        {"at": "residual"},
        "VGG has no residual block.*use at='block'.*: block, stage, avgpool",
    ),
    (vgg11, ("SE",), {"at": "pre"}, "at='pre': VGG has no residual block"),
    (resnet18, ("SEE",), {}, "unknown attention 'SEE'; did you mean 'SE'"),
    (resnet18, ({"nam": "SE"},), {}, r"\{'nam': 'SE'\} has no 'name'; did you mean 'name'"),
    (resnet18, (7,), {}, "must be a name or a dict .* but got 7"),
    (resnet18, ([],), {}, "empty list"),
    (resnet18, ({"name": "SE", "reductoin": 4},), {}, "did you mean 'reduction'"),
    (resnet18, ({"name": "SE", "reduction": 128},), {}, "layer1.0.bn2' with 64 channels: .*reduction=128"),
    (resnet18, ("SE",), {"at": "layerr1"}, "'layerr1' matches no layer of ResNet; did you mean"),
    (
        resnet18,
        ("SE",),
        {"at": "blocks.*.conv1"},
        r"could be matched: residual, block, stage, pre, identity, .*layer1",
    ),
    (resnet18, ("SE",), {"at": 3}, "at must be one of .* but got 3"),
    (resnet18, ("SE",), {"at": "fc"}, "layer 'fc' of ResNet returns"),
    (resnet18, ("SE",), {"stages": [5]}, "no stage 5; its stages are 1 to 4"),
    (resnet18, ("SE",), {"stages": 0}, r"counted from 1 \(-1 is the last\), but got 0"),
    (resnet18, ("SE",), {"stages": []}, "stages is empty"),
    (resnet18, ("SE",), {"stages": "1"}, r"counted from 1 \(-1 is the last\), but got '1'"),
    (resnet18, ("SE",), {"stages": -5}, "no stage -5; its stages are 1 to 4"),
    (resnet18, ("SE",), {"blocks": [3]}, r"no chosen stage of ResNet has a block 3; .*\[2, 2, 2, 2\]"),
    (resnet18, ("SE",), {"blocks": True}, r"-1 is the last\), but got True"),
    (resnet18, ({"name": "SE", "stage": 2},), {}, "takes no argument 'stage'; did you mean 'stages'"),
    (resnet18, ("SE",), {"before": 1}, "before must be true or false, but got 1"),
    (resnet18, ("SE",), {"before": True}, "goes with a pattern of layer names, but got at=None"),
    (resnet18, ("SKConv",), {"before": True}, "SKConv takes the place of a convolution; leave it out"),
    (resnet18, ("SE",), {"at": "conv1", "stages": [1]}, "no layer inside stages"),
    (nn.ReLU, ("SE",), {}, "ReLU has no blocks, neither residual ones nor repeated layers"),
    (Nhwc, ("SE",), {"at": "conv"}, "'conv' computes in NHWC"),
    (Fussy, ("SE",), {}, "does not run on a trial image; give input_shape.*only squares of 17"),
    (lambda: "model", ("SE",), {}, "must be a paddle.nn.Layer, but got str"),
    (resnet18, ("SE",), {"input_shape": 64}, r"input_shape must be \[C, H, W\], .* but got 64"),
    (resnet18, ("SE",), {"input_shape": [3, 32]}, r"input_shape must be .* but got \[3, 32\]"),
    (resnet18, ("SE",), {"input_shape": [3, -1, -1]}, "three positive integers"),
    (resnet18, ("SE",), {"inputs": np.zeros([1, 3, 64, 64])}, "inputs must hold tensors: .* but got ndarray"),
    (resnet18, ("SE",), {"inputs": ()}, "inputs must hold tensors"),
    (resnet18, ({"name": ["SE"]},), {}, "'name' must be the name of a mechanism"),
]


@pytest.mark.parametrize(("build", "arguments", "kwargs", "message"), BAD)
def test_mistakes_change_nothing(build, arguments, kwargs, message):
    model = build()
    with pytest.raises(ValueError, match=message):
        insert_attention(model, *arguments, **kwargs)
    if isinstance(model, nn.Layer):
        assert attentions(model) == []


def test_second_of_two_fails_and_the_first_is_not_kept():
    model = resnet18()
    with pytest.raises(ValueError, match="stage 9"):
        insert_attention(model, [{"name": "SE"}, {"name": "SE", "stages": 9}])
    assert attentions(model) == []


def test_parameter_names_are_the_same_in_every_process(workspace):
    """.pdopt files are keyed by automatic names."""
    code = (
        "from paddle.vision.models import resnet18; from paddle_attention import insert_attention;"
        "m = resnet18(); insert_attention(m, [{'name': 'SE'}, {'name': 'CBAM', 'at': 'stage'}]);"
        "print([p.name for p in m.parameters()])"
    )
    first, second = (workspace.run("-c", code).stdout.splitlines()[-1] for _ in range(2))
    assert first == second
    assert "conv2d_" in first


def test_a_layer_class_of_ones_own_can_be_inserted():
    model = resnet18()
    done = insert_attention(model, {"name": "SE", "at": "conv1", "reduction": 8})
    assert isinstance(model.conv1.attention, SEBlock)
    assert done[0].channels == 64


# --- before the branch, on the shortcut ----------------------------------------------------


def branch_of(block, x):
    """The residual branch of a bottleneck of paddle.vision, without hooks on its first layer."""
    x = block.relu(block.bn2(block.conv2(block.relu(block.bn1(block.conv1.forward(x))))))
    return block.bn3(block.conv3(x))


@pytest.mark.parametrize("at", ["pre", "identity"])
@pytest.mark.parametrize("number", [0, 1])
def test_pre_and_identity(at, number):
    """Figure 5 of arXiv 1709.01507, computed by hand, for a projection and for a plain shortcut."""
    model = resnet50()
    done = insert_attention(model, {"name": "SE", "reduction": 4}, at=at)
    model.eval()
    block = model.layer2[number]
    x = paddle.randn([2, 512 if number else 256, 8, 8])
    place = {"pre": "conv1", "identity": "downsample.1" if number == 0 else ""}[at]
    name = f"layer2.{number}" + (f".{place}" if place else "")
    (inserted,) = (i for i in done if i.layer == name)
    attention = dict(model.named_sublayers())[inserted.key]
    shortcut = block.downsample[1].forward(block.downsample[0](x)) if number == 0 else x
    if at == "pre":
        assert inserted.channels == x.shape[1]
        expected = branch_of(block, attention(x)) + shortcut
    else:
        assert inserted.channels == 512
        expected = branch_of(block, x) + attention(shortcut)
    np.testing.assert_allclose(block(x).numpy(), nn.functional.relu(expected).numpy(), rtol=1e-5, atol=1e-5)
    assert len(done) == 16


@pytest.mark.parametrize("at", ["pre", "identity"])
def test_pre_and_identity_in_use(at, tmp_path):
    """Copies, exports, gradients, a second attention at the same place, and one inserted later."""
    model = resnet18(num_classes=5)
    insert_attention(model, ["ECA", {"name": "SE", "reduction": 4}], at=at, stages=[1, 2])
    assert sum(len(k.split("attention2.")) > 1 for k in model.state_dict()) == 4 * 4
    blocks = [b.name for b in describe_blocks(resnet18())]
    assert [b.name for b in describe_blocks(model)] == blocks
    assert len(insert_attention(model, "SimAM", at="residual")) == 8
    model.train()
    model(image()).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "attention" in n)
    model.eval()
    expected = model(image()).numpy()
    hooks = [hook for layer in model.sublayers() for hook in layer._forward_pre_hooks.values()]
    assert [hook.raw for hook in hooks if hasattr(hook, "raw")] == [None] * (3 if at == "identity" else 0)
    assert np.array_equal(copy.deepcopy(model)(image()).numpy(), expected)
    static = paddle.jit.to_static(
        copy.deepcopy(model), input_spec=[paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    )
    paddle.jit.save(static, str(tmp_path / "inference"))
    got = InferencePredictor(str(tmp_path))(image().numpy())
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_before_a_layer():
    """A pattern with before: the input of the layers is transformed, of a chain the first one's."""
    model = resnet50()
    done = insert_attention(
        model, {"name": "SE", "reduction": 4, "at": "layer2.0.conv?", "before": True}, blocks=1
    )
    assert [(i.layer, i.channels) for i in done] == [
        ("layer2.0.conv1", 256),
        ("layer2.0.conv2", 128),
        ("layer2.0.conv3", 128),
    ]
    done += insert_attention(model, {"name": "SE", "reduction": 4}, at="layer2.*.downsample", before=True)
    assert done[-1].key == "layer2.0.downsample.0.attention"
    model.eval()
    block, attention = model.layer2[0], [dict(model.named_sublayers())[i.key] for i in done]
    x = paddle.randn([2, 256, 8, 8])
    y = nn.functional.relu(block.bn1(nn.functional.conv2d(attention[0](x), block.conv1.weight)))
    y = nn.functional.conv2d(attention[1](y), block.conv2.weight, stride=2, padding=1)
    y = nn.functional.conv2d(attention[2](nn.functional.relu(block.bn2(y))), block.conv3.weight)
    short = nn.functional.conv2d(attention[3](x), block.downsample[0].weight, stride=2)
    expected = nn.functional.relu(block.bn3(y) + block.downsample[1](short))
    np.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_pre_and_identity_need_a_clear_branch():
    class Inception(nn.Layer):
        """Two layers begin the branch."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.up = nn.Conv2D(8, 4, 1), nn.Conv2D(8, 4, 3, padding=1), nn.Conv2D(8, 8, 1)

        def forward(self, x):
            return x + self.up(paddle.concat([self.a(x), self.b(x)], axis=1))

    model = nn.Sequential(nn.Conv2D(3, 8, 3), Inception())
    (block,) = describe_blocks(model)
    assert (block.branch_end, block.branch_start, block.shortcut) == ("1.up", None, "")
    for at, message in (("pre", "no single layer of Sequential begins"), ("identity", "has no shortcut")):
        with pytest.raises(ValueError, match=message):
            insert_attention(model, "SE", at=at, input_shape=[3, 16, 16])
    assert len(insert_attention(model, {"name": "SE", "reduction": 2})) == 1


# --- tokens ---------------------------------------------------------------------------------


class Encoder(nn.Layer):
    """Patches, a class token, two transformer blocks."""

    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2D(3, width, 8, stride=8)
        self.blocks = nn.Sequential(TokenBlock(width), TokenBlock(width))
        self.head = nn.Linear(width, 3)

    def tokens(self, x):
        return self.patch(x).flatten(2).transpose([0, 2, 1])

    def forward(self, x):
        return self.head(self.blocks(self.tokens(x)).mean(1))


class TokenBlock(nn.Layer):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 32), nn.Linear(32, width))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


TOKENS = [entry.name for entry in list_attentions() if entry.takes_tokens]


@pytest.mark.parametrize("name", TOKENS)
def test_tokens(name):
    """What takes tokens does with them what it does with positions, in whatever order they come."""
    model = Encoder(64 if name in ("SGE", "ShuffleAttention") else 16)
    arguments = {"SE": {"reduction": 4}, "SGE": {"groups": 8}, "ShuffleAttention": {"groups": 8}}
    spec = {"name": name, **arguments.get(name, {})}
    done = insert_attention(model, spec)
    width = model.patch._out_channels
    assert [(i.layer, i.channels) for i in done] == [("blocks.0.mlp.1", width), ("blocks.1.mlp.1", width)]
    model.eval()
    for parameter in (p for n, p in model.named_parameters() if "attention" in n):
        parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    block = model.blocks[0]
    x = paddle.randn([2, 10, width])
    order = np.random.RandomState(0).permutation(10)
    got = block.mlp(x).numpy()
    assert np.abs(block.mlp(x[:, order]).numpy() - got[:, order]).max() < 1e-4 * np.abs(got).max()
    last = block.mlp[1]
    raw = last.forward(block.mlp[0](x))
    as_map = last._sub_layers["attention"](raw.transpose([0, 2, 1]).reshape([2, width, 2, 5]))
    expected = as_map.reshape([2, width, 10]).transpose([0, 2, 1]).numpy()
    assert np.abs(got - expected).max() < 1e-4 * np.abs(got).max()
    assert np.abs(got - raw.numpy()).max() > 1e-3


def test_mechanisms_that_need_a_map_do_not_take_tokens():
    model = Encoder()
    keys = list(model.state_dict())
    with pytest.raises(
        ValueError, match=r"'blocks.0.mlp.1' of Encoder returns tokens \[1, 64, 16\], and CBAM needs"
    ):
        insert_attention(model, "CBAM")
    with pytest.raises(ValueError, match=r"takes tokens .* and CoordAttention needs"):
        insert_attention(model, "CoordAttention", at="pre")
    assert list(model.state_dict()) == keys


def test_blocks_of_maps_come_before_blocks_of_tokens():
    """In a hybrid, 'residual' means its residual blocks of feature maps."""

    class Hybrid(nn.Layer):
        def __init__(self):
            super().__init__()
            self.body, self.tail = resnet18(num_classes=0, with_pool=False), TokenBlock(512)

        def forward(self, x):
            return self.tail(self.body(x).flatten(2).transpose([0, 2, 1])).mean(1)

    assert [b.name for b in describe_blocks(Hybrid())] == [
        f"body.{b.name}" for b in describe_blocks(resnet18())
    ]


class Reads(nn.Layer):
    """A residual block whose branch is one convolution with a shared normalisation before it."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.up = nn.BatchNorm2D(8), nn.Conv2D(8, 8, 3, padding=1), nn.Conv2D(8, 8, 1)
        self.short = nn.Conv2D(8, 8, 1)

    def forward(self, x):
        y = nn.functional.relu(self.norm(x))
        return self.short(y) + self.up(self.conv(y))


def seen_by(layer, run):
    """What a layer computes with, after all hooks."""
    seen, forward = [], layer.forward

    def look(x):
        seen.append(x.numpy())
        return forward(x)

    layer.forward = look
    run()
    layer.forward = forward
    return seen[0]


SE4 = {"name": "SE", "reduction": 4}


@pytest.mark.parametrize(
    "specs",
    [
        [{**SE4, "at": "identity"}, {"name": "ECA", "at": "identity"}],
        [{**SE4, "at": "pre"}, {"name": "ECA", "at": "identity"}],
        [{"name": "ECA", "at": "identity"}, {**SE4, "at": "pre"}],
        [{"name": "SKConv", "at": "layer1.*.conv1", "groups": 1}, {"name": "ECA", "at": "identity"}],
        [{"name": "SKConv", "at": "layer1.*.conv1", "groups": 1}, {**SE4, "at": "pre"}],
    ],
    ids=["identity twice", "pre, identity", "identity, pre", "replaced, identity", "replaced, pre"],
)
@pytest.mark.parametrize("calls", [1, 2])
def test_placements_together(specs, calls):
    """The branch begins with the block's raw input, through the attention before it and no other."""
    model = resnet18()
    for group in [specs] if calls == 1 else [specs[:1], specs[1:]]:
        insert_attention(model, group, stages=1)
    model.eval()
    block, x = model.layer1[1], paddle.randn([1, 64, 8, 8])
    before = [s for s in specs if s["at"] == "pre"]
    expected = block.conv1._sub_layers["attention"](x) if before else x
    got = seen_by(block.conv1, lambda: block(x))
    assert np.allclose(got, expected.numpy(), atol=1e-6)
    shortcut = x
    for key in ("attention", "attention2"):
        if key in block._sub_layers:
            shortcut = block._sub_layers[key](shortcut)
    # The branch end is the block's last normalisation.
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1.forward(expected)))))
    assert np.allclose(block(x).numpy(), nn.functional.relu(branch + shortcut).numpy(), atol=1e-5)
    model.train()
    model(image()).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "attention" in n)


def test_what_branch_and_shortcut_share_is_before_both():
    model = nn.Sequential(nn.Conv2D(3, 8, 1), Reads())
    (block,) = describe_blocks(model)
    assert (block.branch_start, block.shortcut) == ("1.conv", "1.short")


def test_blocks_without_a_shortcut_have_nothing_before_or_beside():
    model = mobilenet_v2(scale=0.25)
    blocks = describe_blocks(model)
    done = insert_attention(model, {"name": "SE", "reduction": 2}, at="pre")
    assert len(done) == sum(b.branch_end != b.name for b in blocks) < len(blocks)
    with pytest.raises(ValueError, match="at='identity': no chosen block of MobileNetV2 has a shortcut"):
        insert_attention(mobilenet_v2(), "ECA", at="identity", stages=1)


def test_a_chain_that_ends_in_a_shared_layer(adds_one):
    relu = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Conv2D(3, 4, 1), relu), nn.Sequential(nn.Conv2D(4, 4, 1), relu))
    with pytest.raises(
        ValueError, match=r"the chain '1' of Sequential ends in '0.1', which runs elsewhere, too"
    ):
        insert_attention(model, "AddsOne", at="1")


class AddsOne(nn.Layer):
    """Attention that shows how often it ran."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x + 1.0


class Dense(nn.Sequential):
    """Runs its sublayers in turn and then does more."""

    def forward(self, x):
        return super().forward(x) * 2.0


@pytest.fixture
def adds_one(monkeypatch):
    from paddle_attention.registry import core, register_attention

    monkeypatch.setattr(core, "_ENTRIES", dict(core._ENTRIES))
    facts = {
        "paper": "-",
        "arxiv": None,
        "year": 2026,
        "domain": "mixed",
        "computed_by": "-",
        "applied_by": "-",
    }
    register_attention("AddsOne", **facts)(AddsOne)


def test_attention_runs_once_in_a_chain(adds_one):
    """``nn.Sequential`` runs every sublayer it has: attention goes on its last one."""
    chain = nn.Sequential(nn.Conv2D(3, 4, 1), nn.Sequential(nn.Conv2D(4, 4, 1), nn.BatchNorm2D(4)))
    model = nn.Sequential(chain, nn.ReLU())
    model.eval()
    x = image(1, 8)
    expected = chain(x).numpy() + 1.0
    (done,) = insert_attention(model, "AddsOne", at="0")
    assert done.layer == "0.1.1"
    assert np.allclose(chain(x).numpy(), expected, atol=1e-6)
    assert len(chain) == 2
    for at in ("block", "residual"):
        insert_attention(mobilenet_v2(scale=0.25), "AddsOne", at=at)  # checks itself how often each runs


def test_attention_that_would_run_twice_is_taken_out_again(adds_one):
    model = nn.Sequential(nn.Conv2D(3, 4, 1), Dense(nn.Conv2D(4, 4, 1)))
    model.eval()
    keys, expected = list(model.state_dict()), model(image(1, 8)).numpy()
    with pytest.raises(
        ValueError, match=r"layer '1' of Sequential runs its sublayers in turn, .*2 times in all"
    ):
        insert_attention(model, ["AddsOne", {"name": "SE", "reduction": 2, "at": "0"}], at="1")
    assert list(model.state_dict()) == keys
    assert np.array_equal(model(image(1, 8)).numpy(), expected)
    assert not any(x._forward_post_hooks or x._forward_pre_hooks for x in model.sublayers())


def test_attention_made_for_one_size_of_image():
    """The trial image need not be of that size."""
    model = resnet18()
    spec = {"name": "GatherExcite", "extra_params": True, "feat_size": [7, 7], "at": "stage", "stages": 4}
    assert len(insert_attention(model, spec)) == 1
    assert model(image(1, 224)).shape == [1, 1000]
    spec["feat_size"] = [5, 9]
    assert len(insert_attention(resnet18(), spec)) == 1


def test_layer_names_with_dots_at_their_end():
    """As in PaddleClas' EfficientNet."""

    class Dotted(nn.Layer):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2D(3, 8, 3, padding=1)
            self.add_sublayer("_blocks.0.", resnet18().layer1[0])
            self.down = nn.Conv2D(8, 64, 1)

        def forward(self, x):
            return self._sub_layers["_blocks.0."](self.down(self.stem(x)))

    model = Dotted()
    (done,) = insert_attention(model, "SE")
    assert done.layer == "_blocks.0..bn2"
    assert done.key + ".fc1.weight" in model.state_dict()


def test_networks_are_freed():
    """What the trial run reads must not keep the weights alive, nor what gradients there were."""

    def allocated():
        gc.collect()
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)

    def insert(**arguments):
        model = resnet18()
        model.fc.weight.grad = paddle.ones([512, 1000])
        try:
            insert_attention(model, "SE", **arguments)
        except ValueError:
            assert arguments
        trained = [p for p in model.parameters() if not p.stop_gradient]
        assert len(trained) == 62 + (0 if arguments else 32)
        assert [p.grad is not None for p in trained].count(True) == 1
        assert float(model.fc.weight.grad.sum()) == 512000

    insert()
    before = allocated()
    insert()
    insert(at="nothing")
    insert(input_shape=[3, 2, 2, 2])
    assert allocated() - before < 1 << 20


def test_a_layer_that_cannot_have_another_sublayer():
    """It is refused, and the network is as it was."""

    class Pair(nn.Sequential):
        def forward(self, x):
            first, second = self._sub_layers.values()
            return second(first(x))

    model = nn.Sequential(Pair(nn.Conv2D(3, 8, 3), nn.ReLU()), nn.Conv2D(8, 4, 1))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"layer .0. of Sequential runs no longer .*too many values"):
        insert_attention(model, {"name": "SE", "reduction": 2}, at="0")
    assert list(model.state_dict()) == before
    assert model(image()).shape == [2, 4, 62, 62]
    (inserted,) = insert_attention(model, {"name": "SE", "reduction": 2}, at="0.1")
    assert inserted.channels == 8


def test_what_belongs_to_attention(monkeypatch):
    """Hooks and classes say it: no name does, and a mechanism of one's own is a plain layer."""

    class Plain(nn.Layer):
        def __init__(self, channels):
            super().__init__()
            self.scale = self.create_parameter([1, channels, 1, 1])

        def forward(self, x):
            return x * self.scale

    class Backbone(nn.Layer):
        def __init__(self):
            super().__init__()
            self.attention = nn.Conv2D(3, 8, 3, padding=1)  # so called, and the backbone's own
            self.gate = SEBlock(8, 2)
            self.last = nn.Conv2D(8, 8, 3, padding=1)

        def forward(self, x):
            return self.last(self.gate(self.attention(x)))

    monkeypatch.setattr(core, "_ENTRIES", dict(core._ENTRIES))
    facts = {"paper": "P", "arxiv": None, "year": 2026, "domain": "channel"}
    register_attention("Plain", computed_by="nothing", applied_by="scale", **facts)(Plain)
    network = Backbone()
    assert attention_prefixes(network) == ("gate.",)
    insert_attention(
        network, [{"name": "Plain", "at": "attention"}, {"name": "CBAM", "reduction": 2, "at": "last"}]
    )
    assert attention_prefixes(network) == ("attention.attention.", "gate.", "last.attention.")


@pytest.mark.parametrize(
    ("at", "shared", "expected"),
    [
        ("residual", "c2", ["b1.c2.attention"]),
        ("pre", "c1", ["b1.c1.attention"]),
        ("identity", "short", ["b1.short.attention"]),
    ],
)
def test_blocks_that_share_a_layer_share_its_attention(at, shared, expected):
    """One place is one attention, which then runs in both blocks."""

    class Block(nn.Layer):
        def __init__(self):
            super().__init__()
            self.c1, self.c2, self.c3 = (nn.Conv2D(8, 8, 3, padding=1) for _ in range(3))
            self.short = nn.Conv2D(8, 8, 1)

        def forward(self, x):
            branch = (
                self.c3(nn.functional.relu(self.c1(x)))
                if shared != "c2"
                else self.c2(nn.functional.relu(self.c1(x)))
            )
            return nn.functional.relu(self.short(x) + branch)

    class Network(nn.Layer):
        def __init__(self):
            super().__init__()
            self.stem, self.b1, self.b2 = nn.Conv2D(3, 8, 3, padding=1), Block(), Block()
            setattr(self.b2, shared, getattr(self.b1, shared))

        def forward(self, x):
            return self.b2(self.b1(self.stem(x)))

    network = Network()
    inserted = insert_attention(network, {"name": "SE", "reduction": 2}, at=at)
    assert [i.key for i in inserted if f".{shared}" in i.key] == expected
    # What is asked for twice is put there twice.
    again = insert_attention(Network(), ["SimAM", "ECA"], at=at)
    assert [i.key.rpartition(".")[2] for i in again if f".{shared}" in i.key] == ["attention", "attention2"]
