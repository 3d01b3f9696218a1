"""What the shared tester does not cover: lean forms, other shapes, state, estimators, masks."""

from functools import partial

import numpy as np
import paddle
import pytest
import reference
import yaml
from cases import CASES
from layer_tester import LayerTester, parameters_of, relative

import paddle_attention as pa
from paddle_attention.layers import _chunked_attention as _attend


def randomise(layer, scale=0.5, seed=0):
    random = np.random.RandomState(seed)
    for key, value in layer.state_dict().items():
        new = random.standard_normal(value.shape) * scale
        value.set_value(
            (np.abs(new) + 0.5 if key.endswith("_variance") else new).astype(str(value.dtype)[7:])
        )
    return layer


def gradients(function, *arrays, dtype="float64"):
    tensors = [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]
    y = function(*tensors)
    weight = np.random.RandomState(9).standard_normal(y.shape).astype(dtype)
    (y * paddle.to_tensor(weight)).sum().backward()
    return [y.numpy(), *(t.grad.numpy() for t in tensors)]


# --- lean forms against the textbook's ---------------------------------------------------

QUERY, KEY, VALUE = ((2, 4, 30), (2, 4, 21), (2, 3, 21))
LEAN = {
    "softmax, in turns of 7": (
        partial(_attend.softmax_attention, scale=0.7, chunk=7),
        partial(_attend.softmax_attention_naive, scale=0.7),
        (QUERY, KEY, VALUE),
    ),
    "softmax, one by one": (
        partial(_attend.softmax_attention, chunk=1),
        _attend.softmax_attention_naive,
        (QUERY, KEY, VALUE),
    ),
    "dot product": (
        _attend.dot_product_attention,
        _attend.dot_product_attention_naive,
        (QUERY, KEY, VALUE),
    ),
    "concatenation": (
        _attend.concatenation_attention,
        _attend.concatenation_attention_naive,
        ((2, 30), (2, 21), VALUE),
    ),
}


@pytest.mark.parametrize("name", LEAN)
def test_lean_forms_are_exact(name):
    """The same numbers and gradients as the textbook forms."""
    lean, naive, shapes = LEAN[name]
    random = np.random.RandomState(0)
    arrays = [random.standard_normal(shape) for shape in shapes]
    for got, expected in zip(gradients(lean, *arrays), gradients(naive, *arrays), strict=True):
        assert relative(got, expected) < 1e-12
    single = gradients(lean, *arrays, dtype="float32")
    for got, expected in zip(single, gradients(naive, *arrays), strict=True):
        assert relative(got, expected) < 2e-6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([[-5.0, -1.0, 0.0]], [[0.5, 0.25, 1.0, 0.75]]),  # for the first, no key counts
        ([[5.0, 6.0, 7.0]], [[-1.0, 2.0, 0.0, 1.0]]),  # for all, every key
        ([[1.0, 1.0, 2.0]], [[-1.0, -1.0, -2.0, -1.0]]),  # ties, and sums of exactly 0
    ],
)
def test_concatenation_at_its_edges(a, b):
    arrays = [np.array(a), np.array(b), np.random.RandomState(0).standard_normal((1, 2, 4))]
    got = gradients(_attend.concatenation_attention, *arrays)
    expected = gradients(_attend.concatenation_attention_naive, *arrays)
    for x, y in zip(got, expected, strict=True):
        assert relative(x, y) < 1e-12 or abs(x - y).max() < 1e-15


def test_concatenation_does_not_cancel():
    """Running sums of float32 inputs are in float64: closer to the truth than the textbook form."""
    random = np.random.RandomState(0)
    arrays = [random.standard_normal(s) for s in ((1, 3000), (1, 3000), (1, 4, 3000))]
    truth = gradients(_attend.concatenation_attention_naive, *arrays)[0]
    arrays32 = [a.astype("float32") for a in arrays]
    truth32 = gradients(_attend.concatenation_attention_naive, *(a.astype("float64") for a in arrays32))[0]
    got = gradients(_attend.concatenation_attention, *arrays32, dtype="float32")[0]
    assert relative(got, truth32) < 1e-7
    assert relative(got, truth) < 1e-5


