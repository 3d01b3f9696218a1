"""MultiHeadAttention and its masks."""

import numpy as np
import paddle
import pytest
from layer_tester import parameters_of, relative, shared_tests

import paddle_attention as pa

from ._case import randomise
from ._numpy import softmax

BAD_ARGUMENTS = [
    (lambda: pa.MultiHeadAttention(10, 4), "channels=10 is not divisible by num_heads=4"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ('dtype="int32"), diagonal=1)', 'dtype="int32"), diagonal=0)'),
    ("blocked.append(key_padding_mask", "blocked.append(~key_padding_mask"),
    ('enumerate("qkv")\n                for leaf', 'enumerate("kqv")\n                for leaf'),
    ("self._append(value, self.bias_v)", "self._append(value, self.bias_k)"),
    ("[paddle.zeros_like(mask[..., :1])] * added", "[paddle.full_like(mask[..., :1], -1e9)] * added"),
    ("        if mask.dtype == paddle.bool:", "        if mask.dtype != paddle.bool:"),
]


class TestMultiHeadAttention(shared_tests([], BAD_ARGUMENTS)):
    """Bad arguments."""


def attention_reference(x, p, heads, mask=None, zeros=False):
    """``mask`` is True where a query may not see a key; keys and values may be appended."""
    n, length, width = x.shape
    q, k, v = (x @ p[f"{c}_proj.weight"] + p[f"{c}_proj.bias"] for c in "qkv")
    if "bias_k" in p:
        k, v = (np.concatenate([t, np.tile(p[f"bias_{c}"], (n, 1, 1))], 1) for t, c in ((k, "k"), (v, "v")))
    if zeros:
        k, v = (np.concatenate([t, np.zeros((n, 1, width))], 1) for t in (k, v))
    if mask is not None and k.shape[1] > length:
        mask = np.broadcast_to(mask, (*mask.shape[:-1], length))
        mask = np.concatenate([mask, np.zeros((*mask.shape[:-1], k.shape[1] - length), bool)], -1)
    q, k, v = (t.reshape(n, t.shape[1], heads, -1).transpose(0, 2, 1, 3) for t in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / (width // heads) ** 0.5
    weights = softmax(scores if mask is None else np.where(mask, -1e30, scores))
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
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_masks(name, bias, zeros):
    masks, blocked = MASKS[name]
    masks = {k: v if isinstance(v, bool) else paddle.to_tensor(v) for k, v in masks.items()}
    layer = randomise(pa.MultiHeadAttention(8, 2, add_bias_kv=bias, add_zero_attn=zeros))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 5, 8)).astype("float32")
    expected, weights = attention_reference(x, parameters_of(layer), 2, blocked, zeros)
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