LAYERS = {
    "NonLocal2D": lambda **kw: pa.NonLocal2D(6, sub_sample=False, **kw),
    "NonLocal2D gaussian": lambda **kw: pa.NonLocal2D(6, mode="gaussian", **kw),
    "PAM": lambda **kw: pa.PAM(8, **kw),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_large_maps_are_taken_in_turns(name, training, monkeypatch):
    """Chosen by the number of energies; same output and gradients as keeping them all."""
    monkeypatch.setattr(_attend, "_ENERGIES", 50)
    monkeypatch.setattr(_attend, "_QUERIES", 16)
    lean = randomise(LAYERS[name]().to(dtype="float64"))
    naive = LAYERS[name](naive=True).to(dtype="float64")
    naive.set_state_dict(lean.state_dict())
    results = []
    for layer in (lean, naive):
        layer.train() if training else layer.eval()
        x = paddle.to_tensor(np.random.RandomState(1).standard_normal((2, lean.channels, 7, 6)))
        x.stop_gradient = False
        y = layer(x)
        (y**2).sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters() if not p.stop_gradient)])
    largest = max(float(t.abs().max()) for t in results[1])
    for got, expected in zip(*results, strict=True):
        assert float((got - expected).abs().max()) < 1e-12 * largest
    with paddle.no_grad():
        assert relative(lean(x).numpy(), naive(x).numpy()) < 1e-12


def test_only_some_need_a_gradient(monkeypatch):
    """Frozen embeddings, or an input that is an image: Paddle wants None for their gradients."""
    monkeypatch.setattr(_attend, "_ENERGIES", 50)
    for wanted in ((0,), (1,), (2,), (0, 2)):
        tensors = [paddle.randn([1, 3, 12]) for _ in range(3)]
        for i in wanted:
            tensors[i].stop_gradient = False
        _attend.softmax_attention(*tensors).square().sum().backward()
        got = [None if t.grad is None else t.grad.numpy() for t in tensors]
        for t in tensors:
            t.clear_gradient()
        _attend.softmax_attention_naive(*tensors).square().sum().backward()
        for g, t in zip(got, tensors, strict=True):
            assert (g is None) == t.stop_gradient
            assert g is None or np.allclose(g, t.grad.numpy(), atol=1e-5)


def test_energies_are_not_kept(monkeypatch):
    """No product as large as all queries by all keys is ever made, forward or backward."""
    largest = []
    matmul = paddle.matmul

    def watch(*args, **kwargs):
        y = matmul(*args, **kwargs)
        largest.append(int(np.prod(y.shape[1:])))
        return y

    monkeypatch.setattr(paddle, "matmul", watch)
    q = paddle.randn([1, 4, 1200])
    q.stop_gradient = False
    _attend.softmax_attention(q, q, q).sum().backward()
    assert max(largest) == 256 * 1200
    largest.clear()
    _attend.dot_product_attention(q, q, q).sum().backward()
    assert max(largest) == 4 * 1200


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_of_a_thousand(dtype):
    """Energies, sums of squares and softmax are in float32, whatever comes in."""
    random = np.random.RandomState(0)

    def tensor(*shape):
        return paddle.to_tensor((random.standard_normal(shape) * 1e3).astype("float32")).astype(dtype)

    q, k, v = tensor(1, 8, 20), tensor(1, 8, 20), tensor(1, 8, 20)
    x = tensor(1, 8, 5, 4)
    outputs = [
        _attend.softmax_attention(q, k, v),
        _attend.concatenation_attention(q[:, 0], k[:, 0], v / 1e3),
        _attend.dot_product_attention(q / 100, k / 100, v / 100),
        pa.CAM(8).attention_maps(x),
        pa.SimAM(8).gate(x),
        pa.GCT(8).gate(x),
        pa.SGE(8, groups=2).gate(x),
    ]
    for i, y in enumerate(outputs):
        assert np.isfinite(y.astype("float32").numpy()).all(), i
    assert all(str(y.dtype)[7:] == dtype for y in outputs[:3])


# --- in networks -------------------------------------------------------------------------

FIRST = list({case.name: case for case in reversed(CASES)}.values())
# Weights of one size only cannot serve every block.
NETWORK_CASES = [case for case in FIRST if "feat_size" not in case.kwargs]


@pytest.mark.parametrize("case", NETWORK_CASES, ids=lambda case: case.name)
def test_training_in_a_network(case):
    LayerTester.check_training_in_a_network(case)


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)
@pytest.mark.parametrize("training", [True, False])
def test_inputs_of_a_thousand(case, training):
    """As the layer is constructed: outputs and gradients are finite."""
    layer = pa.build_attention(case.name, case.shape[1], **case.kwargs)
    layer.train() if training else layer.eval()
    x = paddle.to_tensor(case.input() * 1e3, stop_gradient=False)
    y = layer(x)
    y.mean().backward()
    values = [y, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    assert all(bool(paddle.isfinite(value).all()) for value in values if value is not None)


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)
def test_two_hundred_steps(case):
    """With a learning rate that the network around it stands, the layer learns and stays finite."""
    paddle.seed(0)
    channels = case.shape[1]
    network = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, channels, 3, padding=1),
        paddle.nn.BatchNorm2D(channels),
        pa.build_attention(case.name, channels, **case.kwargs),
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
    assert all(bool(paddle.isfinite(v).all()) for v in network.state_dict().values() if v.is_floating_point())


@pytest.mark.parametrize("entry", pa.list_attentions(), ids=lambda entry: entry.name)
def test_switched_on_from_yaml(arch, entry):
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


# --- other shapes ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("sub_sample", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_non_local_of_sequences_and_videos(mode, sub_sample, training):
    def halve(v, size):  # positions along H, or along H and W of every frame
        n, c, length, rest = v.shape
        if rest == 1:
            return v[:, :, : length // 2 * 2].reshape(n, c, length // 2, 2, 1).max(3)
        v = v.reshape(n, c, 3, 4, 6).reshape(n, c, 3, 2, 2, 3, 2).max((4, 6))
        return v.reshape(n, c, 9, 2)

    for layer, shape, flat in (
        (pa.NonLocal1D(4, mode=mode, sub_sample=sub_sample), (2, 4, 9), (2, 4, 9, 1)),
        (pa.NonLocal3D(4, mode=mode, sub_sample=sub_sample), (2, 4, 3, 4, 6), (2, 4, 12, 6)),
    ):
        layer = randomise(layer.to(dtype="float64"))
        layer.train() if training else layer.eval()
        x = np.random.RandomState(1).standard_normal(shape)
        p = {
            k: v.reshape(*v.shape[:2], 1, 1) if k.endswith("weight") and v.ndim > 2 else v
            for k, v in parameters_of(layer).items()
        }
        expected = reference.non_local(x.reshape(flat), p, training, mode, sub_sample, pool=halve)
        got = layer(paddle.to_tensor(x)).numpy()
        assert relative(got, expected.reshape(shape)) < 1e-9
    with pytest.raises(
        ValueError, match=r"NonLocal3D: the input must be a 5-D feature map \[N, C, D, H, W\]"
    ):
        layer(paddle.zeros([2, 4, 9], dtype="float64"))


def test_object_context_block():
    layer = randomise(pa.ObjectContextBlock(6, 3, 5, 7, scale=2).to(dtype="float64"))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 6, 7, 5))
    expected = reference.object_context(x, parameters_of(layer), scale=2)
    assert relative(layer(paddle.to_tensor(x)).numpy(), expected) < 1e-6
    fresh = pa.ObjectContextBlock(6)
    assert not fresh(paddle.randn([1, 6, 4, 4])).numpy().any()  # the context starts from 0


def test_shared_transform_moves_its_statistics_twice():
    """As far as PyTorch's code, which applies it as key and as query."""
    layer = pa.ObjectContextBlock(4)
    layer.train()
    x = paddle.randn([2, 4, 5, 5])
    mean = layer.f_key[0](x).mean(axis=[0, 2, 3]).numpy()
    layer(x)
    np.testing.assert_allclose(layer.f_key[1].bn._mean.numpy(), (1 - 0.9**2) * mean, rtol=1e-4, atol=1e-7)


def test_psa_returns_its_input_first():
    layer = pa.PSA(6, 4, mask_h=3, mask_w=5)
    x = paddle.randn([1, 6, 5, 7])
    y = layer(x)
    assert y.shape == [1, 12, 5, 7]
    assert np.array_equal(y[:, :6].numpy(), x.numpy())
    with pytest.raises(ValueError, match="it is 3 x 4; set mask_h=3, mask_w=4"):
        pa.PSA(6, 4, compact=True, mask_h=3, mask_w=5)(x)


def test_dual_attention_head():
    layer = randomise(pa.DAHead(32, 5, dropout=0.0).to(dtype="float64"))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 32, 4, 3))
    p = parameters_of(layer)

    expected = reference.da_head(x, p)
    outputs = layer(paddle.to_tensor(x))
    assert len(outputs) == 3
    for got, wanted in zip(outputs, expected, strict=True):
        assert relative(got.numpy(), wanted) < 1e-9
    assert pa.DAHead(32, 5).conv6[0].p == 0.1


def test_sk_bottleneck():
    layer = pa.SKBottleneck(8, 4, stride=2, groups=1)
    assert layer(paddle.randn([2, 8, 6, 5])).shape == [2, 16, 3, 3]
    assert pa.SKBottleneck(16, 4, groups=1).downsample is None
    maps = layer.attention_maps(paddle.randn([2, 8, 6, 5]))
    assert maps.shape == [2, 2, 4, 1, 1]
    np.testing.assert_allclose(maps.sum(axis=1).numpy(), 1, rtol=1e-6)


def test_scale_attention():
    layer = randomise(pa.ScaleAttention(3, num_scales=2, hidden_channels=5).to(dtype="float64"))
    random = np.random.RandomState(1)
    large, small = random.standard_normal((2, 3, 6, 4)), random.standard_normal((2, 3, 3, 2))
    p = parameters_of(layer)
    resized = reference.resize(small, 6, 4, align_corners=False)
    hidden = reference.relu(reference.conv(np.concatenate([large, resized], 1), p, "conv1", padding=1))
    weights = reference.softmax(reference.conv(hidden, p, "conv2"), axis=1)
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


# --- masks -------------------------------------------------------------------------------


def attention_reference(x, p, heads, mask=None):
    """``mask`` is True where a query may not see a key."""
    n, length, width = x.shape
    q, k, v = (x @ p[f"{c}_proj.weight"] + p[f"{c}_proj.bias"] for c in "qkv")
    q, k, v = (t.reshape(n, length, heads, -1).transpose(0, 2, 1, 3) for t in (q, k, v))
    energy = q @ k.transpose(0, 1, 3, 2) / (width // heads) ** 0.5
    weights = reference.softmax(energy if mask is None else np.where(mask, -1e30, energy))
    y = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return y @ p["out_proj.weight"] + p["out_proj.bias"], weights


CAUSAL = np.triu(np.ones((5, 5), bool), 1)
PADDING = np.array([[False] * 5, [False, False, True, True, True]])
MASKS = {
    "none": ({}, None),
    "causal": ({"is_causal": True}, CAUSAL),
    "causal, as booleans": ({"attn_mask": CAUSAL}, CAUSAL),
    "causal, to be added": ({"attn_mask": np.where(CAUSAL, -np.inf, 0.0).astype("float32")}, CAUSAL),
    "padding": ({"key_padding_mask": PADDING}, PADDING[:, None, None]),
    "both": ({"is_causal": True, "key_padding_mask": PADDING}, CAUSAL | PADDING[:, None, None]),
    "of every image": (
        {"attn_mask": np.stack([CAUSAL, CAUSAL | PADDING[1]])},
        np.stack([CAUSAL, CAUSAL | PADDING[1]])[:, None],
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    masks, blocked = MASKS[name]
    masks = {k: v if isinstance(v, bool) else paddle.to_tensor(v) for k, v in masks.items()}
    layer = randomise(pa.MultiHeadAttention(8, 2))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 5, 8)).astype("float32")
    expected, weights = attention_reference(x, parameters_of(layer), 2, blocked)
    assert relative(layer(paddle.to_tensor(x), **masks).numpy(), expected) < 1e-5
    assert relative(layer.attention_maps(paddle.to_tensor(x), **masks).numpy(), weights) < 1e-5

    encoder = pa.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    names = {"attn_mask": "src_mask", "key_padding_mask": "src_key_padding_mask"}
    encoded = encoder(paddle.to_tensor(x), **{names.get(k, k): v for k, v in masks.items()}).numpy()
    if blocked is not None:  # what is blocked for a query does not matter to it
        moved = x.copy()
        moved[:, 4] += 10.0
        again = encoder(paddle.to_tensor(moved), **{names.get(k, k): v for k, v in masks.items()}).numpy()
        seen = ~np.broadcast_to(blocked, (2, 2, 5, 5))[:, 0, :, 4]
        seen[:, 4] = True  # its own shortcut
        assert np.allclose(encoded[~seen], again[~seen], atol=1e-6)
        assert not np.allclose(encoded[seen], again[seen], atol=1e-6)


def test_all_keys_blocked_is_finite():
    layer = pa.MultiHeadAttention(8, 2)
    y = layer(paddle.randn([1, 3, 8]), attn_mask=paddle.ones([3, 3], dtype="bool"))
    assert np.isfinite(y.numpy()).all()


def test_masks_of_every_head_and_of_other_widths():
    layer = pa.MultiHeadAttention(8, 2)
    x = paddle.randn([3, 5, 8])
    heads = paddle.to_tensor(np.random.RandomState(0).rand(3, 2, 5, 5) < 0.3)
    expected = layer(x, attn_mask=heads).numpy()
    assert np.array_equal(layer(x, attn_mask=heads.reshape([6, 5, 5])).numpy(), expected)  # PyTorch's form
    other = pa.MultiHeadAttention(8, 2, kdim=4, vdim=6)
    weights = {
        "q_proj_weight": np.ones((8, 8)),
        "k_proj_weight": np.ones((8, 4)),
        "v_proj_weight": np.ones((8, 6)),
        "in_proj_bias": np.arange(24.0),
        "out_proj.weight": np.ones((8, 8)),
        "out_proj.bias": np.ones(8),
    }
    pa.load_torch_weights(other, weights)
    assert other.v_proj.bias.numpy().tolist() == list(range(16, 24))
    assert other(x, paddle.randn([3, 2, 4]), paddle.randn([3, 2, 6])).shape == [3, 5, 8]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_masks_add_up_to_finite_numbers(dtype):
    from paddle_attention.layers.multi_head_attention import additive_mask

    padding = paddle.to_tensor([[True, False, True]])
    mask = additive_mask(None, padding, True, (1, 2, 3, 3), dtype).astype("float32").numpy()
    least = -3e4 if dtype == "float16" else -1e9
    blocked = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 1]], bool)
    np.testing.assert_allclose(mask[0, 0], np.where(blocked, least, 0), rtol=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_maps_of_the_decoder(norm_first):
    """The memory weighed with the cross map, and the target with its own, give the layer's output."""
    layer = pa.TransformerDecoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first)
    target, memory = paddle.randn([2, 4, 8]), paddle.randn([2, 3, 8])
    maps = layer.attention_maps(target, memory, tgt_is_causal=True)

    def attend(attention, weights, value):
        value = attention.v_proj(value).reshape([2, -1, 2, 4]).transpose([0, 2, 1, 3])
        return attention.out_proj(paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2))

    x = layer.norm1(target) if norm_first else target
    x = target + attend(layer.self_attn, maps["self"], x)
    x = x if norm_first else layer.norm1(x)
    x = x + attend(layer.cross_attn, maps["cross"], memory)
    x = x if norm_first else layer.norm2(x)
    hidden = layer.linear2(paddle.nn.functional.relu(layer.linear1(layer.norm3(x) if norm_first else x)))
    y = x + hidden if norm_first else layer.norm3(x + hidden)
    expected = layer(target, memory, tgt_is_causal=True)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_stacks_of_layers():
    encoder = paddle.nn.TransformerEncoder(pa.TransformerEncoderLayer(8, 2, 16, norm_first=True), 2)
    assert encoder(paddle.randn([1, 3, 8])).shape == [1, 3, 8]
    assert encoder.layers[1].normalize_before
    decoder = paddle.nn.TransformerDecoder(pa.TransformerDecoderLayer(8, 2, 16), 2)
    assert decoder(paddle.randn([1, 3, 8]), paddle.randn([1, 4, 8])).shape == [1, 3, 8]


BAD_MASKS = [
    ({"attn_mask": paddle.ones([3, 3], dtype="int64")}, "boolean .True = blocked. or floating-point"),
    ({"attn_mask": paddle.ones([4, 3, 3], dtype="bool")}, r"of shape \[4, 3, 3\] does not fit"),
    ({"key_padding_mask": paddle.ones([4, 3], dtype="bool")}, r"of shape \[4, 3\] does not fit"),
    ({"attn_mask": paddle.ones([3], dtype="bool")}, r"attn_mask must be .* but got shape \[3\]"),
    ({"key_padding_mask": paddle.ones([1, 3])}, "key_padding_mask must be boolean"),
    ({"key_padding_mask": paddle.ones([3], dtype="bool")}, r"of shape \[3\]"),
]


@pytest.mark.parametrize(("masks", "message"), BAD_MASKS)
def test_bad_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        pa.MultiHeadAttention(8, 2)(paddle.randn([1, 3, 8]), **masks)


def test_positional_encoding():
    layer = pa.PositionalEncoding(6, dropout=0.0, max_len=50)
    y = layer(paddle.zeros([2, 9, 6])).numpy()
    for p in range(9):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(y[:, p, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(y[:, p, 2 * i + 1], np.cos(angle), atol=1e-6)
    assert not layer.state_dict()
    with pytest.raises(ValueError, match="max_len=50, but got a sequence of 51"):
        layer(paddle.zeros([1, 51, 6]))


# --- state -------------------------------------------------------------------------------


def test_bases_move_in_training_only():
    layer = pa.EMAU(6, k=3)
    assert abs(np.linalg.norm(layer.mu.numpy()[0], axis=0) - 1).max() < 1e-5
    x = paddle.randn([4, 6, 5, 5])
    start = layer.mu.numpy()
    layer.eval()
    layer(x)
    assert np.array_equal(layer.mu.numpy(), start)
    batch, _ = reference.expectation_maximisation(x.numpy(), parameters_of(layer))
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


# --- hard attention ----------------------------------------------------------------------


def test_straight_through_gradient():
    """Forward the choice, backward as if the mask were the sigmoid of the scores."""
    layer = pa.HardAttention(3, k=0.5)
    x = paddle.randn([2, 3, 4, 5])
    layer.train()
    y = layer(x)
    kept = (y.numpy() != 0).any(1)
    assert (kept.reshape(2, -1).sum(1) == 10).all()
    weight = paddle.randn(y.shape)
    (y * weight).sum().backward()
    got = layer.score.weight.grad.numpy()
    layer.clear_gradients()
    soft = paddle.nn.functional.sigmoid(layer.score(x))
    (x * soft * weight).sum().backward()
    np.testing.assert_allclose(got, layer.score.weight.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "candidates", "kept"),
    [(0.07, 100, 7), (0.28, 50, 14), (0.5, 9, 5), (0.01, 9, 1), (1.0, 9, 9), (4, 9, 4), (20, 9, 9)],
)
def test_how_many_are_kept(k, candidates, kept):
    layer = pa.HardAttention(2, k=k)
    mask = layer.attention_maps(paddle.randn([3, 2, 1, candidates]))
    assert (mask.numpy().reshape(3, -1).sum(1) == kept).all()


def test_score_function_gradient_by_its_expectation():
    """The mean of the estimate over draws is the gradient of the expected reward, by enumeration."""
    paddle.seed(3)
    layer = pa.HardAttention(1, k=2, estimator="score_function")
    layer.score.weight.set_value(paddle.ones([1, 1, 1, 1]))
    layer.score.bias.set_value(paddle.zeros([1]))
    layer.train()
    scores = np.array([0.3, -0.5, 1.0, 0.1])
    values = np.array([1.0, -2.0, 0.5, 3.0])

    def reward(mask):
        return (mask * values).sum(-1) ** 2

    def expected(scores):
        """Over all ordered draws of two."""
        total, p = 0.0, np.exp(scores) / np.exp(scores).sum()
        for i in range(4):
            for j in range(4):
                if i != j:
                    mask = np.zeros(4)
                    mask[[i, j]] = 1
                    total += p[i] * p[j] / (1 - p[i]) * reward(mask)
        return total

    step = 1e-5
    truth = [(expected(scores + step * e) - expected(scores - step * e)) / (2 * step) for e in np.eye(4)]
    draws = 40000
    x = paddle.to_tensor(
        np.tile(scores, (draws, 1)).reshape(draws, 1, 1, 4).astype("float32"), stop_gradient=False
    )
    mask = layer.mask(x)
    assert (mask.numpy().sum((1, 2, 3)) == 2).all()
    got = paddle.to_tensor(reward(mask.numpy().reshape(draws, 4)).astype("float32"))
    assert abs(got.numpy().mean() - expected(scores)) < 0.1
    layer.reinforce_loss(got, baseline=got.mean()).backward()
    estimate = -x.grad.numpy().reshape(draws, 4).sum(0)
    assert abs(estimate - truth).max() < 0.15  # about four standard errors; the largest is
    assert abs(np.array(truth)).max() > 1.0
    assert layer.score.weight.grad is not None


def test_reinforce_needs_a_draw():
    with pytest.raises(RuntimeError, match="estimator='straight_through'"):
        pa.HardAttention(2).reinforce_loss(paddle.ones([1]))
    layer = pa.HardAttention(2, estimator="score_function")
    layer(paddle.randn([3, 2, 4, 4]))
    with pytest.raises(ValueError, match=r"reward must be \[N\] = \[3\].* but got shape \[3, 1\]"):
        layer.reinforce_loss(paddle.ones([3, 1]))


# --- starts ------------------------------------------------------------------------------


def test_shuffle_attention_starts_as_the_shuffle():
    layer = pa.ShuffleAttention(8, groups=2, identity_init=True)
    x = np.random.RandomState(0).standard_normal((1, 8, 3, 3)).astype("float32")
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), x[:, order], rtol=1e-6)


def test_multiplying_context_starts_at_half():
    x = paddle.randn([1, 8, 3, 3])
    layer = pa.GCBlock(8, 0.5, fusion_types="channel_mul")
    np.testing.assert_allclose(layer(x).numpy(), 0.5 * x.numpy(), rtol=1e-6)


def test_transformer_starts_at_the_identical_transformation():
    for align_corners in (False, True):
        layer = pa.SpatialTransformer(4, align_corners=align_corners)
        x = paddle.randn([2, 4, 6, 5])
        np.testing.assert_allclose(layer(x).numpy(), x.numpy(), atol=1e-5)


def test_kernel_sizes_of_eca():
    from paddle_attention.layers.eca import eca_kernel_size

    sizes = {64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7, 1: 1}
    assert {c: eca_kernel_size(c) for c in sizes} == sizes
    assert pa.ECA(256).conv.weight.shape == [1, 1, 5, 1]


BAD_ARGUMENTS = [
    (lambda: pa.BAM(16, combine="multiply"), r"combine must be one of \['add', 'mul'\], but got 'multiply'"),
    (lambda: pa.BAM(8), "channels=8 // reduction=16"),
    (lambda: pa.ECA(8, k_size=4), "k_size must be odd .* got 4; use 3 or 5"),
    (lambda: pa.ECA(8, gamma=0), "gamma must be a positive number, but got 0"),
    (lambda: pa.SGE(10, groups=4), "channels=10 is not divisible by groups=4; try groups=5"),
    (lambda: pa.SKConv(8, M=1), "M must be at least 2 branches"),
    (lambda: pa.SKConv(8), r"groups=\[1, 32\] must divide channels=8"),
    (lambda: pa.SKConv(8, M=3, dilations=[1, 2]), r"dilations=\[1, 2\] must have one value for each of M=3"),
    (lambda: pa.SKConv(9, groups=1, split_input=True), "divides channels=9 among M=2"),
    (lambda: pa.NonLocal2D(8, mode="softmax"), "mode must be one of .* but got 'softmax'"),
    (lambda: pa.GCBlock(8, ratio=0.1), "leaves no hidden channel; choose ratio >= 0.125"),
    (lambda: pa.GCBlock(8, ratio="1/4"), "ratio must be a positive number, but got '1/4'"),
    (lambda: pa.GCBlock(8, 0.5, fusion_types=["add"]), r"but got \('add',\)"),
    (
        lambda: pa.GCBlock(8, 0.5, "avg").attention_maps(paddle.zeros([1, 8, 2, 2])),
        "weighs all positions alike",
    ),
    (lambda: pa.PSA(8, psa_type="both"), "psa_type must be one of .* but got 'both'"),
    (lambda: pa.PAM(4), "channels=4 // reduction=8 leaves no hidden channel"),
    (lambda: pa.DAHead(16, 5), "give at least 32 channels"),
    (lambda: pa.RCCA(16), "give at least 32 channels"),
    (lambda: pa.BaseOC(8, sizes=[]), "sizes is empty"),
    (lambda: pa.PyramidOC(8, sizes=[0]), "sizes must be a positive integer, but got 0"),
    (
        lambda: pa.PyramidOC(8)(paddle.zeros([1, 8, 5, 9])),
        "partition=6 need a map of at least 6 x 6, but got 5 x 9",
    ),
    (lambda: pa.ASPOC(7), "channels=7 is odd"),
    (lambda: pa.ASPOC(8, dilations=[1, 2]), r"takes three integers, but got \[1, 2\]"),
    (lambda: pa.EMAU(8, momentum=1.5), r"momentum must be within \[0, 1\], but got 1.5"),
    (lambda: pa.SqueezeAttention(8, 16), "needs main_branch=True"),
    (lambda: pa.HardAttention(8, k=1.5), r"within \(0, 1\], but got 1.5"),
    (lambda: pa.HardAttention(8, k=9, domain="channel"), "k=9 is more than channels=8"),
    (lambda: pa.SimAM(8, e_lambda=0), "e_lambda must be a positive number, but got 0"),
    (lambda: pa.GatherExcite(32, extent=3), "extent must be 0 or a power of 2 from 2, but got 3"),
    (lambda: pa.GatherExcite(32, extra_params=True), r"give feat_size=\(H, W\)"),
    (
        lambda: pa.GatherExcite(32, extra_params=True, feat_size=(4, 4))(paddle.zeros([1, 32, 4, 5])),
        r"built for feat_size=\(4, 4\), but got an input of shape \[1, 32, 4, 5\]",
    ),
    (lambda: pa.GatherExcite(32, use_mlp=False, identity_init=True), "it has no parameter"),
    (lambda: pa.GatherExcite(32, extra_params=True, feat_size=7), r"feat_size must be \(H, W\), but got 7"),
    (
        lambda: pa.SelfAttention2D(8, relative_size=(7, 0)),
        "relative_size must be a positive integer, but got 0",
    ),
    (lambda: pa.GCT(8, epsilon=-1), "epsilon must be positive, but got -1"),
    (lambda: pa.PSA(8, normalization_factor=0), "normalization_factor must be positive or None, but got 0"),
    (
        lambda: pa.ObjectContextBlock(8, scale=2, partition=2)(paddle.zeros([1, 8, 3, 9])),
        "need a map of at least 4 x 4, but got 3 x 9",
    ),
    (lambda: pa.FcaLayer(32, freq_sel_method="top3"), "such as 'top16', but got 'top3'"),
    (lambda: pa.FcaLayer(24), "channels=24 is not divisible by the 16 frequencies"),
    (lambda: pa.FcaLayer(32, dct_h=5), "at least 7, but got 5 and 7"),
    (lambda: pa.PolarizedSelfAttention(4, mode="sequential"), "mode='sequential' needs at least 8"),
    (lambda: pa.ShuffleAttention(12, groups=4), "each of groups=4 groups of channels=12 is split in two"),
    (lambda: pa.SplitAttention(9), "channels=9 is not divisible by 2"),
    (lambda: pa.SelfAttention2D(10), "channels=10 is not divisible by num_heads=4; try num_heads=5"),
    (lambda: pa.MultiHeadAttention(10, 4), "channels=10 is not divisible by num_heads=4"),
    (lambda: pa.ScaleAttention(8, num_scales=0), "num_scales must be a positive integer, but got 0"),
    (lambda: pa.MultiScaleNet(None, 8, 2, scales=[0]), r"scales must be positive numbers, but got \(0,\)"),
    (lambda: pa.MultiScaleNet(None, 8, 2, task="pixels"), "task must be one of .* but got 'pixels'"),
]


@pytest.mark.parametrize(("build", "message"), BAD_ARGUMENTS)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
